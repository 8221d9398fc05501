"""Less memory: the same clip to rounding, one video through the U-Net at a time, networks behind hooks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from counting import peak_bytes
from diffusers.models.activations import GEGLU
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from tiny_models import save_tiny_model
from tiny_xl import save_tiny_xl
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from video_diffusion.loading import ModelParts, load_model, save_memory
from video_diffusion.models import MotionAdapter, VideoUNet
from video_diffusion.models.temporal import GatedGelu
from video_diffusion.pipeline import TextToVideoPipeline
from video_diffusion.settings import GenerationSettings
from video_diffusion.video import ModelIdentity


def clips(num_clips: int) -> list[GenerationSettings]:
    values = {"num_frames": 3, "height": 16, "width": 24, "num_inference_steps": 2, "guidance_scale": 4.0}
    prompts = ["a red ball", "blue", "a box"][:num_clips]
    return [
        GenerationSettings.from_values({"prompt": prompt, "seed": seed, **values})
        for seed, prompt in enumerate(prompts)
    ]


@pytest.mark.full
@pytest.mark.parametrize("save", [save_tiny_model, save_tiny_xl], ids=["sd", "sdxl"])
def test_the_same_clips_in_less_memory(tmp_path: Path, save: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("video_diffusion.acceleration.kernels.MAX_BYTES", 2**12)
    folder = str(save(tmp_path / "model"))  # type: ignore[operator]  # both take a folder
    usual = TextToVideoPipeline.from_pretrained(folder, dtype="float64", device="cpu")
    expected = usual.generate(clips(2))
    saving = TextToVideoPipeline.from_pretrained(folder, dtype="float64", device="cpu", low_memory=True)
    batches: list[int] = []
    saving.parts.unet.conv_in.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    middles: list[int] = []
    for network in (saving.parts.unet, saving.parts.motion_adapter):
        for module in network.modules():
            if type(module) in {GEGLU, GatedGelu}:
                module.proj.register_forward_hook(lambda *call: middles.append(call[-1].nbytes))
    found = saving.generate(clips(2))
    assert max(middles) <= 2**12  # the middle of a feed-forward layer, a few tokens at a time
    assert set(batches) == {3}  # the frames of one video, neither doubled by guidance nor by the other video
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one.frames, other.frames)


@pytest.mark.slow
def test_real_sizes_take_a_third_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted at SD 1.5's size, 512x512 and 16 frames in bfloat16, without computing; weights aside."""
    monkeypatch.setattr(nn.Module, "to", lambda module, *_, **__: module)  # fake tensors cannot be moved
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with FakeTensorMode(), torch.no_grad():
            unet, adapter = UNet2DConditionModel(cross_attention_dim=768), MotionAdapter()
            identity = ModelIdentity(name="outline")
            parts = ModelParts(None, None, nn.Identity(), unet.eval(), adapter.eval(), {}, {}, identity)
            latents, embeds = torch.empty(2, 4, 16, 64, 64), torch.empty(2, 77, 768)
            with VideoUNet(unet, adapter) as model:
                plain = peak_bytes(lambda: model(latents, 500, embeds))
            save_memory(parts, torch.device("cpu"))
            with VideoUNet(unet, adapter, one_by_one=True) as model:
                saving = peak_bytes(lambda: model(latents, 500, embeds))
    finally:
        torch.set_default_dtype(before)
    print(f"plain {plain / 1e9:.2f} GB, low memory {saving / 1e9:.2f} GB")
    assert saving < 0.33 * plain


def test_conditions_go_with_their_video(tmp_path: Path) -> None:
    parts = load_model(str(save_tiny_xl(tmp_path / "model")), dtype=torch.float64)
    latents = torch.randn(
        3, 4, 3, 8, 12
    ).double()  # as many frames as videos: conditions per frame stay whole
    embeds = parts.encode_prompts(["a", "b", "c"])
    conditions = {
        "added_cond_kwargs": parts.added_conditions(["a", "b", "c"], 16, 24),
        "motion_scale": torch.tensor([1.0, 0.5, 2.0]),
        "motion_effect": torch.tensor([0.5, 0.2, 1.5]),
        "frame_positions": torch.tensor([0, 2, 5]),
        "position_stretch": 1.5,
        "motion_scale_blocks": {"down": 2.0},
        "motion_effect_blocks": {"up.0": 0.0},
    }
    timestep = torch.tensor([3, 500, 900])
    with torch.no_grad(), VideoUNet(parts.unet, parts.motion_adapter) as together:
        expected = together(latents, timestep, embeds, **conditions)
    with torch.no_grad(), VideoUNet(parts.unet, parts.motion_adapter, one_by_one=True) as alone:
        found = alone(latents, timestep, embeds, **conditions)
    assert torch.allclose(found, expected, atol=1e-12)
