"""Which suffix is written by which codec, and what each codec accepts; checked before a model is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".gif", ".webp")
PIXEL_FORMATS = ("yuv420p", "yuv444p")


@dataclass(frozen=True)
class Codec:
    """One encoder.

    Attributes:
        name: ffmpeg's name, or gif, webp, png.
        suffixes: files it is written into; png writes a folder and has none.
        crf: default constant rate factor, None where it has no meaning.
        max_crf: the worst quality its scale reaches.
        pixel_formats: what it can store; empty where it stores RGB.
        arguments: further ffmpeg arguments.
        max_fps: the fastest timing the file can hold.
        max_side: pixels.
    """

    name: str
    suffixes: tuple[str, ...]
    crf: int | None = None
    max_crf: int = 0
    pixel_formats: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    max_fps: int = 1000
    max_side: int = 16384


# Palettes are made per frame with ordered dither: 33.6 dB where one palette for the clip has 28.7 dB, and
# a still clip does not shimmer.
_GIF_FILTER = (
    "split[a][b];[a]palettegen=stats_mode=single[p];[b][p]paletteuse=new=1:dither=bayer:bayer_scale=5"
)
CODECS = {
    codec.name: codec
    for codec in (
        Codec("libx264", (".mp4", ".mov", ".mkv"), 18, 51, PIXEL_FORMATS, ("-preset", "medium")),
        Codec("libx264rgb", (".mp4", ".mov", ".mkv"), arguments=("-preset", "medium", "-crf", "0")),
        Codec(
            "libvpx-vp9", (".webm", ".mkv", ".mp4"), 24, 63, PIXEL_FORMATS,
            ("-b:v", "0", "-deadline", "good", "-cpu-used", "2", "-row-mt", "1"),
        ),
        Codec("libsvtav1", (".mp4", ".mkv", ".webm"), 24, 63, PIXEL_FORMATS[:1], ("-preset", "6")),
        Codec("gif", (".gif",), arguments=("-vf", _GIF_FILTER, "-loop", "0"), max_fps=50),
        Codec("webp", (".webp",), max_side=16383),
        Codec("png", ()),
    )
}  # fmt: skip
_DEFAULT_CODEC = {".webm": "libvpx-vp9", ".gif": "gif", ".webp": "webp"}


class Encoding(NamedTuple):
    """How one clip is written: every choice made, nothing left to a default."""

    codec: Codec
    suffix: str
    crf: int | None
    pixel_format: str | None

    @property
    def lossless(self) -> bool:
        """Whether the file gives the very frames back."""
        return self.codec.name in {"libx264rgb", "png"}


def choose_encoding(
    path: Path | str, codec: str | None = None, crf: int | None = None, pixel_format: str | None = None
) -> Encoding:
    """Decides codec, quality and pixel format from the suffix and the options.

    Args:
        path: where the clip goes; a name ending in "/" means a folder of PNGs.
        codec: a name of `CODECS`; None takes the suffix's own (H.264 for .mp4).
        crf: 0 (best) to the codec's worst; None is visually lossless.
        pixel_format: yuv420p plays everywhere, yuv444p keeps full colour resolution and odd sizes.

    Raises:
        ValueError: an unknown suffix or codec, or two that do not go together, or an option without effect.
    """
    suffix = Path(path).suffix.lower()
    if codec is not None and codec not in CODECS:
        raise ValueError(f"codec is one of {', '.join(CODECS)} (given {codec!r})")
    if codec is None and str(path).endswith("/"):
        codec = "png"
    if codec == "png" and suffix not in SUFFIXES:
        chosen = CODECS["png"]
    elif suffix not in SUFFIXES:
        given = f"{suffix!r}" if suffix else "no suffix"
        ways = f"use {', '.join(SUFFIXES)}, or end the name in / for a folder of PNGs"
        raise ValueError(f"the suffix of {str(path)!r} names no format ({given}); {ways}")
    else:
        chosen = CODECS[codec or _DEFAULT_CODEC.get(suffix, "libx264")]
    if suffix in SUFFIXES and suffix not in chosen.suffixes:
        where = ", ".join(chosen.suffixes) or "a folder (a name without suffix, or ending in /)"
        raise ValueError(f"codec {chosen.name} does not go into {suffix}; it goes into {where}")
    if crf is not None and chosen.crf is None:
        raise ValueError(f"crf has no meaning for {chosen.name}; leave it out")
    if crf is not None and not 0 <= crf <= chosen.max_crf:
        raise ValueError(f"crf for {chosen.name} is from 0 (best) to {chosen.max_crf} (given {crf})")
    if pixel_format is not None and pixel_format not in chosen.pixel_formats:
        known = ", ".join(chosen.pixel_formats) or "its own only; leave pixel_format out"
        raise ValueError(f"pixel_format for {chosen.name} is {known} (given {pixel_format!r})")
    default_format = chosen.pixel_formats[0] if chosen.pixel_formats else None
    return Encoding(chosen, suffix, chosen.crf if crf is None else crf, pixel_format or default_format)


def check_clip(encoding: Encoding, width: int, height: int, fps: Fraction) -> None:
    """Whether frames of this size and rate can be written without changing them.

    Raises:
        ValueError: an odd side for yuv420p, a side the format cannot hold, or a rate it cannot keep.
    """
    codec = encoding.codec
    if encoding.pixel_format == "yuv420p" and (width % 2 or height % 2):
        other = (
            "use even sides" if len(codec.pixel_formats) == 1 else "use even sides or pixel_format yuv444p"
        )
        raise ValueError(f"size {width}x{height} has an odd side, which yuv420p cannot store; {other}")
    if max(width, height) > codec.max_side:
        raise ValueError(
            f"size {width}x{height} is larger than {codec.name} holds ({codec.max_side}); use png"
        )
    if not 0 < fps <= codec.max_fps:
        raise ValueError(f"fps for {codec.name} is above 0 and at most {codec.max_fps} (given {fps})")


def timing_note(encoding: Encoding, fps: Fraction) -> str | None:
    """What the format does to the timing, if it cannot store the frame rate exactly."""
    unit = {"gif": Fraction(1, 100), "webp": Fraction(1, 1000)}.get(encoding.codec.name)
    if unit is None or (1 / fps / unit).denominator == 1:
        return None
    return f"{encoding.codec.name} counts time in steps of {unit} s: {fps} fps is kept on average only"


def frame_times(num_frames: int, fps: Fraction, steps_per_second: int) -> Sequence[int]:
    """Start of each frame, and the end of the last, in whole steps: rounded so that errors never add up."""
    return [round(index * steps_per_second / fps) for index in range(num_frames + 1)]
