"""Choices of encoding that no format can follow name the possible ones."""

from fractions import Fraction

import pytest

from video_diffusion.video.writer import check_clip, choose_encoding


@pytest.mark.parametrize(
    "path, options, expected",
    [
        (
            "clip.avi",
            {},
            r"'\.avi'.*use \.mp4, \.mov, \.mkv, \.webm, \.gif, \.webp, .*, or a name that ends in /",
        ),
        ("clip.xyz", {}, r"names no format \('\.xyz'\)"),
        ("clip", {}, r"names no format \(no suffix\)"),
        ("clip.mp4", {"codec": "h264_nvenc"}, r"codec is one of libx264, .*\(given 'h264_nvenc'\)"),
        ("clip.webm", {"codec": "libx264"}, r"codec libx264 does not go into \.webm; it goes into \.mp4"),
        ("clip.mp4", {"codec": "png"}, r"codec png does not go into \.mp4; it goes into a folder"),
        ("clip.mp4", {"crf": 99}, r"crf for libx264 is from 0 \(best\) to 51 \(given 99\)"),
        ("clip.mp4", {"crf": -1}, r"crf for libx264 is from 0"),
        ("clip.gif", {"crf": 18}, "crf has no meaning for gif"),
        ("clip.mp4", {"pixel_format": "yuv410p"}, "pixel_format for libx264 is yuv420p, yuv444p"),
        ("clip.gif", {"pixel_format": "yuv420p"}, "pixel_format for gif is its own only"),
    ],
)
def test_impossible_choices_name_the_possible_ones(
    path: str, options: dict[str, object], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        choose_encoding(path, **options)  # type: ignore[arg-type] # wrong on purpose


@pytest.mark.parametrize(
    "path, size, fps, expected",
    [
        ("clip.webp", (16384, 16), Fraction(8), "larger than webp holds"),
        ("clip.gif", (16, 16), Fraction(60), "fps for gif is above 0 and at most 50"),
        ("clip.mp4", (16, 16), Fraction(0), "fps for libx264 is above 0"),
    ],
)
def test_clips_a_format_cannot_hold(path: str, size: tuple[int, int], fps: Fraction, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        check_clip(choose_encoding(path), *size, fps)
