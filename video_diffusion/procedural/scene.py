"""The procedural world: what a clip shows, how its objects move, and the sentence that says so."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np

# sRGB levels. The colours of objects are saturated, those of backgrounds are not, so that neither is mistaken
# for the other.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (45, 75, 220),
    "yellow": (245, 205, 30),
    "purple": (150, 50, 180),
    "cyan": (40, 195, 215),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 250),
    "black": (12, 12, 12),
    "gray": (128, 128, 128),
    "pink": (250, 190, 205),
}
SHAPES = ("circle", "square", "triangle", "star")
# Radius of the circle of equal area, as a share of the picture's shorter side.
SIZES: dict[str, float] = {"small": 0.14, "large": 0.21}
MOTIONS = (
    "left",
    "right",
    "up",
    "down",
    "still",
    "growing",
    "shrinking",
    "rotating",
    "bouncing",
    "circling",
    "zigzag",
    "up-left",
    "up-right",
    "down-left",
    "down-right",
)
# Never shown to the embedded model: what users fine-tune its temporal layers on.
LATER_MOTIONS = ("zigzag",)


@dataclass(frozen=True)
class SceneObject:
    """One flat, anti-aliased object. Every field is a key of the tables above."""

    colour: str
    shape: str
    size: str
    motion: str


@dataclass(frozen=True)
class Scene:
    """One clip's truth: objects, back to front, on a plain background."""

    background: str
    objects: tuple[SceneObject, ...]


@dataclass(frozen=True)
class World:
    """The scenes a model is trained on and asked for.

    Every eighth (colour, shape, motion) triple is held out: `sample` never draws it unless asked, so that a
    test can tell
    a model that composes from one that remembers.
    """

    colours: tuple[str, ...] = tuple(COLOURS)
    shapes: tuple[str, ...] = ("circle", "square", "triangle")
    sizes: tuple[str, ...] = tuple(SIZES)
    backgrounds: tuple[str, ...] = tuple(BACKGROUNDS)
    motions: tuple[str, ...] = ("left", "right", "up", "down", "still")
    two_objects_share: float = 0.0

    def sample(self, rng: np.random.Generator, held_out: bool = False) -> Scene:
        """Draw one scene; `held_out` asks for one whose first object is never seen in training."""
        while True:
            background = str(rng.choice(self.backgrounds))
            first = self._sample_object(rng)
            if is_held_out(first) == held_out:
                break
        if self.two_objects_share <= 0 or rng.random() >= self.two_objects_share:
            return Scene(background, (first,))
        while True:
            second = self._sample_object(rng)
            if second.colour != first.colour and not is_held_out(second):
                return Scene(background, (replace(first, size="small"), replace(second, size="small")))

    def _sample_object(self, rng: np.random.Generator) -> SceneObject:
        motion = str(rng.choice(self.motions))
        shapes = [shape for shape in self.shapes if motion != "rotating" or shape != "circle"]
        return SceneObject(
            str(rng.choice(self.colours)), str(rng.choice(shapes)), str(rng.choice(self.sizes)), motion
        )


def is_held_out(thing: SceneObject) -> bool:
    """Whether this combination of colour, shape and motion, one in eight, is kept from training."""
    colour, shape = tuple(COLOURS).index(thing.colour), SHAPES.index(thing.shape)
    return (colour + 3 * shape + 2 * MOTIONS.index(thing.motion)) % 8 == 0


DIRECTIONS = {
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
    "up-left": (-1.0, -1.0),
    "up-right": (1.0, -1.0),
    "down-left": (-1.0, 1.0),
    "down-right": (1.0, 1.0),
}
GROWTH = 1.5  # last over first radius of what grows, first over last of what shrinks
CANONICAL_SHARE = 0.06  # of the shorter side: how far from the middle a canonical start may lie
# Farthest point of the shape from its centre, over the radius of the circle of equal area.
REACH = {"circle": 1.0, "square": 1.2534, "triangle": 1.5551, "star": 1.4621}


@dataclass(frozen=True)
class Trajectory:
    """Per-frame pose of one object. Lengths are shares of the picture's shorter side; y points down.

    Attributes:
        centre: `(f, 2)` x and y of the centre, 0 to width/side and height/side.
        radius: `(f,)` radius of the circle of equal area.
        angle: `(f,)` clockwise turn in radians; 0 is upright.
    """

    centre: np.ndarray
    radius: np.ndarray
    angle: np.ndarray


