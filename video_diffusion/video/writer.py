"""Frames to MP4, MOV, MKV, WebM, GIF, animated WebP, a folder of PNGs or one image: whole, or not at all.

Colours are converted to BT.709 limited range and tagged as that. Chroma is sampled where the tag says it is
(left, the default of H.264): ffmpeg's own default puts it off by half a pixel. Read accurately, a smooth
64 px clip at crf 18 gives 43.1 dB, with the default place 41.6 dB.
"""

import errno
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, NamedTuple

import imageio.v3 as iio
import imageio_ffmpeg
import numpy as np
from jaxtyping import UInt8

from video_diffusion.settings.errors import FieldError
from video_diffusion.video.files import atomic_path
from video_diffusion.video.reader import VideoReadError, iter_frames

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".gif", ".webp")
PICTURES = (".png", ".jpg", ".jpeg")
"""What a clip of one frame may be written as; a WebP of one frame is a picture too."""
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
        max_frames: that a file holds; None is any number.
    """

    name: str
    suffixes: tuple[str, ...]
    crf: int | None = None
    max_crf: int = 0
    pixel_formats: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    max_fps: int = 1000
    max_side: int = 16384
    max_frames: int | None = None


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
        Codec("image", PICTURES, max_frames=1),
    )
}  # fmt: skip
_DEFAULT_CODEC = {".webm": "libvpx-vp9", ".gif": "gif", ".webp": "webp"} | dict.fromkeys(PICTURES, "image")


class Encoding(NamedTuple):
    """How one clip is written: every choice made, nothing left to a default."""

    codec: Codec
    suffix: str
    crf: int | None
    pixel_format: str | None

    @property
    def lossless(self) -> bool:
        """Whether the file gives the very frames back."""
        return self.codec.name in {"libx264rgb", "png"} or self.suffix == ".png"


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
        raise FieldError("codec", f"codec is one of {', '.join(CODECS)} (given {codec!r})")
    if codec is None and str(path).endswith("/"):
        codec = "png"
    if codec == "png" and suffix not in SUFFIXES:
        chosen = CODECS["png"]
    elif suffix not in (*SUFFIXES, *PICTURES):
        given = f"{suffix!r}" if suffix else "no suffix"
        ways = f"use {', '.join(SUFFIXES)}, {PICTURES[0]} for one frame, or a name that ends in /"
        raise FieldError("out", f"the suffix of {str(path)!r} names no format ({given}); {ways}")
    else:
        chosen = CODECS[codec or _DEFAULT_CODEC.get(suffix, "libx264")]
    named = SUFFIXES if chosen.name == "png" else (*SUFFIXES, *PICTURES)  # frames.png may be a folder
    if suffix in named and suffix not in chosen.suffixes:
        where = ", ".join(chosen.suffixes) or "a folder (a name without suffix, or ending in /)"
        raise FieldError("codec", f"codec {chosen.name} does not go into {suffix}; it goes into {where}")
    if crf is not None and chosen.crf is None:
        raise FieldError("crf", f"crf has no meaning for {chosen.name}; leave it out")
    if crf is not None and not 0 <= crf <= chosen.max_crf:
        raise FieldError("crf", f"crf for {chosen.name} is from 0 (best) to {chosen.max_crf} (given {crf})")
    if pixel_format is not None and pixel_format not in chosen.pixel_formats:
        known = ", ".join(chosen.pixel_formats) or "its own only; leave pixel_format out"
        raise FieldError(
            "pixel_format", f"pixel_format for {chosen.name} is {known} (given {pixel_format!r})"
        )
    default_format = chosen.pixel_formats[0] if chosen.pixel_formats else None
    return Encoding(chosen, suffix, chosen.crf if crf is None else crf, pixel_format or default_format)


def check_clip(encoding: Encoding, width: int, height: int, fps: Fraction, num_frames: int = 1) -> None:
    """Whether frames of this number, size and rate can be written without changing them.

    Raises:
        ValueError: an odd side for yuv420p, a side the format cannot hold, a rate it cannot keep, or more
            frames than it holds.
    """
    codec = encoding.codec
    if codec.max_frames is not None and num_frames > codec.max_frames:
        raise FieldError(
            "out",
            f"out: {encoding.suffix} is one picture, but the clip has {num_frames} frames; set num_frames to "
            "1 (--frames 1), or name a clip such as clip.mp4",
        )
    if encoding.pixel_format == "yuv420p" and (width % 2 or height % 2):
        other = (
            "use even sides" if len(codec.pixel_formats) == 1 else "use even sides or pixel_format yuv444p"
        )
        raise FieldError(
            "size", f"size {width}x{height} has an odd side, which yuv420p cannot store; {other}"
        )
    if max(width, height) > codec.max_side:
        raise FieldError(
            "size", f"size {width}x{height} is larger than {codec.name} holds ({codec.max_side}); use png"
        )
    if not 0 < fps <= codec.max_fps:
        message = f"fps for {codec.name} is above 0 and at most {codec.max_fps} (given {fps})"
        raise FieldError("fps", message)


def timing_note(encoding: Encoding, fps: Fraction) -> str | None:
    """What the format does to the timing, if it cannot store the frame rate exactly."""
    unit = {"gif": Fraction(1, 100), "webp": Fraction(1, 1000)}.get(encoding.codec.name)
    if unit is None or (1 / fps / unit).denominator == 1:
        return None
    return f"{encoding.codec.name} counts time in steps of {unit} s: {fps} fps is kept on average only"


def frame_times(num_frames: int, fps: Fraction, steps_per_second: int) -> Sequence[int]:
    """Start of each frame, and the end of the last, in whole steps: rounded so that errors never add up."""
    return [round(index * steps_per_second / fps) for index in range(num_frames + 1)]


# Frames to MP4, MOV, MKV, WebM, GIF, animated WebP or a folder of PNGs: whole and verified, or not at all.
#
# Colours are converted to BT.709 limited range and tagged as that. Chroma is sampled where the tag says it is
# (left, the default of H.264): ffmpeg's own default puts it off by half a pixel. Read accurately, a smooth
# 64 px clip at crf 18 gives 43.1 dB, with the default place 41.6 dB.


_CONVERT = "scale=out_color_matrix=bt709:out_range=tv:flags=bicubic+accurate_rnd+full_chroma_inp"
_CHROMA_LEFT = {"yuv420p": ":out_h_chr_pos=0:out_v_chr_pos=128", "yuv444p": ""}
_TAG = ",setparams=color_primaries=bt709:color_trc=bt709:colorspace=bt709:range=tv"
_MUXERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".gif": "gif"}
_MOVIE_FLAGS = ("-movflags", "+faststart+use_metadata_tags")
WEBP_QUALITY = 90
JPEG_QUALITY = 95


class VideoWriteError(RuntimeError):
    """The encoder failed, or what it wrote does not hold the frames; nothing was left at the path."""

    exit_code = 4


def write_video(
    path: Path | str,
    frames: UInt8[np.ndarray, "f h w 3"],
    fps: Fraction,
    metadata: Mapping[str, str] | None = None,
    *,
    codec: str | None = None,
    crf: int | None = None,
    pixel_format: str | None = None,
    overwrite: bool = True,
    before_naming: Callable[[], None] | None = None,
) -> None:
    """Write a clip under a temporary name, reads it back, counts its frames, and only then names it `path`.

    Args:
        path: its suffix chooses the format; a name ending in "/" is a folder of PNGs; one frame may go into
            a picture.
        frames: RGB.
        fps: kept exactly, except that GIF and WebP count in 1/100 and 1/1000 s.
        metadata: tags such as `RunRecord.tags()`; GIF, WebP and PNG keep none.
        codec: a name of `CODECS`; None is the suffix's own, H.264 for .mp4.
        crf: 0 (best) to the codec's worst; None is its default, 18 for H.264.
        pixel_format: "yuv420p", or "yuv444p" for full colour resolution and odd sizes.
        overwrite: False refuses an existing path.
        before_naming: Called when the clip is whole, right before it takes its name.

    Raises:
        ValueError: an unknown format, or a number of frames, size or rate that it cannot hold.
        FileExistsError: see `overwrite`.
        VideoWriteError: the encoder died (with its last lines) or lost frames.
        OSError: no space, no permission, over the file-size limit.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_video(f"{folder}/a.webm", np.zeros((3, 16, 24, 3), np.uint8), Fraction(8))
    ...     [file.name for file in Path(folder).iterdir()]
    ['a.webm']
    """
    encoding = choose_encoding(path, codec, crf, pixel_format)
    num_frames, height, width, _ = frames.shape
    check_clip(encoding, width, height, fps, num_frames)
    if num_frames == 0:
        raise ValueError("frames holds 0 frames; a clip needs at least one")
    path = Path(path)

    def verify(part: Path) -> None:
        _verify(part, path, encoding, num_frames, (height, width))
        if before_naming is not None:
            before_naming()

    with atomic_path(path, verify=verify, overwrite=overwrite) as part:
        if encoding.codec.name == "png":
            _write_pngs(part, frames)
        elif encoding.codec.name == "image":
            quality = {} if encoding.suffix == ".png" else {"quality": JPEG_QUALITY, "subsampling": 0}
            part.write_bytes(image_bytes(frames[0], encoding.suffix, **quality))
        elif encoding.codec.name == "webp":
            _write_webp(part, frames, fps)
        else:
            _write_ffmpeg(part, frames, fps, metadata or {}, encoding)


def codec_problem(name: str) -> str | None:
    """Why a codec of the table does not work here, found by writing two small frames; None if it does."""
    suffixes = CODECS[name].suffixes
    frames = np.full((CODECS[name].max_frames or 2, 32, 48, 3), 96, np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        try:
            write_video(
                Path(folder) / f"probe{suffixes[0] if suffixes else ''}", frames, Fraction(8), codec=name
            )
        except (OSError, RuntimeError) as error:  # no such encoder, or no ffmpeg at all
            return str(error)
    return None


def is_bundled_ffmpeg() -> bool:
    """Whether clips are encoded by the ffmpeg that imageio-ffmpeg brings along, whose encoders are known."""
    return Path(imageio_ffmpeg.__file__).parent in Path(imageio_ffmpeg.get_ffmpeg_exe()).parents


def working_codecs() -> dict[str, str | None]:
    """Every codec of the table, tried: None if it works here, else why not."""
    return {name: codec_problem(name) for name in CODECS}


def _write_ffmpeg(
    part: Path,
    frames: UInt8[np.ndarray, "f h w 3"],
    fps: Fraction,
    metadata: Mapping[str, str],
    encoding: Encoding,
) -> None:
    _, height, width, _ = frames.shape
    muxer = _MUXERS[encoding.suffix]
    raw = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {fps} -i pipe:0"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-nostats", "-loglevel", "error", *raw.split()]
    with tempfile.NamedTemporaryFile(suffix=".ffmetadata") as tags, tempfile.TemporaryFile() as log:
        if metadata:
            tags.write(_ffmetadata(metadata).encode())
            tags.flush()
            command += ["-f", "ffmetadata", "-i", tags.name, "-map", "0:v", "-map_metadata", "1"]
        if encoding.pixel_format is not None:
            command += ["-vf", _CONVERT + _CHROMA_LEFT[encoding.pixel_format] + _TAG]
            command += ["-pix_fmt", encoding.pixel_format]
        if encoding.crf is not None:
            command += ["-crf", str(encoding.crf)]
        command += ["-c:v", encoding.codec.name, *encoding.codec.arguments]
        command += _MOVIE_FLAGS if muxer in {"mp4", "mov"} else ()
        command += ["-f", muxer, f"file:{part.absolute()}"]
        _feed(command, frames, log)


def _feed(command: list[str], frames: UInt8[np.ndarray, "f h w 3"], log: IO[bytes]) -> None:
    """Runs ffmpeg in its own process group, so that Ctrl-C reaches only us and we decide what it leaves."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log, process_group=0)
    assert process.stdin is not None
    try:
        with suppress(BrokenPipeError):  # ffmpeg stopped early; its own words follow
            for frame in frames:
                process.stdin.write(np.ascontiguousarray(frame).data)
        with suppress(BrokenPipeError):
            process.stdin.close()
        status = process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        with suppress(BrokenPipeError):
            process.stdin.close()
    if status != 0:
        log.seek(0)
        _raise_ffmpeg_error(status, log.read()[-4000:].decode(errors="replace"))


