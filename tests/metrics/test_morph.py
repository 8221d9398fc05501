"""Morph: closed forms, rigid motion of every kind at its floor, ladders, and what it must not see."""

import numpy as np
import pytest
from exact_clips import picture
from scipy.stats import spearmanr
from synthetic_clips import DISTORTIONS, TEXTURES, clean_clip, moving_square

from video_diffusion.metrics import measure
from video_diffusion.metrics.morph import Morphing, morphing
from video_diffusion.metrics.points import (
    NormalFlow,
    flow_along_normals,
    follow_points,
    motion_from_normals,
    noise_level,
    steepest_points,
)  # fmt: skip

BULGES = np.random.default_rng(2).normal(0, 1, 12)


def morph(frames, **settings):
    return measure(frames, 8, metrics=["morph"], **settings).values["morph"]


def from_camera(texture, steps, height=96, width=128):
    """What a camera sees that stands, turns and zooms as each (dx, dy, angle, zoom) says."""
    y, x = np.mgrid[:height, :width].astype(float)
    points = np.stack([x - (width - 1) / 2, y - (height - 1) / 2], axis=-1)
    frames = []
    for dx, dy, angle, zoom in steps:
        turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        frames.append(np.rint(np.clip(TEXTURES[texture](points @ turn.T + (3000 + dx, 2000 + dy)), 0, 255)))
    return np.stack(frames).astype(np.uint8)


def test_points_that_step_to_and_fro_by_a_give_a():
    """Two rigid halves that part and close again: every distance across the joint changes by ±2a."""
    scene = picture(96, 96)
    a = 0.4
    zero = np.zeros((2, 96, 96, 2), np.float32)
    forward, backward = zero.copy(), zero.copy()
    side = np.where(np.arange(96) < 48, -a, a)
    # the sides part towards the middle frame and close after it: ±a on alternate frames
    forward[0, ..., 0], backward[0, ..., 0] = side, -side
    forward[1, ..., 0], backward[1, ..., 0] = -side, side
    luma = scene.astype(np.float32) @ np.float32([0.299, 0.587, 0.114])
    points = follow_points(
        (luma, luma, luma),
        (backward[0], forward[0]),
        (forward[1], backward[1]),
    )
    believed = points.believed
    exact = np.where(points.grid.place[..., 0] < 48, -a, a)
    far = believed & (np.abs(points.grid.place[..., 0] - 48) > 20)
    assert np.abs(points.to_after[..., 0] + exact)[far].max() < 0.15
    assert np.abs(points.to_before[..., 0] + exact)[far].max() < 0.15
    found = morphing(points)
    # pairs across the joint change by 2a and back: (2a + 2a − 0) / 4 = a; pairs within a side by 0
    assert 0 < np.nanmean(found.moved) * 96 / 256 < a
    same = morphing(follow_points((luma, luma, luma), (zero[0], zero[0]), (zero[1], zero[1])))
    assert same.level == 0


def test_two_points_alone_give_exactly_a():
    from video_diffusion.metrics.morph import _to_and_fro

    place = np.float32([[10, 10], [40, 10]])
    tensor = np.float32([[1, 0, 0], [1, 0, 0]])
    pair = (np.array([0]), np.array([1]), np.ones(1, np.float32))
    for before, after, expected in [(-0.5, -0.5, 0.25), (0.5, -0.5, 0), (-1, -0.2, 0.1)]:
        to_before, to_after = (np.float32([[0, 0], [step, 0]]) for step in (before, after))
        # q alone moves: the distance changes by −before over the first step and by after over the second; for
        # two points the steady growth is the whole change, so it is 0 where both have one sign
        assert _to_and_fro(place, to_before, to_after, tensor, *pair) == pytest.approx(expected, abs=1e-6)
    across = np.float32([[0, 0, 1], [0, 0, 1]])
    assert np.isnan(
        _to_and_fro(place, to_before, to_after, across, *pair)
    ).all()  # gradients across the line see nothing


def test_one_point_of_eight_that_breathes_reads_half_of_what_all_would():
    """A plain mean read an eighth, and a small thing before still texture vanished in it."""
    alone, together, nowhere = (np.full((2, 4), value, np.float32) for value in (0, 0.4, np.nan))
    alone[0, 1] = 0.4
    assert Morphing(together, nowhere, 8, 8).level == pytest.approx(0.4)
    assert Morphing(alone, nowhere, 8, 8).level == pytest.approx(0.2)
    assert Morphing(nowhere, together, 8, 0).level == pytest.approx(0.4)


