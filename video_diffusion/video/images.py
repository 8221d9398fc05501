"""Images that clips start from, and images made of clips: contact sheet and filmstrip."""

import atexit
import hashlib
import importlib.util
import logging
import shutil
import tempfile
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from video_diffusion.settings import GenerationSettings, parse_fps
from video_diffusion.settings.field_rules import expanded
from video_diffusion.video.files import write_bytes
from video_diffusion.video.reader import Frame, FrameSource, iter_frames, open_video
from video_diffusion.video.writer import image_bytes

LOG = logging.getLogger("video_diffusion")


@dataclass(frozen=True)
class Taken:
    """Which frames of a video a clip starts from.

    Attributes:
        fps: Of the clip; None counts frames instead of their times.
        start: Seconds into the video.
        stride: Frames of the video to one of the clip; None goes by their times.
    """

    fps: Fraction | None = None
    start: float = 0.0
    stride: int | None = None

    def frames(self, source: FrameSource) -> Iterator[Frame]:
        """Pick frames; one that is held longer is taken more than once."""
        start = Fraction(self.start)
        if self.stride is not None or self.fps is None or source.fps is None:
            slack = Fraction(1, 4) / (source.fps or 1)
            begun = (frame for frame in source.frames if frame.time + slack >= start)
            yield from islice(begun, 0, None, self.stride or 1)
            return
        # A container's clock rounds: a frame counts from a quarter of its time before it is to be seen.
        count, held, slack = 0, None, Fraction(1, 4) / source.fps
        for frame in source.frames:
            while held is not None and start + count / self.fps + slack < frame.time:
                yield held
                count += 1
            held = frame
        while held is not None and start + count / self.fps + slack < held.time + 1 / source.fps:
            yield held
            count += 1

    def said(self, source: FrameSource, times: Sequence[Fraction]) -> str | None:
        """Say what was taken, in words; None where it is the first frames one by one, at the clip's rate."""
        same_rate = True
        if self.fps is not None and source.fps is not None:
            same_rate = abs(float(self.fps / source.fps) - 1) < 0.01
        if same_rate and not self.start and self.stride in {None, 1}:
            return None
        rate = f", its own is {float(source.fps):g} fps" if source.fps is not None else ""
        how = f"every frame{rate}" if self.stride == 1 else f"one of every {self.stride} frames{rate}"
        if self.stride is None:
            how = f"at the clip's rate of {float(self.fps or 0):g} fps{rate}"
        return f"{len(times)} frames taken from {float(times[0]):.3g} to {float(times[-1]):.3g} s, {how}"


ONE_BY_ONE = Taken()


def read_input_video(
    path: Path | str,
    num_frames: int,
    height: int,
    width: int,
    setting: str = "init_video",
    taken: Taken = ONE_BY_ONE,
) -> UInt8[np.ndarray, "f h w 3"]:
    """Read frames of a video, by default its first ones, at the size asked for."""
    frames: list[UInt8[np.ndarray, "h w 3"]] = []
    times: list[Fraction] = []
    near = Fraction(taken.start) if taken.start else None
    with open_video(path, fps=taken.fps, near=near) as source:
        for frame in islice(taken.frames(source), num_frames):
            frames.append(fit(frame.pixels, height, width))
            times.append(frame.time)
            if len(frames) == 1:
                _warn_of_cut(f"{setting} {path}", frame.pixels.shape, height, width)
        if len(frames) < num_frames:
            raise ValueError(f"{setting} {path} {_too_few(taken, source, len(frames), num_frames)}")
        note = taken.said(source, times)
    if note is not None:
        LOG.info("%s %s: %s", setting, path, note)
    return np.stack(frames)


