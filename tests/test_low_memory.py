"""Less memory: the same clip to rounding, one video through the U-Net at a time, networks behind hooks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.activations import GEGLU
from tiny_models import save_tiny_model
from tiny_xl import save_tiny_xl

from video_diffusion.generation_settings import GenerationSettings
from video_diffusion.loading import load_model
from video_diffusion.models import VideoUNet
from video_diffusion.models.temporal_transformer import GatedGelu
from video_diffusion.pipeline import TextToVideoPipeline


def clips(num_clips: int) -> list[GenerationSettings]:
    values = {"num_frames": 3, "height": 16, "width": 24, "num_inference_steps": 2, "guidance_scale": 4.0}
    prompts = ["a red ball", "blue", "a box"][:num_clips]
    return [
        GenerationSettings.from_values({"prompt": prompt, "seed": seed, **values})
        for seed, prompt in enumerate(prompts)
    ]


@pytest.mark.parametrize("save", [save_tiny_model, save_tiny_xl], ids=["sd", "sdxl"])
def test_the_same_clips_in_less_memory(tmp_path: Path, save: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("video_diffusion.acceleration.feed_forward.MAX_BYTES", 2**12)
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