def test_noise_and_points_of_a_known_image():
    noise = np.random.default_rng(0).normal(128, 7, (200, 300)).astype(np.float32)
    assert noise_level(noise) == pytest.approx(7, rel=0.03)
    assert not steepest_points(noise).steep.any()
    edge = np.tile(np.where(np.arange(128) < 64, 60, 190).astype(np.float32), (128, 1))
    grid = steepest_points(edge)
    assert set(grid.place[grid.steep][:, 0]) <= {63.0, 64.0}
    assert grid.steep.sum() == pytest.approx(64, abs=64)
    assert np.allclose(np.abs(grid.normal[grid.steep]), (1, 0))


def test_an_edge_takes_the_motion_along_it_from_further_away():
    """Vertical edges on one side see only x, horizontal ones on the other only y: together both."""
    normal = np.zeros((64, 64, 2), np.float32)
    normal[:, :40, 0] = 1
    normal[:, 40:, 1] = 1
    true = np.float32([1.5, -0.75])
    (motion,), _ = motion_from_normals(normal, [normal @ true])
    assert np.abs(motion - true).max() < 0.1


def test_flow_that_slides_along_an_edge_is_believed_and_one_that_misses_it_is_not():
    edge = np.tile(np.where(np.arange(64) < 32, 60, 190).astype(np.float32), (64, 1))
    grid = steepest_points(edge)
    slides = np.zeros((64, 64, 2), np.float32)
    slides[..., 1] = 9
    inner = grid.steep & (grid.place[..., 1] < 50)
    assert flow_along_normals(grid, slides, np.zeros_like(slides)).believed[inner].all()
    misses = np.zeros((64, 64, 2), np.float32)
    misses[..., 0] = 2
    found = flow_along_normals(grid, misses, np.zeros_like(misses))
    assert isinstance(found, NormalFlow)
    assert not found.believed.any()
    assert found.error[grid.steep] == pytest.approx(2)


RIGID = {
    "still": [(0, 0, 0, 1)] * 6,
    "pan": [(3 * t, 2 * t, 0, 1) for t in range(6)],
    "acceleration": [(0.4 * t * t, 0, 0, 1) for t in range(7)],
    "fast turn": [(0, 0, 0.05 * t, 1) for t in range(6)],
    "zoom": [(0, 0, 0, 1.02**t) for t in range(6)],
    "uneven zoom": [(0, 0, 0, 1.02**t) for t in (0, 1, 3, 4, 6, 7)],
    "shake": [(2 * np.sin(5 * t), 2 * np.cos(7 * t), 0.01 * np.sin(3 * t), 1) for t in range(6)],
}


@pytest.mark.parametrize("motion", RIGID)
@pytest.mark.parametrize("texture", TEXTURES)
def test_rigid_motion_of_texture_stays_at_the_floor(texture, motion):
    assert morph(from_camera(texture, RIGID[motion])).value < 0.03


@pytest.mark.parametrize(
    ("speed", "turn", "growth"), [(0.1, 0, 0), (4, 0, 0), (0, 0.1, 0), (0, 0, 0.03), (3, 0.05, 0.02)]
)
@pytest.mark.parametrize("size", [64, 128])
def test_rigid_motion_of_a_flat_square_stays_at_the_floor(speed, turn, growth, size):
    assert morph(moving_square([0] * 8, size, speed, turn, growth)).value < 0.05


def test_a_square_that_breathes_reads_as_clean_to_flicker_and_warp_ssim_but_not_to_morph():
    calm, breathing = (measure(moving_square(strength * BULGES), 8).values for strength in (0, 2))
    assert breathing["warp_ssim"].value > 0.995
    assert breathing["flicker"].value < 0.5
    assert breathing["morph"].value > 20 * calm["morph"].value
    assert breathing["morph"].value > 0.2


@pytest.mark.full
@pytest.mark.parametrize("size", [64, 128, 256])
def test_morph_rises_with_the_bulge_at_every_size_and_agrees_across_sizes(size):
    values = [morph(moving_square(strength * BULGES[:8], size)).value for strength in (0, 0.5, 1, 2, 4)]
    assert values == sorted(values)
    assert values[2] == pytest.approx(morph(moving_square(BULGES[:8], 128)).value, rel=0.5)