def _too_few(taken: Taken, source: FrameSource, count: int, num_frames: int) -> str:
    """Tell how many frames there are, how they were counted, and what gives more."""
    how, less = "", [f"num_frames to {count} or less"] if count else []
    if taken.start:
        how, less = f" from second {taken.start:g} on", [*less, "video_start to less"]
    if taken.stride is not None:
        how += f", taking every {taken.stride}" if taken.stride > 1 else ""
        less += ["video_stride to less"] if taken.stride > 1 else []
    elif taken.fps is not None and source.fps is not None and source.fps > taken.fps:
        how += f" at {float(taken.fps):g} fps"
        less += ["video_stride to 1, which takes every frame"]
    return f"has {count} frames{how}, but num_frames is {num_frames}; set {', or '.join(less)}"


def with_sources(asked: GenerationSettings) -> GenerationSettings:
    """Fill in what settings leave open and a clip that they go on from, or refine, says: size, rate, frames.

    Raises:
        VideoReadError: The clip cannot be read.
        ValueError: It is extended at another size than its own, or has a size that no clip can have.
    """
    name = "extend" if asked.extend is not None else "refine"
    path = getattr(asked, name)
    if path is None:
        return asked
    place = expanded(path)
    key = (path, place.stat().st_mtime_ns, place.stat().st_size) if place.exists() else (path, 0, 0)
    height, width, fps = _size_and_rate(*key)
    found: dict[str, Any] = {"fps": fps}
    if name == "extend":
        size = width if asked.width is None else asked.width, height if asked.height is None else asked.height
        if size != (width, height):
            raise ValueError(
                f"extend {path} is {width}x{height}, but the clip shall be {size[0]}x{size[1]}; leave the "
                "size out, or make it that large first with refine"
            )
        if width % 8 or height % 8 or min(width, height) < 16:
            raise ValueError(
                f"extend {path} is {width}x{height}, but sides must be multiples of 8; crop it first"
            )
        found |= {"height": height, "width": width}
    else:
        found |= {"height": 2 * height // 8 * 8, "width": 2 * width // 8 * 8}
        if asked.num_frames is None:
            found["num_frames"] = _num_frames(*key)
    return asked.model_copy(
        update={field: value for field, value in found.items() if getattr(asked, field) is None}
    )


@lru_cache(maxsize=64)
def _size_and_rate(path: str, changed: int, size: int) -> tuple[int, int, Fraction | None]:
    with open_video(path) as source:
        try:
            fps = parse_fps(source.fps)
        except ValueError:  # such as an animation's average
            fps = None
        return source.height, source.width, fps


@lru_cache(maxsize=64)
def _num_frames(path: str, changed: int, size: int) -> int:
    return sum(1 for _ in iter_frames(path))


def read_input_image(
    path: Path | str, height: int, width: int, setting: str = "init_image"
) -> UInt8[np.ndarray, "h w 3"]:
    """Read one picture, or the first frame of a clip, at the size asked for; see `read_input_video`."""
    pixels = next(iter(iter_frames(path))).pixels
    _warn_of_cut(f"{setting} {path}", pixels.shape, height, width)
    return fit(pixels, height, width)


def fit(pixels: UInt8[np.ndarray, "h_in w_in 3"], height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """Crop an image about its centre to the aspect of the size and resize it, bicubic; pixels stay square.

    Pillow averages over all the pixels that fall into a smaller one. OpenCV could too, but it hangs in
    processes that were forked after it had started its threads, and readers of training clips are forked.
    """
    rows, columns = pixels.shape[:2]
    if (rows, columns) == (height, width):
        return pixels
    scale = max(height / rows, width / columns)
    left, top = (columns - width / scale) / 2, (rows - height / scale) / 2
    box = (left, top, left + width / scale, top + height / scale)
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC, box))


SOFT_BLUR = 1.0  # pixels
CANNY_THRESHOLDS = 100, 200  # of OpenCV's gradient, as annotators of published ControlNets take by default
BRIGHT = 99.5  # percent of a clip's gradients that are drawn below full white


