"""Starting from a video, in float64 against diffusers' AnimateDiffVideoToVideoPipeline."""

import pytest
import torch
from diffusers import AnimateDiffVideoToVideoPipeline
from diffusers_pipelines import diffusers_pipeline
from tiny_models import SCHEDULER_CONFIG, relative_error, save_tiny_model

from video_diffusion import TextToVideoPipeline
from video_diffusion.sampling import Guided, denoise, make_scheduler, start_run
from video_diffusion.text import encode_prompt

STEPS, SEED = 5, 3


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> TextToVideoPipeline:
    folder = save_tiny_model(tmp_path_factory.mktemp("parity") / "model")
    return TextToVideoPipeline.from_pretrained(str(folder), dtype="float64", device="cpu")


@pytest.mark.full
@pytest.mark.parametrize("scheduler", ["ddim", "dpmpp_2m", "euler", "unipc", "heun"])
@pytest.mark.parametrize(
    ("strength", "enforce"),
    [(0.41, False), (0.8, False), (1.0, False), (0.3, True), (0.6, True), (1.0, True)],
)
def test_latents_equal_diffusers(
    ours: TextToVideoPipeline,
    scheduler: str,
    strength: float,
    enforce: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if enforce and scheduler == "heun":
        pytest.skip("diffusers begins an enforced run within one of Heun's steps")
    generator = torch.Generator().manual_seed(7)
    known, noise = torch.randn(2, 1, 4, 3, 8, 12, dtype=torch.float64, generator=generator)
    theirs = diffusers_pipeline(AnimateDiffVideoToVideoPipeline, ours, scheduler)
    # diffusers draws its noise inside; both are given the same.
    monkeypatch.setattr(
        "diffusers.pipelines.animatediff.pipeline_animatediff_video2video.randn_tensor",
        lambda *_, **__: noise.transpose(1, 2),
    )
    frames = [torch.zeros(16, 24, 3).numpy()] * 3
    scale = theirs.vae.config.scaling_factor
    monkeypatch.setattr(theirs, "encode_video", lambda *_, **__: known[0].transpose(0, 1) / scale)
    expected = theirs(
        video=frames,
        prompt="a red ball",
        negative_prompt="dull",
        height=16,
        width=24,
        num_inference_steps=STEPS,
        strength=strength,
        enforce_inference_steps=enforce,
        guidance_scale=2.5,
        output_type="latent",
    ).frames
    embeds = encode_prompt(["a red ball", "dull"], ours.parts.tokenizer, ours.parts.text_encoder)
    denoiser = Guided(ours.video_unet, embeds[:1], embeds[1:], 2.5)
    made = make_scheduler(scheduler, SCHEDULER_CONFIG)
    steps = list(denoise(denoiser, made, noise, STEPS, [SEED], known, strength, enforce))
    assert relative_error(steps[-1].latents, expected) <= 1e-12
    if scheduler == "ddim":
        assert len(steps) == (STEPS if enforce else int(STEPS * strength))


def test_an_enforced_run_of_heun_is_of_whole_steps() -> None:
    scheduler, timesteps = start_run(make_scheduler("heun", SCHEDULER_CONFIG), 4, 0.5, enforce_steps=True)
    assert len(timesteps) == 2 * 4 - 1
    assert scheduler.begin_index == 2 * 4
    assert timesteps[0] not in timesteps[1:]  # asked once at the start, twice afterwards
    assert timesteps[1] == timesteps[2]
