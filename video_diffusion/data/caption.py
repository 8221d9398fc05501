"""Scenes to words: one plain sentence, its paraphrases, and captions that leave things out."""

from __future__ import annotations

import itertools

import numpy as np

from video_diffusion.data.scene import LATER_MOTIONS, MOTIONS, SHAPES, Scene, SceneObject, World

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
