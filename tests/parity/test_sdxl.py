"""A whole SDXL run against diffusers' AnimateDiffSDXLPipeline, fed the same noise, in float64."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.animatediff.pipeline_animatediff_sdxl import AnimateDiffSDXLPipeline
from diffusers_pipelines import diffusers_pipeline
from tiny_models import relative_error
from tiny_xl import POOLED_WIDTH, save_tiny_xl
from torch import Tensor

from video_diffusion.loading import ModelLoadError, load_model
from video_diffusion.pipeline import TextToVideoPipeline
from video_diffusion.sampling import initial_noise
from video_diffusion.settings import GenerationSettings

NUM_FRAMES, HEIGHT, WIDTH, NUM_STEPS, SEED = 5, 16, 24, 3, 2**40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_xl(tmp_path_factory.mktemp("xl") / "model")


@pytest.fixture(scope="module")
def ours(folder: Path) -> TextToVideoPipeline:
    return TextToVideoPipeline.from_pretrained(str(folder), dtype="float64", device="cpu")


@pytest.mark.parametrize("scheduler", ["ddim", "euler"])
@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
@pytest.mark.parametrize("negative", ["", "dull"])
@pytest.mark.filterwarnings("ignore:negative_prompt is ignored at guidance_scale 1")
def test_a_whole_run_equals_diffusers(
    ours: TextToVideoPipeline, scheduler: str, guidance_scale: float, negative: str
) -> None:
    values: dict[str, Any] = {
        "num_frames": NUM_FRAMES, "height": HEIGHT, "width": WIDTH, "num_inference_steps": NUM_STEPS,
        "guidance_scale": guidance_scale,
    }  # fmt: skip
    noise = initial_noise(SEED, NUM_FRAMES, 4, HEIGHT // 2, WIDTH // 2)[None].double()
    expected = diffusers_pipeline(AnimateDiffSDXLPipeline, ours, scheduler)(
        "a red ball", negative_prompt=negative or None, latents=noise, output_type="latent", **values
    ).frames
    steps: list[Tensor] = []
    settings = {"prompt": "a red ball", "negative_prompt": negative, "seed": SEED, "scheduler": scheduler}
    ours.generate(
        [GenerationSettings.from_values(settings | values)], on_step=lambda step: steps.append(step.latents)
    )
    assert relative_error(steps[-1], expected) <= 1e-12


def test_prompts_travel_on_sdxl_too(ours: TextToVideoPipeline) -> None:
    values = {"num_frames": 3, "height": 16, "width": 16, "num_inference_steps": 2, "guidance_scale": 3.0}
    clip = ours("a red ball", prompt_travel={2: "a blue box"}, **values)
    assert clip.frames.shape == (3, 16, 16, 3)


def test_a_saved_sdxl_model_opens_in_both(tmp_path: Path, ours: TextToVideoPipeline) -> None:
    ours.save_pretrained(tmp_path / "saved")
    again = load_model(str(tmp_path / "saved"), dtype=torch.float64)
    assert again.zeros_for_empty_prompt
    assert again.added_conditions(["a"], 16, 24)["text_embeds"].shape == (1, POOLED_WIDTH)
    for name, part in (("text_encoder_2", again.text_encoder_2), ("unet", again.unet)):
        own = getattr(ours.parts, name).state_dict()
        assert all(torch.equal(value, own[key]) for key, value in part.state_dict().items())


def test_a_model_whose_second_text_encoder_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = save_tiny_xl(tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    index["_class_name"] = "AnimateDiffPipeline"
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(
        ModelLoadError, match="reads text embeddings of width 32, but its text encoder makes 12"
    ):
        load_model(str(folder))
