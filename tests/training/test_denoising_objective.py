"""The loss against its formulas: step 0, weights of noise levels, debiased motion, noise."""

import math

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from tiny_run import tiny_parts, tiny_settings, tiny_trainer

from video_diffusion.settings.training import LossSettings
from video_diffusion.training.objective import (
    anchor_frames,
    appearance_debiased,
    clip_noise,
    clip_timesteps,
    draw_step,
    min_snr_weights,
    training_scheduler,
)


def test_a_fresh_adapter_has_the_loss_of_the_image_model() -> None:
    """At step 0, on the same noise, frame by frame."""
    trainer = tiny_trainer(tiny_parts(fresh_adapter=True))
    items = trainer.mix.read(0)
    draws = draw_step(0, 0, 4, trainer.settings.loss)
    latents = trainer.encoder.latents(items)
    with torch.no_grad():
        found = trainer.losses(items, draws, trainer.objective, latents)
        noise = clip_noise(draws, latents[0].shape, trainer.settings.loss)
        timesteps = clip_timesteps(draws, trainer.scheduler)
        noisy = trainer.scheduler.add_noise(latents, noise, timesteps)
        captions = ["" if d.without_caption else i["caption"] for d, i in zip(draws, items, strict=True)]
        embeds = trainer.encoder.prompts(captions)
        for clip in range(4):
            frames = noisy[clip].transpose(0, 1)
            prompt = embeds[clip : clip + 1].expand(len(frames), -1, -1)
            answer = trainer.pipeline.parts.unet(frames, timesteps[clip], prompt).sample
            expected = (answer - noise[clip].transpose(0, 1)).square().mean()
            assert float(found[clip]) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_min_snr_counts_the_error_of_the_clean_clip_by_the_clamped_ratio(prediction_type: str) -> None:
    """Whatever is predicted: min(SNR, gamma) times the squared error of the clean latents."""
    scheduler = DDIMScheduler(prediction_type=prediction_type, clip_sample=False)
    timesteps = torch.tensor([3, 400, 950])
    clean_error = 0.01 * torch.randn(3, 2, 4, 5, 6, generator=torch.Generator().manual_seed(1))
    signal = scheduler.alphas_cumprod[timesteps].double()
    snr = signal / (1 - signal)
    # An error e of the clean latents is an error of -sqrt(SNR) e of the noise and -e / sqrt(1 - signal) of v.
    scale = {"epsilon": snr.sqrt(), "v_prediction": (1 / (1 - signal)).sqrt(), "sample": torch.ones(3)}
    error = clean_error * scale[prediction_type].float()[:, None, None, None, None]
    weighted = min_snr_weights(scheduler, timesteps, 5.0) * error.square().mean(dim=(1, 2, 3, 4))
    expected = snr.clamp(max=5).float() * clean_error.square().mean(dim=(1, 2, 3, 4))
    torch.testing.assert_close(weighted, expected, rtol=1e-4, atol=0)


def test_min_snr_at_zero_signal_is_finite() -> None:
    """0 / 0 in the usual formula; FACTS of the field: peers train on NaN there."""
    for prediction_type in ("epsilon", "v_prediction", "sample"):
        scheduler = DDIMScheduler(rescale_betas_zero_snr=True, prediction_type=prediction_type)
        scheduler.alphas_cumprod[-1] = 0.0
        assert bool(torch.isfinite(min_snr_weights(scheduler, torch.tensor([999]), 5.0)).all())


def test_debiasing_removes_what_all_frames_share() -> None:
    motion = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(1))
    anchors = torch.tensor([1, 3])
    found = appearance_debiased(motion, anchors, 1.0)
    expected = math.sqrt(2) * motion[1, :, 0] - motion[1, :, 3]
    torch.testing.assert_close(found[1, :, 0], expected)
    torch.testing.assert_close(appearance_debiased(motion, anchors, 0.0), motion)
    still = motion[:, :, :1].expand(-1, -1, 4, -1, -1)
    torch.testing.assert_close(appearance_debiased(still, anchors, 1.0), (math.sqrt(2) - 1) * still)


def test_the_debiased_loss_is_added_to_the_plain_one() -> None:
    plain, debiased = (tiny_trainer(loss={"appearance_debias": beta}) for beta in (0.0, 1.0))
    draws = draw_step(0, 0, 4, plain.settings.loss)
    items = plain.mix.read(0)
    latents = plain.encoder.latents(items)
    assert len(set(anchor_frames(draws, 5).tolist())) > 1
    with torch.no_grad():
        first = plain.losses(items, draws, plain.objective, latents)
        second = debiased.losses(items, draws, debiased.objective, latents)
    assert bool((second > first).all())


def test_zero_terminal_snr_needs_v_prediction() -> None:
    loss = LossSettings(zero_terminal_snr=True)
    with pytest.raises(ValueError, match=r"zero_terminal_snr needs a model of v_prediction, but .* epsilon"):
        training_scheduler({"prediction_type": "epsilon"}, loss)
    scheduler = training_scheduler({"prediction_type": "v_prediction", "beta_schedule": "linear"}, loss)
    assert float(scheduler.alphas_cumprod[-1]) < 1e-6


def test_the_noise_is_that_of_the_draws_alone_and_of_the_kind_asked_for() -> None:
    draws = draw_step(5, 2, 3, LossSettings())
    shape = (4, 6, 7, 8)
    noise = clip_noise(draws, shape, LossSettings())
    torch.testing.assert_close(clip_noise(draws[1:2], shape, LossSettings()), noise[1:2], rtol=0, atol=0)
    assert float(noise.std()) == pytest.approx(1, abs=0.05)
    mixed = clip_noise(draws, shape, LossSettings(noise_type="mixed", noise_alpha=1.0))
    correlation = torch.corrcoef(mixed.transpose(1, 2).reshape(3, 6, -1)[0])[0, 1]
    assert float(correlation) == pytest.approx(0.5, abs=0.1)  # alpha² / (1 + alpha²)
    shifted = clip_noise(draws, shape, LossSettings(noise_offset=0.5)) - noise
    torch.testing.assert_close(shifted, shifted[:, :, :1, :1, :1].expand_as(shifted), rtol=0, atol=1e-6)
    assert float(shifted.std()) > 0.2


def test_noise_that_hangs_together_is_written_into_the_adapter() -> None:
    trainer = tiny_trainer(loss={"noise_type": "progressive", "noise_alpha": 2.0})
    config = trainer.pipeline.parts.motion_adapter.config
    assert (config.noise_type, config.noise_alpha) == ("progressive", 2.0)
    assert tiny_settings().loss.noise_type == "independent"
