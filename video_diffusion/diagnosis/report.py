"""`diagnosis.html` and `diagnosis.json`: what each part contributes, beside the clips that show it."""

import json
import os
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from video_diffusion.comparison.report import played
from video_diffusion.comparison.summary import ClipResult, Span
from video_diffusion.comparison.tables import IntervalGlyph
from video_diffusion.diagnosis.findings import FAULTS, GUARDS, SPOKEN, UNITS, Contribution, Effect, Findings
from video_diffusion.diagnosis.marks import Mark, mark_worst
from video_diffusion.diagnosis.parts import Part
from video_diffusion.diagnosis.pixels import summary, tell
from video_diffusion.diagnosis.run import AS_IT_IS
from video_diffusion.diagnosis.stages import encoder_of
from video_diffusion.video import VideoReadError, library_versions, read_video, write_bytes
from video_diffusion.web import ClipView, number, render_page, scale_over, signed, with_images, write_page

PAGE, ANSWER = "diagnosis.html", "diagnosis.json"
TEMPLATES = Path(__file__).parent / "templates"
SHOWN = ("flicker", "morph", "drift", *GUARDS)
"""Columns of the table."""
GLYPH = (4.0, 128.0)
IMPROVES = (*FAULTS, "prompt_alignment")
"""Measures in which better is better; more motion or sharpness than the clip has is merely more."""
USUAL_FPS = 8


@dataclass(frozen=True)
class Cell:
    """An effect as the table shows it."""

    text: str
    interval: str
    tone: str
    title: str
    glyph: IntervalGlyph | None


@dataclass(frozen=True)
class Row:
    """A change as the table shows it."""

    part: Part
    label: str
    cells: tuple[Cell | None, ...]
    is_cause: bool
    is_remedy: bool
    command: str


@dataclass(frozen=True)
class Card:
    """The clip beside the clips of one part's changes."""

    part: Part
    views: tuple[ClipView, ...]