def _raise_ffmpeg_error(status: int, log: str) -> None:
    known = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO}
    code = next((code for code in known if os.strerror(code) in log), None)
    if status == -signal.SIGXFSZ:
        code = errno.EFBIG
    if code is not None:
        raise OSError(code, os.strerror(code))
    lines = [line.strip() for line in log.splitlines() if line.strip()][-3:]
    how = f"was stopped by {signal.Signals(-status).name}" if status < 0 else f"failed with status {status}"
    raise VideoWriteError(f"the encoder {how}: {' / '.join(lines) or 'it said nothing'}")


def _ffmetadata(metadata: Mapping[str, str]) -> str:
    """The text format of ffmpeg; `=`, `;`, `#`, backslash and newline are escaped by a backslash."""
    table = str.maketrans({sign: f"\\{sign}" for sign in "=;#\\\n"})
    lines = [f"{name.translate(table)}={text.translate(table)}" for name, text in metadata.items()]
    return ";FFMETADATA1\n" + "\n".join(lines) + "\n"


def image_bytes(
    pixels: UInt8[np.ndarray, "h w 3"] | UInt8[np.ndarray, "f h w 3"], suffix: str, **options: Any
) -> bytes:
    """Encode an image, or the frames of an animation, by imageio.

    In memory: where a disk is full, imageio complains again of the file that it could not close.
    """
    encoded: bytes = iio.imwrite("<bytes>", pixels, extension=suffix.lower(), plugin="pillow", **options)
    return encoded


