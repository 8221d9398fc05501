"""A clip as a page shows it: what the template `clip.html` needs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from video_diffusion.io import VideoReadError
from video_diffusion.web.clip_pictures import ClipPictures, SliceLine, draw_clip_pictures
from video_diffusion.web.relative_url import relative_url

CURVE_HEIGHT = 100.0


@dataclass(frozen=True)
class ClipView:
    """One cell of a row of clips.

    Attributes:
        title: short, above the clip; `badge`: a letter before it, "" for none.
        description: read out in place of the picture.
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
        keys: names → numbers, for sorting rows.
        pictures: see `with_pictures`; None shows none.
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
    keys: Mapping[str, float] = field(default_factory=dict)
    pictures: ClipPictures | None = None

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
    def slice_label(self) -> str:
        """Which line of pixels the slice follows, in words; "" without pictures."""
        if self.pictures is None:
            return ""
        line = self.pictures.line
        length = self.height if line.direction == "row" else self.width
        return f"{line.direction} {round(line.place * (length - 1))} through time"


def with_pictures(view: ClipView, folder: Path, line: SliceLine | None = None) -> ClipView:
    """The cell with its poster and slice; a clip that is missing or damaged becomes a cell that says so.

    Args:
        view: with a path.
        folder: of the page.
        line: that the slice follows; None chooses one, see `draw_clip_pictures`.
    """
    if view.problem:
        return view
    if not view.path or not (folder / view.path).exists():
        return replace(view, problem="The file is not there")
    try:
        pictures = draw_clip_pictures(folder / view.path, view.num_frames, line)
    except (VideoReadError, OSError) as error:
        return replace(view, problem=f"Cannot be read: {error}")
    return replace(view, pictures=pictures)


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
