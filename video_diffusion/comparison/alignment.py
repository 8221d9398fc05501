"""Prompt alignment of clips: by the scene reader where it can read them, else by CLIP if that is given."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from video_diffusion.comparison.statistics import Kind
from video_diffusion.comparison.verdict import KINDS
from video_diffusion.jobs import model_facts
from video_diffusion.metrics import Metric, measure
from video_diffusion.procedural.scene import (
    BACKGROUNDS,
    COLOURS,
    MOTION_WORDS,
    SHAPE_WORDS,
    SIZE_WORDS,
    SceneObject,
    vocabulary,
)
from video_diffusion.procedural.scene_reader import read_scene

if TYPE_CHECKING:
    from video_diffusion.metrics.learned.encoders import ImageEncoder
    from video_diffusion.pipeline.video import GeneratedVideo
    from video_diffusion.settings import GenerationSettings


MAX_OBJECTS = 2


@dataclass(frozen=True)
class AskedScene:
    """What a prompt names, and nothing that it leaves open.

    Attributes:
        background: a key of `BACKGROUNDS`, None where the prompt is silent.
        objects: one or two mappings of "colour", "shape", "size" and "motion" to keys of the world's tables.
    """

    background: str | None
    objects: tuple[Mapping[str, str], ...]


def read_prompt(prompt: str) -> AskedScene | None:
    """Parses a caption of the procedural world, in any of its paraphrases."""
    background: str | None = None
    objects: list[Mapping[str, str]] = []
    for part in re.split(r"\band\b", prompt.lower()):
        named: dict[str, str] = {}
        for kind, value in _terms(re.findall(r"[a-z]+", part)):
            if kind in named:
                return None
            named[kind] = value
        background = named.pop("background", background)
        if "shape" not in named:
            return None
        objects.append(named)
    return AskedScene(background, tuple(objects)) if len(objects) <= MAX_OBJECTS else None


def alignment(asked: AskedScene, frames: UInt8[np.ndarray, "f h w 3"]) -> float:
    """The share of what the prompt names that the scene reader finds in the clip, 0 to 1.

    0 when no object can be followed. Two objects are matched by colour where both have one.
    """
    seen = read_scene(frames, len(asked.objects))
    if seen is None:
        return 0.0
    found: list[SceneObject | None] = list(seen.objects)
    if len(asked.objects) > 1:
        by_colour = {thing.colour: thing for thing in seen.objects}
        found = [by_colour.get(thing.get("colour", "")) for thing in asked.objects]
    right = [] if asked.background is None else [seen.background == asked.background]
    for named, thing in zip(asked.objects, found, strict=True):
        right += [thing is not None and getattr(thing, kind) == value for kind, value in named.items()]
    return float(np.mean(right))


def is_procedural(words: tuple[str, ...]) -> bool:
    """Whether a model that knows these words draws the procedural world, which the reader can read."""
    filler = {"the", "of", "in"}
    return bool(words) and set(words) <= {*vocabulary(), *filler}


def _terms(words: list[str]) -> list[tuple[str, str]]:
    """Every (attribute, key) that the words name, longest phrases first."""
    found, at = [], 0
    while at < len(words):
        for length in range(min(_LONGEST, len(words) - at), 0, -1):
            term = _PHRASES.get(tuple(words[at : at + length]))
            if term is not None:
                found.append(term)
                at += length
                break
        else:
            at += 1
    return found


def _phrases() -> dict[tuple[str, ...], tuple[str, str]]:
    tables: dict[str, Mapping[str, tuple[str, ...]]] = {
        "size": SIZE_WORDS,
        "shape": SHAPE_WORDS,
        "motion": MOTION_WORDS,
        "colour": {name: (name,) for name in COLOURS},
        "background": {name: (name,) for name in BACKGROUNDS},
    }
    return {
        tuple(phrase.split()): (kind, key)
        for kind, table in tables.items()
        for key, phrases in table.items()
        for phrase in phrases
    }


_PHRASES = _phrases()
_LONGEST = max(map(len, _PHRASES))


# Prompt alignment of clips: by the scene reader where it can read them, else by CLIP if that is given.


Frames = UInt8[np.ndarray, "f h w 3"]
ROW_KEY = "prompt_meter"
READER_UNIT = "share of what is named"


class PromptMeter:
    """Values for the rows of clips, measured on the frames before they are encoded.

    Args:
        clip_model: folder of a local CLIP model; None leaves clips unmeasured that the reader cannot read.

    Raises:
        MetricWeightsError: the folder does not hold a whole, trained CLIP model.
    """

    def __init__(self, clip_model: str | None = None) -> None:
        self._clip = _load_clip(clip_model) if clip_model is not None else None

    def __call__(self, video: "GeneratedVideo") -> Mapping[str, Any]:
        """What `run_jobs` adds to a clip's row."""
        return {ROW_KEY: self.measure(video.frames, video.settings)}

    def measure(self, frames: Frames, settings: "GenerationSettings") -> dict[str, dict[str, Any]]:
        """Metric name → value, unit and status; empty where nothing can be measured."""
        found: dict[str, dict[str, Any]] = {}
        if self._clip is not None:
            found |= _by_clip(frames, self._clip, settings.prompt)
        asked = read_prompt(settings.prompt) if _is_readable(settings) else None
        if asked is not None:
            value = alignment(asked, frames)
            found["prompt_alignment"] = {"value": value, "unit": READER_UNIT, "status": "ok"}
        return found

    def wants(self, row: Mapping[str, Any]) -> bool:
        """Whether a clip was made without what this meter measures."""
        known = row.get(ROW_KEY)
        return known is None or (self._clip is not None and "clip_adjacent" not in known)


def kinds_of(rows: Sequence[Mapping[str, Any]]) -> tuple[Kind, ...]:
    """The metrics of every clip, and those that the meter added to rows; its own come last."""
    units = {name: each.get("unit", "") for row in rows for name, each in row.get(ROW_KEY, {}).items()}
    own = tuple(Kind(name, unit, "higher", "prompt") for name, unit in units.items())
    return (*(kind for kind in KINDS if kind.name not in units), *own)


def _by_clip(frames: Frames, clip: "ImageEncoder", prompt: str) -> dict[str, dict[str, Any]]:
    from video_diffusion.metrics.learned import clip_metrics  # noqa: PLC0415  needs transformers

    lines: tuple[Metric, ...] = clip_metrics(clip, prompt)
    report = measure(frames, 8, metrics=lines)  # no CLIP metric depends on the frame rate
    names = [line.name for line in lines]
    values = {name: report.values[name] for name in names}
    return {
        name: {"value": each.value, "unit": each.unit, "status": each.status} for name, each in values.items()
    }


def _is_readable(settings: "GenerationSettings") -> bool:
    facts = model_facts(settings.model, settings.motion_adapter)
    return is_procedural(tuple(facts.defaults.get("vocabulary", ())))


@cache
def _load_clip(folder: str) -> "ImageEncoder":
    from video_diffusion.metrics.learned.encoders import load_clip  # noqa: PLC0415  needs transformers

    return load_clip(folder)