def sample_trajectory(
    thing: SceneObject,
    num_frames: int,
    rng: np.random.Generator,
    extent: tuple[float, float] = (1.0, 1.0),
    centre_out: bool = False,
) -> Trajectory:
    """Draw one way of showing `thing` in `num_frames` frames.

    The clip's whole length is one motion whatever the number of frames: a clip of 8 frames shows every second
    pose of one of 15, not its first half. With `centre_out` it starts near the centre and moves outward from
    there: position alone then tells direction, which is what lets a small network learn directions at all.
    """
    time = np.linspace(0.0, 1.0, num_frames) if num_frames > 1 else np.zeros(1)
    radius = np.full(num_frames, SIZES[thing.size] * rng.uniform(0.95, 1.05))
    angle = np.zeros(num_frames)
    if thing.motion in {"growing", "shrinking"}:
        # Both start from the size that the caption names. Were one the other played backwards, every frame's
        # size would say nothing of the motion, and a small network would not learn them.
        factor = 1.0 + (GROWTH - 1.0) * time
        radius = radius * factor if thing.motion == "growing" else radius / factor
    if thing.motion == "rotating":
        # Half the shape's own symmetry per clip would look like standing still backwards; 0.9 of a quarter
        # turn does not.
        angle = 0.45 * np.pi * time + rng.uniform(0, 0.25)
    reach = REACH[thing.shape] if thing.motion == "rotating" else 1.0 + 0.6 * (REACH[thing.shape] - 1.0)
    margin = float(radius.max()) * reach + 0.01
    low, high = np.full(2, margin), np.asarray(extent) - margin
    room = np.maximum(high - low, 0.0)
    middle = np.asarray(extent) / 2
    start = low + room * rng.random(2)
    if centre_out:
        start = np.clip(middle + rng.uniform(-CANONICAL_SHARE, CANONICAL_SHARE, 2), low, high)
    centre = np.repeat(start[None], num_frames, axis=0)
    if thing.motion in DIRECTIONS:
        direction = np.asarray(DIRECTIONS[thing.motion])
        axes = np.flatnonzero(direction)
        distance = rng.uniform(0.34, 0.44) if len(axes) == 1 else rng.uniform(0.28, 0.36)
        ahead = np.where(direction > 0, high - start, start - low) if centre_out else room
        distance = min(distance, float(ahead[axes].min()))
        if not centre_out:
            for axis in axes:
                first = rng.uniform(0.0, float(room[axis]) - distance)
                start[axis] = low[axis] + first if direction[axis] > 0 else high[axis] - first
        centre = start[None] + direction[None] * distance * time[:, None]
    elif thing.motion == "bouncing":
        height = min(float(room[1]), 0.36)
        floor = high[1] - (0.5 if centre_out else rng.random()) * (float(room[1]) - height)
        centre = np.stack(
            [np.full(num_frames, start[0]), floor - height * np.abs(np.cos(2 * np.pi * time))], axis=1
        )
    elif thing.motion == "circling":
        orbit = min(0.18, float(room.min()) / 2)
        hub = np.clip(start, low + orbit, high - orbit)
        phase = 2 * np.pi * time - np.pi / 2
        centre = hub[None] + orbit * np.stack([np.cos(phase), np.sin(phase)], axis=1)
    elif thing.motion == "zigzag":
        height = min(float(room[1]), 0.3)
        top = low[1] + rng.uniform(0.0, float(room[1]) - height)
        across = low[0] + rng.uniform(0.0, 0.05) * room[0] + 0.95 * room[0] * time
        legs = np.abs((3 * time + 1) % 2 - 1)  # 1, 0, 1, 0: down to up, three times along a straight leg
        centre = np.stack([across, top + height * legs], axis=1)
    return Trajectory(centre.astype(np.float32), radius.astype(np.float32), angle.astype(np.float32))


SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
SHAPE_WORDS = {
    "circle": ("circle", "disc", "ball"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
}
MOTION_WORDS = {
    "left": ("moving left", "moving to the left", "going left", "drifting left", "sliding left"),
    "right": ("moving right", "moving to the right", "going right", "drifting right", "sliding right"),
    "up": ("moving up", "rising", "going up", "drifting up", "moving upward"),
    "down": ("moving down", "falling", "going down", "drifting down", "moving downward"),
    "still": ("standing still", "not moving", "resting", "staying still"),
    "growing": ("growing", "getting bigger"),
    "shrinking": ("shrinking", "getting smaller"),
    "rotating": ("rotating", "turning", "spinning"),
    "bouncing": ("bouncing", "hopping"),
    "circling": ("circling", "orbiting"),
    "zigzag": ("zigzagging",),
    **{
        f"{v}-{h}": tuple(f"{verb} {v} {h}" for verb in ("moving", "going", "drifting", "sliding"))
        for v in ("up", "down")
        for h in ("left", "right")
    },
}
# What the embedded model's tokenizer was built for.
EVERYTHING = World(
    shapes=SHAPES,
    motions=tuple(motion for motion in MOTIONS if motion not in LATER_MOTIONS),
    two_objects_share=1.0,
)
BACKGROUND_WORDS = ("on a {0} background", "on {0}", "against a {0} background", "in front of {0}")


def caption(
    scene: Scene, rng: np.random.Generator | None = None, omit: float = 0.0, plain: float = 0.5
) -> str:
    """Describe a scene.

    Args:
        scene: What the clip shows.
        rng: Chooses among paraphrases; None gives the plain sentence.
        omit: Chance, for each of size, colour, motion and background, of not being mentioned.
        plain: Chance of the plain word where there are several.

    Returns:
        For example "a small red circle moving left on a white background".
    """

    def choose(words: tuple[str, ...]) -> str:
        return words[0] if rng is None or rng.random() < plain else str(rng.choice(words))

    def keep() -> bool:
        return rng is None or rng.random() >= omit

    def describe(thing: SceneObject) -> str:
        words = [choose(SIZE_WORDS[thing.size])] if keep() else []
        words += [thing.colour] if keep() else []
        words.append(choose(SHAPE_WORDS[thing.shape]))
        words += [choose(MOTION_WORDS[thing.motion])] if keep() else []
        return "a " + " ".join(words)

    parts = [" and ".join(describe(thing) for thing in scene.objects)]
    if keep():
        parts.append(choose(BACKGROUND_WORDS).format(scene.background))
    return " ".join(parts)


def vocabulary(world: World = EVERYTHING) -> list[str]:
    """Every word that a caption of the world can hold, sorted; by default of every scene there is."""
    words_of = [SIZE_WORDS[size] for size in world.sizes] + [SHAPE_WORDS[shape] for shape in world.shapes]
    words_of += [MOTION_WORDS[motion] for motion in world.motions]
    phrases = ["a", *BACKGROUND_WORDS, *world.backgrounds, *world.colours, *itertools.chain(*words_of)]
    if world.two_objects_share > 0:
        phrases.append("and")
    return sorted({word for phrase in phrases for word in phrase.replace("{0}", "").split()})
