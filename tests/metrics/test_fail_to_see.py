"""What a measure must not see, and what the well-known ones get wrong."""

import numpy as np
import pytest
from synthetic_clips import DISTORTIONS, clean_clip

from video_diffusion.metrics import measure


def values(frames, **settings):
    return {name: measured.value for name, measured in measure(frames, 8, **settings).values.items()}


def still(num_frames=10, height=64, width=88):
    return np.repeat(clean_clip("pebbles", "pan", 0, 1, height, width).frames, num_frames, axis=0)


def test_global_flicker_has_no_temporal_information_but_flickers():
    flickering = (still() + np.where(np.arange(10) % 2, 8, -8)[:, None, None, None]).astype(np.uint8)
    temporal_information = np.diff(flickering[..., 1].astype(float), axis=0).std(axis=(1, 2))
    assert temporal_information.max() < 1
    assert values(flickering)["flicker"] == pytest.approx(8, rel=0.02)


def test_luma_measures_do_not_see_iso_luma_colour_jitter():
    report = measure(DISTORTIONS["colour jitter"].apply(still(), 16), 8)
    assert report.values["luma_flicker"].value < 0.1
    assert report.values["luma_flicker"].details["max_cell"] < 0.2
    assert report.values["flicker"].value > 7


def test_raw_flicker_ranks_a_clean_fast_pan_below_a_boiling_picture_and_flicker_does_not():
    pan = values(clean_clip("waves", "pan", 8, 10).frames)
    boiling = values(DISTORTIONS["texture boiling"].apply(still(10, 96, 128), 1.5))
    assert pan["raw_flicker"] > 2 * boiling["raw_flicker"]
    assert boiling["flicker"] > 5 * pan["flicker"]


def test_vbench_likes_a_pan_that_stutters_and_flow_jitter_does_not():
    pan = clean_clip("waves", "pan", 3, 17, 64, 88).frames
    smooth, stutters = measure(pan, 8).values, measure(DISTORTIONS["stutter"].apply(pan, 5), 8).values
    vbench = [each["raw_flicker"].details["vbench_temporal_flickering"] for each in (smooth, stutters)]
    assert vbench[1] > vbench[0]
    assert stutters["raw_flicker"].value > smooth["raw_flicker"].value
    assert stutters["flow_jitter"].value > 20 * smooth["flow_jitter"].value
    assert stutters["duplicate_pairs"].value == 5


@pytest.mark.full
def test_a_region_that_turns_incoherent_counts_as_change_and_not_as_left_out():
    pan = clean_clip("waves", "pan", 2, 8).frames
    torn = pan.copy()
    for frame, start in zip(torn, np.random.default_rng(0).integers(0, 300, 8), strict=True):
        frame[16:80, 24:104] = clean_clip("pebbles", "pan", 0, 1, 400, 400).frames[0][start:, start:][
            :64, :80
        ]
    clean, incoherent = measure(pan, 8), measure(torn, 8)
    assert incoherent.values["coverage"].details["unexplained"] > 0.2
    assert incoherent.values["flicker"].value > 20 * clean.values["flicker"].value
    # Over believable pixels alone, SSIM hardly minds: that is why it is not the headline.
    assert clean.values["warp_ssim"].value - incoherent.values["warp_ssim"].value < 0.01


def test_a_frozen_clip_and_a_blurred_clip_are_seen_to_be_so_beside_their_flicker():
    noisy = DISTORTIONS["frame noise"].apply(clean_clip("pebbles", "pan", 2, 8, 64, 88).frames, 6)
    box = np.ones((7, 7)) / 49
    blurred = np.stack([_filtered(frame, box) for frame in noisy])
    plain, soft = measure(noisy, 8), measure(blurred, 8)
    assert soft.values["flicker"].value < 0.4 * plain.values["flicker"].value
    assert soft.values["sharpness"].value < 0.5 * plain.values["sharpness"].value
    frozen = measure(np.repeat(noisy[:1], 8, axis=0), 8)
    assert (frozen.values["flicker"].value, frozen.values["flicker"].status) == (0, "static")
    assert frozen.values["motion"].status == "static"
    for name in ("motion", "sharpness", "mean_luma"):
        assert f"\n  {name}" in frozen.table()


def _filtered(frame, kernel):
    padded = np.pad(frame.astype(float), ((3, 3), (3, 3), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape, axis=(0, 1))
    return np.rint((windows * kernel).sum(axis=(-1, -2))).astype(np.uint8)


def test_noise_on_a_still_picture_is_not_motion():
    report = measure(DISTORTIONS["frame noise"].apply(still(4, 192, 256), 16), 8)
    assert report.values["motion"].status == "static"
    slow = measure(clean_clip("pebbles", "pan", 1, 4, 192, 256).frames, 8)
    assert slow.values["motion"].status == "ok"


def test_a_steady_fade_and_a_steady_pan_do_not_flicker_but_drift_and_move():
    fading = values(DISTORTIONS["slow drift"].apply(still(), 40))
    assert fading["flicker"] < 0.3
    assert fading["drift"] > 3
    panning = values(clean_clip("waves", "pan", 4, 10, 64, 88).frames)
    assert panning["flicker"] < 0.3
    assert panning["motion"] == pytest.approx(4 * 256 / 64, rel=0.01)
