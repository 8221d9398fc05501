"""A model of Stable Diffusion 2's kind (linear projections, v-prediction) against diffusers, in float64."""

import json

import pytest
import torch
from diffusers.pipelines.animatediff.pipeline_animatediff import AnimateDiffPipeline
from diffusers_pipelines import diffusers_pipeline
from tiny_models import relative_error, save_tiny_model, tiny_adapter, tiny_unet
from torch import Tensor

from video_diffusion.pipeline import TextToVideoPipeline
from video_diffusion.sampling import initial_noise

SHAPE = {"num_frames": 3, "height": 16, "width": 24, "num_inference_steps": 3, "guidance_scale": 4.0}


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> TextToVideoPipeline:
    folder = save_tiny_model(tmp_path_factory.mktemp("sd2") / "model")
    unet = tiny_unet("attention", use_linear_projection=True, attention_head_dim=(2, 4))
    unet.save_pretrained(folder / "unet")
    tiny_adapter(unet, norm_scope="clip").save_pretrained(folder / "motion_adapter")
    file = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text()) | {"prediction_type": "v_prediction"}
    file.write_text(json.dumps(config))
    return TextToVideoPipeline.from_pretrained(str(folder), dtype="float64", device="cpu")


@pytest.mark.parametrize("scheduler", ["ddim", "dpmpp_2m"])
def test_a_whole_run_equals_diffusers(ours: TextToVideoPipeline, scheduler: str) -> None:
    theirs = diffusers_pipeline(AnimateDiffPipeline, ours, scheduler)
    noise = initial_noise(7, 3, 4, 8, 12)[None].double()
    expected = theirs(
        "a red ball", negative_prompt="dull", latents=noise, output_type="latent", **SHAPE
    ).frames
    steps: list[Tensor] = []
    ours(
        "a red ball",
        negative_prompt="dull",
        seed=7,
        scheduler=scheduler,
        on_step=lambda step: steps.append(step.latents),
        **SHAPE,
    )
    assert relative_error(steps[-1], expected) <= 1e-12
    assert not torch.equal(steps[0], steps[-1])