def _write_webp(part: Path, frames: UInt8[np.ndarray, "f h w 3"], fps: Fraction) -> None:
    times = frame_times(len(frames), fps, 1000)
    durations = [end - start for start, end in pairwise(times)]
    part.write_bytes(image_bytes(frames, ".webp", duration=durations, loop=0, quality=WEBP_QUALITY))


def _write_pngs(part: Path, frames: UInt8[np.ndarray, "f h w 3"]) -> None:
    part.mkdir()
    digits = max(4, len(str(len(frames) - 1)))
    for index, frame in enumerate(frames):
        (part / f"{index:0{digits}d}.png").write_bytes(image_bytes(frame, ".png"))


def _verify(part: Path, path: Path, encoding: Encoding, num_frames: int, size: tuple[int, int]) -> None:
    """Reads everything back; WebP stores equal neighbours once, so there fewer pictures may be right."""
    try:
        shapes = [frame.pixels.shape[:2] for frame in iter_frames(part, suffix=path.suffix)]
    except VideoReadError as error:
        raise VideoWriteError(f"{path}: what was written cannot be read back ({error})") from None
    merged = encoding.codec.name == "webp" and 0 < len(shapes) < num_frames
    if (len(shapes) != num_frames and not merged) or set(shapes) != {size}:
        found = f"{len(shapes)} frames of {sorted(set(shapes))}"
        raise VideoWriteError(f"{path}: {found} were written, not {num_frames} of {size}; nothing was kept")
