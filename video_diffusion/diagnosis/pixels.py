"""What pixels alone tell of a clip that nobody can make again: held frames, dithering, blocks, seams, places.

Nothing here knows the cause; it names what the flicker looks like, where and when it is, and how it repeats.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from video_diffusion.metrics import ALL_METRICS, Measurement, choose_metrics
from video_diffusion.metrics.flow import choose_flow
from video_diffusion.metrics.shots import HeldFrames
from video_diffusion.metrics.views import Triple, luma

Frames = UInt8[np.ndarray, "f h w 3"]
Series = Float[np.ndarray, " f"]

LEAST_FLICKER = 0.3
"""In pixel values: below it there is next to nothing to see, and nothing to explain."""
MOVING = 0.5  # pixels per frame at 256, above which a place moves
LEAST_PERIODS = 3
SURE = 0.01  # chance by which a period may be found where there is none
DRAWS = 500
BLOCK = 8  # pixels, as encoders cut images
LEAST_BLOCKS = 0.15
LEAST_WHOLE = 0.4
COARSE_CRF = 30


@dataclass(frozen=True)
class Sign:
    """One thing that pixels tell.

    Attributes:
        name: Of the sign.
        value: Of its measure; None where it could not be measured.
        unit: Of the value.
        words: What it says of the clip; "" where it says nothing.
        is_cause: Whether it speaks for a cause, and is not merely how the flicker looks.
    """

    name: str
    value: float | None
    unit: str
    words: str = ""
    is_cause: bool = False


@dataclass(frozen=True)
class Looks:
    """Flicker taken apart; each number in pixel values.

    Attributes:
        by_frame: Mean unexplained change of each frame; NaN where there is none.
        overall: Part that the whole image shares: its mean luma going up and down.
        coarse: Part in structures of more than a few pixels.
        fine: Part in single pixels and their neighbours.
        moving, flat, detailed: Mean over places that move, that stand still and are flat, or have detail.
        blocks: How much more it changes across the borders of 8 × 8 blocks than beside them, as a share.
    """

    by_frame: Series
    overall: float
    coarse: float
    fine: float
    moving: float | None
    flat: float | None
    detailed: float | None
    blocks: float


def look(frames: Frames, fps: Fraction) -> tuple[Looks, dict[str, float | None]]:
    """Walk along a clip once, for its measures and for its flicker taken apart."""
    rows: list[tuple[int, dict[str, float]]] = []
    held = HeldFrames()
    for frame in frames:
        held.add(frame)
    walk = Measurement(
        choose_metrics(None), choose_flow(None), held=held.numbers(), on_triple=lambda t: rows.append(_row(t))
    )
    for index, frame in enumerate(frames):
        walk.add(index, float(index / fps), frame)
    report = walk.report(fps)
    by_frame = np.full(len(frames), np.nan)
    for index, row in rows:
        by_frame[index] = row["level"]

    def mean(name: str) -> float:
        known = [row[name] for _, row in rows if np.isfinite(row[name])]
        return float(np.mean(known)) if known else 0.0

    def share(name: str) -> float | None:
        known = [row[name] for _, row in rows if np.isfinite(row[name])]
        return float(np.mean(known)) if known else None

    looks = Looks(
        by_frame=by_frame,
        overall=mean("overall"),
        coarse=mean("coarse"),
        fine=mean("fine"),
        moving=share("moving"),
        flat=share("flat"),
        detailed=share("detailed"),
        blocks=blocking(frames),
    )
    return looks, {metric.name: report.values[metric.name].value for metric in ALL_METRICS}


def _row(triple: Triple) -> tuple[int, dict[str, float]]:
    """What one frame shows: its unexplained change by scale and by place."""
    residual = triple.residual
    signed = residual.signed_luma
    overall = abs(float(signed.mean()))
    rest = signed - signed.mean()
    sigma = max(1.0, min(signed.shape) / 64)
    smooth = cv2.GaussianBlur(rest, (0, 0), 2 * sigma)
    height = min(signed.shape)
    speed = np.linalg.norm(triple.before.backward, axis=2) * 256 / height
    moves = cv2.dilate((speed > MOVING).astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    gradient = cv2.GaussianBlur(np.abs(cv2.Laplacian(triple.centre.luma, cv2.CV_32F)), (0, 0), sigma)
    detailed = ~moves & (gradient > 2.0)

    def at(place: np.ndarray) -> float:
        return float(residual.magnitude[place].mean()) if place.any() else float("nan")

    return triple.centre.index, {
        "level": residual.level,
        "overall": overall,
        "coarse": float(np.abs(smooth).mean()),
        "fine": float(np.abs(rest - smooth).mean()),
        "moving": at(moves),
        "flat": at(~moves & ~detailed),
        "detailed": at(detailed),
    }


def blocking(frames: Frames) -> float:
    """How much steeper images are across the borders of 8 × 8 blocks than elsewhere, as a share."""
    shares = []
    for frame in frames[:: max(1, len(frames) // 16)]:
        plane = luma(frame.astype(np.float32))
        for axis in (0, 1):
            steps = np.abs(np.diff(plane, axis=axis)).mean(axis=1 - axis)
            borders = np.arange(len(steps)) % BLOCK == BLOCK - 1
            if borders.any() and not borders.all():
                inside = float(steps[~borders].mean())
                shares.append(float(steps[borders].mean()) / inside - 1 if inside > 0 else 0.0)
    return float(np.mean(shares)) if shares else 0.0


def find_period(by_frame: Series) -> tuple[int, float] | None:
    """The distance at which frames flicker more than others, again and again, and by how much; None if none.

    For each distance and offset the mean at its frames is held against the others'; the largest excess, in
    standard errors, is held against that of the same numbers in random order.
    """
    known = np.isfinite(by_frame)
    values = by_frame[known]
    places = np.flatnonzero(known)
    if len(values) < 3 * LEAST_PERIODS or values.std() == 0:
        return None
    longest = (places[-1] - places[0] + 1) // LEAST_PERIODS

    def best(numbers: Series) -> tuple[float, int, float]:
        found = (-np.inf, 0, 0.0)
        for period in range(3, longest + 1):
            for offset in range(period):
                hits = places % period == offset
                if hits.sum() < LEAST_PERIODS:
                    continue
                inside, outside = numbers[hits], numbers[~hits]
                excess = float(inside.mean() - outside.mean())
                score = excess / (numbers.std() / np.sqrt(hits.sum()))
                if score > found[0] + 1e-12:
                    found = (score, period, excess)
        return found

    score, period, excess = best(values)
    rng = np.random.default_rng(0)
    by_chance = sum(best(rng.permutation(values))[0] >= score for _ in range(DRAWS))
    return (period, excess) if (by_chance + 1) / (DRAWS + 1) <= SURE else None


def tell(
    frames: Frames, fps: Fraction, notes: Sequence[str] = (), crf: int | None = None
) -> tuple[list[Sign], Looks, dict[str, float | None]]:
    """Say what pixels alone tell of a clip.

    Args:
        frames: Of the whole clip.
        fps: Frames per second.
        notes: What reading the file told, such as that it is a palette image.
        crf: That the file says it was encoded at; None where it says nothing.

    Returns:
        The signs, those that speak for a cause first; flicker taken apart; every measure of the clip.
    """
    looks, measures = look(frames, fps)
    flicker = measures["flicker"]
    signs = [*_causes(looks, frames, notes, flicker), *_places(looks, flicker)]
    words = f"the file was encoded at crf {crf}, which leaves blocks and smears that change with key frames"
    signs.append(_sign("encoder", float(crf or 0), "crf", words, crf is not None and crf >= COARSE_CRF))
    return sorted(signs, key=lambda sign: not sign.is_cause), looks, measures


def _causes(looks: Looks, frames: Frames, notes: Sequence[str], flicker: float | None) -> Iterator[Sign]:
    """Signs that speak for a cause."""
    held = HeldFrames()
    for frame in frames:
        held.add(frame)
    repeated = len(held.numbers())
    words = f"{repeated} of {len(frames)} frames repeat the one before; the others alone were measured"
    yield _sign("held frames", float(repeated), "frames", words, repeated > 0)
    palette = any("palette" in note or "256 colours" in note for note in notes)
    words = "a palette image, whose dithering reads as flicker; look at the video that it was made from"
    yield _sign("palette", float(palette), "", words, palette)
    words = f"steps across the borders of 8 × 8 blocks are {looks.blocks:.0%} larger: a coarse encoder"
    yield _sign("blocks of an encoder", looks.blocks, "share", words, looks.blocks >= LEAST_BLOCKS)
    period = find_period(looks.by_frame)
    has_seams = period is not None and period[1] >= LEAST_FLICKER
    every, excess = period or (0, 0.0)
    words = f"every {every} frames it changes by {excess:.2f} levels more: seams of windows, or key frames"
    yield _sign("seams at a regular distance", float(every), "frames", words, has_seams)
    total = looks.overall + looks.coarse + looks.fine
    whole = looks.overall / total if total else 0.0
    words = f"{whole:.0%} of it is the whole image going lighter and darker: a decoder, or exposure"
    yield _sign("global against local", whole, "share", words, _is_visible(flicker) and whole >= LEAST_WHOLE)


def _places(looks: Looks, flicker: float | None) -> Iterator[Sign]:
    """Signs that only say how the flicker looks, and where."""
    local = looks.fine + looks.coarse
    fine = looks.fine / local if local else 0.0
    is_local = _is_visible(flicker) and local > looks.overall
    where = "single pixels: noise, dithering or texture" if fine >= 0.5 else "patches: shapes or shading"
    words = f"it sits in {where}" if is_local else ""
    yield Sign("spatial frequency", fine, "share in single pixels", words)
    regions = {"moving": looks.moving, "flat": looks.flat, "detailed": looks.detailed}
    known = {name: value for name, value in regions.items() if value is not None}
    most = max(known, key=lambda name: known[name], default="")
    for name, value in regions.items():
        told = name == most and is_local and len(known) > 1
        words = f"{value:.2f} levels, more than elsewhere" if told else ""
        yield Sign(f"flicker of {name} places", value, "levels", words)


def _sign(name: str, value: float, unit: str, words: str, holds: bool) -> Sign:
    return Sign(name, value, unit, words if holds else "", holds)


def _is_visible(flicker: float | None) -> bool:
    return flicker is not None and flicker >= LEAST_FLICKER


def summary(signs: Sequence[Sign], measures: dict[str, float | None]) -> list[str]:
    """The signs in words: those that speak for a cause, then how the flicker looks; or that there is none."""
    known = {name: measures[name] for name in ("flicker", "morph", "drift", "motion")}
    told = ", ".join(f"{name} {value:.2f}" for name, value in known.items() if value is not None)
    causes = [sign for sign in signs if sign.is_cause]
    others = [sign for sign in signs if sign.words and not sign.is_cause]
    lines = [f"From pixels alone: {told}."]
    if not causes:
        lines.append("No cause that pixels alone could tell." if others else "Nothing stands out.")
    return [*lines, *(f"{sign.name[0].upper()}{sign.name[1:]}: {sign.words}." for sign in (*causes, *others))]
