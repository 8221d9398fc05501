"""Clips from video files, animations, folders of images and single images: checked first, then decoded.

What a file declares is never trusted, nothing it names is opened, and what is too large is refused before it
costs memory.
"""

import os
import re
import stat
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from io import BytesIO
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from jaxtyping import Float32, UInt8, UInt16
from PIL import Image, ImageOps

from video_diffusion.settings import is_empty

PALETTE_NOTE = "256 colours at most: where a palette is dithered, the pattern reads as flicker"
"""Of GIF and other palette images; the same clip can read 0.6 levels without and 7.5 with dithering."""


class VideoReadError(ValueError):
    """Not a video, damaged, or beyond the limits; the message is one line that starts with the path."""


@dataclass(frozen=True)
class ReadLimits:
    """What is refused before it is decoded, so that a hostile file costs neither memory nor hours.

    Attributes:
        max_side: pixels of either side.
        max_pixels: of one frame.
        max_frames: of one clip.
        max_seconds: as the file declares them.
        max_bytes: of all frames together, when a whole clip is read into memory.
    """

    max_side: int = 8192
    max_pixels: int = 8192 * 4320
    max_frames: int = 100_000
    max_seconds: int = 4 * 3600
    max_bytes: int = 4 * 2**30

    def check_size(self, where: object, width: int, height: int) -> None:
        """Refuses a frame size.

        Raises:
            VideoReadError: nothing to show, or too large.
        """
        if width < 1 or height < 1:
            raise VideoReadError(f"{where}: has a size of {width}x{height}; not a picture")
        if max(width, height) > self.max_side or width * height > self.max_pixels:
            raise VideoReadError(
                f"{where}: is {width}x{height}, beyond {self.max_side} pixels a side "
                f"or {self.max_pixels} in all; make it smaller first"
            )


@dataclass(frozen=True)
class Frame:
    """One picture of a clip: RGB, upright, and when it is shown (seconds from the first frame's time)."""

    index: int
    time: Fraction
    pixels: UInt8[np.ndarray, "h w 3"]


