"""Where a clip is at its worst: the frames with the most flicker, morph and drift, and the place in them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from video_diffusion.metrics import Measurement, choose_metrics
from video_diffusion.metrics.flow import choose_flow
from video_diffusion.metrics.morph import morphing
from video_diffusion.metrics.shots import HeldFrames
from video_diffusion.metrics.views import Triple, luma
from video_diffusion.web import image_url, number, reduced

Frames = UInt8[np.ndarray, "f h w 3"]
Pixels = UInt8[np.ndarray, "h w 3"]
Heat = Float32[np.ndarray, "h w"]

MEASURES: Mapping[str, tuple[str, float, str]] = {
    "flicker": ("levels", 1.0, "change that motion does not explain"),
    "morph": ("px", 0.25, "edges that go to and fro"),
    "drift": ("levels", 4.0, "colours away from those of the first frame"),
}
"""Unit of a frame's number, the heat that is shown in full at least, and what the heat shows."""
MOST_FRAMES = 3
LONGEST_SIDE = 384
"""Of an image on the page, in pixels."""
LEAST_SIDE = 0.08
"""Of a box, as a share of the image's side: smaller ones are hard to see."""
SMOOTH = 1 / 64
"""Of the image's side: what heat is averaged over before the hottest place is looked for."""
HOT = 0.5
"""Of the largest heat: what is warmer, and touches the hottest place, is in the box."""
HOT_COLOUR = (255.0, 84.0, 0.0)
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")
MOST_OF_IT = 0.5


@dataclass(frozen=True)
class Box:
    """A place in an image, in pixels."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class MarkedFrame:
    """A frame at which a measure is large.

    Attributes:
        frame: Its number, the first is 1.
        value: Of the measure at this frame.
        box: Around the hottest place.
        place: The same in words.
        image: The frame in grey under its heat, as a `data:` address.
    """

    frame: int
    value: float
    box: Box
    place: str
    image: str


@dataclass(frozen=True)
class Mark:
    """Where one measure is at its worst.

    Attributes:
        name: Of the measure.
        unit: Of its numbers.
        shows: What the heat is.
        words: The frames and the place, in a sentence.
        frames: The worst first.
        width, height: Of the images, in pixels of the clip.
    """

    name: str
    unit: str
    shows: str
    words: str
    frames: tuple[MarkedFrame, ...]
    width: int
    height: int


def mark_worst(frames: Frames, fps: Fraction) -> tuple[Mark, ...]:
    """Find the worst frames of a clip by each measure, and where in them; nothing of what does not occur."""
    rows: dict[str, list[tuple[float, int, Heat]]] = {"flicker": [], "morph": []}
    levels: dict[str, list[float]] = {"flicker": [], "morph": []}

    def see(triple: Triple) -> None:
        found = morphing(triple.points)
        for name, level, heat in (
            ("flicker", triple.residual.level, triple.residual.magnitude),
            ("morph", found.level, found.map),
        ):
            if np.isfinite(level) and level > 0:
                levels[name].append(level)
                rows[name].append((level, triple.centre.index, heat))
                rows[name].sort(key=lambda row: (-row[0], row[1]))
                del rows[name][MOST_FRAMES:]

    held = HeldFrames()
    for frame in frames:
        held.add(frame)
    walk = Measurement(
        choose_metrics(("flicker", "morph")),
        choose_flow(None),
        held=held.numbers(),
        one_shot=True,
        on_triple=see,
    )
    for index, frame in enumerate(frames):
        walk.add(index, float(index / fps), frame)
    walk.report(fps)
    marks = [_mark(name, frames, rows[name], levels[name]) for name in rows if rows[name]]
    return (*marks, *_drift(frames))


def _drift(frames: Frames) -> Iterator[Mark]:
    """The frame whose colours are farthest from the first one's, and the pixels that make them so."""
    heats = [colour_shift(frame, frames[0]) for frame in frames]
    levels = [float(heat.mean()) for heat in heats]
    worst = int(np.argmax(levels))
    if levels[worst] > 0:
        yield _mark("drift", frames, [(levels[worst], worst, heats[worst])], levels[1:])


