"""The feature table of docs/compatibility.md: every family, from its published file, with every feature."""

from pathlib import Path
from typing import Any

import pytest
import torch
from control_networks import save_control_networks, save_pictures
from ip_adapter_files import save_picture, save_tiny_ip_adapter
from motion_files import SHAPES, original_lora, published_file
from safetensors.torch import save_file
from small_bases import save_small_bases
from tiny_models import relative_error
from torch import Tensor

from video_diffusion.pipeline import TextToVideoPipeline

pytestmark = pytest.mark.full

CLIP: dict[str, Any] = {"num_frames": 5, "height": 16, "width": 24, "num_inference_steps": 2, "seed": 3}
QUICK = {"animatediff-v2", "animatediff-sdxl"}


@pytest.fixture(scope="module")
def image_models(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    return save_small_bases(tmp_path_factory.mktemp("bases"))


@pytest.mark.parametrize(
    "family", [f if f in QUICK else pytest.param(f, marks=pytest.mark.slow) for f in SHAPES]
)
@pytest.mark.filterwarnings("ignore:init_")
@pytest.mark.filterwarnings("ignore:negative_prompt")
def test_features(family: str, image_models: dict[int, Path], tmp_path: Path) -> None:
    base = image_models[len(SHAPES[family][0])]
    pipeline = TextToVideoPipeline.from_pretrained(
        str(base), str(published_file(tmp_path, family)), device="cpu"
    )
    picture = save_picture(tmp_path / "a.png", 1, 16, 24)
    other = save_picture(tmp_path / "b.png", 2, 16, 24)
    usual = {"init_image": picture} if family == "pia" else {}
    starts: list[list[int]] = []
    batches: list[int] = []
    pipeline.parts.unet.conv_in.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))

    def latents(**more: Any) -> Tensor:
        steps: list[Tensor] = []
        batches.clear()
        settings = {"guidance_scale": 2.5, **CLIP, **usual, **more}
        clip = pipeline("a red ball", on_step=lambda step: steps.append(step.latents), **settings)
        starts.append(clip.run_record.window_starts)
        assert clip.frames.shape == (settings["num_frames"], 16, 24, 3)
        return steps[-1]

    def differs(made: Tensor, least: float = 1e-4) -> bool:
        return relative_error(made[:, :, :5], plain) > least

    plain = latents()
    assert set(batches) == {10}
    # one pass of the U-Net without guidance
    assert differs(latents(guidance_scale=1.0))
    assert set(batches) == {5}
    # context windows: one is none, and two are two; loops go around
    assert torch.equal(latents(context_length=5, context_overlap=1), plain)
    assert differs(latents(context_length=3, context_overlap=1, context_schedule="static"))
    assert starts[-1] == [0, 2]
    assert differs(latents(context_length=3, loop=True))
    # FreeNoise and FreeInit
    assert differs(latents(num_frames=6, freenoise=True, context_length=4))
    if family != "pia":
        assert differs(latents(freeinit=2))
    # prompt travel
    assert differs(latents(prompt_travel={"0": "a red ball", "-1": "blue"}))
    # motion LoRA, and out again
    lora = tmp_path / "zoom.safetensors"
    save_file(original_lora(pipeline.parts.motion_adapter), lora)
    assert differs(latents(loras=[str(lora)]))
    # from a picture or a video
    assert differs(latents(init_image=other, strength=0.9))
    folder = save_pictures(tmp_path / "video", 5)
    if family != "pia":
        assert differs(latents(init_video=str(folder), strength=0.9))
    # a ControlNet and SparseCtrl
    if len(SHAPES[family][0]) == 4:
        controlnet, sparsectrl = save_control_networks(tmp_path, pipeline.parts.unet)
        assert differs(latents(controlnet=controlnet, control_video=str(folder)))
        assert differs(latents(sparsectrl=sparsectrl, sparse_images={"-1": picture}))
    # image prompts
    shown = {"ip_adapter": str(save_tiny_ip_adapter(tmp_path, pipeline.parts.unet))}
    assert differs(latents(ip_image={"0-1": picture, "2-4": other}, **shown))
    assert torch.equal(latents(), plain)