@dataclass
class FrameSource:
    """An open clip. `notes` is complete only after the frames have been read.

    Attributes:
        fps: the average rate the file declares; None for pictures.
        width, height: upright, as the frames will be.
        codec, pixel_format: as stored.
        declared_frames, declared_seconds: as the file says; None where it does not. Never trusted.
        tags: the file's own metadata, untrusted.
        notes: one line for each thing that was applied, ignored or assumed.
    """

    path: Path
    fps: Fraction | None
    width: int
    height: int
    codec: str
    pixel_format: str
    frames: Iterator[Frame]
    declared_frames: int | None = None
    declared_seconds: Fraction | None = None
    tags: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Adds a remark once."""
        if text not in self.notes:
            self.notes.append(text)


def begin(source: FrameSource, frames: Iterator[Frame]) -> FrameSource:
    """Reads the first frame, so that what cannot be read is known on opening, and so is the upright size."""
    first = next(frames)
    source.height, source.width = first.pixels.shape[:2]
    source.frames = chain([first], frames)
    return source


# Video files through PyAV: opened safely, frames upright and in true colours, at their real times.
#
# Conversion to RGB rounds accurately and interpolates chroma: libswscale's fast default loses 10 dB and
# darkens green by 1.5 levels (measured on a smooth clip at crf 0: 41.0 against 51.8 dB).


# ffmpeg must not follow a playlist, a concat script or a URL that a file names.
_SAFE = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpegts,flv,asf,mpeg,ogg,"
    "yuv4mpegpipe,mpegvideo,h264,hevc",
}
_NO_INDEX = {"yuv4mpegpipe", "mpegvideo", "h264", "hevc"}
"""Bare streams: ffmpeg guesses their length from their size, and their frames have no times."""
_ACCURATE = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_UNTAGGED, _BT2020 = 2, {9, 10}  # AVColorSpace
_HDR = {16: "PQ", 18: "HLG"}  # AVColorTransferCharacteristic
_MAX_TAG_CHARACTERS = 4_000_000


@contextmanager
def open_container(
    path: Path,
    limits: ReadLimits,
    allow_truncated: bool = False,
    near: Fraction | None = None,
    tone_map: bool = False,
    content: bytes | None = None,
) -> Iterator[FrameSource]:
    """Opens the first video stream of a file."""
    _refuse_empty(path, content, "a video")
    try:
        place = os.path.abspath(path) if content is None else BytesIO(content)  # noqa: PTH100 - resolve() would follow links
        container = av.open(place, options=dict(_SAFE), metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        raise VideoReadError(f"{path}: {_why_not_open(path, error, content)}") from None
    with container:
        stream = _first_video(container, path)
        codec = stream.codec_context
        # Most files have one slice a frame, which threads cannot share. And if garbage collection frees a
        # decoder with threads in a forked process (a DataLoader's worker), that waits for ever, or crashes.
        codec.thread_count = 1
        limits.check_size(path, codec.width, codec.height)
        _check_length(container, stream, path, limits)
        kind = _HDR.get(int(codec.color_trc), "")
        if kind and not tone_map:
            raise VideoReadError(
                f"{path}: is HDR ({kind}); convert it to BT.709 first, or measure --tone-map"
            )
        tags = {name: text[:_MAX_TAG_CHARACTERS] for name, text in container.metadata.items()}
        rate = stream.average_rate or stream.guessed_rate
        format_name = codec.pix_fmt or "unknown"
        source = FrameSource(
            path=path,
            fps=rate,
            width=codec.width,
            height=codec.height,
            codec=codec.name,
            pixel_format=format_name,
            frames=iter(()),
            declared_frames=stream.frames or None,
            declared_seconds=None
            if container.format.name in _NO_INDEX
            else _declared_seconds(container, stream),
            tags=tags,
        )
        if kind:
            source.note(f"HDR ({kind}) is shown as SDR by Hable's curve at 100 nits")
        _note_stream(source, container, stream)
        yield begin(source, _decode(container, stream, source, limits, allow_truncated, near))


def _refuse_empty(path: Path, content: bytes | None, what: str) -> None:
    if (path.is_file() and is_empty(path)) if content is None else not content:
        raise VideoReadError(f"{path}: is empty (0 bytes); not {what}")


def _why_not_open(path: Path, error: Exception, content: bytes | None) -> str:
    try:
        with path.open("rb") if content is None else BytesIO(content) as file:
            head = file.read(64)
    except OSError as failed:
        return f"cannot be read ({failed.strerror}); check its permissions"
    if b"ftyp" in head[:16]:
        return "has no index (moov): its writing was cut off; not a playable video"
    return f"not a plain video file ({getattr(error, 'strerror', None) or error})"


def _first_video(container: Any, path: Path) -> Any:
    videos = [stream for stream in container.streams.video if not _is_cover(stream)]
    if not videos:
        kinds = {"cover picture" if stream.type == "video" else stream.type for stream in container.streams}
        raise VideoReadError(f"{path}: no video stream in it (only {', '.join(sorted(kinds)) or 'nothing'})")
    return videos[0]


def _is_cover(stream: Any) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _check_length(container: Any, stream: Any, path: Path, limits: ReadLimits) -> None:
    bare = container.format.name in _NO_INDEX
    seconds = None if bare else _declared_seconds(container, stream)
    if seconds is not None and seconds > limits.max_seconds:
        raise VideoReadError(
            f"{path}: declares {float(seconds):.0f} s, above the limit of {limits.max_seconds}"
        )
    if stream.frames > limits.max_frames:
        raise VideoReadError(
            f"{path}: declares {stream.frames} frames, above the limit of {limits.max_frames}"
        )


def _declared_seconds(container: Any, stream: Any) -> Fraction | None:
    """The video stream's own length: other streams may be longer."""
    if stream.duration is not None:
        return Fraction(stream.duration * stream.time_base)
    tag = stream.metadata.get("DURATION", "")  # Matroska: 00:00:02.041000000, the time of the end
    parts = tag.split(":")
    if len(parts) == 3 and all(part.replace(".", "", 1).isdigit() for part in parts):
        hours, minutes, seconds = (Fraction(part) for part in parts)
        return hours * 3600 + minutes * 60 + seconds - Fraction((stream.start_time or 0) * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:
        return Fraction(container.duration, av.time_base)
    return None


def _note_stream(source: FrameSource, container: Any, stream: Any) -> None:
    aspect = stream.codec_context.sample_aspect_ratio or stream.sample_aspect_ratio
    if aspect not in {None, 0, 1}:
        source.note(f"pixels are not square (aspect {aspect}); frames are as stored")
    if len(container.streams.video) > 1:
        source.note(f"{len(container.streams.video)} video streams; the first is read")
    pixels = stream.codec_context.format
    alpha = pixels is not None and any(component.is_alpha for component in pixels.components)
    if alpha or stream.metadata.get("alpha_mode") == "1":
        source.note("transparency is dropped")
    if source.pixel_format == "pal8":
        source.note(PALETTE_NOTE)
    is_hdr = int(stream.codec_context.color_trc) in _HDR
    if int(stream.codec_context.colorspace) in _BT2020 and not is_hdr:
        source.note("BT.2020 colours are shown as BT.709 without a gamut conversion")
    if int(stream.codec_context.colorspace) == _UNTAGGED and source.pixel_format.startswith("yuv"):
        source.note(
            f"colours are not tagged; read as {'BT.709' if stream.codec_context.height >= 720 else 'BT.601'}"
        )


def _decode(
    container: Any,
    stream: Any,
    source: FrameSource,
    limits: ReadLimits,
    allow_truncated: bool,
    near: Fraction | None,
) -> Iterator[Frame]:
    reformatter = VideoReformatter()
    start, index, packets, end = None, 0, 0, Fraction(0)
    damage = ""
    try:
        if near is not None:
            first = next(container.decode(stream), None)
            if first is None:
                raise VideoReadError(f"{source.path}: its video stream holds 0 frames")
            start = _time_of(first, 0, source)
            yield Frame(0, Fraction(0), _upright_rgb(first, 0, reformatter, source, limits))
            index = 1
            container.seek(int((start + near) / stream.time_base), stream=stream)
        for packet in container.demux(stream):
            packets += packet.size > 0
            for picture in packet.decode():
                if picture.is_corrupt:
                    raise av.InvalidDataError(0, "corrupt frame")
                pixels = _upright_rgb(picture, index, reformatter, source, limits)
                now = _time_of(picture, index, source)
                start = now if start is None else start
                if index >= limits.max_frames:
                    raise VideoReadError(f"{source.path}: more than {limits.max_frames} frames")
                yield Frame(index, now - start, pixels)
                index += 1
                end = now - start
    except av.FFmpegError as error:
        damage = f"damaged or cut off after frame {index} ({error.strerror or error})"
    if not damage and near is None:
        damage = _missing(source, packets, index, end)
    if index == 0 and not damage:
        raise VideoReadError(f"{source.path}: its video stream holds 0 frames")
    if damage and not (allow_truncated and index):
        raise VideoReadError(f"{source.path}: {damage}")
    if damage:
        source.note(damage)


def _missing(source: FrameSource, packets: int, num_frames: int, end: Fraction) -> str:
    """What is missing at the end, judged by two witnesses, since edit lists may hide frames on purpose."""
    seconds, rate = source.declared_seconds, source.fps or Fraction(1)
    short = seconds is not None and end + Fraction(5, 2) / rate < seconds
    declared = source.declared_frames
    if short and (declared is None or packets < declared):
        told = f"{declared} frames" if declared else f"{float(seconds or 0):.2f} s"
        return f"cut off: {num_frames} frames of {float(end + 1 / rate):.2f} s found, {told} declared"
    return ""


def _time_of(picture: Any, index: int, source: FrameSource) -> Fraction:
    if picture.pts is not None and picture.time_base is not None:
        return Fraction(picture.pts * picture.time_base)
    return index / (source.fps or Fraction(1))


def _upright_rgb(
    picture: Any, index: int, reformatter: Any, source: FrameSource, limits: ReadLimits
) -> UInt8[np.ndarray, "h w 3"]:
    limits.check_size(source.path, picture.width, picture.height)
    matrix = int(picture.colorspace) or None
    if matrix == _UNTAGGED:
        matrix = int(Colorspace.ITU709 if picture.height >= 720 else Colorspace.ITU601)
    kind = _HDR.get(int(picture.color_trc), "")
    rgb = reformatter.reformat(
        picture,
        format="rgb48le" if kind else "rgb24",
        src_colorspace=matrix,
        interpolation=_ACCURATE,
        threads=1,
    ).to_ndarray()
    if kind:
        rgb = tone_mapped(rgb, kind)
    if picture.interlaced_frame:
        source.note("interlaced; its half-pictures are left woven")
    rotation = int(picture.rotation)
    mirrored = _mirrored(picture, rgb)
    if mirrored is not None:
        rgb = mirrored
        source.note("mirrored as the file asks, as front cameras do")
    elif rotation % 90:
        source.note(f"a rotation of {rotation} degrees is ignored")
    elif rotation:
        rgb = np.rot90(rgb, k=rotation // 90)
        source.note(f"turned upright by {rotation} degrees")
    if index and rgb.shape[:2] != (source.height, source.width):
        here, first = f"{rgb.shape[1]}x{rgb.shape[0]}", f"{source.width}x{source.height}"
        raise VideoReadError(f"{source.path}: the size changes from {first} to {here}; one size per clip")
    return np.ascontiguousarray(rgb)


_BT2020_TO_709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], dtype=np.float32
)
_PEAK = 10.0
"""Of ffmpeg's tonemap where a file names none: 1000 nits, in units of the 100 nits of SDR's white."""


