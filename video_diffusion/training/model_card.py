"""The model card of a run: what was trained, on what, how, and what it measured."""

import json
from collections.abc import Sequence
from typing import Any

from video_diffusion.config import dump
from video_diffusion.training.settings import TrainingSettings
from video_diffusion.training.sources import Sources
from video_diffusion.training.validation import Validation, what_changed

CARD_FILE = "README.md"
NO_LICENSE = "not stated, the base model and the clips have their own"
MEASURES = ("flicker", "motion", "warp_ssim", "sharpness")


def model_card(
    settings: TrainingSettings,
    sources: Sources,
    identity: Any,
    validations: Sequence[Validation],
    steps: int,
) -> str:
    """Markdown with the front matter that the Hugging Face hub reads.

    Args:
        settings: Of the run.
        sources: Its clips.
        identity: The base model's, see `ModelIdentity`.
        validations: All so far.
        steps: Optimizer steps done.
    """
    front = {
        "license": settings.license or "other",
        "base_model": identity.name,
        "library_name": "diffusers",
        "pipeline_tag": "text-to-video",
        "tags": ["text-to-video", "diffusers", "animatediff", settings.target.replace("_", "-")],
    }
    # JSON values are YAML values, so that no text of the user's can add a line to the front matter.
    head = "\n".join(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in front.items())
    return "\n".join(
        [
            "---",
            head,
            "---",
            "",
            f"# {_TITLES[settings.target]}, {steps} steps",
            "",
            f"Fine-tuned by `video-diffusion train` from `{_plain(identity.name)}`, whose weights have the "
            f"sha256 `{identity.weights_sha256 or 'unknown'}`.",
            "",
            f"Licence: {_plain(settings.license or NO_LICENSE)}.",
            "",
            "## Use",
            "",
            f"    {_USES[settings.target]}",
            "",
            "## Data",
            "",
            "| clips in training | share | held out | sha256 of the manifest |",
            "|---|---|---|---|",
            *_data_rows(settings, sources),
            "",
            "## What it measured",
            "",
            *_measure_rows(validations),
            "",
            "## Settings",
            "",
            "```yaml",
            dump(settings).strip().replace("```", "'''"),
            "```",
            "",
        ]
    )


_TITLES = {
    "temporal": "Temporal layers",
    "motion_lora": "Motion LoRA",
    "domain_lora": "Domain LoRA",
}
_USES = {
    "temporal": 'video-diffusion generate "PROMPT" --model BASE --motion-adapter RUN',
    "motion_lora": 'video-diffusion generate "PROMPT" --model BASE --lora RUN',
    "domain_lora": "video-diffusion train CONFIG --set domain_lora=RUN",
}


def _data_rows(settings: TrainingSettings, sources: Sources) -> list[str]:
    total = sum(source.weight for source in settings.data)
    counts = list(sources.num_clips.values())
    return [
        f"| {count} | {source.weight / total:.0%} | {held} | `{digest.split(',')[0]}` |"
        for source, count, held, digest in zip(
            settings.data, counts, sources.num_held_out, sources.hashes.values(), strict=True
        )
    ]


def _measure_rows(validations: Sequence[Validation]) -> list[str]:
    if not validations:
        return ["Nothing was measured."]
    chosen = [validations[0], validations[-1]] if len(validations) > 1 else [validations[0]]
    rows = [
        "| | " + " | ".join(f"step {each.step}" for each in chosen) + " |",
        "|---" * (len(chosen) + 1) + "|",
        "| held-out loss | " + " | ".join(_number(each.held_out_loss) for each in chosen) + " |",
    ]
    rows += [
        f"| {name} | " + " | ".join(_number(each.measures.get(name)) for each in chosen) + " |"
        for name in MEASURES
        if any(each.measures.get(name) is not None for each in chosen)
    ]
    if len(chosen) == 2:
        rows += ["", what_changed(*chosen) + "."]
    return rows


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.4g}"


def _plain(text: str) -> str:
    """A text of the user's on one line, with nothing that Markdown would act on."""
    return "".join(sign if sign.isalnum() or sign in " ./:@_-+(),;" else " " for sign in text)
