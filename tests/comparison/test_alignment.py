"""Prompts of the procedural world are read in every wording, and clips held against what they name."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from video_diffusion.comparison.alignment import AskedScene, alignment, is_procedural, read_prompt
from video_diffusion.procedural import scene as scenes
from video_diffusion.procedural.scene import EVERYTHING, caption

WORLD = replace(EVERYTHING, two_objects_share=0.4)


@pytest.mark.full
def test_every_wording_of_a_scene_names_that_scene():
    rng = np.random.default_rng(3)
    for _ in range(400):
        scene = WORLD.sample(rng)
        asked = read_prompt(caption(scene, rng, plain=0.3))
        assert asked is not None
        assert asked.background == scene.background
        assert [dict(thing) for thing in asked.objects] == [asdict(thing) for thing in scene.objects]


def test_what_a_prompt_leaves_out_is_left_open():
    rng = np.random.default_rng(4)
    for _ in range(200):
        scene = WORLD.sample(rng)
        asked = read_prompt(caption(scene, rng, omit=0.5))
        assert asked is not None
        assert asked.background in {None, scene.background}
        for named, thing in zip(asked.objects, scene.objects, strict=True):
            assert named["shape"] == thing.shape
            assert all(getattr(thing, kind) == value for kind, value in named.items())
    assert read_prompt("a circle") == AskedScene(None, ({"shape": "circle"},))


@pytest.mark.parametrize(
    "prompt",
    [
        "a cat",
        "",
        "red on white",
        "a red blue circle",
        "a circle and a star and a square",
        "a star and a cat",
    ],
)
def test_a_prompt_of_another_world_is_not_guessed_at(prompt):
    assert read_prompt(prompt) is None


def square_clip(shift: int) -> np.ndarray:
    frames = np.full((8, 48, 64, 3), scenes.BACKGROUNDS["white"], dtype=np.uint8)
    for i, frame in enumerate(frames):
        left = 8 + shift * i
        frame[16:33, left : left + 17] = scenes.COLOURS["red"]
    return frames


def test_alignment_is_the_share_of_what_is_named():
    asked = read_prompt("a large red square moving right on a white background")
    assert asked is not None
    assert alignment(asked, square_clip(4)) == 1.0
    assert alignment(asked, square_clip(0)) == pytest.approx(4 / 5)
    other = read_prompt("a blue square moving right")
    assert other is not None
    assert alignment(other, square_clip(4)) == pytest.approx(2 / 3)


def test_a_clip_without_an_object_has_none():
    asked = read_prompt("a red square on white")
    assert asked is not None
    assert alignment(asked, np.full((5, 32, 48, 3), 250, dtype=np.uint8)) == 0.0


def test_two_objects_are_matched_by_colour():
    frames = np.full((6, 48, 80, 3), scenes.BACKGROUNDS["white"], dtype=np.uint8)
    frames[:, 8:22, 6:20] = scenes.COLOURS["red"]
    for i, frame in enumerate(frames):
        frame[26:42, 6 + 7 * i : 22 + 7 * i] = scenes.COLOURS["blue"]
    asked = read_prompt("a blue square moving right and a red square standing still on a white background")
    assert asked is not None
    assert alignment(asked, frames) == 1.0
    swapped = read_prompt("a red square moving right and a blue square standing still on white")
    assert swapped is not None
    assert alignment(swapped, frames) == pytest.approx(5 / 7)


def test_the_embedded_vocabulary_is_of_the_procedural_world():
    assert is_procedural(("a", "circle", "on", "white", "the"))
    assert not is_procedural(("a", "cat"))
    assert not is_procedural(())
