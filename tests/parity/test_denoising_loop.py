"""From prompts to latents: the whole loop against diffusers' AnimateDiffPipeline, fed the same noise."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.animatediff.pipeline_animatediff import AnimateDiffPipeline
from diffusers.utils import logging
from diffusers_pipelines import diffusers_pipeline
from tiny_models import SCHEDULER_CONFIG, relative_error, save_tiny_model
from torch import Tensor

from video_diffusion.pipeline import TextToVideoPipeline
from video_diffusion.sampling import SCHEDULERS, initial_noise, make_scheduler
from video_diffusion.settings import GenerationSettings

NUM_FRAMES, HEIGHT, WIDTH, NUM_STEPS = 5, 16, 24, 4
PROMPTS, NEGATIVES, SEEDS = ["a red ball", "blue"], ["dull", ""], [3, 2**40]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("parity") / "model")


@pytest.fixture(scope="module")
def ours(folder: Path) -> TextToVideoPipeline:
    return TextToVideoPipeline.from_pretrained(str(folder), dtype="float64", device="cpu")


def settings(**changes: Any) -> list[GenerationSettings]:
    shape = {"num_frames": NUM_FRAMES, "height": HEIGHT, "width": WIDTH, "num_inference_steps": NUM_STEPS}
    return [
        GenerationSettings.from_values(
            {"prompt": prompt, "negative_prompt": negative, "seed": seed, **shape, **changes}
        )
        for prompt, negative, seed in zip(PROMPTS, NEGATIVES, SEEDS, strict=True)
    ]


def final_latents(pipeline: TextToVideoPipeline, clips: list[GenerationSettings]) -> Tensor:
    steps: list[Tensor] = []
    pipeline.generate(clips, on_step=lambda step: steps.append(step.latents))
    return steps[-1]


def reference(
    pipeline: AnimateDiffPipeline, scheduler: str, guidance_scale: float, dtype: torch.dtype
) -> Tensor:
    noise = [initial_noise(seed, NUM_FRAMES, 4, HEIGHT // 2, WIDTH // 2) for seed in SEEDS]
    pipeline.scheduler = make_scheduler(scheduler, SCHEDULER_CONFIG)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        PROMPTS,
        negative_prompt=NEGATIVES,
        latents=torch.stack(noise).to(dtype),
        num_frames=NUM_FRAMES,
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=NUM_STEPS,
        guidance_scale=guidance_scale,
        output_type="latent",
    ).frames


@pytest.mark.parametrize("scheduler", ["ddim", "dpmpp_2m", "euler", "unipc"])
@pytest.mark.parametrize("guidance_scale", [1.0, 7.5])
@pytest.mark.filterwarnings("ignore:negative_prompt is ignored at guidance_scale 1")
def test_latents_equal_diffusers(ours: TextToVideoPipeline, scheduler: str, guidance_scale: float) -> None:
    theirs = diffusers_pipeline(AnimateDiffPipeline, ours)
    found = final_latents(ours, settings(scheduler=scheduler, guidance_scale=guidance_scale))
    expected = reference(theirs, scheduler, guidance_scale, torch.float64)
    assert relative_error(found, expected) <= 1e-12


def test_a_saved_pipeline_opens_in_diffusers_and_gives_the_same_latents(folder: Path, tmp_path: Path) -> None:
    ours = TextToVideoPipeline.from_pretrained(str(folder), device="cpu")
    ours.save_pretrained(tmp_path / "saved")
    logging.set_verbosity_error()  # diffusers says that it does not know norm_scope
    theirs = AnimateDiffPipeline.from_pretrained(tmp_path / "saved", local_files_only=True)
    logging.set_verbosity_warning()
    expected = reference(theirs, "ddim", 7.5, torch.float32)
    found = final_latents(ours, settings(scheduler="ddim", guidance_scale=7.5))
    assert relative_error(found, expected) < 1e-4


def test_what_diffusers_saves_opens_here_and_gives_the_same_latents(folder: Path, tmp_path: Path) -> None:
    logging.set_verbosity_error()
    theirs = AnimateDiffPipeline.from_pretrained(folder, local_files_only=True)
    logging.set_verbosity_warning()
    theirs.save_pretrained(tmp_path / "theirs")
    # diffusers computes "clip" and does not say so; only its user can know.
    shutil.copy(folder / "motion_adapter" / "config.json", tmp_path / "theirs" / "motion_adapter")
    ours = TextToVideoPipeline.from_pretrained(str(tmp_path / "theirs"), device="cpu")
    expected = reference(theirs, "ddim", 7.5, torch.float32)
    found = final_latents(ours, settings(scheduler="ddim", guidance_scale=7.5))
    assert relative_error(found, expected) < 1e-4


@pytest.mark.full
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_clip_alone_equals_the_same_in_a_batch(ours: TextToVideoPipeline, scheduler: str) -> None:
    clips = settings(scheduler=scheduler, guidance_scale=2.5)
    together = final_latents(ours, clips)
    for place, clip in enumerate(clips):
        assert relative_error(final_latents(ours, [clip])[0], together[place]) <= 1e-9
