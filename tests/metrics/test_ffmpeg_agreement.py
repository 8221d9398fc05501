"""Our measures against ffmpeg's own filters, run on the same raw luma (grey frames, full range)."""

import re
import subprocess
from itertools import accumulate

import imageio_ffmpeg
import numpy as np
import pytest
from synthetic_clips import DISTORTIONS, clean_clip

from video_diffusion.metrics import measure
from video_diffusion.metrics.image import similarity_of_moments

FPS = 8
HEIGHT, WIDTH = 48, 72


def grey_clips():
    """Three clips of known kind as luma planes, the last with a cut and with frames that stand still."""
    flicker = DISTORTIONS["brightness flicker"].apply(
        clean_clip("waves", "pan", 2, 12, HEIGHT, WIDTH).frames, 6
    )
    noise = DISTORTIONS["frame noise"].apply(clean_clip("bricks", "rotation", 3, 12, HEIGHT, WIDTH).frames, 5)
    pan = clean_clip("pebbles", "pan", 3, 9, HEIGHT, WIDTH).frames
    other = clean_clip("waves", "zoom", 2, 7, HEIGHT, WIDTH).frames
    frozen = np.concatenate([pan, np.repeat(pan[-1:], 6, axis=0), other, np.repeat(other[-1:], 4, axis=0)])
    return {"flicker": flicker[..., 1], "noise": noise[..., 0], "cut and freeze": frozen[..., 2]}


CLIPS = grey_clips()
every_clip = pytest.mark.parametrize("luma", CLIPS.values(), ids=list(CLIPS))


def as_rgb(luma):
    return np.repeat(luma[..., np.newaxis], 3, axis=-1)


def run_filter(luma, filters, second=None):
    """Pipe raw full-range grey frames through ffmpeg; what it printed on both streams."""
    source = [
        "-f",
        "rawvideo",
        "-pix_fmt",
        "gray",
        "-color_range",
        "pc",
        "-s",
        f"{WIDTH}x{HEIGHT}",
        "-r",
        str(FPS),
    ]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostats", *source, "-i", "pipe:0"]
    data = luma.tobytes()
    if second is not None:
        command += [*source, "-i", second]
    done = subprocess.run(
        [*command, "-lavfi", filters, "-f", "null", "-"], input=data, capture_output=True, check=True
    )
    return done.stdout.decode() + done.stderr.decode()


def numbers(text, key):
    return [float(value) for value in re.findall(rf"{key}[=:]\s?([\d.]+)", text)]


def with_zero_flow(luma, metrics):
    zero = np.zeros((len(luma) - 1, HEIGHT, WIDTH, 2), np.float32)
    return measure(as_rgb(luma), FPS, metrics=metrics, flow=(zero, zero)).values


@every_clip
def test_raw_flicker_is_ydif_and_mean_luma_is_yavg(luma):
    printed = run_filter(luma, "signalstats,metadata=print:file=-")
    measured = with_zero_flow(luma, ["raw_flicker", "mean_luma"])
    # a held frame has no entry: for ffmpeg it changes by 0 and is as bright as the frame that it repeats
    ydif = [255 * (value or 0) for value in measured["raw_flicker"].series[1:]]
    # ffmpeg prints 6 significant digits; YDIF of the first frame is 0 by definition
    assert numbers(printed, "YDIF")[1:] == pytest.approx(ydif, rel=6e-6, abs=1e-6)
    brightness = list(
        accumulate(measured["mean_luma"].series, lambda last, this: last if this is None else this)
    )
    assert numbers(printed, "YAVG") == pytest.approx(brightness, rel=6e-6)


