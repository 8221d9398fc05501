"""A PIA adapter animates a picture, in float64 equal to a run written from its paper."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.unets.unet_motion_model import UNetMotionModel
from diffusers_pipelines import diffusers_adapter
from PIL import Image
from tiny_models import relative_error, save_tiny_model, tiny_adapter, tiny_unet
from torch import Tensor

from video_diffusion import TextToVideoPipeline
from video_diffusion.models import MotionAdapter
from video_diffusion.sampling import DenoisingStep, likeness, make_scheduler

STEPS, FRAMES = 3, 4


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> TextToVideoPipeline:
    folder = tmp_path_factory.mktemp("pia")
    save_tiny_model(folder / "model")
    plain = tiny_adapter(tiny_unet(), norm_scope="clip")
    config = {k: v for k, v in plain.config.items() if not k.startswith("_")}
    torch.manual_seed(5)
    adapter = MotionAdapter(**{**config, "conv_in_channels": 9})
    adapter.load_state_dict(plain.state_dict(), strict=False)
    adapter.save_pretrained(folder / "adapter")
    return TextToVideoPipeline.from_pretrained(
        str(folder / "model"), str(folder / "adapter"), dtype="float64", device="cpu"
    )


@pytest.fixture
def picture(tmp_path: Path) -> str:
    Image.effect_mandelbrot((24, 16), (-2, -1, 1, 1), 20).convert("RGB").save(tmp_path / "picture.png")
    return str(tmp_path / "picture.png")


SMALL_MOTION = [1, 0.9, 0.85, 0.85, 0.85, 0.8]
"""The affinity of frames 0, 1, 2, … to the picture, the last for the rest: PIA's own code (`RANGE_LIST`)."""


def published_run(ours: TextToVideoPipeline, picture: str, noise: Tensor, strength: float) -> Tensor:
    """PIA as its paper lays it out (Zhang et al. 2024, section 3.2), of diffusers' networks, step by step.

    The input of the first convolution is the noisy latents, the affinity of each frame as one channel, and
    the picture's latents, the same for every frame. All else is AnimateDiff's: guidance (Ho & Salimans 2022,
    equation 6), and DDIM from the noised latents of the picture.
    """
    parts = ours.parts
    unet = UNetMotionModel.from_unet2d(parts.unet, diffusers_adapter(parts.motion_adapter)).double().eval()
    scheduler = make_scheduler("ddim", parts.scheduler_config)
    scheduler.set_timesteps(STEPS)
    with torch.no_grad():
        words = parts.tokenizer(
            ["dull", "a red ball"], padding="max_length", truncation=True, return_tensors="pt",
            max_length=parts.tokenizer.model_max_length,
        )  # fmt: skip
        embeds = parts.text_encoder(words.input_ids).last_hidden_state.repeat_interleave(FRAMES, 0)
        pixels = torch.from_numpy(np.asarray(Image.open(picture)) / 255).permute(2, 0, 1)[None]
        condition = parts.vae.encode(2 * pixels - 1).latent_dist.mean * parts.vae.config.scaling_factor
        condition = condition[:, :, None].expand(-1, -1, FRAMES, -1, -1)
        affinity = torch.tensor([SMALL_MOTION[min(k, 5)] for k in range(FRAMES)], dtype=torch.float64)
        mask = affinity[:, None, None].expand(1, 1, FRAMES, *condition.shape[3:])
        timesteps = scheduler.timesteps[STEPS - int(STEPS * strength) :]
        latents = scheduler.add_noise(condition, noise, timesteps[:1])
        for timestep in timesteps:
            channels = torch.cat([latents, mask, condition], dim=1)
            negative, prompted = unet(torch.cat([channels] * 2), timestep, embeds).sample.chunk(2)
            predicted = negative + 2.5 * (prompted - negative)
            latents = scheduler.step(predicted, timestep, latents).prev_sample
    return latents


def test_likeness_is_the_published_list_of_small_motion() -> None:
    assert likeness(8, None).tolist() == pytest.approx([*SMALL_MOTION, 0.8, 0.8])
    assert likeness(3, 0.5).tolist() == [1, 0.5, 0.5]


@pytest.mark.parametrize("strength", [0.7, 1.0])
def test_latents_equal_the_papers(
    ours: TextToVideoPipeline, picture: str, strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    noises: list[torch.Tensor] = []
    steps: list[DenoisingStep] = []

    def keep(*arguments: Any, **settings: Any) -> torch.Tensor:
        noises.append(original(*arguments, **settings).double())
        return noises[-1].float()

    import video_diffusion.pipeline.text_to_video as pipeline_module

    original = pipeline_module.draw_noise
    monkeypatch.setattr(pipeline_module, "draw_noise", keep)

    def run(**changes: Any) -> Tensor:
        ours(
            "a red ball", seed=3, negative_prompt="dull", num_frames=FRAMES, height=16, width=24,
            num_inference_steps=STEPS, guidance_scale=2.5, scheduler="ddim", init_image=picture,
            strength=strength, on_step=steps.append, **changes,
        )  # fmt: skip
        return steps[-1].latents

    found = run()
    expected = published_run(ours, picture, noises[0], strength)
    assert relative_error(found, expected) <= 1e-6  # pictures are read in float32
    assert relative_error(run(image_hold=0.5), expected) > 1e-3


def test_a_clip_goes_on_by_its_last_frame_as_the_picture(ours: TextToVideoPipeline, picture: str) -> None:
    last: list[DenoisingStep] = []
    clip = ours("a red ball", extend=picture, extend_overlap=1, num_frames=4, on_step=last.append)
    assert len(clip.frames) == 4
    other = ours("a red ball", extend=picture, extend_overlap=1, num_frames=4, image_hold=0.2)
    assert not np.array_equal(clip.frames[1:], other.frames[1:])


def test_windows_and_freenoise_take_the_picture_too(ours: TextToVideoPipeline, picture: str) -> None:
    common: dict[str, Any] = {"num_frames": 11, "context_length": 6, "num_inference_steps": 2, "width": 24}
    clips = [ours("a", init_image=picture, **common, **more) for more in ({}, {"freenoise": True})]
    assert len({clip.frames_sha256 for clip in clips}) == 2


def test_without_a_picture_there_is_nothing_to_animate(ours: TextToVideoPipeline) -> None:
    with pytest.raises(
        ValueError, match=r"is a PIA adapter, which animates a picture; set init_image to one"
    ):
        ours("a red ball")
