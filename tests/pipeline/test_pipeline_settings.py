"""Settings that a pipeline cannot follow are refused, and those without effect are said."""

import warnings
from pathlib import Path
from typing import Any

import pytest
from red_ball import clip

from video_diffusion import GenerationSettings, TextToVideoPipeline


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt_travel": {"4": "a"}}, "prompt_travel names frame 4, but the clip has 4 frames"),
        ({"motion_scale_travel": {"-5": 1}}, "motion_scale_travel names frame -5, but the clip has 4 frames"),
        (
            {"num_frames": 12, "context_length": 10},
            "context_length is 10 but this motion adapter knows 9 positions; set it to 9 or less",
        ),
        ({"model": "other/model"}, "model is 'other/model' but this pipeline was loaded with"),
        ({"dtype": "bfloat16"}, "dtype is 'bfloat16' but this pipeline was loaded with 'float32'"),
    ],
)
def test_settings_the_model_cannot_follow_are_refused(
    pipeline: TextToVideoPipeline, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pipeline.generate([clip(**changes)])


def test_a_clip_longer_than_the_model_is_made_in_windows_of_its_own_length_and_says_so(
    pipeline: TextToVideoPipeline,
) -> None:
    with pytest.warns(UserWarning, match=r"num_frames 11 is more than this model .* windows of 4 frames"):
        (unasked,) = pipeline.generate([clip(num_frames=11, context_overlap=2)])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        (asked,) = pipeline.generate([clip(num_frames=11, context_length=4, context_overlap=2)])
        one_pass = pipeline.resolve(clip(num_frames=9))
    assert (unasked.frames_sha256, unasked.record["job_id"]) == (asked.frames_sha256, asked.record["job_id"])
    assert unasked.settings.context_length == 4 and one_pass.context_length is None
    assert pipeline.resolve(clip(num_frames=17, position_stretch=2.0)).context_length is None


def test_settings_that_name_this_pipeline_are_fine(pipeline: TextToVideoPipeline, folder: Path) -> None:
    named = clip(model=str(folder), device="auto", dtype="float32", num_inference_steps=1)
    assert pipeline.generate([named])[0].settings.device == "cpu"


def test_an_ignored_negative_prompt_is_said(pipeline: TextToVideoPipeline) -> None:
    with pytest.warns(UserWarning, match="negative_prompt is ignored at guidance_scale 1"):
        pipeline.generate([clip(guidance_scale=1.0, negative_prompt="dull", num_inference_steps=1)])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pipeline.generate([clip(guidance_scale=1.0, num_inference_steps=1)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"guidance_scale_steps": {"3": 5}},
            "guidance_scale_steps names step 3, but the run has 3 steps; name",
        ),
        (
            {"motion_effect_steps": {"2": 5, "-1": 4}},
            "motion_effect_steps names one of 3 steps twice, as 2 and",
        ),
        (
            {"motion_scale_blocks": {"down.7": 1}},
            "motion_scale_blocks names down.7, where this motion adapter",
        ),
        (
            {"num_frames": 18, "context_length": 18, "position_stretch": 2.0},
            "context_length is 18 but position_stretch 2 makes 17 frames of the 9 positions that this motion",
        ),
        (
            {"position_stretch": 0.5, "num_frames": 6, "freenoise": True},
            "set context_length to 5 or less, or position_stretch to",
        ),
        (
            {"position_stretch": 0.5, "num_frames": 30, "context_length": 6},
            "context_length is 6 but position_stretch 0.5 makes 5 frames",
        ),
    ],
)
def test_schedules_blocks_and_stretches_that_do_not_fit_are_refused(
    pipeline: TextToVideoPipeline, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        pipeline.resolve(clip(num_inference_steps=3, **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context_stride": 2}, "context_stride is ignored without context_length"),
        ({"context_schedule": "static"}, "context_schedule is ignored without context_length"),
        ({"noise_alpha": 2.0}, "noise_alpha is ignored by independent noise"),
        ({"freeinit_filter": "box"}, "freeinit_filter is ignored without freeinit"),
        ({"prompt_travel": {"0": "a blue ball"}}, "prompt is ignored where prompt_travel says"),
    ],
)
def test_settings_without_effect_are_said(
    pipeline: TextToVideoPipeline, changes: dict[str, Any], message: str
) -> None:
    with pytest.warns(UserWarning, match=message):
        pipeline.resolve(clip(**changes))


def test_too_few_steps_for_a_scheduler_are_warned_of_with_the_number_that_works() -> None:
    """Symptom: four steps of `dpmpp_2m_karras` made garbage on the shipped model, and nothing was said."""
    pipeline = TextToVideoPipeline.from_pretrained(device="cpu")
    asked = {"prompt": "a red circle", "scheduler": "dpmpp_2m_karras", "num_inference_steps": 4}
    with pytest.warns(UserWarning, match="4 is too few for dpmpp_2m_karras .* set it to 6 or more"):
        pipeline.resolve(GenerationSettings.from_values(asked))
    pipeline.resolve(GenerationSettings.from_values(asked | {"num_inference_steps": 6}))
    pipeline.resolve(GenerationSettings.from_values(asked | {"scheduler": "heun"}))
