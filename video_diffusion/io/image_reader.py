"""Pictures through Pillow: one image, an animated GIF, WebP or PNG, or a folder of images in their order."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from video_diffusion.io.frame_source import Frame, FrameSource, ReadLimits, VideoReadError, begin

IMAGE_SUFFIXES = (".png", ".apng", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp")
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP")  # nothing that runs a program (EPS) or reads a list
ASSUMED_FOLDER_FPS = Fraction(8)
_BROWSER_DELAY = Fraction(1, 10)  # what players make of a delay of 0


@contextmanager
def open_image_file(path: Path, limits: ReadLimits) -> Iterator[FrameSource]:
    """Opens one image; an animation gives all its frames with their own durations.

    Raises:
        VideoReadError: not an image, truncated, or beyond the limits.
    """
    with _open(path, limits) as image:
        count = int(getattr(image, "n_frames", 1))
        if count > limits.max_frames:
            raise VideoReadError(f"{path}: has {count} frames, above the limit of {limits.max_frames}")
        name = (image.format or "image").lower()
        source = FrameSource(path, None, *image.size, name, image.mode, iter(()), count)
        if count > 1:
            source.fps = count / _total_duration(image, count, source)
        yield begin(source, _animation(image, count, source))


@contextmanager
def open_image_folder(path: Path, limits: ReadLimits, fps: Fraction | None) -> Iterator[FrameSource]:
    """Opens a folder: its images by name, numbers in the names counted as numbers; other files do not matter.

    Raises:
        VideoReadError: no image in it, one that cannot be read, or images of different sizes.
    """
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
    if fps is None:
        source.note(f"a folder has no frame rate; {ASSUMED_FOLDER_FPS} fps is assumed (give fps)")
    yield begin(source, _folder(files, source, limits, rate))


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
            if image.format == "WEBP":
                image.load()  # WebP tells a frame's duration only when it is decoded
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
def _open(path: Path, limits: ReadLimits) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit follows
            image = Image.open(path, formats=_FORMATS)
    except Image.DecompressionBombError:
        raise VideoReadError(f"{path}: is beyond {limits.max_pixels} pixels; make it smaller first") from None
    except (OSError, ValueError, SyntaxError) as error:
        if path.stat().st_size == 0:
            raise VideoReadError(f"{path}: is empty (0 bytes); not an image") from None
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
