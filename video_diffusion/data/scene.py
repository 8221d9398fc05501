"""What a procedural clip shows: its objects, its background, and the world these are drawn from."""

from __future__ import annotations

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
