"""A clip as a page shows it: its relative address, small still images, and what the template needs."""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from video_diffusion.video import VideoReadError, iter_frames
from video_diffusion.video.writer import image_bytes


def relative_url(path: str) -> str:
    """The link to a file beside the page, so written that no name can mean anything else.

    Everything but letters, digits and `/ . _ - ~` is percent-encoded and `./` stands in front, so that
    "javascript:x", "//host/x" and "a#b 100%?.mp4" are plain names.

    Args:
        path: as Python reads it from the file system, relative to the page's folder, with forward slashes;
            "" gives "".
    """
    return "./" + quote(path.encode(errors="surrogateescape"), safe="/") if path else ""


# Small still images of a clip for a page: its first frame, and one line of pixels through time.


MAX_POSTER = 192  # pixels of the longer side
MAX_SLICE_FRAMES = 256
LOSSLESS_UP_TO = 20_000  # pixels: small images are shown enlarged, where artefacts show


@dataclass(frozen=True)
class SliceLine:
    """Which line of pixels a slice follows: a row shows motion to the sides, a column up and down.

    Attributes:
        place: 0 (top or left) to 1 (bottom or right).
    """

    direction: Literal["row", "column"]
    place: float


@dataclass(frozen=True)
class ClipImages:
    """Pictures as `data:` addresses.

    Attributes:
        poster: the first frame.
        slice_image: time runs to the right, one pixel for each frame shown; the line runs down.
        line: that the slice follows.
    """

    poster: str
    slice_image: str
    line: SliceLine


def draw_clip_images(path: Path, num_frames: int, line: SliceLine | None = None) -> ClipImages:
    """Reads a clip and draws its images; in long clips only every so many frames are looked at.

    Args:
        path: of the clip.
        num_frames: that it is said to have.
        line: that the slice follows, so that clips can be held against each other; None takes the one where
            most happens, along the way in which most moves.

    Raises:
        VideoReadError: it cannot be read.
    """
    every = max(1, math.ceil(num_frames / MAX_SLICE_FRAMES))
    frames = np.stack(
        [reduced(frame.pixels) for index, frame in enumerate(iter_frames(path)) if index % every == 0]
    )
    line = line or _liveliest_line(frames)
    _, height, width, _ = frames.shape
    if line.direction == "row":
        through_time = frames[:, round(line.place * (height - 1))]
    else:
        through_time = frames[:, :, round(line.place * (width - 1))]
    return ClipImages(image_url(frames[0]), image_url(through_time.transpose(1, 0, 2)), line)


def _liveliest_line(frames: UInt8[np.ndarray, "f h w 3"]) -> SliceLine:
    luma = frames.mean(axis=3)
    across, down = luma.mean(axis=1), luma.mean(axis=2)  # what moves sideways stays visible in `across`
    change = luma.std(axis=0)
    if across.var(axis=0).sum() * luma.shape[1] >= down.var(axis=0).sum() * luma.shape[2]:
        lines, direction = change.sum(axis=1), "row"
    else:
        lines, direction = change.sum(axis=0), "column"
    place = int(lines.argmax()) if lines.max() > 0 else len(lines) // 2
    return SliceLine("row" if direction == "row" else "column", place / max(1, len(lines) - 1))


def reduced(pixels: UInt8[np.ndarray, "h w 3"], longest: int = MAX_POSTER) -> UInt8[np.ndarray, "h2 w2 3"]:
    """An image whose longer side is at most `longest` pixels; a smaller one as it is."""
    height, width, _ = pixels.shape
    shrink = longest / max(height, width)
    if shrink >= 1:
        return pixels
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


def image_url(pixels: UInt8[np.ndarray, "h w 3"]) -> str:
    """An image as a `data:` address; a small one without loss."""
    lossless = pixels.shape[0] * pixels.shape[1] <= LOSSLESS_UP_TO
    encoded = image_bytes(np.ascontiguousarray(pixels), ".webp", lossless=lossless, quality=70)
    return f"data:image/webp;base64,{base64.b64encode(encoded).decode()}"


# A clip as a page shows it: what the template `clip.html` needs.


