"""The loop: it learns, its pieces are the whole, and recomputing activations changes nothing."""

import importlib.util
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from tiny_models import tiny_unet
from tiny_run import frozen_tensors, memory_clips, tiny_parts, tiny_settings, tiny_trainer
from tiny_xl import save_tiny_xl

from video_diffusion.models import MotionAdapter
from video_diffusion.pipeline import TextToVideoPipeline
from video_diffusion.settings.training import OptimizerSettings
from video_diffusion.training.clips import Weighted
from video_diffusion.training.loop import NonFiniteLossError, Trainer
from video_diffusion.training.objective import draw_step
from video_diffusion.training.optimizer import learning_rate_factor, make_optimizer
from video_diffusion.training.run import check_tracker, make_accelerator


@pytest.mark.full
def test_one_batch_is_learned_by_heart() -> None:
    """The same clips, noise and levels again and again: below a twentieth of the first loss."""
    unet = tiny_unet(block_out_channels=(32, 32))
    adapter = MotionAdapter.for_unet(unet, num_attention_heads=2, max_num_frames=9)
    parts = replace(tiny_parts(), unet=unet, motion_adapter=adapter)
    trainer = tiny_trainer(parts, loss={"caption_dropout": 0.0})
    items = trainer.mix.read(0)[:1]
    draws = draw_step(0, 0, 4, trainer.settings.loss)[:1]
    latents = trainer.encoder.latents(items)
    losses = []
    for _ in range(250):
        loss = trainer.losses(items, draws, trainer.objective, latents).mean()
        loss.backward()
        trainer.raw_optimizer.step()
        trainer.raw_optimizer.zero_grad()
        losses.append(loss.item())
        if loss.item() < 0.05 * losses[0]:
            break
    assert losses[-1] < 0.05 * losses[0]


@pytest.mark.full
def test_a_batch_in_pieces_is_the_batch() -> None:
    runs = []
    for turns in (1, 2, 4):
        trainer = tiny_trainer(gradient_accumulation_steps=turns)
        steps = list(trainer.steps())
        weights = torch.cat([p.detach().flatten() for p in trainer.target.parameters.values()])
        runs.append((steps, weights))
    (whole, weights), *others = runs
    for steps, pieces in others:
        assert [step.ids for step in steps] == [step.ids for step in whole]
        for one, other in zip(whole, steps, strict=True):
            assert other.loss == pytest.approx(one.loss, rel=1e-6)
            assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-4)
        torch.testing.assert_close(pieces, weights, rtol=0, atol=1e-4)


@pytest.mark.full
def test_recomputed_activations_give_the_same_training() -> None:
    plain, recomputed = (tiny_trainer(gradient_checkpointing=on) for on in (False, True))
    assert all(
        layer.gradient_checkpointing == on
        for trainer, on in ((plain, False), (recomputed, True))
        for layer in trainer.pipeline.parts.motion_adapter.modules()
        if hasattr(layer, "gradient_checkpointing")
    )
    for one, other in zip(plain.steps(stop_at=3), recomputed.steps(stop_at=3), strict=True):
        assert (one.loss, one.ids) == (other.loss, other.ids)
        assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-5)


@pytest.mark.full
def test_bfloat16_trains_beside_float32() -> None:
    AcceleratorState._reset_state()
    try:
        settings = tiny_settings(mixed_precision="bf16")
        pipeline = TextToVideoPipeline(tiny_parts(), "cpu")
        half = Trainer(settings, pipeline, [Weighted(memory_clips())], make_accelerator(settings))
        own = dict(pipeline.parts.unet.attn_processors)
        found = list(half.steps(stop_at=3))
        assert pipeline.parts.unet.attn_processors == own
    finally:
        AcceleratorState._reset_state()
    for one, other in zip(tiny_trainer().steps(stop_at=3), found, strict=True):
        assert other.loss == pytest.approx(one.loss, rel=0.02)
    assert {p.dtype for p in half.target.parameters.values()} == {torch.float32}


@pytest.mark.full
def test_a_lora_with_dropout_draws_from_the_step_and_leaves_the_global_state() -> None:
    lora = {"rank": 2, "dropout": 0.5}
    first, second = (tiny_trainer(target="motion_lora", lora=lora) for _ in range(2))
    one = list(first.steps(stop_at=3))
    torch.manual_seed(99)
    state = torch.get_rng_state()
    other = list(second.steps(stop_at=3))
    assert [step.loss for step in one] == [step.loss for step in other]
    assert torch.equal(torch.get_rng_state(), state)
    plain = tiny_trainer(target="motion_lora", lora={"rank": 2})
    assert [step.grad_norm for step in plain.steps(stop_at=3)] != [step.grad_norm for step in one]


def test_a_loss_that_is_not_a_number_ends_the_training_with_the_weights_as_before() -> None:
    trainer = tiny_trainer()
    list(trainer.steps(stop_at=2))
    before = [p.detach().clone() for p in trainer.target.parameters.values()]
    trainer.pipeline.parts.unet.conv_in.weight.data[0, 0, 0, 0] = float("inf")
    with pytest.raises(NonFiniteLossError, match="at step 3; lower"):
        next(trainer.steps())
    assert all(torch.equal(p, b) for p, b in zip(trainer.target.parameters.values(), before, strict=True))


def test_the_rate_rises_falls_and_never_wastes_a_step() -> None:
    settings = OptimizerSettings(schedule="cosine", warmup_steps=4)
    rate = learning_rate_factor(settings, 20, make_optimizer([torch.nn.Parameter(torch.zeros(1))], settings))
    factors = [rate(step) for step in range(20)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert all(later < earlier for earlier, later in pairwise(factors[3:]))
    assert factors[-1] > 0


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batch_size must be a multiple of gradient_accumulation_steps"):
        tiny_trainer(gradient_accumulation_steps=3)


def test_the_8_bit_optimizer_says_what_it_needs() -> None:
    if importlib.util.find_spec("bitsandbytes") is not None:
        pytest.skip("bitsandbytes is installed here")
    with pytest.raises(ValueError, match="adamw_8bit needs bitsandbytes, which is not installed"):
        make_optimizer([], OptimizerSettings(name="adamw_8bit"))


def test_a_tracker_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"log_with must be a tracker .* not 'wandbb'; here are"):
        check_tracker("wandbb")


@pytest.mark.full
def test_an_sdxl_model_is_trained_with_its_size_conditions(tmp_path: Path) -> None:
    save_tiny_xl(tmp_path)
    pipeline = TextToVideoPipeline.from_pretrained(str(tmp_path), device="cpu")
    settings = tiny_settings(num_steps=2, batch_size=2, loss={"caption_dropout": 0.0})
    trainer = Trainer(settings, pipeline, [Weighted(memory_clips())], Accelerator(cpu=True))
    conditions = trainer.encoder.conditions(["clip 1", "clip 2"], 16, 24)
    assert conditions is not None
    expected = pipeline.parts.added_conditions(["clip 1", "clip 2"], 16, 24)
    assert expected is not None
    for name, value in expected.items():
        torch.testing.assert_close(conditions[name], value)
    assert all(step.grad_norm > 0 for step in trainer.steps())
    assert {name.split(".")[0] for name in frozen_tensors(trainer)} >= {"text_encoder_2"}
