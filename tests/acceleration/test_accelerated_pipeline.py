"""Clips of an accelerated pipeline are those of a plain one up to rounding, and their records say so."""

import json
from pathlib import Path

import pytest
import torch
from forked_program import forked
from tiny_models import relative_error, save_tiny_model
from torch import Tensor

from video_diffusion import TextToVideoPipeline

SETTINGS = {"num_frames": 5, "height": 16, "width": 24, "num_inference_steps": 20, "seed": 4}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> TextToVideoPipeline:
    folder = save_tiny_model(tmp_path_factory.mktemp("accelerated") / "model")
    return TextToVideoPipeline.from_pretrained(str(folder), device="cpu")


def last_latents(pipeline: TextToVideoPipeline, accelerated: bool) -> Tensor:
    steps: list[Tensor] = []
    pipeline.accelerated = accelerated
    pipeline("a red ball", on_step=lambda step: steps.append(step.latents), **SETTINGS)
    return steps[-1]


@pytest.mark.full
def test_twenty_steps_drift_by_rounding_alone(pipeline: TextToVideoPipeline) -> None:
    expected = last_latents(pipeline, accelerated=False)
    assert relative_error(last_latents(pipeline, accelerated=True), expected) <= 1e-4


@pytest.mark.full
def test_the_record_says_which_way_and_the_way_repeats_the_clip(pipeline: TextToVideoPipeline) -> None:
    for accelerated in (True, False):
        pipeline.accelerated = accelerated
        first, again = (pipeline("a red ball", **SETTINGS) for _ in range(2))
        assert first.record["accelerated"] is accelerated
        assert first.frames_sha256 == again.frames_sha256


def test_nothing_is_left_on_the_model_after_a_clip(pipeline: TextToVideoPipeline) -> None:
    before = [set(vars(module)) for module in pipeline.video_unet.modules()]
    pipeline.accelerated = True
    pipeline("a red ball", **SETTINGS)
    assert [set(vars(module)) for module in pipeline.video_unet.modules()] == before


@pytest.mark.full
def test_a_clip_made_before_there_was_acceleration_repeats(
    pipeline: TextToVideoPipeline, tmp_path: Path
) -> None:
    pipeline.accelerated = False
    video = pipeline("a red ball", **SETTINGS)
    video.save(tmp_path / "clip.mp4", embed_metadata=False)
    record = json.loads((tmp_path / "clip.json").read_text())
    del record["accelerated"]
    (tmp_path / "clip.json").write_text(json.dumps(record))
    done = forked(["rerun", tmp_path / "clip.json"])
    assert (done.returncode, done.stdout) == (0, "identical\n"), done.stderr
    assert torch.get_num_threads() == 1  # as the test's own process computed


@pytest.mark.full
def test_a_speed_level_is_another_clip_near_the_exact_one_and_in_the_record(
    pipeline: TextToVideoPipeline,
) -> None:
    pipeline.accelerated = True
    exact, explicit, fast = (
        pipeline("a red ball", **SETTINGS, **more) for more in ({}, {"speed": "exact"}, {"speed": 2})
    )
    assert explicit.frames_sha256 == exact.frames_sha256 != fast.frames_sha256
    assert explicit.run_record.job_id == exact.run_record.job_id != fast.run_record.job_id
    assert fast.record["settings"]["speed"] == 2
    assert abs(fast.frames.astype(int) - exact.frames.astype(int)).mean() < 4
    assert pipeline("a red ball", **SETTINGS).frames_sha256 == exact.frames_sha256


@pytest.mark.parametrize("speed", [-1, 4, "fast", 1.5])
def test_other_speeds_are_refused(pipeline: TextToVideoPipeline, speed: object) -> None:
    with pytest.raises(ValueError, match="speed"):
        pipeline("a red ball", **SETTINGS, speed=speed)


def test_windows_that_move_do_not_go_with_a_speed_level(pipeline: TextToVideoPipeline) -> None:
    long = {**SETTINGS, "num_frames": 14, "context_length": 5, "context_overlap": 2, "num_inference_steps": 4}
    with pytest.raises(ValueError, match="set context_schedule to static"):
        pipeline("a red ball", **long, speed=1)
    assert pipeline("a red ball", **long, speed=1, context_schedule="static").frames.shape[0] == 14


@pytest.mark.full
def test_an_interval_over_everything_is_plain_guidance_and_a_short_one_is_another_clip(
    pipeline: TextToVideoPipeline,
) -> None:
    plain, whole, short = (
        pipeline("a red ball", **SETTINGS, guidance_interval=interval)
        for interval in (None, (0.0, 1.0), (0.3, 0.6))
    )
    assert whole.frames_sha256 == plain.frames_sha256 != short.frames_sha256
    with pytest.raises(ValueError, match="do not go together"):
        pipeline("a red ball", **SETTINGS, guidance_interval=(0.3, 0.6), speed=1)
