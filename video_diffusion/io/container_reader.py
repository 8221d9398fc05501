"""Video files through PyAV: opened safely, frames upright and in true colours, at their real times.

Conversion to RGB rounds accurately and interpolates chroma: libswscale's fast default loses 10 dB and darkens
green by 1.5 levels (measured on a smooth clip at crf 0: 41.0 against 51.8 dB).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from jaxtyping import UInt8

from video_diffusion.io.frame_source import Frame, FrameSource, ReadLimits, VideoReadError, begin

# ffmpeg must not follow a playlist, a concat script or a URL that a file names.
_SAFE = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpegts",
}
_ACCURATE = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_UNTAGGED, _BT2020 = 2, {9, 10}  # AVColorSpace
_HDR = {16: "PQ", 18: "HLG"}  # AVColorTransferCharacteristic
_MAX_TAG_CHARACTERS = 4_000_000


@contextmanager
def open_container(
    path: Path, limits: ReadLimits, allow_truncated: bool = False, near: Fraction | None = None
) -> Iterator[FrameSource]:
    """Opens the first video stream of a file.

    Args:
        path: of the file.
        limits: what is refused.
        allow_truncated: a clip that ends too early gives the frames it has, and a note.
        near: seconds; after the first frame, frames go on from the key frame before this time, as the file's
            index gives it. Their `index` then only counts them, and the end is not judged.

    Raises:
        VideoReadError: not a plain video file, no video in it, beyond the limits, or HDR; while reading:
            truncated or damaged (unless allowed, then it ends there with a note), or a change of size.
    """
    try:
        container = av.open(os.path.abspath(path), options=dict(_SAFE), metadata_errors="replace")  # noqa: PTH100 - resolve() would follow links
    except (av.FFmpegError, OSError) as error:
        raise VideoReadError(f"{path}: {_why_not_open(path, error)}") from None
    with container:
        stream = _first_video(container, path)
        codec = stream.codec_context
        # Most files have one slice a frame, which threads cannot share. And if garbage collection frees a
        # decoder with threads in a forked process (a DataLoader's worker), that waits for ever, or crashes.
        codec.thread_count = 1
        limits.check_size(path, codec.width, codec.height)
        _check_length(container, stream, path, limits)
        if int(codec.color_trc) in _HDR:
            kind = _HDR[int(codec.color_trc)]
            raise VideoReadError(f"{path}: is HDR ({kind}); convert it to BT.709 first")
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
            declared_seconds=_declared_seconds(container, stream),
            tags=tags,
        )
        _note_stream(source, container, stream)
        yield begin(source, _decode(container, stream, source, limits, allow_truncated, near))


def _why_not_open(path: Path, error: Exception) -> str:
    head = b""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as failed:
        return f"cannot be read ({failed.strerror}); check its permissions"
    if not head:
        return "is empty (0 bytes); not a video"
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
    seconds = _declared_seconds(container, stream)
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
    if int(stream.codec_context.colorspace) in _BT2020:
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
    rgb = reformatter.reformat(
        picture, format="rgb24", src_colorspace=matrix, interpolation=_ACCURATE, threads=1
    ).to_ndarray()
    if picture.interlaced_frame:
        source.note("interlaced; its half-pictures are left woven")
    rotation = int(picture.rotation)
    if rotation % 90:
        source.note(f"a rotation of {rotation} degrees is ignored")
    elif rotation:
        rgb = np.rot90(rgb, k=rotation // 90)
        source.note(f"turned upright by {rotation} degrees")
    if index and rgb.shape[:2] != (source.height, source.width):
        here, first = f"{rgb.shape[1]}x{rgb.shape[0]}", f"{source.width}x{source.height}"
        raise VideoReadError(f"{source.path}: the size changes from {first} to {here}; one size per clip")
    return np.ascontiguousarray(rgb)
