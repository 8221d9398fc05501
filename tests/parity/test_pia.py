"""A PIA adapter animates a picture, in float64 equal to diffusers' PIAPipeline."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.pipelines.deprecated.pia import pipeline_pia
from diffusers_pipelines import diffusers_pipeline
from PIL import Image
from tiny_models import relative_error, save_tiny_model, tiny_adapter, tiny_unet

from video_diffusion import TextToVideoPipeline
from video_diffusion.models import MotionAdapter
from video_diffusion.sampling import DenoisingStep, likeness

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


def test_likeness_is_the_published_list_of_small_motion() -> None:
    expected = pipeline_pia.prepare_mask_coef_by_statistics(8, 0, 0)
    assert likeness(8, None).tolist() == pytest.approx(expected)
    assert likeness(3, 0.5).tolist() == [1, 0.5, 0.5]


def test_latents_equal_diffusers(
    ours: TextToVideoPipeline, picture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    noises: list[torch.Tensor] = []
    steps: list[DenoisingStep] = []

    def keep(*arguments: Any, **settings: Any) -> torch.Tensor:
        noises.append(original(*arguments, **settings).double())
        return noises[-1].float()

    import video_diffusion.pipeline.text_to_video as pipeline_module

    original = pipeline_module.draw_noise
    monkeypatch.setattr(pipeline_module, "draw_noise", keep)
    ours(
        "a red ball", seed=3, negative_prompt="dull", num_frames=FRAMES, height=16, width=24,
        num_inference_steps=STEPS, guidance_scale=2.5, scheduler="ddim", init_image=picture, strength=0.7,
        on_step=steps.append,
    )  # fmt: skip
    # diffusers samples the picture's latents and draws its noise inside; here both are what ours are. (At
    # strength 1 it starts from noise alone, where other pipelines, and this one, add it to the picture.)
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    monkeypatch.setattr(pipeline_pia, "randn_tensor", lambda *_, **__: noises[0])
    theirs = diffusers_pipeline(pipeline_pia.PIAPipeline, ours)
    expected = theirs(
        image=Image.open(picture), prompt="a red ball", negative_prompt="dull", num_frames=FRAMES, height=16,
        width=24, num_inference_steps=STEPS, guidance_scale=2.5, strength=0.7, motion_scale=0,
        output_type="latent",
    ).frames  # fmt: skip
    assert relative_error(steps[-1].latents, expected) <= 1e-6  # pictures are read in float32


def test_windows_and_freenoise_take_the_picture_too(ours: TextToVideoPipeline, picture: str) -> None:
    common: dict[str, Any] = {"num_frames": 11, "context_length": 6, "num_inference_steps": 2, "width": 24}
    clips = [ours("a", init_image=picture, **common, **more) for more in ({}, {"freenoise": True})]
    assert len({clip.frames_sha256 for clip in clips}) == 2


def test_without_a_picture_there_is_nothing_to_animate(ours: TextToVideoPipeline) -> None:
    with pytest.raises(
        ValueError, match=r"is a PIA adapter, which animates a picture; set init_image to one"
    ):
        ours("a red ball")
