"""Prompt alignment of clips: by the scene reader where it can read them, else by CLIP if that is given."""

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from video_diffusion.comparison.alignment import alignment, is_procedural, read_prompt
from video_diffusion.comparison.differences import Kind
from video_diffusion.jobs import model_facts
from video_diffusion.metrics import Metric, measure

if TYPE_CHECKING:
    from video_diffusion.generated_video import GeneratedVideo
    from video_diffusion.generation_settings import GenerationSettings
    from video_diffusion.metrics.learned.encoders import ImageEncoder

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


def kinds(rows: "list[Mapping[str, Any]]") -> tuple[Kind, ...]:
    """The metrics that the rows of clips hold, beside those of every clip."""
    units = {name: each["unit"] for row in rows for name, each in row.get(ROW_KEY, {}).items()}
    return tuple(Kind(name, unit, "higher", "prompt") for name, unit in units.items())


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
