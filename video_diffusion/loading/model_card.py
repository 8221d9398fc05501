"""The card of converted weights: what they are, how to use them, how they were trained; takes no torch."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_CONFIG_CHARACTERS = 20_000


@dataclass(frozen=True)
class TrainingSummary:
    """What a training run's folder says of how its weights came about.

    Attributes:
        config: The run's settings as text.
        last_row: The numbers of the last measured step.
    """

    config: str
    last_row: Mapping[str, int | float]


def read_training_summary(place: Path) -> TrainingSummary | None:
    """Look for a training run at a folder or above it; None if it is not part of one.

    Args:
        place: A run, one of its checkpoints, or the weights in either.
    """
    for folder in (place, *place.parents[:3]):
        if (folder / "metrics.jsonl").is_file() and (folder / "config.yaml").is_file():
            config = (folder / "config.yaml").read_text(encoding="utf-8", errors="replace")
            return TrainingSummary(config[:MAX_CONFIG_CHARACTERS], _last_row(folder / "metrics.jsonl"))
    return None


def model_card(
    facts: Mapping[str, Any],
    *,
    title: str,
    usage: str,
    base_model: str | None,
    licence: str | None,
    training: TrainingSummary | None,
) -> str:
    """Write the card as Markdown with the front matter that the Hugging Face hub reads.

    Args:
        facts: What the weights are, by name.
        title: First line.
        usage: A command that uses them.
        base_model: The image model they belong to.
        licence: An SPDX name or the hub's own; None leaves the field for the owner to fill.
        training: How they were trained, if that is known.
    """
    front = {"license": licence or "unknown", "library_name": "diffusers", "pipeline_tag": "text-to-video"}
    if base_model is not None:
        front["base_model"] = base_model
    lines = ["---", *(f"{key}: {_scalar(value)}" for key, value in front.items())]
    lines += ["tags:", "- animatediff", "- motion-adapter", "---", "", f"# {_inline(title)}", ""]
    lines += ["| | |", "|---|---|"]
    lines += [f"| {_inline(key.replace('_', ' '))} | {_inline(value)} |" for key, value in facts.items()]
    lines += ["", "## Use", "", *_fenced(usage, "bash")]
    if training is not None:
        lines += ["", "## Training", "", "Settings of the run:", "", *_fenced(training.config, "yaml")]
        if training.last_row:
            shown = json.dumps(training.last_row, indent=2)
            lines += ["", "Last measured step:", "", *_fenced(shown, "json")]
    if licence is None:
        lines += ["", "The licence is not filled in: it follows from the base model and the training data."]
    return "\n".join(lines) + "\n"


def _last_row(file: Path) -> dict[str, int | float]:
    for line in reversed(file.read_text(encoding="utf-8", errors="replace").splitlines()):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and len(_numbers(row)) > 1:  # more than the step
            return _numbers(row)
    return {}


def _numbers(row: Mapping[str, Any]) -> dict[str, int | float]:
    return {key: value for key, value in row.items() if type(value) in {int, float}}


def _scalar(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)  # a JSON text is a YAML text


def _inline(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return re.sub(r"([\\`*_<>\[\]|#])", r"\\\1", " ".join(text.split()))


def _fenced(text: str, language: str) -> list[str]:
    """A code block that its own text cannot close."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", text.rstrip("\n"), fence]
