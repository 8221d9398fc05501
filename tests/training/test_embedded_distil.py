"""Distilling the embedded model: targets in closed form, a pool that fills once, a run that resumes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from embedded.distil import Distiller, DistilSettings, knot_target, student_knots
from embedded.model import (
    build_motion_adapter,
    build_scheduler,
    build_text_encoder,
    build_unet,
    save_embedded_model,
    word_tokenizer,
)
from safetensors.torch import load_file

from video_diffusion.procedural import World, vocabulary

SETTINGS = DistilSettings(
    student_steps=2, teacher_steps=4, clips=5, num_steps=4, batch=4, num_frames=3, motions=("left", "still")
)


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = word_tokenizer(vocabulary())
    unet = build_unet((16, 32), 16, 3, 4)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        layers_per_block=1,
        latent_channels=3,
        norm_num_groups=2,
    )
    adapter = build_motion_adapter(unet)
    for layer in adapter.modules():
        if hasattr(layer, "proj_out"):
            torch.nn.init.normal_(layer.proj_out.weight, std=0.1)
    parts = (tokenizer, build_text_encoder(tokenizer, 16), unet, adapter, vae, build_scheduler())
    save_embedded_model(tmp_path / "teacher", *parts, world=World())
    return tmp_path / "teacher"


@pytest.mark.parametrize("kind", ["v_prediction", "epsilon", "sample"])
def test_one_ddim_step_with_the_target_lands_on_the_next_knot(kind: str) -> None:
    scheduler = build_scheduler(kind)
    generator = torch.Generator().manual_seed(0)
    state, landing = (torch.randn(2, 3, 4, 5, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    knots = student_knots(scheduler, 4)
    assert [timestep for timestep, _, _ in knots] == [999, 749, 499, 249]
    for timestep, alphas, sigmas in knots:
        target = knot_target(kind, state, landing, alphas, sigmas)
        reached = scheduler.step(target, timestep, state).prev_sample
        # from (all but) pure noise the noise tells little of the signal, hence the looser bound
        loose = kind == "epsilon" and timestep == 999
        torch.testing.assert_close(reached, landing, rtol=0, atol=2e-2 if loose else 2e-5)


def test_steps_that_do_not_nest_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"teacher_steps must be a multiple of student_steps .4., got 10; .* 12"
    ):
        DistilSettings(teacher_steps=10)


def test_knots_are_the_guided_teachers_own_states(tmp_path: Path, teacher: Path) -> None:
    distiller = Distiller(tmp_path / "run", teacher, SETTINGS)
    assert list(distiller.pool.fill(2)) == [2, 4, 5]
    few = replace(SETTINGS, teacher_steps=2)
    coarse = Distiller(tmp_path / "run", teacher, few)
    list(coarse.pool.fill())
    fine, rough = distiller.pool.knots([3]), coarse.pool.knots([3])
    assert torch.equal(fine[:, 0], rough[:, 0])  # the same noise
    assert not torch.equal(fine[:, 1], rough[:, 1])
    # with as many steps as the teacher, what one step needs is just what the guided teacher answers
    timestep, alphas, sigmas = coarse.knots[0]
    target = knot_target("v_prediction", rough[:, 0], rough[:, 1], alphas, sigmas)
    parts, prompts = coarse.teacher, ["", coarse.pool.prompt(3)]
    tokens = parts["tokenizer"](prompts, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        both = coarse.pool._video_unet(
            rough[:, 0].repeat(2, 1, 1, 1, 1), torch.tensor([timestep] * 2), parts["text_encoder"](tokens)[0]
        )
    both = both.float()
    guided = both[:1] + few.guidance_scale * (both[1:] - both[:1])
    assert (target - guided).square().mean() < 2e-2 * guided.square().mean()


def test_only_temporal_layers_move_and_the_folder_names_its_schedule(tmp_path: Path, teacher: Path) -> None:
    distiller = Distiller(tmp_path / "run", teacher, SETTINGS)
    list(distiller.pool.fill())
    assert [row["step"] for row in distiller.run(save_every=2)] == [1, 2, 3, 4]
    student = tmp_path / "run" / "model"
    weights = "diffusion_pytorch_model.safetensors"
    before, after = load_file(teacher / "unet" / weights), load_file(student / "unet" / weights)
    assert all(torch.equal(before[name], after[name]) for name in before)
    before, after = (load_file(f / "motion_adapter" / weights) for f in (teacher, student))
    assert any(not torch.equal(before[name], after[name]) for name in before)
    defaults = json.loads((student / "generation_defaults.json").read_text())
    assert (defaults["num_inference_steps"], defaults["guidance_scale"]) == (2, 1.0)
    config = json.loads((student / "motion_adapter" / "config.json").read_text())
    assert config["distilled"]["num_inference_steps"] == 2


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path, teacher: Path) -> None:
    whole = Distiller(tmp_path / "a", teacher, SETTINGS)
    list(whole.pool.fill())
    list(whole.run())
    halves = Distiller(tmp_path / "b", teacher, SETTINGS)
    list(halves.pool.fill(2))
    for row in halves.run(save_every=2):
        if row["step"] == 3:  # one step past the checkpoint
            break
    again = Distiller(tmp_path / "b", teacher, SETTINGS)
    list(again.pool.fill())
    assert [row["step"] for row in again.run()] == [3, 4]
    for name, tensor in whole.adapter.state_dict().items():
        assert torch.equal(tensor, again.adapter.state_dict()[name]), name