@lru_cache(maxsize=2)
def _light_of_codes(kind: str) -> Float32[np.ndarray, "65536"]:
    """Displayed light of each 16-bit code in units of 100 nits (BT.2100).

    HLG is light of the scene, which a display of 1000 nits shows with a gamma of 1.2, here by channel.
    """
    code = np.arange(65536) / 65535
    if kind == "PQ":
        power = code ** (32 / 2523)
        ratio = np.maximum(power - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * power)
        return (100 * ratio ** (8192 / 1305)).astype(np.float32)
    bright = (np.exp((code - 0.55991073) / 0.17883277) + 0.28466892) / 12
    return (_PEAK * np.where(code <= 0.5, code**2 / 3, bright) ** 1.2).astype(np.float32)


def _hable(light: Float32[np.ndarray, "..."] | float) -> Any:
    return (light * (0.15 * light + 0.05) + 0.004) / (light * (0.15 * light + 0.5) + 0.06) - 0.02 / 0.3


def tone_mapped(rgb: UInt16[np.ndarray, "h w 3"], kind: str) -> UInt8[np.ndarray, "h w 3"]:
    """Show BT.2020 HDR as BT.709 SDR, as ffmpeg's zscale and tonemap=hable:desat=0 do with npl=100."""
    light = _light_of_codes(kind)[rgb] @ _BT2020_TO_709.T
    brightest = np.maximum(light.max(axis=-1, keepdims=True), np.float32(1e-6))
    light = np.clip(light * (_hable(brightest) / _hable(_PEAK) / brightest), 0, 1)
    return np.rint(255 * light ** np.float32(1 / 2.4)).astype(np.uint8)