def draw_lines(
    frames: UInt8[np.ndarray, "f h w 3"], kind: Literal["canny", "soft"]
) -> UInt8[np.ndarray, "f h w 3"]:
    """Draw white lines on black where frames have edges: hard ones (Canny 1986), or soft by their steepness.

    Soft lines are the gradient's magnitude after a slight blur, on one scale for the clip, so that they do
    not flicker with the brightest edge of a frame.
    """
    greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    if kind == "canny":
        lines = np.stack([cv2.Canny(grey, *CANNY_THRESHOLDS) for grey in greys])
    else:
        blurred = [cv2.GaussianBlur(grey.astype(np.float32), (0, 0), SOFT_BLUR) for grey in greys]
        steepness = np.stack(
            [np.hypot(cv2.Scharr(each, -1, 1, 0), cv2.Scharr(each, -1, 0, 1)) for each in blurred]
        )
        full = float(np.percentile(steepness, BRIGHT)) or float(steepness.max()) or 1.0
        lines = (255 * (steepness / full).clip(0, 1)).round().astype(np.uint8)
    return np.repeat(lines[..., None], 3, axis=-1)


def _warn_of_cut(what: str, shape: tuple[int, ...], height: int, width: int) -> None:
    rows, columns = shape[:2]
    kept = min(height / rows, width / columns) / max(height / rows, width / columns)
    if kept < 0.99:
        warnings.warn(
            f"{what} is {columns}x{rows}; {100 * (1 - kept):.0f} % of it is cut off to fit {width}x{height}",
            stacklevel=4,
        )


# Images that Python holds, as the files that settings name.


