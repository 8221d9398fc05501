"""Families of temporal layers from their published files: a whole run against diffusers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.animatediff.pipeline_animatediff import AnimateDiffPipeline
from diffusers.pipelines.animatediff.pipeline_animatediff_sdxl import AnimateDiffSDXLPipeline
from diffusers_pipelines import diffusers_pipeline
from motion_files import SHAPES, published_file
from safetensors.torch import load_file, save_file
from small_bases import save_small_bases
from tiny_models import relative_error
from torch import Tensor

from video_diffusion.loading.convert import convert
from video_diffusion.pipeline import TextToVideoPipeline
from video_diffusion.sampling import initial_noise

CLIP: dict[str, Any] = {"num_frames": 5, "height": 16, "width": 24, "num_inference_steps": 2}
QUICK = {"long-animatediff", "animatelcm", "hotshot-xl"}
SEED = 9


@pytest.fixture(scope="module")
def image_models(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    return save_small_bases(tmp_path_factory.mktemp("bases"))


@pytest.mark.parametrize(
    "family",
    [f if f in QUICK else pytest.param(f, marks=pytest.mark.slow) for f in SHAPES if f != "pia"],
)
def test_a_whole_run_equals_diffusers(family: str, image_models: dict[int, Path], tmp_path: Path) -> None:
    file = published_file(tmp_path, family)
    # Matrices that keep the size of what goes through, or rounding would be all there is to see.
    tensors = {key: t / t.shape[1] ** 0.5 if t.ndim == 2 else t for key, t in load_file(file).items()}
    save_file(tensors, file)
    folder = convert(str(file), tmp_path / "adapter", "diffusers")
    config = json.loads((folder / "config.json").read_text())
    config |= {"norm_scope": "clip", "resnet_norm_scope": "frame"}  # what diffusers computes
    (folder / "config.json").write_text(json.dumps(config))
    base = image_models[len(SHAPES[family][0])]
    ours = TextToVideoPipeline.from_pretrained(str(base), str(folder), dtype="float64", device="cpu")
    # lcm draws noise between steps, diffusers from another generator
    scheduler = "ddim" if ours.defaults["scheduler"] in {"lcm", "euler_a"} else ours.defaults["scheduler"]
    kind = AnimateDiffPipeline if ours.parts.text_encoder_2 is None else AnimateDiffSDXLPipeline
    theirs = diffusers_pipeline(kind, ours, scheduler)
    noise = initial_noise(SEED, CLIP["num_frames"], 4, 8, 12)[None].double()
    expected = theirs("a red ball", latents=noise, guidance_scale=4.0, output_type="latent", **CLIP).frames
    steps: list[Tensor] = []
    settings = {"seed": SEED, "guidance_scale": 4.0, "scheduler": scheduler, **CLIP}
    ours("a red ball", on_step=lambda step: steps.append(step.latents), **settings)
    assert torch.isfinite(expected).all()
    assert relative_error(steps[-1], expected) <= 1e-12