def _mirrored(picture: Any, rgb: np.ndarray) -> np.ndarray | None:
    """Show a frame as its display matrix asks if that mirrors it by quarter turns, else None."""
    data = picture.side_data.get(SideDataType.DISPLAYMATRIX)
    if data is None:
        return None
    a, b, _, c, d, *_ = (number / 65536 for number in np.frombuffer(bytes(data), dtype=np.int32).tolist())
    if a * d - b * c >= 0:
        return None
    if abs(a) + abs(d) > abs(b) + abs(c):
        return rgb[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return rgb.transpose(1, 0, 2)[:: -1 if b < 0 else 1, :: -1 if c < 0 else 1]


# Pictures through Pillow: one image, an animated GIF, WebP or PNG, or a folder of images in their order.


IMAGE_SUFFIXES = (".png", ".apng", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".avif")
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP", "AVIF")  # none that runs programs
ASSUMED_FOLDER_FPS = Fraction(8)
_BROWSER_DELAY = Fraction(1, 10)  # what players make of a delay of 0


@contextmanager
def open_image_file(path: Path, limits: ReadLimits, content: bytes | None = None) -> Iterator[FrameSource]:
    """Opens one image; an animation gives all its frames with their own durations."""
    with _open(path, limits, content) as image:
        count = int(getattr(image, "n_frames", 1))
        if count > limits.max_frames:
            raise VideoReadError(f"{path}: has {count} frames, above the limit of {limits.max_frames}")
        name = (image.format or "image").lower()
        source = FrameSource(path, None, *image.size, name, image.mode, iter(()), count)
        if image.format == "GIF" or image.mode == "P":
            source.note(PALETTE_NOTE)
        if count > 1:
            source.fps = count / _total_duration(image, count, source)
        yield begin(source, _animation(image, count, source))


@contextmanager
def open_image_folder(path: Path, limits: ReadLimits, fps: Fraction | None) -> Iterator[FrameSource]:
    """Open a folder: its images by name, numbers in names counted as numbers; other files do not matter."""
    files = [
        file
        for file in path.iterdir()
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".") and file.is_file()
    ]
    files.sort(key=lambda file: _natural_order(file.name))
    if not files:
        raise VideoReadError(
            f"{path}: holds no images ({', '.join(IMAGE_SUFFIXES)}); of videos, name the files themselves"
        )
    if len(files) > limits.max_frames:
        raise VideoReadError(f"{path}: holds {len(files)} images, above the limit of {limits.max_frames}")
    with _open(files[0], limits) as image:
        size, mode, name = image.size, image.mode, (image.format or "image").lower()
    rate = fps or ASSUMED_FOLDER_FPS
    source = FrameSource(path, rate, *size, name, mode, iter(()), len(files))
    _note_numbers(files, source)
    if mode == "P":
        source.note(PALETTE_NOTE)
    if fps is None:
        source.note(f"a folder has no frame rate; {ASSUMED_FOLDER_FPS} fps is assumed (give fps)")
    yield begin(source, _folder(files, source, limits, rate))