def write_folder(found: Findings, folder: Path) -> list[Path]:
    """Write page and answer; each is whole or absent."""
    write_page(folder / PAGE, render(found, folder))
    text = json.dumps(answer(found), indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(folder / ANSWER, (text + "\n").encode())
    return [folder / PAGE, folder / ANSWER]


def with_marks(found: Findings, folder: Path) -> Findings:
    """Mark where the clip of its own seed is at its worst; nothing where its file is gone or damaged."""
    seed = found.subject.settings.seed
    for clip in found.clips:
        if clip.arm == AS_IT_IS and clip.seed == seed and not clip.error:
            try:
                frames = read_video(folder / clip.path).frames
            except (VideoReadError, OSError):
                break
            return replace(found, marks=mark_worst(frames, Fraction(clip.fps).limit_denominator(1001)))
    return found


def answer(found: Findings) -> dict[str, Any]:
    """The diagnosis as plain JSON values."""
    settings = found.subject.settings
    return {
        "prompt": settings.prompt,
        "seeds": list(found.subject.seeds),
        "sentences": list(found.sentences),
        "causes": [each.part for each in found.causes],
        "as_it_is": {name: _span(span, UNITS[name]) for name, span in found.own.items()},
        "contributions": [
            {
                "part": each.part,
                "label": each.label,
                "settings": dict(each.values),
                "stands_out_in": list(each.gains),
                "costs": list(each.losses),
                "is_remedy": each.is_remedy,
                "command": each.command,
                "effects": {
                    name: {
                        "as_it_is": effect.as_it_is,
                        "changed": effect.changed,
                        **_span(effect.difference, UNITS[name]),
                        "relative": effect.relative,
                        "num_seeds": effect.num_seeds,
                    }
                    for name, effect in each.effects.items()
                },
            }
            for each in found.contributions
        ],
        "where": [_where(mark) for mark in found.marks],
        "notes": list(found.notes),
    }


def _where(mark: Mark) -> dict[str, Any]:
    frames = [{"frame": each.frame, "value": each.value, **asdict(each.box)} for each in mark.frames]
    return {"measure": mark.name, "unit": mark.unit, "words": mark.words, "frames": frames}


def _span(span: Span, unit: str) -> dict[str, Any]:
    return {"estimate": span.estimate, "low": span.low, "high": span.high, "unit": unit}


def render(found: Findings, folder: Path) -> str:
    """The page; clips are read for their still images."""
    values = {
        "title": f"Diagnosis of “{found.subject.settings.prompt}”",
        "sentences": [sentence.split("\n") for sentence in found.sentences],
        "has_cause": bool(found.causes),
        "own": [(SPOKEN.get(name, name), UNITS[name], found.own.get(name)) for name in SHOWN],
        "columns": [(SPOKEN.get(name, name), UNITS[name]) for name in SHOWN],
        "rows": _rows(found),
        "cards": _cards(found, folder),
        "marks": found.marks,
        "notes": found.notes,
        "num_seeds": len(found.subject.seeds),
        "versions": library_versions(),
    }
    return render_page(TEMPLATES, "diagnosis.html", values, styles=("findings.css", "diagnosis.css"))


# The table.


def _rows(found: Findings) -> list[Row]:
    scales = {}
    for name in SHOWN:
        ends = [
            end
            for each in found.contributions
            if name in each.effects
            for end in (each.effects[name].difference.low, each.effects[name].difference.high)
        ]
        scales[name] = scale_over(ends, *GLYPH, zero=True)
    causes = {(each.part, each.label) for each in found.causes}
    rows = []
    for each in found.contributions:
        cells = []
        for name in SHOWN:
            effect = each.effects.get(name)
            cells.append(None if effect is None else _cell(name, effect, scales[name]))
        is_cause = (each.part, each.label) in causes
        rows.append(Row(each.part, each.label, tuple(cells), is_cause, each.is_remedy, each.command))
    return rows


def _cell(name: str, effect: Effect, scale: Any) -> Cell:
    span = effect.difference
    tone = ""
    if span.low is not None and span.high is not None and (span.low > 0 or span.high < 0):
        is_better = (span.estimate < 0) == (name in FAULTS)
        tone = "bad" if not is_better else "good" if name in IMPROVES else ""
    glyph = None
    interval = "one seed"
    if span.low is not None and span.high is not None:
        glyph = IntervalGlyph(scale(0.0), scale(span.estimate), scale(span.low), scale(span.high), None)
        interval = f"[{signed(span.low, 2)}, {signed(span.high, 2)}]"
    title = f"from {number(effect.as_it_is)} to {number(effect.changed)} {UNITS[name]}"
    return Cell(signed(span.estimate, 2), interval, tone, title, glyph)


# The clips.


def _cards(found: Findings, folder: Path) -> list[Card]:
    """For each part, the clip as it is and every change of the part, at the clip's own seed."""
    seed = found.subject.settings.seed
    clips = {clip.arm: clip for clip in found.clips if clip.seed == seed and not clip.error}
    own = clips.get(AS_IT_IS)
    if own is None:
        return []
    peak = max([1.0, *(value for value in own.series.get("flicker", ()) if value is not None)])
    base = with_images(replace(_view(own, "as it is", peak), is_reference=True, badge="A"), folder)
    line = base.images.line if base.images is not None else None
    by_part: dict[Part, list[ClipView]] = {}
    for each in found.contributions:
        clip = clips.get(each.label)
        if clip is not None:
            view = _view(clip, each.label, peak)
        elif seed in each.clips:
            view = _stage_view(own, each, each.clips[seed])
        else:
            continue
        by_part.setdefault(each.part, []).append(with_images(view, folder, line))
    order = {each.part: place for place, each in enumerate(found.causes)}
    parts = sorted(by_part, key=lambda part: order.get(part, len(order)))
    return [Card(part, (base, *by_part[part])) for part in parts]


def _view(clip: ClipResult, title: str, peak: float) -> ClipView:
    measured = {name: clip.measures[name] for name in SHOWN if name in clip.measures}
    return replace(
        played(ClipView(title=title, description=f"{title}: {clip.prompt}, seed {clip.seed}"), clip),
        series=clip.series.get("flicker", ()),
        series_label="flicker in levels",
        series_peak=peak,
        facts={SPOKEN.get(name, name): number(each.value) for name, each in measured.items()},
    )


def _stage_view(own: ClipResult, each: Contribution, path: str) -> ClipView:
    facts = {SPOKEN.get(name, name): number(effect.changed) for name, effect in each.effects.items()}
    return ClipView(
        title=each.label,
        description=f"{each.label}, seed {own.seed}",
        path=path,
        fps=own.fps,
        num_frames=own.num_frames,
        width=own.width,
        height=own.height,
        facts=facts,
    )


# A clip without a record: what its pixels tell.


def write_pixels(path: Path, folder: Path) -> tuple[list[str], dict[str, Any], list[Path]]:
    """Look at a clip's pixels, and write page and answer.

    Returns:
        The sentences, the answer as plain JSON values, and the files.

    Raises:
        VideoReadError: The clip cannot be read.
    """
    video = read_video(path)
    folder.mkdir(parents=True, exist_ok=True)
    fps = video.fps or Fraction(USUAL_FPS)
    encoder = encoder_of(path)
    crf = encoder.crf if encoder is not None else None
    signs, looks, measures = tell(video.frames, fps, video.notes, crf)
    marks = mark_worst(video.frames, fps)
    sentences = summary(signs, measures)
    series = tuple(float(value) if np.isfinite(value) else None for value in looks.by_frame)
    num_frames, height, width, _ = video.frames.shape
    view = ClipView(
        title=path.name,
        description=str(path),
        path=Path(os.path.relpath(path, folder)).as_posix(),
        fps=float(fps),
        num_frames=num_frames,
        width=width,
        height=height,
        series=series,
        series_label="flicker in levels",
        series_peak=max([1.0, *(value for value in series if value is not None)]),
        is_reference=True,
    )
    content = {
        "path": str(path),
        "sentences": sentences,
        "causes": [sign.name for sign in signs if sign.is_cause],
        "signs": [asdict(sign) for sign in signs],
        "measures": measures,
        "flicker_by_frame": list(series),
        "where": [_where(mark) for mark in marks],
        "notes": list(video.notes),
    }
    values = {
        "title": f"{path.name}, from pixels alone", "sentences": sentences, "signs": signs,
        "notes": video.notes, "view": with_images(view, folder), "measures": measures,
        "marks": marks,
        "versions": library_versions(),
    }  # fmt: skip
    page = render_page(TEMPLATES, "pixels.html", values, styles=("findings.css", "diagnosis.css"))
    write_page(folder / PAGE, page)
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(folder / ANSWER, (text + "\n").encode())
    return sentences, content, [folder / PAGE, folder / ANSWER]