def colour_shift(frame: Pixels, first: Pixels) -> Heat:
    """How far each pixel is from the value that it had, if values kept their order: luma and chroma added.

    The mean over the image is the distance of the histograms that drift measures, whatever moved.
    """
    total = np.zeros(frame.shape[:2], np.float32)
    planes = zip(
        *(cv2.split(cv2.cvtColor(each, cv2.COLOR_RGB2YCrCb)) for each in (frame, first)), strict=True
    )
    for plane, start in planes:
        order = np.argsort(plane, axis=None, kind="stable")
        shift = np.empty(plane.size, np.float32)
        shift[order] = np.abs(np.sort(plane, axis=None).astype(np.float32) - np.sort(start, axis=None))
        total += shift.reshape(plane.shape)
    return total


def _mark(
    name: str, frames: Frames, rows: Sequence[tuple[float, int, Heat]], levels: Sequence[float]
) -> Mark:
    unit, least, shows = MEASURES[name]
    height, width = frames.shape[1:3]
    maps = [cv2.resize(heat, (width, height), interpolation=cv2.INTER_LINEAR) for *_, heat in rows]
    ceiling = max(least, *(float(np.percentile(heat, 99)) for heat in maps))
    marked = []
    for (level, index, _), heat in zip(rows, maps, strict=True):
        box = hottest_box(heat)
        image = image_url(reduced(_heated(frames[index], heat / ceiling), LONGEST_SIDE))
        marked.append(MarkedFrame(index + 1, level, box, _place(box, width, height), image))
    worst, others = marked[0], marked[1:]
    further = f"frame{'s' if len(others) > 1 else ''} " + " and ".join(str(each.frame) for each in others)
    mean = f"{number(float(np.mean(levels)), 2)} {unit}"
    words = (
        f"{name.capitalize()} is largest at frame {worst.frame} of {len(frames)}, {worst.place}: "
        f"{number(worst.value, 2)} {unit}, against a mean of {mean}"
    )
    return Mark(
        name,
        unit,
        shows,
        f"{words}{f'; then at {further}' if others else ''}.",
        tuple(marked),
        width,
        height,
    )


def hottest_box(heat: Heat) -> Box:
    """The box around the hottest place: all that touches it and is at least half as hot."""
    height, width = heat.shape
    smooth = cv2.GaussianBlur(heat, (0, 0), max(1.0, SMOOTH * min(height, width)))
    hot = (smooth >= HOT * smooth.max()).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(hot)
    x, y, box_width, box_height, _ = stats[labels.flat[int(smooth.argmax())]].tolist()
    left, right = _widened(x, x + box_width, width)
    top, bottom = _widened(y, y + box_height, height)
    return Box(left, top, right - left, bottom - top)


def _widened(start: int, end: int, side: int) -> tuple[int, int]:
    """A stretch with a pixel around it, no shorter than can be seen, inside the image."""
    missing = max(0, round(LEAST_SIDE * side) - (end - start))
    return max(0, start - 1 - missing // 2), min(side, end + 1 + missing // 2)


def _place(box: Box, width: int, height: int) -> str:
    """A box in words."""
    if box.width * box.height >= MOST_OF_IT * width * height:
        return "nearly everywhere"
    row = ROWS[min(2, 3 * (2 * box.y + box.height) // (2 * height))]
    column = COLUMNS[min(2, 3 * (2 * box.x + box.width) // (2 * width))]
    if row == "middle":
        return "in the centre" if column == "centre" else f"at the {column}"
    return f"at the {row}" if column == "centre" else f"at the {row} {column}"


def _heated(pixels: Pixels, heat: Heat) -> Pixels:
    """A frame in grey, its heat (1 is hot) in one colour over it."""
    grey = 255 * 0.15 + 0.7 * luma(pixels.astype(np.float32))[..., None]
    share = (0.85 * np.clip(heat, 0, 1))[..., None]
    return np.rint(grey * (1 - share) + np.array(HOT_COLOUR) * share).astype(np.uint8)