def _note_numbers(files: list[Path], source: FrameSource) -> None:
    """Tell of numbers that are missing or that two files have: the frames are then not what they seem."""
    numbers = [int(found[-1]) for file in files if (found := re.findall(r"\d+", file.stem))]
    if len(numbers) < len(files) or not numbers:
        return
    counts = Counter(numbers)
    twice = sorted(number for number, count in counts.items() if count > 1)
    missing = max(counts) - min(counts) + 1 - len(counts)
    if twice:
        same = [file.name for file, number in zip(files, numbers, strict=True) if number == twice[0]]
        names = " and ".join(same)
        source.note(f"{len(twice)} numbers stand for more than one image, such as {names}; all are read")
    if 0 < missing <= len(counts):
        first = next(number for number in range(min(counts), max(counts)) if number not in counts)
        source.note(f"{missing} numbers are missing, the first is {first}; its neighbours follow each other")


def _folder(files: list[Path], source: FrameSource, limits: ReadLimits, fps: Fraction) -> Iterator[Frame]:
    for index, file in enumerate(files):
        with _open(file, limits) as image:
            pixels = _pixels(image, file, source)
        height, width, _ = pixels.shape
        if index and (width, height) != (source.width, source.height):
            sizes = f"{width}x{height}, the first image {source.width}x{source.height}"
            raise VideoReadError(f"{file}: is {sizes}; one size per clip")
        yield Frame(index, index / fps, pixels)


