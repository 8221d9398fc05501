"""What stays of things over long lags: tracked points, their patches, and the warping error of papers."""

from itertools import pairwise

import numpy as np
import pytest
from synthetic_clips import DISTORTIONS, clean_clip

from video_diffusion.metrics import measure
from video_diffusion.metrics.drift import Anchor, Drift, Track, _shrunk
from video_diffusion.metrics.flow import DisFlow
from video_diffusion.metrics.views import Frame, Pair

NAMES = ("pebbles", "bricks")


def details(frames, **settings):
    return measure(frames, 8, metrics=["drift"], **settings).values["drift"].details


def test_points_of_a_pan_are_followed_to_where_they_are():
    clip = clean_clip("pebbles", "pan", 2, 9, 96, 128)
    looker, method = Drift(), DisFlow()
    frames = [Frame(index, index / 8, rgb) for index, rgb in enumerate(clip.frames)]
    for first, second in pairwise(frames):
        second.arrival = Pair(first, second, method)
    portraits = [looker.look(frame) for frame in frames]
    track = Track(Anchor(portraits[0]))
    for portrait in portraits[1:]:
        track.follow(portrait.arrival)
    moved = (track.place - Anchor(portraits[0]).place)[track.alive][:, 0]
    assert np.abs(moved - 8 * clip.forward[0, 0, 0]).max(axis=1).mean() < 0.5
    share, ssim, colour = track.compare(portraits[-1])
    assert share > 0.7 and ssim > 0.95 and colour < 3


def test_a_thing_that_slowly_becomes_another_loses_its_patches_though_neighbours_agree():
    first, second = (
        clean_clip(texture, "pan", 1, 17, 96, 128).frames.astype(float) for texture in ("pebbles", "bricks")
    )
    share = np.linspace(0, 1, 17)[:, None, None, None]
    turning = np.rint(first * (1 - share) + second * share).astype(np.uint8)
    calm, lost = details(first.astype(np.uint8)), details(turning)
    assert lost["ssim_1"] > 0.95
    assert lost["ssim_16"] < 0.5 < 0.9 < calm["ssim_16"]
    assert lost["ssim_slope"] < 5 * calm["ssim_slope"] < 0
    assert lost["colour_slope"] > 5 * calm["colour_slope"]


def test_boiling_loses_points_faster_than_motion_does():
    pan = clean_clip("pebbles", "pan", 2, 17, 96, 128).frames
    calm, boiled = details(pan), details(DISTORTIONS["texture boiling"].apply(pan, 1.2))
    assert boiled["tracked_8"] < 0.7 * calm["tracked_8"]


def test_a_still_keeps_every_point_and_lags_stay_within_shots():
    still = (
        np.repeat(clean_clip("bricks", "pan", 0, 1, 64, 88).frames, 9, axis=0)
        + np.arange(9, dtype=np.uint8)[:, None, None, None]
    )
    kept = details(still)
    assert kept["tracked_8"] > 0.97
    assert kept["ssim_8"] == pytest.approx(1, abs=0.01)
    assert kept["colour_8"] == pytest.approx(8, abs=0.2)  # one level brighter each frame
    two = np.concatenate([clean_clip("waves", "pan", 2, 6).frames, clean_clip("bricks", "pan", 2, 6).frames])
    assert "tracked_4" in details(two) and "tracked_8" not in details(two)


def test_nothing_is_tracked_without_flow_or_edges():
    assert "tracked_1" not in details(np.full((6, 48, 48, 3), 90, np.uint8))
    assert (
        details(np.random.default_rng(0).integers(0, 256, (6, 12, 40, 3), dtype=np.uint8)).get("tracked_1", 0)
        == 0
    )


def test_warp_error_is_the_mean_square_difference_of_papers():
    """Ewarp of Lai et al. 2018 where the flow is known to be zero: the mean square difference in 0…1."""
    still = clean_clip("bricks", "pan", 0, 1, 48, 64).frames.astype(int)
    frames = np.concatenate([still + 6 * (step % 2) for step in range(6)]).clip(0, 255).astype(np.uint8)
    zero = np.zeros((5, 48, 64, 2), np.float32)
    measured = measure(frames, 8, flow=(zero, zero)).values["warp_psnr"]
    expected = np.mean((np.diff(frames.astype(float), axis=0) / 255) ** 2)
    assert measured.details["warp_error"] == pytest.approx(expected, rel=1e-6)


def test_small_images_keep_their_shape():
    assert _shrunk(np.zeros((200, 400, 3), np.uint8)).shape == (96, 192, 3)
    assert _shrunk(np.zeros((50, 70, 3), np.uint8)).shape == (50, 70, 3)
