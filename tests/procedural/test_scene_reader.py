"""The scene reader tells the truth of rendered clips, and says so when there is none."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from embedded.prompt_following import accuracy, judge
from jaxtyping import UInt8

from video_diffusion.procedural import Scene, World, read_scene, render_scenes
from video_diffusion.procedural.scene import MOTIONS, SHAPES

EVERYTHING = World(shapes=SHAPES, motions=MOTIONS)


def clip(scene: Scene, seed: int, num_frames: int = 16, side: int = 64) -> UInt8[np.ndarray, "f h w 3"]:
    frames = render_scenes([scene], [seed], num_frames, side, side)[0]
    return (frames * 255).round().byte().permute(0, 2, 3, 1).numpy()


@pytest.mark.full
@pytest.mark.parametrize("motion", MOTIONS)
def test_every_attribute_is_read_back_from_ground_truth(motion: str) -> None:
    world = replace(EVERYTHING, motions=(motion,))
    rng = np.random.default_rng(MOTIONS.index(motion))
    verdicts = []
    for seed in range(8):
        scene = world.sample(rng, held_out=seed == 0)
        verdicts.append(judge(scene, clip(scene, seed)))
    assert accuracy(verdicts) == dict.fromkeys(
        ("motion", "colour", "background", "shape", "size", "joint"), 1.0
    )


@pytest.mark.full
@pytest.mark.parametrize("motion", ["left", "right", "bouncing", "circling"])
def test_nothing_else_is_taken_for_a_zigzag(motion: str) -> None:
    world, rng = replace(EVERYTHING, motions=(motion,)), np.random.default_rng(13)
    seen = [read_scene(clip(world.sample(rng), seed)) for seed in range(12)]
    assert [scene.objects[0].motion for scene in seen if scene] == [motion] * 12


def test_other_sizes_and_lengths_read_the_same() -> None:
    rng = np.random.default_rng(5)
    for seed, (num_frames, side) in enumerate([(8, 96), (24, 80), (1, 64)]):
        scene = World(motions=("still",) if num_frames == 1 else ("left", "down")).sample(rng)
        assert judge(scene, clip(scene, seed, num_frames, side)).joint


def test_a_wrong_clip_is_judged_wrong_in_just_what_is_wrong() -> None:
    scene = World(motions=("left",), shapes=("square",)).sample(np.random.default_rng(2))
    backwards = judge(scene, clip(scene, 1)[::-1].copy())
    assert backwards.right == {
        "motion": False, "colour": True, "background": True, "shape": True, "size": True,
    }  # fmt: skip
    assert not backwards.joint


@pytest.mark.parametrize("level", [0, 250])
def test_an_empty_clip_has_no_scene(level: int) -> None:
    frames = np.full((5, 40, 48, 3), level, np.uint8)
    assert read_scene(frames) is None
    scene = World().sample(np.random.default_rng(0))
    assert not any(judge(scene, frames).right.values())


@pytest.mark.full
def test_two_objects_are_matched_by_colour() -> None:
    world = replace(World(shapes=("circle", "square")), two_objects_share=1.0)
    rng = np.random.default_rng(11)
    scenes = [world.sample(rng) for _ in range(12)]
    apart = [judge(scene, clip(scene, seed)) for seed, scene in enumerate(scenes)]
    assert accuracy(apart)["background"] == 1.0
    assert accuracy(apart)["joint"] >= 0.75  # paths may cross: one object then hides the other


@pytest.mark.full
def test_reading_survives_the_video_file(tmp_path: Path) -> None:
    from video_diffusion.video import read_video, write_video

    rng = np.random.default_rng(8)
    verdicts = []
    for seed in range(6):
        scene = EVERYTHING.sample(rng)
        path = tmp_path / f"{seed}.mp4"
        write_video(path, clip(scene, seed), Fraction(8))
        verdicts.append(judge(scene, read_video(path).frames))
    assert accuracy(verdicts)["joint"] == 1.0