@every_clip
def test_scene_score_follows_from_raw_flicker(luma):
    printed = run_filter(luma, "scdet=threshold=0,metadata=print:file=-")
    raw = with_zero_flow(luma, ["raw_flicker"])["raw_flicker"].series
    mafd = np.array([value or 0 for value in raw]) * 255 * 100 / 256  # per cent of the 256 levels
    score = np.minimum(mafd, np.abs(np.diff(mafd, prepend=0)))
    assert numbers(printed, "scd.mafd")[: len(luma)] == pytest.approx(mafd.tolist(), abs=6e-4)
    assert numbers(printed, "scd.score")[: len(luma)] == pytest.approx(score.tolist(), abs=6e-4)


@every_clip
def test_temporal_information_is_the_spread_of_luma_differences(luma):
    printed = run_filter(luma, "siti,metadata=print:file=-")
    ti = [np.diff(luma[t : t + 2].astype(float), axis=0).std() for t in range(len(luma) - 1)]
    assert numbers(printed, "siti.ti")[1:] == pytest.approx(ti, abs=6e-3)


@every_clip
def test_psnr_of_neighbouring_frames(luma, tmp_path):
    later = tmp_path / "later.raw"
    later.write_bytes(luma[1:].tobytes())
    stats = tmp_path / "stats.log"
    run_filter(luma[:-1], f"[0][1]psnr=stats_file={stats}", str(later))
    printed = [
        100 if value == "inf" else float(value) for value in re.findall(r"psnr_y:(\S+)", stats.read_text())
    ]
    measured = with_zero_flow(luma, ["warp_psnr"])["warp_psnr"]
    expected = [100 if value is None else value for value in measured.series[1:]]  # held: equal
    if measured.status == "has_cut":  # with zero flow everything is believable, so there is none
        raise AssertionError("a cut was found on zero flow")
    assert printed == pytest.approx(expected, abs=6e-3)


def block_sums(values):
    """Sums over 8 × 8 windows, 4 apart."""
    fours = values.reshape(HEIGHT // 4, 4, WIDTH // 4, 4).sum(axis=(1, 3))
    return fours[:-1, :-1] + fours[1:, :-1] + fours[:-1, 1:] + fours[1:, 1:]


@every_clip
def test_ssim_with_ffmpegs_own_windows_and_constants(luma, tmp_path):
    later = tmp_path / "later.raw"
    later.write_bytes(luma[1:].tobytes())
    stats = tmp_path / "stats.log"
    run_filter(luma[:-1], f"[0][1]ssim=stats_file={stats}", str(later))
    printed = [float(value) for value in re.findall(r"Y:(\S+)", stats.read_text())]
    ours = []
    for first, second in zip(luma[:-1].astype(float), luma[1:].astype(float), strict=True):
        mean_1, mean_2 = block_sums(first) / 64, block_sums(second) / 64
        variances = block_sums(first**2 + second**2) / 64 - mean_1**2 - mean_2**2
        covariance = block_sums(first * second) / 64 - mean_1 * mean_2
        c_1 = int(0.01**2 * 255**2 * 64 + 0.5) / 64**2
        c_2 = int(0.03**2 * 255**2 * 64 * 63 + 0.5) / 64**2
        ours.append(similarity_of_moments(mean_1, mean_2, variances, covariance, c_1, c_2).mean())
    assert printed == pytest.approx(ours, abs=2e-6)


def test_freezes_are_the_runs_of_duplicate_pairs():
    luma = CLIPS["cut and freeze"]
    printed = run_filter(luma, "freezedetect=noise=0:duration=0.3,metadata=print:file=-")
    duplicates = with_zero_flow(luma, ["duplicate_pairs"])["duplicate_pairs"]
    later = [index for index, mark in enumerate(duplicates.series) if mark]
    starts = [index - 1 for index in later if index - 1 not in later]
    assert numbers(printed, "freezedetect.freeze_start")[: len(starts)] == [start / FPS for start in starts]
    first_run = next(index for index in range(starts[0] + 1, len(luma)) if index not in later)
    assert numbers(printed, "freeze_duration")[0] == (first_run - starts[0]) / FPS
    assert duplicates.details["longest_freeze"] == 7
