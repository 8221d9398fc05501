"""Does morph tell what keeps its shape from what does not? Clips of known truth; tables in docs/metrics.md.

    python scripts/evaluate_morph.py                  # about 8 minutes on one core; goes on where it stopped
    python scripts/evaluate_morph.py --print          # show the tables instead of writing them

228 clips: each of 114 scenes once rigid and once damaged, on grounds that are flat, textured or both, with
things that move by themselves, seen by a camera that stands, pans, turns, zooms or shakes, under noise and
changing light; the damage is new in each frame and 0.5, 1 or 2 px strong (RMS, of an image 256 high). And 46
ladders of damage from nothing to 4 px on other scenes, 64 to 256 px high. Every frame evaluates formulas at
the positions that its pixels see; nothing is resampled. Measured values are kept in a file, so that an
interrupted evaluation goes on; delete it after a change of the measures.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
from jaxtyping import Float64
from make_metric_tables import markdown, put_into_page
from scipy.stats import spearmanr
from synthetic_clips import TEXTURES, Frames, brightness_flicker, frame_noise, local_flicker, moving_square

from video_diffusion.metrics import measure

Plane: TypeAlias = Float64[np.ndarray, "h w"]
Pose: TypeAlias = tuple[float, float, float, float]
"""x and y in px at 256, angle in radians, scale."""

METRICS = ("morph", "flicker", "flow_jitter", "warp_ssim")
NUM_FRAMES = 8
FLAT = {"red": (200, 90, 60), "blue": (60, 80, 110), "cream": (215, 205, 180), "green": (110, 190, 110)}
FILLS = ("blue", "waves", "cream", "bricks", "green", "pebbles", "red")
SHAPES = ("square", "disc", "triangle", "star", "bar")
SIZES = (128, 64, 128, 96, 192, 128)
LIGHTS: dict[str, Callable[[Frames], Frames]] = {
    "even": lambda frames: frames,
    "noise": lambda frames: frame_noise(frames, 4),
    "flicker": lambda frames: brightness_flicker(frames, 6),
}
MOTIONS: dict[str, Callable[[int], tuple[Pose, Pose]]] = {
    # the pose of the camera and that of the thing at each frame
    "still": lambda t: ((0, 0, 0, 1), (0, 0, 0, 1)),
    "pan": lambda t: ((3 * t, 1.5 * t, 0, 1), (2 * t, 0, 0, 1)),
    "walk": lambda t: ((0, 0, 0, 1), (5 * t - 22, 2 * t, 0, 1)),
    "turn": lambda t: ((0, 0, 0.02 * t, 1), (1.5 * t, 0, -0.05 * t, 1)),
    "zoom": lambda t: ((0, 0, 0, 1.015**t), (0, 0, 0, 1.01**t)),
    "start": lambda t: ((0.15 * t * t, 0, 0, 1), (0, 0.4 * t * t - 10, 0, 1)),
    "shake": lambda t: (
        (1.5 * np.sin(5 * t), 1.5 * np.cos(7 * t), 0.006 * np.sin(3 * t), 1),
        (2 * t, 0, 0, 1),
    ),
    "bounce": lambda t: ((0, 0, 0, 1), (24 - 6 * abs(t - 4), 0, 0, 1)),
    "twos": lambda t: ((2 * (t // 2), 0, 0, 1), (4 * (t // 2), 0, 0, 1)),
}
DAMAGES = ("outline", "melt", "boil", "parts", "aspect", "melt all")
STRENGTHS = (0.5, 1.0, 2.0)
LADDER = (0, 0.25, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Scene:
    """What is drawn.

    Attributes:
        ground: a key of `FLAT` or `TEXTURES`.
        thing: the same, of what stands before the ground.
        shape: of the thing.
        motion: a key of `MOTIONS`.
        light: a key of `LIGHTS`.
        size: height in pixels; width is 4/3 of it where `seed` is odd.
        damage: one of `DAMAGES`.
        strength: RMS of the damage in px at 256.
        seed: of the damage and of where textures begin.
    """

    ground: str
    thing: str
    shape: str
    motion: str
    light: str
    size: int
    damage: str
    strength: float
    seed: int

    @property
    def key(self) -> str:
        """Name of the row that holds its values."""
        return "/".join(str(each) for each in vars(self).values())


def bumps(angle: Plane, generator: np.random.Generator) -> Plane:
    """A smooth wave around a thing, RMS 1: harmonics 2 to 5, amplitudes and phases drawn."""
    size, phase = generator.normal(0, 1, 4), generator.uniform(0, 2 * np.pi, 4)
    waves = [s * np.cos((k + 2) * angle + p) for k, (s, p) in enumerate(zip(size, phase, strict=True))]
    bumpy: Plane = np.sum(waves, axis=0) / 2**0.5
    return bumpy


def wobble(x: Plane, y: Plane, length: float | int, generator: np.random.Generator) -> tuple[Plane, Plane]:
    """A smooth field of displacements, RMS 1 in length: plane waves of about that length."""
    moved = []
    for _ in range(2):
        turn, phase = generator.uniform(0, 2 * np.pi, (2, 6))
        wave = 2 * np.pi / (length * generator.uniform(0.7, 1.4, 6))
        waves = [
            np.cos(k * (np.cos(a) * x + np.sin(a) * y) + p) for k, a, p in zip(wave, turn, phase, strict=True)
        ]
        moved.append(np.sum(waves, axis=0) / 6**0.5)
    return moved[0], moved[1]


def distance_inside(shape: str, x: Plane, y: Plane) -> Plane:
    """How far a position lies inside a shape, in px at 256."""
    inside: Plane
    if shape == "square":
        inside = 44 - np.maximum(np.abs(x), np.abs(y))
    elif shape == "disc":
        inside = 48 - np.hypot(x, y)
    elif shape == "bar":
        inside = np.minimum(62 - np.abs(x), 20 - np.abs(y))
    elif shape == "star":
        inside = 46 * (1 + 0.22 * np.cos(5 * np.arctan2(y, x))) - np.hypot(x, y)
    else:
        inside = 28 - np.maximum(y, np.abs(x) * 0.866 - y / 2)
    return inside


def coloured(texture: str, x: Plane, y: Plane, size: int, seed: int) -> np.ndarray:
    """Colours of positions: flat, or a texture whose grain is the same in pixels at every size."""
    if texture in FLAT:
        return np.broadcast_to(np.array(FLAT[texture], float), (*x.shape, 3))
    return TEXTURES[texture](np.stack([x, y], axis=-1) * size / 256 + (3000 + 97 * seed, 2000))


def seen_from(pose: Pose, x: Plane, y: Plane) -> tuple[Plane, Plane]:
    """Positions in the frame of something that stands at a pose."""
    dx, dy, angle, scale = pose
    across, down = x - dx, y - dy
    return (
        (np.cos(angle) * across + np.sin(angle) * down) / scale,
        (np.cos(angle) * down - np.sin(angle) * across) / scale,
    )


def drawn(scene: Scene) -> Frames:
    """The frames of a scene."""
    height, width = scene.size, scene.size * (4 if scene.seed % 2 else 3) // 3
    rows, columns = np.mgrid[:height, :width].astype(float)
    x0, y0 = ((columns - (width - 1) / 2) * 256 / height, (rows - (height - 1) / 2) * 256 / height)
    frames = []
    for t in range(NUM_FRAMES):
        generator = np.random.default_rng((scene.seed, t))
        a, moment = scene.strength, float(generator.normal())
        camera, pose = MOTIONS[scene.motion](t)
        x, y = seen_from(camera, x0, y0)
        if scene.damage == "melt all":
            dx, dy = wobble(x, y, 60, generator)
            x, y = x + a * dx, y + a * dy
        u, v = seen_from(pose, x, y)
        if scene.damage in ("melt", "boil"):
            du, dv = wobble(u, v, 40 if scene.damage == "melt" else 12, generator)
            u, v = u + a * du, v + a * dv
        elif scene.damage == "parts":
            u = u + a * moment * np.sign(v)
        elif scene.damage == "aspect":
            u, v = u * (1 + a * moment / 44), v * (1 - a * moment / 44)
        inside = distance_inside(scene.shape, u, v)
        if scene.damage == "outline":
            inside = inside + a * bumps(np.arctan2(v, u), generator)
        share = 1 / (1 + np.exp(-np.clip(inside * height / 256 * 2.5, -30, 30)))[..., np.newaxis]
        ground = coloured(scene.ground, x, y, height, scene.seed)
        frame, near = ground.copy(), share[..., 0] > 1e-4
        thing = coloured(scene.thing, u[near], v[near], height, scene.seed + 1)
        frame[near] += share[near] * (thing - ground[near])
        frames.append(np.rint(np.clip(frame, 0, 255)).astype(np.uint8))
    return LIGHTS[scene.light](np.stack(frames))


def fills(number: int) -> tuple[str, str]:
    """Ground and thing, never the same."""
    ground = FILLS[number % 7]
    return ground, [fill for fill in FILLS if fill != ground][(number + number // 7) % 6]


def scenes() -> list[Scene]:
    """114 scenes as they are damaged; with strength 0 they are rigid."""
    names, lights = list(MOTIONS), list(LIGHTS)
    return [
        Scene(
            *fills(i), SHAPES[i % 5], names[i % 9], lights[(i // 2) % 3],
            SIZES[(i + i // 6) % 6], DAMAGES[(i + i // 9) % 6], STRENGTHS[(i // 6 + i) % 3], i,
        )
        for i in range(114)
    ]  # fmt: skip


def ladders() -> list[Scene]:
    """46 other scenes, their damage still without a strength."""
    names = [name for name in MOTIONS if name != "bounce"]
    return [
        Scene(
            *fills(3 * i), SHAPES[(2 * i) % 5], names[i % 8], "even",
            (64, 128, 96, 256)[(i + i // 4) % 4], DAMAGES[(i + i // 6) % 6], 0, 1000 + i,
        )
        for i in range(46)
    ]  # fmt: skip


def area(rigid: list[float], damaged: list[float]) -> float:
    """Area under the ROC curve: how often a damaged clip reads worse than a rigid one."""
    low, high = np.array(rigid), np.array(damaged)[:, np.newaxis]
    return float(np.mean((high > low) + 0.5 * (high == low)))


class Measured:
    """Values of clips by name, kept in a file of rows as they come.

    Args:
        file: rows of an earlier evaluation, or none yet.
    """

    def __init__(self, file: Path):
        self._file = file
        lines = file.read_text().splitlines() if file.exists() else []
        self._rows: dict[str, dict[str, float]] = dict(map(json.loads, lines))

    def of(
        self, name: str, make: Callable[[], Frames], metrics: tuple[str, ...] = METRICS
    ) -> dict[str, float]:
        """Measure a clip, or read what an earlier evaluation measured."""
        if name not in self._rows:
            report = measure(make(), 8, metrics=metrics, one_shot=True, threads=1).values
            row = {each: report[each].value or 0.0 for each in metrics}
            row["worst cell"] = report["morph"].details.get("worst_cell", 0.0)
            self._rows[name] = row
            with self._file.open("a") as rows:
                rows.write(json.dumps([name, row]) + "\n")
        return self._rows[name]

    def scene(self, scene: Scene, metrics: tuple[str, ...] = METRICS) -> dict[str, float]:
        """Measure a scene."""
        return self.of(scene.key, lambda: drawn(scene), metrics)


COLUMNS = ("morph", "worst cell", "flow_jitter", "flicker", "warp_ssim")


def separation(measured: Measured) -> str:
    """How well each measure tells rigid from damaged clips, by strength, motion, light and damage."""
    damaged = scenes()
    worse = [measured.scene(scene) for scene in damaged]
    rigid = [measured.scene(replace(scene, strength=0.0)) for scene in damaged]
    belongs = {
        "all": [True for _ in damaged],
        **{f"damage of {a:g} px": [scene.strength == a for scene in damaged] for a in STRENGTHS},
        "2 px, no sudden bounce": [scene.strength == 2 and scene.motion != "bounce" for scene in damaged],
        **{f"damage: {name}": [scene.damage == name for scene in damaged] for name in DAMAGES},
        **{f"motion: {name}": [scene.motion == name for scene in damaged] for name in MOTIONS},
        **{f"light: {name}": [scene.light == name for scene in damaged] for name in LIGHTS},
    }
    table = []
    for name, chosen in belongs.items():
        among = [number for number, is_in in enumerate(chosen) if is_in]
        areas = []
        for column in COLUMNS:
            low, high = ([side[number][column] for number in among] for side in (rigid, worse))
            areas.append(1 - area(low, high) if column == "warp_ssim" else area(low, high))
        above = np.mean([worse[number]["morph"] > rigid[number]["morph"] for number in among])
        table.append([name, str(2 * len(among)), *(f"{each:.3f}" for each in areas), f"{above:.2f}"])
    head = ["**morph**", "its `worst_cell`", *COLUMNS[2:], "morph above its own rigid clip"]
    return markdown(["area under the curve", "clips", *head], table)


def order(measured: Measured) -> str:
    """How strictly morph rises along each kind of ladder."""
    found: dict[str, list[list[float]]] = {name: [] for name in DAMAGES}
    for scene in ladders():
        rungs = [replace(scene, strength=float(strength)) for strength in LADDER]
        found[scene.damage].append([measured.scene(each, ("morph",))["morph"] for each in rungs])
    table = []
    for name, rows in found.items():
        ranks = [float(spearmanr(LADDER, values).statistic) for values in rows]
        medians = (f"{each:.3f}" for each in np.median(rows, axis=0))
        table.append(
            [name, str(len(rows)), str(sum(rank > 0.999 for rank in ranks)), f"{min(ranks):.2f}", *medians]
        )
    head = ["damage", "ladders", "Spearman 1.00", "the least", *(f"{each:g} px" for each in LADDER)]
    return markdown(head, table)


def square_that_bulges(percent: float | int, size: int = 128) -> Frames:
    """A flat square, 100 px wide at 256, whose sides bulge by that share of half its width (RMS)."""
    bulges = np.random.default_rng(2).normal(0, 1, 10)
    return moving_square((percent / 2 * bulges).tolist(), size)


def known(measured: Measured) -> str:
    """What single clips read: a square that wobbles, and what must read next to nothing."""
    square, still = moving_square([0.0] * 8, 128, 3), moving_square([0.0] * 8, 128, 0)
    values = [
        measured.of(f"bulge {each}", partial(square_that_bulges, each), ("morph",))["morph"]
        for each in (0, 1, 2, 5, 10, 20)
    ]
    sizes = [
        measured.of(f"size {each}", partial(square_that_bulges, 2, each), ("morph",))["morph"]
        for each in (64, 128, 256)
    ]
    floors = {
        "flat square, panning": square,
        "the same, each frame twice": np.repeat(square, 2, axis=0),
        "local flicker of ±16 levels, square still": local_flicker(still, 16),
        "local flicker of ±16 levels, square panning": local_flicker(square, 16),
        "noise of σ 16, square panning": frame_noise(square, 16),
        "brightness ±24, square panning": brightness_flicker(square, 24),
    }
    rows = [
        [
            "flat square, sides bulge by 0, 1, 2, 5, 10, 20 % (RMS)",
            ", ".join(f"{each:.3f}" for each in values),
        ],
        ["by 2 % (1 px), 64, 128, 256 px high", ", ".join(f"{each:.3f}" for each in sizes)],
        *(
            [name, f"{measured.of(name, partial(np.asarray, frames), ('morph',))['morph']:.3f}"]
            for name, frames in floors.items()
        ),
    ]
    return markdown(["clip", "morph"], rows)


def main() -> None:
    """Measure what is not yet measured and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, default=Path("morph-evaluation.jsonl"), help="kept values")
    parser.add_argument("--print", action="store_true", help="show instead of writing")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    measured = Measured(options.rows)
    tables = {
        "morph known": known(measured),
        "morph separation": separation(measured),
        "morph ladders": order(measured),
    }
    for name, table in tables.items():
        if options.print:
            print(f"{table}\n")
        else:
            put_into_page(name, table)
            print(f"docs/metrics.md: table {name} written")


if __name__ == "__main__":
    main()
