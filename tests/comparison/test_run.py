"""Comparisons run on a tiny real model: what is made, what pairs, what is shared, what is measured later."""

import json

import numpy as np
import pytest
from tiny_models import save_tiny_model

from video_diffusion.comparison.alignment import ROW_KEY, PromptMeter
from video_diffusion.comparison.design import design_from
from video_diffusion.comparison.run import clip_command, collect, make_clips, plan, unique_jobs
from video_diffusion.comparison.verdict import summarise
from video_diffusion.jobs import Pipelines, model_facts
from video_diffusion.settings import GenerationSettings, Layer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(
        tmp_path_factory.mktemp("models") / "tiny", num_frames=4, height=32, width=48, fps="12",
        scheduler="ddim", num_inference_steps=1, guidance_scale=1.0,
        vocabulary=["a", "red", "circle", "square"],
    )  # fmt: skip


def run(folder, model, values, itself=False):
    design = design_from(
        Layer({"prompts": ["a red circle", "a square", "words"], **values, "settings": {"model": str(model)}})
    )
    design = design.against_itself() if itself else design
    planned, meter = list(plan(design, model_facts)), PromptMeter()
    outcomes = list(make_clips(unique_jobs(planned), folder, Pipelines(), meter))
    found = collect(design, planned, folder, meter, "command")
    assert len(found.clips) == len(planned)
    return summarise(found), [outcome.status for outcome in outcomes]


def test_settings_are_paired_while_noise_is_the_same_and_equal_ones_are_made_once(tmp_path, model):
    arms = {
        "own": {},
        "same": {"guidance_scale": 1},
        "euler": {"scheduler": "euler"},
        "mixed": {"noise_type": "mixed"},
    }
    summary, statuses = run(tmp_path, model, {"arms": arms})
    assert statuses == ["ok"] * 9
    assert {arm.label: arm.paired for arm in summary.arms} == {
        "own": True, "same": True, "euler": True, "mixed": False,
    }  # fmt: skip
    assert [arm.num_clips for arm in summary.arms] == [3, 3, 3, 3]
    assert summary.metric("flicker").differences[0].span.estimate == 0.0
    assert any("D (mixed) is unpaired" in text for text in summary.warnings)
    clips = {clip.arm: clip for clip in summary.clips if clip.prompt == "a square"}
    assert clips["own"].path == clips["same"].path != clips["euler"].path
    assert clips["own"].series["flicker"] and clips["own"].fps == 12.0
    check_what_the_reader_measures(summary)
    check_that_an_arm_and_a_seed_more_make_only_what_is_new(tmp_path, model, arms)


def check_what_the_reader_measures(summary):
    measured = {clip.prompt: clip.measures.get("prompt_alignment") for clip in summary.clips}
    assert 0 <= measured["a red circle"].value <= 1
    assert measured["words"] is None
    assert summary.metric("prompt_alignment").differences[0].num_lost == 1


def check_that_an_arm_and_a_seed_more_make_only_what_is_new(folder, model, arms):
    more = {**arms, "heun": {"scheduler": "heun"}}
    summary, statuses = run(folder, model, {"arms": more, "seeds": "0-1"})
    assert (statuses.count("skipped"), statuses.count("ok")) == (9, 15)
    assert len(summary.clips) == 30


@pytest.mark.full
def test_the_baseline_against_itself_has_seeds_of_its_own(tmp_path, model):
    summary, statuses = run(tmp_path, model, {"grid": {"scheduler": ["ddim", "euler"]}}, itself=True)
    assert len(statuses) == 6
    assert [(arm.label, arm.paired) for arm in summary.arms] == [
        ("scheduler=ddim", True), ("the same with other seeds", False),
    ]  # fmt: skip
    assert [(c.setting, c.baseline, c.value) for c in summary.arms[1].changes] == [
        ("seeds", [0], [1_000_000])
    ]
    assert summary.clips[0].key == summary.clips[1].key
    assert "--seed 1000000" in summary.clips[1].command


@pytest.mark.full
def test_a_clip_made_without_the_meter_is_measured_from_its_file(tmp_path, model):
    values = {"grid": {"scheduler": ["ddim", "euler"]}}
    before, _ = run(tmp_path, model, values)
    path = tmp_path / "results.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text(
        "".join(json.dumps({k: v for k, v in row.items() if k != ROW_KEY}) + "\n" for row in rows)
    )
    after, statuses = run(tmp_path, model, values)
    assert set(statuses) == {"skipped"}
    assert [set(clip.measures) for clip in after.clips] == [set(clip.measures) for clip in before.clips]
    assert len(path.read_text().splitlines()) == 12
    run(tmp_path, model, values)
    assert len(path.read_text().splitlines()) == 12


@pytest.mark.full
def test_a_clip_or_record_that_is_gone_is_missing_or_said(tmp_path, model):
    values = {"grid": {"scheduler": ["ddim", "euler"]}}
    before, _ = run(tmp_path, model, values)
    (tmp_path / before.clips[0].record).unlink()
    with pytest.warns(UserWarning, match="compared without its record"):
        after, _ = run(tmp_path, model, values)
    assert after.clips[0].record == "" and after.clips[0].series == {}
    (tmp_path / before.clips[0].path).unlink()
    again, statuses = run(tmp_path, model, values)
    assert statuses.count("ok") == 1 and again.clips[0].record


def test_the_command_makes_the_same_settings():
    import shlex

    from video_diffusion.cli.flags import settings_from
    from video_diffusion.cli.generate import generate

    settings = GenerationSettings.from_values(
        {
            "prompt": "-it's \"a\"\n$HOME `x` \u2603", "seed": 2**62, "fps": "30000/1001", "num_frames": 7,
            "guidance_scale": 2.0, "negative_prompt": "true", "motion_adapter": "a b/c:d",
            "scheduler": "euler", "dtype": "float64", "prompt_travel": {"0": "a", "4": "b: c"},
            "loras": ["x.safetensors:0.5"],
        }
    )  # fmt: skip
    words = shlex.split(clip_command(settings.model_dump(mode="json")))
    assert words[:2] == ["video-diffusion", "generate"]
    assert not any("negative_prompt_travel" in word for word in words)
    context = generate.make_context("generate", words[2:])
    given = context.params
    flags = {name: given.get(name) for name in ("seed",)}
    assert settings_from(given["prompt"], [], given["assignments"], flags) == settings


def test_the_meter_reads_only_what_it_can(model):
    frames = np.full((5, 32, 48, 3), 250, dtype=np.uint8)
    meter = PromptMeter()
    own = GenerationSettings.from_values({"prompt": "a red circle", "model": str(model)})
    assert meter.measure(frames, own) == {
        "prompt_alignment": {"value": 0.0, "unit": "share of what is named", "status": "ok"}
    }
    assert meter.measure(frames, own.model_copy(update={"prompt": "a cat"})) == {}
