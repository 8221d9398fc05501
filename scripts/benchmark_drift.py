"""How far clips drift when steps are saved: speed levels against fewer steps, on the embedded model.

python scripts/benchmark_drift.py            # about four minutes on two cores
Everything goes through the pipeline that users call; the yardstick is the same clip made exactly.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from embedded.prompt_following import accuracy, judge
from torch import Tensor

from video_diffusion import GenerationSettings, TextToVideoPipeline
from video_diffusion.acceleration import FIRST_SHARE, FULL_STEP_EVERY
from video_diffusion.procedural import Scene, SceneObject, caption

NUM_STEPS = 20
FEWER_STEPS = (14, 13, 12, 10, 9)
SCENES = tuple(
    Scene(background, (SceneObject(colour, shape, "large", motion),))
    for colour, shape, motion, background in (
        ("red", "circle", "left", "white"), ("blue", "square", "right", "pink"),
        ("yellow", "triangle", "up", "black"), ("green", "circle", "down", "gray"),
        ("purple", "square", "still", "white"), ("cyan", "triangle", "right", "black"),
        ("blue", "circle", "up", "gray"), ("red", "square", "down", "pink"),
    )
)  # fmt: skip


def drift_table(num_steps: int = NUM_STEPS) -> list[dict[str, Any]]:
    """Rows of cost (full steps' worth, of a large model), drift of latents and measures, prompts followed.

    Drift of latents is the distance of the final latents from the exact ones over their size, the mean of all
    clips; a measure's drift is the mean absolute difference of its value.
    """
    pipeline = TextToVideoPipeline.from_pretrained("embedded", "teacher", device="cpu")
    exact_latents, exact_videos = _clips(pipeline, num_inference_steps=num_steps)
    runs: list[tuple[str, float, dict[str, Any]]] = [
        (f"speed {level}", _cost(num_steps, every), {"num_inference_steps": num_steps, "speed": level})
        for level, every in FULL_STEP_EVERY.items()
    ]
    runs += [(f"{steps} steps", steps / num_steps, {"num_inference_steps": steps}) for steps in FEWER_STEPS]
    rows = []
    for name, cost, changes in runs:
        latents, videos = (exact_latents, exact_videos) if name == "speed 0" else _clips(pipeline, **changes)
        distance = (latents - exact_latents).flatten(1).norm(dim=1) / exact_latents.flatten(1).norm(dim=1)
        row: dict[str, Any] = {"run": name, "cost": cost, "latents": float(distance.mean())}
        for measure in ("flicker", "motion"):
            row[measure] = _measure_drift(videos, exact_videos, measure)
        row["joint"] = accuracy(judge(s, v.frames) for s, v in zip(SCENES, videos, strict=True))["joint"]
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def _clips(pipeline: TextToVideoPipeline, **changes: Any) -> tuple[Tensor, Sequence[Any]]:
    """Final latents and clips of all scenes."""
    jobs = [GenerationSettings(prompt=caption(s), seed=i, **changes) for i, s in enumerate(SCENES)]
    latents: list[Tensor] = []
    videos = pipeline.generate(jobs, on_step=lambda step: latents.append(step.latents))
    return latents[-1], videos


def _cost(num_steps: int, every: int) -> float:
    """Share of full steps; a shallow step of SD 1.5 with guidance costs 0.037 of one."""
    num_first = int(np.ceil(FIRST_SHARE * num_steps))
    rest = num_steps - num_first
    full = num_first + rest // every
    return (full + 0.037 * (num_steps - full)) / num_steps


def _measure_drift(videos: Sequence[Any], exact: Sequence[Any], name: str) -> float | None:
    pairs = [
        (a.report.values[name].value, b.report.values[name].value) for a, b in zip(videos, exact, strict=True)
    ]
    found = [abs(a - b) for a, b in pairs if a is not None and b is not None]
    return float(np.mean(found)) if found else None


if __name__ == "__main__":
    torch.set_num_threads(2)
    drift_table()
