"""A prompt becomes a clip of its seed, alone or among others, with a record that says everything."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from red_ball import clip

from video_diffusion import TextToVideoPipeline
from video_diffusion.sampling import DenoisingStep, NonFiniteLatentsError
from video_diffusion.video import frames_sha256, read_record, read_video


def test_a_prompt_becomes_a_measured_clip(pipeline: TextToVideoPipeline, folder: Path) -> None:
    video = pipeline("a red ball", seed=7)
    assert video.frames.shape == (4, 16, 24, 3)
    assert video.frames.dtype == np.uint8
    assert video.settings.fps == Fraction(30000, 1001)
    assert (video.settings.scheduler, video.settings.guidance_scale) == ("euler_a", 2.5)
    assert (video.settings.model, video.settings.device, video.settings.dtype) == (
        str(folder),
        "cpu",
        "float32",
    )
    assert video.report.num_frames == 4
    assert {"raw_flicker", "flicker", "motion", "sharpness"} <= set(video.report.values)
    assert video.frames_sha256 == frames_sha256(video.frames)
    assert pipeline.vocabulary == ("a", "red", "ball", "blue", "box", "one", "two")


def test_the_record_says_everything_as_json(pipeline: TextToVideoPipeline) -> None:
    video = pipeline("a red ball", seed=7)
    record = json.loads(json.dumps(video.record))
    assert record["settings"]["seed"] == 7
    assert record["ai_generated"] is True
    none = {name for name, value in record["settings"].items() if value is None}
    assert none <= {
        "motion_adapter", "clip_skip", "lora_folder", "vae", "text_encoder", "extend", "refine",
        "context_length",
        "context_overlap", "init_video", "init_image", "strength",
        "image_hold", "guidance_interval", "ip_adapter", "controlnet", "control_video", "controlnet_steps",
        "sparsectrl", "quantize", "noise_video", "control_make", "video_stride",
    }  # fmt: skip
    assert record["window_starts"] == []
    assert len(record["model"]["weights_sha256"]) == 64
    assert record["measures"].keys() == video.report.values.keys()
    assert set(record["timings"]) == {"encode_prompt", "encode_input", "denoise", "decode_latents", "measure"}
    assert video.run_record.job_id == pipeline("a red ball", seed=7).run_record.job_id
    assert video.run_record.job_id != pipeline("a red ball", seed=8).run_record.job_id


def test_a_clip_is_saved_with_its_record(pipeline: TextToVideoPipeline, tmp_path: Path) -> None:
    video = pipeline("a red ball")
    video.save(tmp_path / "clip.mp4", codec="libx264rgb")
    assert np.array_equal(read_video(tmp_path / "clip.mp4").frames, video.frames)
    assert read_record(tmp_path / "clip.mp4") == video.run_record
    assert read_record(tmp_path / "clip.json") == video.run_record
    video.save(tmp_path / "bare.mp4", embed_metadata=False)
    assert b"red ball" not in (tmp_path / "bare.mp4").read_bytes()


def test_a_seed_is_a_clip(pipeline: TextToVideoPipeline) -> None:
    hashes = [pipeline("a red ball", seed=seed).frames_sha256 for seed in (7, 7, 8)]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.full
@given(
    prompts=st.permutations(["a", "red", "a red", "ball"]),
    seeds=st.lists(st.integers(0, 2**63 - 1), min_size=4, max_size=4),
    steps=st.lists(st.sampled_from([1, 2]), min_size=4, max_size=4),
)
@hypothesis_settings(max_examples=4, deadline=None)
def test_clips_come_back_in_their_order_and_do_not_depend_on_each_other(
    pipeline: TextToVideoPipeline, prompts: list[str], seeds: list[int], steps: list[int]
) -> None:
    clips = [
        clip(prompt=p, seed=s, num_inference_steps=n) for p, s, n in zip(prompts, seeds, steps, strict=True)
    ]
    videos = pipeline.generate(clips)
    assert [(v.settings.prompt, v.settings.seed) for v in videos] == list(zip(prompts, seeds, strict=True))
    alone = pipeline.generate(clips[2:3])[0]
    difference = np.abs(alone.frames.astype(int) - videos[2].frames.astype(int))
    assert difference.max() <= 1  # float32 rounds otherwise in a batch: a value may fall on the other level


def test_clips_that_agree_are_made_together(pipeline: TextToVideoPipeline) -> None:
    seen: list[tuple[int, int]] = []

    def on_step(step: DenoisingStep) -> None:
        seen.append((len(step.latents), step.num_steps))

    pipeline.generate(
        [clip(seed=1), clip(seed=2, num_inference_steps=2), clip(seed=3, prompt="red")], on_step=on_step
    )
    assert sorted(seen) == [(1, 2)] * 2 + [(2, 3)] * 3


def test_a_longer_clip_starts_from_the_noise_of_a_shorter_one(folder: Path) -> None:
    """And with a fresh adapter, which leaves frames alone, it starts as the same clip."""
    pipeline = TextToVideoPipeline.from_pretrained(str(folder), device="cpu")
    for name, parameter in pipeline.parts.motion_adapter.named_parameters():
        if ".proj_out." in name:
            parameter.data.zero_()
    short, long = (pipeline("a red ball", num_frames=n, scheduler="ddpm").frames for n in (2, 6))
    assert np.abs(long[:2].astype(int) - short.astype(int)).max() <= 1


def test_one_frame_is_a_picture(pipeline: TextToVideoPipeline) -> None:
    video = pipeline("a red ball", num_frames=1)
    assert video.frames.shape == (1, 16, 24, 3)
    assert video.report.values["flicker"].status == "too_short"


def test_the_steps_can_be_decoded_for_a_filmstrip(pipeline: TextToVideoPipeline) -> None:
    steps: list[DenoisingStep] = []
    video = pipeline("a red ball", on_step=steps.append)
    assert np.array_equal(pipeline.decode(steps[-1].latents), video.frames)
    assert np.array_equal(pipeline.decode(steps[-1].latents, 3), video.frames)
    assert pipeline.decode(steps[0].clean_latents).shape == video.frames.shape
    with pytest.raises(ValueError, match="latents must hold one video, but hold 2"):
        pipeline.decode(torch.cat([steps[-1].latents] * 2))


def test_guidance_and_the_negative_prompt_change_the_clip(pipeline: TextToVideoPipeline) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"guidance_scale": 6.0},
        {"negative_prompt": "ball"},
        {"guidance_scale": 1.0},
    ]
    assert len({pipeline("a red ball", **each).frames_sha256 for each in changes}) == 4


def test_noise_along_frames_and_motion_scale_change_the_clip(pipeline: TextToVideoPipeline) -> None:
    changes: list[dict[str, Any]] = [{}, *({"noise_type": t} for t in ("mixed", "progressive", "constant"))]
    changes += [{"noise_type": "mixed", "noise_alpha": 2.0}, {"motion_scale": 2.0}, {"motion_scale": 0.0}]
    videos = [pipeline("a red ball", **each) for each in changes]
    assert len({video.frames_sha256 for video in videos}) == len(changes)
    assert len({video.run_record.job_id for video in videos}) == len(changes)
    assert (videos[0].settings.noise_type, videos[0].settings.noise_alpha) == ("independent", 1.0)


def test_a_broken_model_names_the_step(folder: Path) -> None:
    pipeline = TextToVideoPipeline.from_pretrained(str(folder), device="cpu")
    pipeline.parts.unet.conv_out.bias.data.fill_(torch.inf)
    with pytest.raises(NonFiniteLatentsError, match="at step 1 of 3; set dtype to bfloat16 or float32"):
        pipeline("a red ball")
