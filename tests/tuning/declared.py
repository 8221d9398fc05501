"""A small declared search, and clips that nobody made, for its tests."""

from typing import Any

import numpy as np

from video_diffusion.comparison.summary import Arm, ClipMeasure, ClipResult, ComparisonSummary
from video_diffusion.comparison.verdict import Findings, summarise
from video_diffusion.settings import Layer
from video_diffusion.tuning.choice import comparison_of
from video_diffusion.tuning.declaration import START, TuneDesign, tune_design_from
from video_diffusion.tuning.search import Tried

SMALL: dict[str, Any] = {
    "objectives": ["flicker", "motion"],
    "search": {"guidance_scale": {"range": [1, 8]}, "scheduler": ["ddim", "euler"]},
    "prompts": ["a", "b", "c", "d"],
    "confirm": {"prompts": ["e", "f", "g", "h", "i", "j"]},
}
USUAL = {"flicker": 3.0, "motion": 5.0, "morph": 0.6, "sharpness": 12.0, "prompt_alignment": 0.9, "cuts": 0.0}


def small(has_clip: bool = False, a_a: bool = False, **changes: Any) -> TuneDesign:
    return tune_design_from(Layer({**SMALL, **changes}), has_clip, a_a)


def trials(count: int) -> list[Tried]:
    """The start and so many others."""
    values = [{}, *({"guidance_scale": 1.0 + number} for number in range(1, count))]
    labels = [START, *(f"trial {number}" for number in range(1, count))]
    return [
        Tried(number, labels[number], values[number], values[number], 4, "all prompts", {}, {})
        for number in range(count)
    ]


def pretend(
    design: TuneDesign,
    tried: list[Tried],
    rng: np.random.Generator,
    effects: dict[str, dict[str, float]],
    confirm: bool = False,
    noise: float = 0.15,
) -> ComparisonSummary:
    """Clips of trials as they might have been: the effects of some, and noise of prompts and clips."""
    prompts = design.confirm_prompts if confirm else design.prompts
    seeds = design.confirm_seeds if confirm else design.seeds
    comparison = comparison_of(design, tried, prompts, seeds, "")
    clips = []
    for prompt in prompts:
        own = {name: value * (1 + noise * rng.normal()) for name, value in USUAL.items()}
        for seed in seeds:
            for each in tried:
                values = {
                    name: value * (1 + noise * rng.normal()) + effects.get(each.label, {}).get(name, 0.0)
                    for name, value in own.items()
                }
                measures = {name: ClipMeasure(value, "ok") for name, value in values.items()}
                shape = (8.0, 16, 64, 64)
                clips.append(
                    ClipResult(each.label, prompt, seed, "x.mp4", "", "", *shape, measures, {}, "", "", "")
                )
    arms = tuple(Arm(t.label, t.label == START, {}, (), {}, True, len(prompts), 0) for t in tried)
    found = Findings(
        "", "", arms, (), prompts, seeds, tuple(clips), comparison.margins, comparison.alpha,
    )  # fmt: skip
    return summarise(found)
