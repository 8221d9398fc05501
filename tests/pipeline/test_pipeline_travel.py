"""Clips in windows, and prompts and numbers that travel along frames and steps."""

from typing import Any

import numpy as np
import pytest
from red_ball import clip

from video_diffusion import GeneratedVideo, TextToVideoPipeline


@pytest.mark.full
def test_windows_make_clips_of_any_length(pipeline: TextToVideoPipeline) -> None:
    def make(**changes: Any) -> GeneratedVideo:
        return pipeline("a red ball", num_frames=13, context_length=6, num_inference_steps=2, **changes)

    usual = make()
    assert usual.frames.shape == (13, 16, 24, 3)
    assert (usual.run_record.window_starts[0], usual.run_record.window_starts[-1]) == (0, 7)
    assert usual.report.values["seam_excess"].value is not None
    others: list[dict[str, Any]] = [{"context_overlap": 4}, {"context_stride": 2}, {"loop": True}]
    others += [{"context_schedule": "batched"}, {"context_fuse": "flat"}]
    videos = [usual, *(make(**each) for each in others)]
    assert len({video.frames_sha256 for video in videos}) == len(videos)
    assert len({video.run_record.job_id for video in videos}) == len(videos)
    assert make().frames_sha256 == usual.frames_sha256


def test_prompts_and_numbers_travel(pipeline: TextToVideoPipeline) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"prompt_travel": {"3": "a blue box"}},
        {"prompt_travel": {"0": "a red ball", "2": "a blue box"}, "loop": True},
        {"negative_prompt_travel": {"0.5": "dull"}},
        {"prompt_head": "one", "prompt_tail": "two"},
        {"guidance_scale_travel": {"3": 5}},
        {"motion_scale_travel": {"3": 3}},
        {"motion_effect": 0.5},
        {"motion_effect_travel": {"3": 0}},
        {"guidance_scale_steps": {"-1": 5}},
        {"motion_scale_steps": {"0.5": 3}},
        {"motion_effect_steps": {"1": 0}},
        {"motion_scale_blocks": {"down": 3}},
        {"motion_effect_blocks": {"mid": 0}},
        {"position_stretch": 0.5},
        {"position_stretch": 2.0, "num_frames": 17},
        {"position_stretch": 2.0, "num_frames": 13, "context_length": 6},
        {"position_stretch": 2.0, "num_frames": 13, "context_length": 6, "freenoise": True},
        {"prompt_travel": {"9": "a"}, "motion_scale_travel": {"9": 3}, "num_frames": 13, "context_length": 6},
    ]
    videos = [pipeline("a red ball", num_inference_steps=2, **each) for each in changes]
    assert len({video.frames_sha256 for video in videos}) == len(changes)
    assert len({video.run_record.job_id for video in videos}) == len(changes)
    same = pipeline("one a red ball two", num_inference_steps=2)
    assert same.frames_sha256 == videos[4].frames_sha256
    flat = pipeline("a red ball", num_inference_steps=2, guidance_scale_steps={"0": 2.5, "-1": 2.5})
    assert flat.frames_sha256 == videos[0].frames_sha256
    assert videos[1].record["settings"]["prompt_travel"] == {"3": "a blue box"}
    arc = pipeline.resolve(clip(num_inference_steps=2, **changes[1], prompt_blend="slerp"))
    assert arc.job_id() != pipeline.resolve(clip(num_inference_steps=2, **changes[1])).job_id()


def test_a_prompt_for_every_frame_is_the_prompt(pipeline: TextToVideoPipeline) -> None:
    everywhere = pipeline("a red ball", prompt_travel={str(frame): "a red ball" for frame in range(4)})
    difference = everywhere.frames.astype(int) - pipeline("a red ball").frames
    assert np.abs(difference).max() <= 1


def test_a_clip_that_fits_into_its_window_is_made_in_one_pass(pipeline: TextToVideoPipeline) -> None:
    one, windowed = pipeline("a red ball"), pipeline("a red ball", context_length=8)
    assert windowed.frames_sha256 == one.frames_sha256
    assert windowed.run_record.window_starts == []
    assert windowed.report.values["seam_excess"].value is None