CURVE_HEIGHT = 100.0


@dataclass(frozen=True)
class ClipView:
    """One cell of a row of clips.

    Attributes:
        title: short, above the clip; `badge`: a letter before it, "" for none.
        description: read out in place of the image.
        path, record: of the video and of its record, relative to the page's folder with forward slashes; ""
            without one.
        fps, num_frames, width, height: of the clip.
        problem: why there is nothing to play, "" for a clip.
        command: to copy, "" without one.
        series: one value for each frame, None where there is none; drawn as a curve below the clip.
        series_label: what the curve shows, with its unit.
        series_peak: what the top of the curve's box stands for: the same in all cells that are compared.
        facts: name → text, below the clip.
        is_reference: the others of its row can show their difference to it.
        values: names → numbers, for sorting rows.
        images: see `with_images`; None shows none.
    """

    title: str
    description: str
    path: str = ""
    fps: float = 1.0
    num_frames: int = 1
    width: int = 1
    height: int = 1
    badge: str = ""
    record: str = ""
    problem: str = ""
    command: str = ""
    series: Sequence[float | None] = ()
    series_label: str = ""
    series_peak: float = 0.0
    facts: Mapping[str, str] = field(default_factory=dict)
    is_reference: bool = False
    values: Mapping[str, float] = field(default_factory=dict)
    images: ClipImages | None = None

    @property
    def url(self) -> str:
        """The link to the video."""
        return relative_url(self.path)

    @property
    def record_url(self) -> str:
        """The link to the record."""
        return relative_url(self.record)

    @property
    def curve(self) -> str:
        """The series as an SVG path in a box of `num_frames` by 100: frame i at i + ½; "" without values."""
        return draw_curve(self.series, self.series_peak)

    @property
    def values_json(self) -> str:
        """The values as an attribute holds them."""
        return json.dumps({name: float(f"{value:.5g}") for name, value in self.values.items()})

    @property
    def series_json(self) -> str:
        """The series likewise: null where there is no number."""
        return json.dumps(
            [None if v is None or not math.isfinite(v) else float(f"{v:.4g}") for v in self.series]
        )

    @property
    def slice_label(self) -> str:
        """Which line of pixels the slice follows, in words; "" without images."""
        if self.images is None:
            return ""
        line = self.images.line
        length = self.height if line.direction == "row" else self.width
        return f"{line.direction} {round(line.place * (length - 1))} through time"


def with_images(view: ClipView, folder: Path, line: SliceLine | None = None) -> ClipView:
    """The cell with its poster and slice; a clip that is missing or damaged becomes a cell that says so.

    Args:
        view: with a path.
        folder: of the page.
        line: that the slice follows; None chooses one, see `draw_clip_images`.
    """
    if view.problem:
        return view
    if not view.path or not (folder / view.path).exists():
        return replace(view, problem="The file is not there")
    try:
        images = draw_clip_images(folder / view.path, view.num_frames, line)
    except (VideoReadError, OSError) as error:
        return replace(view, problem=f"Cannot be read: {error}")
    return replace(view, images=images)


def draw_curve(series: Sequence[float | None], peak: float) -> str:
    """An SVG path through the values: 0 at the bottom, `peak` at the top (1 if it is not above 0).

    The path is broken where there is no value; a value alone becomes a short dash.
    """
    top = peak if peak > 0 and math.isfinite(peak) else 1.0
    strokes: list[list[tuple[float, float]]] = [[]]
    for index, value in enumerate(series):
        if value is None or not math.isfinite(value):
            strokes.append([])
        else:
            strokes[-1].append((index + 0.5, CURVE_HEIGHT * (1 - min(max(value / top, 0.0), 1.0))))
    alone = [
        [(stroke[0][0] - 0.2, stroke[0][1]), (stroke[0][0] + 0.2, stroke[0][1])]
        for stroke in strokes
        if len(stroke) == 1
    ]
    drawn = [stroke for stroke in strokes if len(stroke) > 1] + alone
    return "".join("M" + "L".join(f"{x:g} {y:.4g}" for x, y in stroke) for stroke in drawn)