@cache
def _input_folder() -> Path:
    """Where they lie; it goes when the program ends."""
    folder = Path(tempfile.mkdtemp(prefix="video-diffusion-inputs-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def as_input_file(value: object) -> object:
    """Write an image, or the frames of a video, to a temporary file and return its path; a path stays.

    Args:
        value: PIL's image, NumPy's array `h w c` or `f h w c`, torch's tensor `c h w` or `f c h w`, uint8 or
            float in [0, 1], or a list of images. Anything else is returned as it is.

    Raises:
        ValueError: An array of another shape or type.
    """
    if isinstance(value, list | tuple) and value and not isinstance(value[0], str | Path):
        frames = [_pixels(each) for each in value]
        if any(frame.ndim != 3 for frame in frames):
            raise ValueError("must be a list of images, each of rows, columns and channels")
        return _written(frames)
    if isinstance(value, Path):
        return str(value)
    if not (isinstance(value, Image.Image | np.ndarray) or hasattr(value, "detach")):
        return value
    pixels = _pixels(value)
    return _written([pixels] if pixels.ndim == 3 else list(pixels), alone=pixels.ndim == 3)


def _pixels(value: Any) -> UInt8[np.ndarray, "*frames h w 3"]:
    """One image or several as 8-bit RGB."""
    if isinstance(value, Image.Image):
        return np.asarray(value.convert("RGB"))
    is_tensor = hasattr(value, "detach")
    array = np.asarray(value.detach().cpu().float() if is_tensor else value)
    if is_tensor and value.dtype.is_floating_point is False:
        array = array.astype(np.uint8)
    if array.ndim in {3, 4} and is_tensor:
        array = np.moveaxis(array, -3, -1)
    if array.ndim not in {3, 4} or array.shape[-1] not in {1, 3, 4} or 0 in array.shape:
        rule = "(channels, rows, columns)" if is_tensor else "(rows, columns, channels)"
        raise ValueError(
            f"must be an image {rule}, or frames of them, but has the shape {tuple(value.shape)}"
        )
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise ValueError("must be in [0, 1] where it is floating point; divide by 255, or give uint8")
        array = np.rint(array * 255)
    elif array.dtype != np.uint8:
        raise ValueError(f"must be uint8, or floating point in [0, 1], but is {array.dtype}")
    return array.astype(np.uint8)[..., :3] if array.shape[-1] > 1 else array.astype(np.uint8).repeat(3, -1)


def _written(frames: Sequence[UInt8[np.ndarray, "h w 3"]], alone: bool = False) -> str:
    """A picture, or a folder of numbered ones, named by its content."""
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(repr(frame.shape).encode() + np.ascontiguousarray(frame).tobytes())
    place = _input_folder() / digest.hexdigest()[:16]
    if alone:
        path = place.with_suffix(".png")
        if not path.exists():
            Image.fromarray(frames[0]).save(path)
        return str(path)
    place.mkdir(exist_ok=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(place / f"{number:05}.png")
    return str(place)


# Pictures of clips: a contact sheet with its flicker curve, and the filmstrip from noise to picture.


Picture = UInt8[np.ndarray, "height width 3"]
Frames = UInt8[np.ndarray, "f h w 3"]

PAPER, INK, FAINT, RULE, ACCENT = "#ffffff", "#1d2433", "#7b8494", "#e4e7ec", "#c8445a"
MARGIN, GAP, LABEL, HEADER_SIZE, TEXT_SIZE = 28, 6, 20, 20, 13
CHART_HEIGHT, SMOOTH = 150, 4
MIN_CELL, MAX_CELL = 96, 320  # pixels of a frame's wider side on the sheet
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def draw_contact_sheet(
    frames: Frames,
    title: str,
    facts: str,
    *,
    curve: Sequence[float | None] = (),
    curve_label: str = "",
    full_scale: float = 0.0,
    columns: int = 8,
) -> Picture:
    """All frames in reading order, numbered, over a curve with one value a frame."""
    columns = min(columns, len(frames))
    cells = [_cell(frame) for frame in frames]
    width, height = cells[0].size
    rows = -(-len(cells) // columns)
    chart = CHART_HEIGHT + LABEL + 2 * MARGIN if any(value is not None for value in curve) else 0
    inner = max(columns * (width + GAP) - GAP, 480)
    page = _Page(inner, rows * (height + LABEL + GAP) + chart, title, facts)
    for index, cell in enumerate(cells):
        left = MARGIN + (index % columns) * (width + GAP)
        top = page.top + (index // columns) * (height + LABEL + GAP)
        page.picture((left, top), cell)
        page.text((left, top + height + 3), str(index), FAINT)
    if chart:
        top = page.top + rows * (height + LABEL + GAP) + MARGIN // 2
        page.text((MARGIN, top), curve_label, ACCENT)
        top += LABEL + 4
        highest = max(full_scale, *(value for value in curve if value is not None)) or 1.0
        page.image.paste(_chart(curve, highest, (inner, CHART_HEIGHT)), (MARGIN, top))
        page.text((MARGIN + 6, top + 3), f"{highest:.3g}", FAINT)
        page.text((MARGIN, top + CHART_HEIGHT + 3), "frame 0", FAINT)
        last = f"frame {len(curve) - 1}"
        page.text((MARGIN + inner - page.width_of(last), top + CHART_HEIGHT + 3), last, FAINT)
    return page.pixels()


def draw_filmstrip(rows: Sequence[Frames], labels: Sequence[str], title: str, facts: str) -> Picture:
    """One row for each denoising step, top to bottom, one column for each frame."""
    cells = [[_cell(frame) for frame in clip] for clip in rows]
    width, height = cells[0][0].size
    inner = max(len(cells[0]) * (width + GAP) - GAP, 480)
    page = _Page(inner, len(rows) * (height + LABEL + GAP), title, facts)
    for row, label in enumerate(labels):
        top = page.top + row * (height + LABEL + GAP)
        for column, cell in enumerate(cells[row]):
            page.picture((MARGIN + column * (width + GAP), top), cell)
        page.text((MARGIN, top + height + 3), label, FAINT)
    return page.pixels()


def save_picture(path: Path, picture: Picture, overwrite: bool = True) -> None:
    """Writes a PNG, JPEG or WebP atomically, by suffix."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"path must end in {', '.join(SUFFIXES)} (given {str(path)!r})")
    quality = {} if path.suffix.lower() == ".png" else {"quality": 95}
    write_bytes(path, image_bytes(picture, path.suffix, **quality), overwrite)


def evenly(count: int, most: int) -> list[int]:
    """At most `most` of the numbers 0 to count - 1, evenly spread, first and last among them."""
    if count <= most:
        return list(range(count))
    return [round(index * (count - 1) / (most - 1)) for index in range(most)] if most > 1 else [count - 1]


class _Page:
    """White paper with a title and a line of facts; `top` is where the pictures begin."""

    def __init__(self, inner: int, body: int, title: str, facts: str) -> None:
        lines = _wrapped(_shown(title), _font(HEADER_SIZE), inner)[:2]
        small = _wrapped(_shown(facts), _font(TEXT_SIZE), inner)[:2]
        self.top = MARGIN + len(lines) * (HEADER_SIZE + 8) + len(small) * (TEXT_SIZE + 6) + 12
        self.image = Image.new("RGB", (inner + 2 * MARGIN, self.top + body + MARGIN // 2), PAPER)
        self.draw = ImageDraw.Draw(self.image)
        for number, line in enumerate(lines):
            self.draw.text((MARGIN, MARGIN - 6 + number * (HEADER_SIZE + 8)), line, INK, _font(HEADER_SIZE))
        for number, line in enumerate(small):
            self.text((MARGIN, self.top - 10 - (len(small) - number) * (TEXT_SIZE + 6)), line, FAINT)

    def picture(self, at: tuple[int, int], picture: Image.Image) -> None:
        """With a hairline around it: white pictures must not melt into white paper."""
        left, top = at
        self.draw.rectangle([left - 1, top - 1, left + picture.width, top + picture.height], outline=RULE)
        self.image.paste(picture, at)

    def text(self, at: tuple[int | float, int | float], text: str, colour: str) -> None:
        self.draw.text(at, text, colour, _font(TEXT_SIZE))

    def width_of(self, text: str) -> float:
        return _font(TEXT_SIZE).getlength(text)

    def pixels(self) -> Picture:
        return np.asarray(self.image).copy()


def _cell(frame: Picture) -> Image.Image:
    """A frame at a readable size: small ones enlarged in whole pixels, large ones reduced smoothly."""
    image = Image.fromarray(frame)
    side = max(image.size)
    if side < MIN_CELL:
        times = -(-MIN_CELL // side)
        return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    if side > MAX_CELL:
        scale = MAX_CELL / side
        return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    return image


def _chart(curve: Sequence[float | None], highest: float, size: tuple[int, int]) -> Image.Image:
    """A filled curve from 0 to `highest`; drawn large and reduced, so that its edges are smooth."""
    image = Image.new("RGB", (size[0] * SMOOTH, size[1] * SMOOTH), PAPER)
    draw = ImageDraw.Draw(image)
    for part in range(5):
        level = round(part / 4 * (image.height - SMOOTH))
        draw.line([(0, level), (image.width, level)], RULE, SMOOTH)
    step = image.width / max(1, len(curve) - 1)
    base = image.height - SMOOTH
    run: list[tuple[float, float]] = []
    for index, value in enumerate([*curve, None]):
        if value is not None:
            run.append((index * step, base - value / highest * (base - 2 * SMOOTH)))
            continue
        if len(run) > 1:
            draw.polygon([(run[0][0], base), *run, (run[-1][0], base)], "#f6dde1")
            draw.line(run, ACCENT, 2 * SMOOTH, joint="curve")
        for x, y in run:
            draw.circle((x, y), 3 * SMOOTH, ACCENT)
        run = []
    return image.resize(size, Image.Resampling.LANCZOS)


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Lines no wider than `width`; a word that is wider by itself is cut."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        lines[-1] = word
        while font.getlength(lines[-1]) > width:
            lines[-1] = lines[-1][: len(lines[-1]) * 3 // 4]
    if len(lines) > 2:
        lines[1] = lines[1][:-1] + "…"
    return lines


def _shown(text: str) -> str:
    return "".join(" " if unicodedata.category(sign)[0] in "CZ" else sign for sign in text)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans as matplotlib ships it (Latin, Greek, Cyrillic and more), else Pillow's own."""
    spec = importlib.util.find_spec("matplotlib")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        file = Path(folder) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if file.is_file():
            return ImageFont.truetype(str(file), size)
    return ImageFont.load_default(size)