def _animation(image: Image.Image, count: int, source: FrameSource) -> Iterator[Frame]:
    time = Fraction(0)
    for index in range(count):
        try:
            image.seek(index)
            pixels = _pixels(image, source.path, source)
        except (EOFError, OSError) as error:
            raise VideoReadError(f"{source.path}: damaged or cut off after frame {index} ({error})") from None
        yield Frame(index, time, pixels)
        time += _duration(image, source) if count > 1 else 0


def _total_duration(image: Image.Image, count: int, source: FrameSource) -> Fraction:
    total = Fraction(0)
    try:
        for index in range(count):
            image.seek(index)
            if image.format in ("WEBP", "AVIF"):
                image.load()  # these tell a frame's duration only when it is decoded
            total += _duration(image, source)
        image.seek(0)
    except (EOFError, OSError) as error:
        raise VideoReadError(f"{source.path}: damaged or cut off ({error})") from None
    return total


def _duration(image: Image.Image, source: FrameSource) -> Fraction:
    milliseconds = image.info.get("duration", 0)
    if not isinstance(milliseconds, (int, float)) or not milliseconds > 0:
        source.note("frames without a duration are shown for 0.1 s")
        return _BROWSER_DELAY
    return Fraction(milliseconds).limit_denominator(1000) / 1000


@contextmanager
def _open(path: Path, limits: ReadLimits, content: bytes | None = None) -> Iterator[Image.Image]:
    _refuse_empty(path, content, "an image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit follows
            image = Image.open(path if content is None else BytesIO(content), formats=_FORMATS)
    except Image.DecompressionBombError:
        raise VideoReadError(f"{path}: is beyond {limits.max_pixels} pixels; make it smaller first") from None
    except (OSError, ValueError, SyntaxError) as error:
        reason = getattr(error, "strerror", None) or "not an image, or damaged"
        raise VideoReadError(f"{path}: {reason}") from None
    with image:
        limits.check_size(path, *image.size)
        yield image


def _pixels(image: Image.Image, path: Path, source: FrameSource) -> UInt8[np.ndarray, "h w 3"]:
    """RGB as a viewer shows it: upright, over white where it is transparent."""
    try:
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise VideoReadError(f"{path}: damaged or cut off ({error})") from None
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith(("I", "F")):
        levels = np.asarray(upright)
        if levels.dtype.kind == "f" or levels.max(initial=0) > 65535:
            raise VideoReadError(f"{path}: holds {upright.mode} values; convert it to 8 or 16 bits a channel")
        grey = np.rint(levels / 257).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if upright.has_transparency_data:
        colour = upright.convert("RGBA")
        if colour.getchannel("A").getextrema() != (255, 255):
            source.note("transparent pixels are shown on white")
        canvas = Image.new("RGBA", colour.size, "white")
        upright = Image.alpha_composite(canvas, colour)
    return np.asarray(upright.convert("RGB")).copy()


def _natural_order(name: str) -> tuple[tuple[int, str], ...]:
    """frame2 before frame10."""
    parts = re.split(r"(\d+)", name.lower())
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in parts)


# Clips from video files, animations, folders of images and single images: checked first, then decoded.
#
# What a file declares is never trusted, nothing it names is opened, and what is too large is refused before
# it costs memory.


@dataclass(frozen=True)
class Video:
    """A whole clip in memory.

    Attributes:
        frames: RGB, upright.
        timestamps: seconds of each frame from the first one; variable rates stay variable.
        fps: the average rate; None for a single picture.
        metadata: the file's own tags, untrusted.
        notes: one line for each thing applied, ignored or assumed while reading.
    """

    frames: UInt8[np.ndarray, "f h w 3"]
    timestamps: tuple[Fraction, ...]
    fps: Fraction | None
    metadata: dict[str, str]
    notes: tuple[str, ...]