@pytest.mark.full
@pytest.mark.parametrize("texture", TEXTURES)
def test_morph_rises_with_boiling(texture):
    clean = clean_clip(texture, "pan", 2, 8, 96, 96).frames
    strengths = [0.2, 0.4, 0.7, 1, 1.4, 2]
    values = [morph(DISTORTIONS["texture boiling"].apply(clean, each)).value for each in strengths]
    assert spearmanr(strengths, values).statistic > 0.98
    assert values[0] > 3 * morph(clean).value


def test_noise_and_brightness_are_not_morphing():
    pan = clean_clip("pebbles", "pan", 2, 8, 96, 128).frames
    assert morph(DISTORTIONS["frame noise"].apply(pan, 16)).value < 0.08
    assert morph(DISTORTIONS["brightness flicker"].apply(pan, 24)).value < 0.12
    assert morph(DISTORTIONS["colour jitter"].apply(pan, 12)).value < 0.05


def test_a_wobble_reads_the_same_whatever_the_size_of_the_thing():
    """Pairs at four distances only: a square of 80 px read a third of one of 60 px."""
    y, x = (np.mgrid[:128, :128] - 63.5) * 2
    values = []
    for half in (25, 30, 40, 50):
        inside = [np.minimum(half + bulge - np.abs(x), half - bulge - np.abs(y)) / 2 for bulge in BULGES[:6]]
        frames = 60 + 120 / (1 + np.exp(-np.clip(2.5 * np.stack(inside), -30, 30)))
        values.append(morph(np.repeat(np.rint(frames)[..., None], 3, axis=-1).astype(np.uint8)).value)
    assert max(values) < 1.25 * min(values)


@pytest.mark.parametrize("speed", [0, 2])
@pytest.mark.parametrize("strength", [8, 16, 24])
def test_light_that_flickers_inside_a_border_is_not_morphing(strength, speed):
    """The border comes and goes where nothing moved, and read 2.2 on a flat image."""
    frames = moving_square([0] * 8, 128, speed)
    assert morph(DISTORTIONS["local flicker"].apply(frames, strength)).value < 0.1


def test_a_small_thing_that_morphs_on_still_texture_is_seen_in_its_cell():
    ground = np.repeat(clean_clip("bricks", "pan", 0, 1, 128, 128).frames, 12, axis=0)
    thing = moving_square(6 * BULGES, 32, 0)
    frames = ground.copy()
    frames[:, 40:72, 44:76] = thing
    measured = morph(frames)
    assert measured.details["worst_cell"] > 2.5 * measured.value > 0.1
    calm = ground.copy()
    calm[:, 40:72, 44:76] = moving_square([0] * 12, 32, 0)
    assert morph(calm).value == 0


def test_points_that_leave_the_image_say_nothing():
    """A fast shake moves the border out on both sides: that is no morphing."""
    steps = [(9 * (t % 2), 7 * (t % 3), 0, 1) for t in range(8)]
    assert morph(from_camera("pebbles", steps)).value < 0.05


def test_statuses():
    noise = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    assert (morph(noise).value, morph(noise).status) == (None, "unmeasurable")
    boiled = DISTORTIONS["texture boiling"].apply(clean_clip("pebbles", "pan", 2, 6).frames, 4)
    assert morph(boiled).status == "unmeasurable" and morph(boiled).value > 0.5
    assert morph(boiled[:2]).status == "too_short"
    assert morph(np.repeat(boiled[:1], 6, axis=0)).status == "static"
    flat = np.full((6, 48, 48, 3), 90, np.uint8) + np.arange(6, dtype=np.uint8)[:, None, None, None]
    assert (morph(flat).value, morph(flat).status) == (None, "unmeasurable")
    assert morph(boiled[:, :12]).status == "unmeasurable"


TURNS = {
    "mirror": lambda frames: frames[:, :, ::-1],
    "transpose": lambda frames: frames.transpose(0, 2, 1, 3),
    "backwards": lambda frames: frames[::-1],
}


@pytest.mark.parametrize("turn", TURNS)
def test_morph_of_a_mirrored_a_transposed_and_a_reversed_clip(turn):
    frames = moving_square(2 * BULGES, 96)[:, :, 8:]
    assert morph(np.ascontiguousarray(TURNS[turn](frames))).value == pytest.approx(
        morph(frames).value, rel=0.3
    )
