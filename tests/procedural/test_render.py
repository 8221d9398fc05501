"""Rendering: areas, poses, independence of clips."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from video_diffusion.procedural import (
    Scene,
    SceneObject,
    World,
    caption,
    is_held_out,
    render_scenes,
    vocabulary,
)
from video_diffusion.procedural.render import paint, signed_distance
from video_diffusion.procedural.scene import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    REACH,
    SHAPES,
    SIZES,
    Trajectory,
    sample_trajectory,
)

EVERYTHING = World(shapes=SHAPES, motions=MOTIONS)


def one(shape: str = "circle", motion: str = "left", colour: str = "red") -> Scene:
    return Scene("white", (SceneObject(colour, shape, "small", motion),))


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_has_the_area_of_the_circle_of_its_radius(shape: str) -> None:
    rows, columns = torch.meshgrid(torch.arange(401) - 200.0, torch.arange(401) - 200.0, indexing="ij")
    points = torch.stack([columns, rows], dim=-1)
    inside = signed_distance(points, torch.full(points.shape[:-1], 80.0), shape) < 0
    assert inside.sum().item() == pytest.approx(math.pi * 80**2, rel=0.015)


@pytest.mark.parametrize("shape", SHAPES)
def test_reach_is_the_farthest_point_of_the_shape(shape: str) -> None:
    rows, columns = torch.meshgrid(torch.arange(401) - 200.0, torch.arange(401) - 200.0, indexing="ij")
    points = torch.stack([columns, rows], dim=-1)
    inside = signed_distance(points, torch.full(points.shape[:-1], 80.0), shape) < 0
    assert (points.norm(dim=-1) * inside).max().item() / 80 == pytest.approx(REACH[shape], abs=0.03)


def test_a_distance_is_signed_and_in_pixels() -> None:
    points = torch.tensor([[0.0, 0.0], [13.0, 0.0], [0.0, -7.0]])
    assert signed_distance(points, torch.full((3,), 10.0), "circle").tolist() == [-10.0, 3.0, -3.0]


def test_an_unknown_shape_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="circle, square, triangle, star, got 'blob'"):
        signed_distance(torch.zeros(1, 2), torch.ones(1), "blob")


def test_colours_are_exact_away_from_edges() -> None:
    pose = Trajectory(np.array([[0.5, 0.5]]), np.array([0.2]), np.zeros(1))
    frame = paint([one()], [[pose]], 40, 56)[0, 0]
    assert (frame[:, 20, 20] * 255).round().int().tolist() == list(COLOURS["red"])
    assert (frame[:, 2, 50] * 255).round().int().tolist() == list(BACKGROUNDS["white"])


@pytest.mark.parametrize(
    ("motion", "axis", "sign"), [("left", 0, -1), ("right", 0, 1), ("up", 1, -1), ("down", 1, 1)]
)
@pytest.mark.parametrize("centre_out", [True, False])
def test_straight_moves_go_where_they_say_and_stay_in_the_picture(
    motion: str, axis: int, sign: int, centre_out: bool
) -> None:
    for seed in range(20):
        thing = SceneObject("red", "square", "large", motion)
        track = sample_trajectory(thing, 9, np.random.default_rng(seed), (1.3, 1.0), centre_out)
        step = np.diff(track.centre, axis=0)
        assert (step[:, axis] * sign > 0).all()
        assert np.abs(step[:, 1 - axis]).max() < 1e-6
        assert (track.centre - track.radius[:, None] > 0).all()
        assert (track.centre + track.radius[:, None] < np.array([1.3, 1.0])).all()


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(4)))
def test_a_clip_does_not_depend_on_its_batch(order: list[int]) -> None:
    scenes = [EVERYTHING.sample(np.random.default_rng(seed)) for seed in range(4)]
    alone = [render_scenes([scene], [seed], 3, 24, 32)[0] for seed, scene in enumerate(scenes)]
    together = render_scenes([scenes[i] for i in order], order, 3, 24, 32)
    for row, seed in enumerate(order):
        assert torch.equal(together[row], alone[seed])


def test_half_the_frames_are_every_second_of_the_poses() -> None:
    thing = one(motion="circling").objects[0]
    long = sample_trajectory(thing, 15, np.random.default_rng(3))
    short = sample_trajectory(thing, 8, np.random.default_rng(3))
    np.testing.assert_allclose(short.centre, long.centre[::2], atol=1e-6)


def test_the_world_never_draws_what_it_holds_out() -> None:
    rng = np.random.default_rng(0)
    drawn = [EVERYTHING.sample(rng).objects[0] for _ in range(400)]
    assert not any(is_held_out(thing) for thing in drawn)
    assert all(is_held_out(EVERYTHING.sample(rng, held_out=True).objects[0]) for _ in range(50))
    triples = [is_held_out(SceneObject(c, s, "small", m)) for c in COLOURS for s in SHAPES for m in MOTIONS]
    assert np.mean(triples) == pytest.approx(1 / 8, abs=0.01)


def test_sizes_differ_by_more_than_their_jitter() -> None:
    assert SIZES["large"] / SIZES["small"] > 1.05 / 0.95


def test_captions_say_what_there_is_in_words_of_the_vocabulary() -> None:
    scene = Scene("pink", (SceneObject("blue", "square", "large", "up"),))
    assert caption(scene) == "a large blue square moving up on a pink background"
    rng = np.random.default_rng(1)
    words = set(vocabulary(EVERYTHING)) | {"and"}
    assert "zigzagging" in words - set(vocabulary())  # the embedded tokenizer never had this word
    for _ in range(200):
        scene = EVERYTHING.sample(rng)
        assert set(caption(scene, rng, omit=0.2).split()) <= words
    assert caption(scene, rng, omit=1.0).split()[0] == "a"
    assert len(caption(scene, rng, omit=1.0).split()) == 2
