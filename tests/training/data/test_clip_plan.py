"""What can be cut from clips of given length, rate and size, in real time."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from painted_clips import entry_of

from video_diffusion.training.data.cutting import (
    ClipPlan,
    aspect_buckets,
    nearest_size,
    plan_clips,
    sample_times,
)
from video_diffusion.training.data.manifest import ClipEntry

ENTRY = entry_of(Path("a.mp4"), 48, 24)  # 2 s, 48x32
PICTURE = replace(ENTRY, id="p", path="p.png", fps=None, num_frames=1, end=1.0)


def plan(*entries: ClipEntry, **options: object) -> ClipPlan:
    chosen = {"num_frames": 16, "fps": Fraction(8), "sizes": [(48, 32)], **options}
    return plan_clips(entries, **chosen)


def test_a_clip_of_exactly_the_window_fits_with_no_play() -> None:
    (clip,) = plan(replace(ENTRY, num_frames=16, fps=Fraction(8))).clips
    assert (clip.first, clip.last) == (0.0, 0.0)
    assert sample_times(clip, 16, Fraction(8), 1.0) == tuple(index / 8 for index in range(16))


def test_the_window_may_start_anywhere_it_fits() -> None:
    (clip,) = plan(replace(ENTRY, start=1.0, end=5.0)).clips
    assert clip.first == 1.0 and clip.last == pytest.approx(5 - 1 / 24 - 15 / 8)
    assert sample_times(clip, 16, Fraction(8), 1.0)[-1] == pytest.approx(5 - 1 / 24)


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"end": 1.9}, "lasts 1.900 s, shorter than 16 frames at 8 fps (1.917 s); train on fewer"),
        ({"fps": Fraction(6), "end": 9.0}, "has 6 fps, below 8: frames would repeat"),
        ({"width": 47}, "is 47x32, smaller than 48x32; train at a smaller size or allow upscaling"),
    ],
)
def test_what_cannot_be_used_says_why(changes: dict, reason: str) -> None:
    found = plan(replace(ENTRY, **changes), ENTRY)
    assert [clip.entry for clip in found.clips] == [ENTRY]
    (unusable,) = found.unusable
    assert unusable.reason.startswith(reason)


def test_a_clip_as_long_as_the_refusal_of_a_shorter_one_asks_for_is_used() -> None:
    (unusable,) = plan(replace(ENTRY, end=1.9), ENTRY).unusable
    told = float(unusable.reason.split("(")[1].split(" s)")[0])
    assert plan(replace(ENTRY, end=told)).clips
    assert [clip.entry for clip in plan(replace(ENTRY, end=told - 0.001), ENTRY).clips] == [ENTRY]


def test_each_refusal_has_its_explicit_way_out() -> None:
    short, slow, small = (
        replace(ENTRY, end=1.0),
        replace(ENTRY, fps=Fraction(6), end=9.0),
        replace(ENTRY, width=47),
    )
    for entry, allowed in (
        (short, {"too_short": "loop"}),
        (slow, {"repeat_frames": True}),
        (small, {"allow_upscaling": True}),
    ):
        assert not plan(entry).clips
        assert [clip.entry for clip in plan(entry, **allowed).clips] == [entry]
    (looped,) = plan(short, too_short="loop").clips
    assert sample_times(looped, 16, Fraction(8), 0.7) == tuple(index % 8 / 8 for index in range(16))


def test_film_rates_count_as_their_round_numbers() -> None:
    ntsc = replace(ENTRY, fps=Fraction(24000, 1001), end=2.002)
    assert len(plan(ntsc, fps=Fraction(24)).clips) == 1
    assert len(plan(replace(ntsc, fps=Fraction(23)), fps=Fraction(24)).unusable) == 1


def test_pictures_are_only_pictures_and_videos_are_both() -> None:
    found = plan(ENTRY, PICTURE)
    assert [clip.entry.id for clip in found.clips] == ["a"]
    assert [clip.entry.id for clip in found.pictures] == ["a", "p"]
    assert found.unusable == ()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.fractions(1, 30, max_denominator=1001), st.integers(2, 400), st.floats(0, 1))
def test_all_windows_lie_side_by_side_inside_the_clip(
    num_frames: int, fps: Fraction, length: int, position: float
) -> None:
    entry = replace(ENTRY, start=3.0, end=round(3 + length / 24, 6), num_frames=length)
    clips = plan_clips(
        [entry], num_frames=num_frames, fps=min(fps, Fraction(24)), sizes=None, windows="all"
    ).clips
    rate = min(fps, Fraction(24))
    one = plan_clips([entry], num_frames=num_frames, fps=rate, sizes=None).clips
    assert bool(one) == bool(clips)
    end = 3.0
    for number, clip in enumerate(clips):
        times = sample_times(clip, num_frames, rate, position)
        assert clip.segment == number
        assert times[0] >= end - 1 / 24 - 2e-5 and np.all(np.diff(times) > 0)
        end = clip.last + float(num_frames / rate)
        # the last frame is on show while the clip lasts
        assert times[-1] <= entry.end - 1 / 24 + 2e-5
    if clips:  # no room for one more
        free = sum(clip.last - clip.first for clip in clips)
        assert free < float(num_frames / rate) + len(clips) / 24 + 1e-4


def test_two_windows_where_two_fit() -> None:
    entry = replace(ENTRY, end=4.0)
    assert [clip.segment for clip in plan(entry, windows="all").clips] == [0, 1]
    assert len(plan(replace(entry, end=3.9), windows="all").clips) == 1


def test_buckets_have_the_same_area_and_clips_take_the_nearest() -> None:
    sizes = aspect_buckets((512, 512))
    assert (512, 512) in sizes and (704, 384) in sizes and (384, 704) in sizes
    for width, height in sizes:
        assert width % 64 == height % 64 == 0 and 0.5 <= width / height <= 2
        assert abs(width * height / 512**2 - 1) < 0.13
    assert {(height, width) for width, height in sizes} == set(sizes)
    assert nearest_size(replace(ENTRY, width=1920, height=1080), sizes) == (704, 384)
    assert nearest_size(replace(ENTRY, width=1080, height=1920), sizes) == (384, 704)
    assert nearest_size(replace(ENTRY, width=500, height=500), sizes) == (512, 512)
    assert nearest_size(ENTRY, None) == (48, 32)
    with pytest.raises(ValueError, match="multiples of 64"):
        aspect_buckets((500, 512))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_frames": 0}, "num_frames must be at least 1"),
        ({"fps": Fraction(0)}, "fps must be above 0"),
        ({"sizes": [(0, 8)]}, "sizes must be at least 1x1"),
    ],
)
def test_wrong_settings(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(ENTRY, **options)