def open_video(
    path: Path | str,
    *,
    fps: Fraction | None = None,
    limits: ReadLimits | None = None,
    allow_truncated: bool = False,
    suffix: str | None = None,
    near: Fraction | None = None,
    tone_map: bool = False,
    content: bytes | None = None,
) -> AbstractContextManager[FrameSource]:
    """Opens a clip for streaming: a context manager whose value has the `frames` to iterate over.

    Args:
        path: a video file, an image, or a folder of images.
        fps: of a folder of images; None assumes 8 and notes it.
        limits: what is refused.
        allow_truncated: a clip that ends too early gives the frames it has, and a note.
        suffix: how to read a file whose own name does not say it.
        near: seconds; after its first frame a video file goes on from the key frame before this time.
        tone_map: show HDR as SDR instead of refusing it.
        content: all bytes of a clip that is no file of its own; `path` is then its name alone.

    Raises:
        VideoReadError: on entering or while reading, one line that names the file.
    """
    path, limits = Path(path), limits or ReadLimits()
    is_image = (suffix if suffix is not None else path.suffix).lower() in IMAGE_SUFFIXES
    if content is not None:
        if is_image:
            return open_image_file(path, limits, content)
        return open_container(path, limits, allow_truncated, near, tone_map, content)
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else getattr(error, "strerror", error)
        raise VideoReadError(f"{path}: {reason}") from None
    if stat.S_ISDIR(mode):
        return open_image_folder(path, limits, fps)
    if not stat.S_ISREG(mode):
        raise VideoReadError(f"{path}: is not a regular file; give a video, an image or a folder of images")
    if is_image:
        return open_image_file(path, limits)
    return open_container(path, limits, allow_truncated, near, tone_map)


def iter_frames(
    path: Path | str,
    *,
    fps: Fraction | None = None,
    limits: ReadLimits | None = None,
    allow_truncated: bool = False,
    suffix: str | None = None,
) -> Iterator[Frame]:
    """Frames of a clip one at a time, in constant memory; arguments and errors as `open_video`."""
    with open_video(path, fps=fps, limits=limits, allow_truncated=allow_truncated, suffix=suffix) as source:
        yield from source.frames


def read_video(
    path: Path | str,
    *,
    fps: Fraction | None = None,
    limits: ReadLimits | None = None,
    allow_truncated: bool = False,
) -> Video:
    """A whole clip; arguments as `open_video`.

    Raises:
        VideoReadError: as `open_video`, and a clip larger than `limits.max_bytes`.

    >>> import tempfile
    >>> from video_diffusion.video import write_video
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_video(f"{folder}/a.mp4", np.zeros((3, 16, 24, 3), np.uint8), Fraction(8))
    ...     read_video(f"{folder}/a.mp4").frames.shape
    (3, 16, 24, 3)
    """
    limits = limits or ReadLimits()
    frames: list[UInt8[np.ndarray, "h w 3"]] = []
    times: list[Fraction] = []
    with open_video(path, fps=fps, limits=limits, allow_truncated=allow_truncated) as source:
        room = limits.max_bytes // (3 * source.width * source.height)
        for frame in source.frames:
            if len(frames) >= room:
                raise VideoReadError(
                    f"{path}: needs more than {limits.max_bytes} bytes of memory; cut it first"
                )
            frames.append(frame.pixels)
            times.append(frame.time)
        if len(times) > 2 and _is_variable(times):
            source.note("variable frame rate; timestamps are the file's own")
        return Video(np.stack(frames), tuple(times), source.fps, source.tags, tuple(source.notes))


def read_tags(path: Path | str) -> dict[str, str]:
    """The metadata of a video file, without decoding it; empty for images and folders.

    Raises:
        VideoReadError: not a plain video file.
    """
    path = Path(path)
    if path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES:
        return {}
    with open_video(path) as source:
        return source.tags


def _is_variable(times: list[Fraction]) -> bool:
    """Whether the steps differ by more than a tenth and by more than the rounding of a container's clock."""
    steps = [later - earlier for earlier, later in pairwise(times)]
    return max(steps) - min(steps) > max(Fraction(11, 1000), min(steps) / 10)
