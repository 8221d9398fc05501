"""Few-step training: targets in closed form, the teacher's own states, exact resume, a student that tells."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from safetensors.torch import load_file
from tiny_run import tiny_parts, tiny_settings, write_tiny_clips, write_tiny_model

from video_diffusion.loading import load_model
from video_diffusion.pipeline import TextToVideoPipeline
from video_diffusion.settings.training import LossSettings, TrainingSettings
from video_diffusion.training.distil import KnotClips, KnotObjective, KnotPool, knot_target, trailing
from video_diffusion.training.objective import ItemDraws, training_scheduler
from video_diffusion.training.run import Run, fit, open_run
from video_diffusion.training.run_folder import RunFolder

DISTIL = {"num_inference_steps": 2, "teacher_steps": 4, "guidance_scale": 3.0, "clips": 5}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distil")
    write_tiny_model(folder / "model")
    write_tiny_clips(folder / "clips")
    (folder / "prompts.txt").write_text("clip 1\n\nclip 2\nclip 3\n", encoding="utf-8")
    return folder


def settings_in(home: Path, **changes: Any) -> TrainingSettings:
    usual = {"data": str(home / "clips"), "model": str(home / "model"), "objective": "distil"}
    usual |= {"distil": DISTIL, "clips": {"held_out": 2}, "checkpoint": {"every": 2}}
    return tiny_settings(**(usual | changes))


def opened(settings: TrainingSettings, folder: Path) -> Run:
    folder.mkdir(exist_ok=True, parents=True)
    return open_run(settings, RunFolder(folder), Accelerator(cpu=True))


def weights_of(run: Run) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in run.trainer.target.parameters.values()])


@pytest.mark.parametrize("kind", ["v_prediction", "epsilon", "sample"])
def test_one_ddim_step_with_the_target_lands_on_the_next_knot(kind: str) -> None:
    scheduler = trailing(DDIMScheduler(prediction_type=kind, clip_sample=False))
    unet = TextToVideoPipeline(tiny_parts(), "cpu").video_unet
    objective = KnotObjective(unet, scheduler, 4)
    assert objective.timesteps.tolist() == [999, 749, 499, 249]
    generator = torch.Generator().manual_seed(0)
    knots = torch.randn(4, 5, 4, 3, 2, 6, generator=generator, dtype=torch.float64)
    draws = [ItemDraws(0, (place + 0.5) / 4, False, 0.0) for place in range(4)]
    inputs = objective.inputs(knots, draws)
    assert inputs["timesteps"].tolist() == [249, 499, 749, 999]  # the least noise first
    for place, timestep in enumerate(inputs["timesteps"]):
        state, target = inputs["states"][place], inputs["targets"][place]
        reached = scheduler.step(target, timestep, state).prev_sample
        torch.testing.assert_close(reached, knots[place, 4 - place].float(), rtol=0, atol=2e-4)


def test_an_error_of_a_noise_prediction_weighs_what_it_moves() -> None:
    one = {"alphas": (0.1, 0.8), "sigmas": (0.995, 0.6)}
    alphas, sigmas = (
        tuple(torch.tensor(v, dtype=torch.float64).reshape(1, 1, 1, 1, 1) for v in one[k]) for k in one
    )
    state, landing = torch.randn(2, 1, 2, 3, 4, 5, dtype=torch.float64)
    target, weight = knot_target("epsilon", state, landing, alphas, sigmas)
    wrong = target + 0.01
    clean = (state - sigmas[0] * wrong) / alphas[0]
    moved = alphas[1] * clean + sigmas[1] * wrong - landing
    torch.testing.assert_close(weight * (wrong - target).square(), moved.square())


def test_knots_are_the_guided_teachers_own_states() -> None:
    pipeline = TextToVideoPipeline(tiny_parts(), "cpu")
    pools = [
        KnotPool(pipeline, tiny_settings(objective="distil", distil=DISTIL | {"teacher_steps": steps}),
                 trailing(training_scheduler(pipeline.parts.scheduler_config, LossSettings())), Path("no"))
        for steps in (2, 4)
    ]  # fmt: skip
    rough, fine = (pool.trajectories([3, 4], ["clip 1", "clip 2"]) for pool in pools)
    assert rough.shape == fine.shape == (2, 3, *pools[0].shape)
    assert torch.equal(rough[:, 0], fine[:, 0]) and not torch.equal(rough[:, 1], fine[:, 1])
    torch.testing.assert_close(pools[1].trajectories([4], ["clip 2"])[0], fine[1], rtol=0, atol=1e-4)
    # with as many steps as the teacher, what is asked of the student is what the guided teacher answers
    objective = KnotObjective(pipeline.video_unet, pools[0].scheduler, 2)
    inputs = objective.inputs(rough, [ItemDraws(0, 0.9, False, 0.0)] * 2)
    embeds = pipeline.parts.encode_prompts(["", "", "clip 1", "clip 2"])
    with torch.no_grad():
        both = pipeline.video_unet(rough[:, 0].repeat(2, 1, 1, 1, 1), torch.tensor([999] * 4), embeds)
    unguided, guided = both.chunk(2)
    torch.testing.assert_close(inputs["targets"], unguided + 3 * (guided - unguided), rtol=1e-3, atol=1e-3)


def test_a_teacher_with_temporal_guidance_leads_away_from_its_own_frames_without_temporal_layers() -> None:
    pipeline = TextToVideoPipeline(tiny_parts(), "cpu")
    changes = {"teacher_steps": 2, "guidance_scale": 1.0, "temporal_guidance": 2.0, "motion_effect": 1.5}
    settings = tiny_settings(objective="distil", distil=DISTIL | changes)
    scheduler = trailing(training_scheduler(pipeline.parts.scheduler_config, LossSettings()))
    knots = KnotPool(pipeline, settings, scheduler, Path("no")).trajectories([3], ["clip 1"])
    objective = KnotObjective(pipeline.video_unet, scheduler, 2)
    inputs = objective.inputs(knots, [ItemDraws(0, 0.9, False, 0.0)])
    embeds = pipeline.parts.encode_prompts(["clip 1"])
    with torch.no_grad():
        full, still = (
            pipeline.video_unet(knots[:, 0], torch.tensor([999]), embeds, motion_effect=effect)
            for effect in (1.5, 0.0)
        )
    torch.testing.assert_close(inputs["targets"], full + 2 * (full - still), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "target", [{}, {"image_lora": True, "lora": {"rank": 4}}, {"temporal_and": "attn2"}], ids=str
)
def test_a_distilling_run_learns_resumes_exactly_and_its_adapter_says_how_to_be_sampled(
    home: Path, tmp_path: Path, target: dict[str, Any]
) -> None:
    settings = settings_in(home, optimizer={"learning_rate": 3e-4}, ema_decay=0, **target)
    whole = opened(settings, tmp_path / "whole")
    first = whole.validator.validate()
    list(fit(whole))
    broken = opened(settings, tmp_path / "broken")
    for step in fit(broken):
        if step.step == 3:
            break
    again = opened(settings, tmp_path / "broken")  # the teacher is no more the model in memory
    assert again.trainer.step == 2
    list(fit(again))
    assert torch.equal(weights_of(whole), weights_of(again))
    last = whole.validator.validate()
    assert first is not None and last is not None
    assert first.held_out_loss is not None and last.held_out_loss is not None
    assert last.held_out_loss < first.held_out_loss
    parts = load_model(str(home / "model"), str(tmp_path / "whole"))
    told = {"num_inference_steps": 2, "guidance_scale": 1.0, "scheduler": "ddim"}
    assert bool(parts.unet_changes) == bool(target)
    assert told.items() <= parts.defaults.items() and parts.scheduler_config["timestep_spacing"] == "trailing"
    card = (tmp_path / "whole" / "README.md").read_text()
    assert "Distilled for 2 steps without guidance" in card and "num_inference_steps=2" in card


def test_prompts_alone_are_enough_and_a_damaged_clip_of_the_teacher_is_made_anew(
    home: Path, tmp_path: Path
) -> None:
    changes = {"data": [], "distil": DISTIL | {"prompts": str(home / "prompts.txt")}, "num_steps": 2}
    settings = settings_in(home, **changes)
    run = opened(settings, tmp_path / "run")
    clips = run.sources.training[0].clips
    assert isinstance(clips, KnotClips) and set(clips.prompts) == {"clip 1", "clip 2", "clip 3"}
    assert len(clips) == 5 and run.sources.num_held_out == (2,)
    entries = sorted((tmp_path / "run" / "cache" / "knots").rglob("*.safetensors"))
    assert len(entries) == 7
    kept = load_file(entries[0])["value"].clone()  # the file is going to change
    entries[0].write_bytes(b"damaged")
    made = list[int]()
    open_run(
        settings,
        RunFolder(tmp_path / "run"),
        Accelerator(cpu=True),
        on_clip=lambda done, total: made.append(total),
    )
    assert made == [4] and torch.equal(load_file(entries[0])["value"], kept)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"distil": {"teacher_steps": 10}},
            r"teacher_steps must be a multiple of num_inference_steps, .* choose 12",
        ),
        ({"target": "motion_lora"}, "objective distil trains target temporal"),
        ({"data": []}, "data is missing; give a folder of clips"),
    ],
)
def test_what_cannot_be_distilled_is_refused(home: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        settings_in(home, **changes)


def test_an_empty_file_of_prompts_is_refused(home: Path, tmp_path: Path) -> None:
    for content, said in (
        (b"\n\n", "must hold a prompt in every line"),
        (b"\xff\xfe\xff", "must be a text file in UTF-8"),
    ):
        (tmp_path / "prompts.txt").write_bytes(content)
        settings = settings_in(home, data=[], distil=DISTIL | {"prompts": str(tmp_path / "prompts.txt")})
        with pytest.raises(ValueError, match=said):
            opened(settings, tmp_path / "run")
    assert json.dumps(settings.binding())
