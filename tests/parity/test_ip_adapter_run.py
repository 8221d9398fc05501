"""Image prompts: a whole run against diffusers' AnimateDiffPipeline with the same IP-Adapter loaded."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers.pipelines.animatediff.pipeline_animatediff import AnimateDiffPipeline
from diffusers_pipelines import diffusers_pipeline
from ip_adapter_files import save_picture, save_tiny_ip_adapter
from PIL import Image
from tiny_models import relative_error, save_tiny_model, tiny_unet
from torch import Tensor

from video_diffusion.pipeline import TextToVideoPipeline
from video_diffusion.sampling import initial_noise

FRAMES, HEIGHT, WIDTH, STEPS, SEED, SCALE = 5, 16, 24, 3, 7, 0.6
COMMON: dict[str, Any] = {
    "num_frames": FRAMES, "height": HEIGHT, "width": WIDTH, "num_inference_steps": STEPS, "scheduler": "ddim",
    "negative_prompt": "dull", "seed": SEED,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("parity") / "model")


@pytest.fixture(scope="module")
def ours(folder: Path) -> TextToVideoPipeline:
    return TextToVideoPipeline.from_pretrained(str(folder), dtype="float64", device="cpu")


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_picture(tmp_path_factory.mktemp("picture") / "a.png", 1)


def latents(pipeline: TextToVideoPipeline, **settings: Any) -> Tensor:
    steps: list[Tensor] = []
    pipeline("a red ball", on_step=lambda step: steps.append(step.latents), **COMMON, **settings)
    return steps[-1]


def reference(ours: TextToVideoPipeline, file: Path, picture: str, guidance_scale: float) -> Tensor:
    theirs = diffusers_pipeline(AnimateDiffPipeline, ours)
    theirs.load_ip_adapter(
        str(file.parents[1]), subfolder="models", weight_name=file.name, local_files_only=True
    )
    theirs.set_ip_adapter_scale(SCALE)
    return theirs(
        "a red ball",
        negative_prompt="dull",
        latents=initial_noise(SEED, FRAMES, 4, HEIGHT // 2, WIDTH // 2).double()[None],
        num_frames=FRAMES,
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=STEPS,
        guidance_scale=guidance_scale,
        ip_adapter_image=Image.fromarray(np.asarray(Image.open(picture))),
        output_type="latent",
    ).frames


@pytest.mark.parametrize(
    ("kind", "guidance_scale", "accelerated"),
    [("image", 1.0, True), ("image", 7.5, False), ("plus", 7.5, True), ("full", 7.5, False)],
)
@pytest.mark.filterwarnings("ignore:negative_prompt is ignored at guidance_scale 1")
def test_latents_equal_diffusers(
    ours: TextToVideoPipeline,
    picture: str,
    tmp_path: Path,
    kind: str,
    guidance_scale: float,
    accelerated: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = save_tiny_ip_adapter(tmp_path, tiny_unet(), kind)
    monkeypatch.setattr(ours, "accelerated", accelerated)
    found = latents(
        ours, guidance_scale=guidance_scale, ip_adapter=str(file), ip_image=picture, ip_scale=SCALE
    )
    expected = reference(ours, file, picture, guidance_scale)
    assert relative_error(found, expected) <= 1e-12
    assert relative_error(latents(ours, guidance_scale=guidance_scale), expected) > 1e-3
