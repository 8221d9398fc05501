import json
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tiny_models import relative_error, save_tiny_model, tiny_adapter, tiny_unet

from video_diffusion import GeneratedVideo, GenerationSettings, TextToVideoPipeline
from video_diffusion.io import frames_sha256, read_record, read_video
from video_diffusion.loading import DeviceError, ModelLoadError, choose_device, choose_dtype
from video_diffusion.sampling import DenoisingStep, NonFiniteLatentsError

DEFAULTS = {
    "num_frames": 4,
    "height": 16,
    "width": 24,
    "fps": "30000/1001",
    "num_inference_steps": 3,
    "guidance_scale": 2.5,
    "scheduler": "euler_a",
    "vocabulary": ["a", "red"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("pipeline") / "model", norm_scope="frame", **DEFAULTS)


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> TextToVideoPipeline:
    return TextToVideoPipeline.from_pretrained(str(folder), device="cpu")


def clip(**changes: Any) -> GenerationSettings:
    return GenerationSettings.from_values({"prompt": "a red ball", **changes})


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
    assert pipeline.vocabulary == ("a", "red")


def test_the_record_says_everything_as_json(pipeline: TextToVideoPipeline) -> None:
    video = pipeline("a red ball", seed=7)
    record = json.loads(json.dumps(video.record))
    assert record["settings"]["seed"] == 7
    assert record["ai_generated"] is True
    none = {name for name, value in record["settings"].items() if value is None}
    assert none <= {
        "motion_adapter", "context_length", "context_overlap", "init_video", "init_image", "strength",
        "image_hold", "guidance_interval", "ip_adapter", "controlnet", "control_video", "controlnet_steps",
        "sparsectrl", "quantize", "noise_video",
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


def test_what_is_saved_gives_the_same_clip(pipeline: TextToVideoPipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path / "saved")
    again = TextToVideoPipeline.from_pretrained(str(tmp_path / "saved"), device="cpu")
    assert again.defaults == pipeline.defaults
    assert again.parts.motion_adapter.config.norm_scope == "frame"
    assert again("a red ball").frames_sha256 == pipeline("a red ball").frames_sha256
    with pytest.raises(FileExistsError):
        pipeline.save_pretrained(tmp_path / "saved", overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_a_model_without_defaults_has_the_usual_ones(tmp_path: Path) -> None:
    pipeline = TextToVideoPipeline.from_pretrained(str(save_tiny_model(tmp_path / "model")), device="cpu")
    resolved = pipeline.resolve(clip())
    assert (resolved.num_frames, resolved.height, resolved.width) == (
        9,
        16,
        16,
    )  # 9 positions, 8 latents, 2 px
    assert (resolved.fps, resolved.num_inference_steps) == (8, 25)
    assert (resolved.guidance_scale, resolved.scheduler) == (7.5, "ddim")
    assert pipeline.vocabulary == ()


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.2), ("float64", 1e-4)])
def test_other_precisions_make_nearly_the_same_latents(
    folder: Path, pipeline: TextToVideoPipeline, dtype: str, tolerance: float
) -> None:
    other = TextToVideoPipeline.from_pretrained(str(folder), dtype=dtype, device="cpu")
    latents: list[torch.Tensor] = []
    for each in (other, pipeline):
        each("a red ball", scheduler="ddim", on_step=lambda step: latents.append(step.latents))
    found, expected = latents[2], latents[-1]
    assert found.dtype == (torch.float64 if dtype == "float64" else torch.float32)
    assert relative_error(found.float(), expected) < tolerance
    assert other("a red ball").settings.dtype == dtype


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"num_frames": 10},
            r"num_frames is 10 but this motion adapter knows 9 positions; set context_length \(--c",
        ),
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


def test_settings_that_name_this_pipeline_are_fine(pipeline: TextToVideoPipeline, folder: Path) -> None:
    named = clip(model=str(folder), device="auto", dtype="float32", num_inference_steps=1)
    assert pipeline.generate([named])[0].settings.device == "cpu"


def test_an_ignored_negative_prompt_is_said(pipeline: TextToVideoPipeline) -> None:
    with pytest.warns(UserWarning, match="negative_prompt is ignored at guidance_scale 1"):
        pipeline.generate([clip(guidance_scale=1.0, negative_prompt="dull", num_inference_steps=1)])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pipeline.generate([clip(guidance_scale=1.0, num_inference_steps=1)])


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


def test_an_adapter_brings_the_noise_it_was_trained_with(folder: Path, tmp_path: Path) -> None:
    tiny_adapter(tiny_unet()).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"noise_type": "mixed", "noise_alpha": 2.0}))
    pipeline = TextToVideoPipeline.from_pretrained(str(folder), str(tmp_path), device="cpu")
    own, named = pipeline("a red ball"), pipeline("a red ball", noise_type="mixed", noise_alpha=2.0)
    assert (own.settings.noise_type, own.settings.noise_alpha) == ("mixed", 2.0)
    assert own.frames_sha256 == named.frames_sha256 != pipeline("a", noise_type="independent").frames_sha256


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
            {"num_frames": 18, "position_stretch": 2.0},
            "num_frames is 18 but position_stretch 2 makes 17 frames of the 9 positions that this motion",
        ),
        (
            {"position_stretch": 0.5, "num_frames": 6},
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


def test_a_prompt_for_every_frame_is_the_prompt(pipeline: TextToVideoPipeline) -> None:
    everywhere = pipeline("a red ball", prompt_travel={str(frame): "a red ball" for frame in range(4)})
    difference = everywhere.frames.astype(int) - pipeline("a red ball").frames
    assert np.abs(difference).max() <= 1


def test_a_clip_that_fits_into_its_window_is_made_in_one_pass(pipeline: TextToVideoPipeline) -> None:
    one, windowed = pipeline("a red ball"), pipeline("a red ball", context_length=8)
    assert windowed.frames_sha256 == one.frames_sha256
    assert windowed.run_record.window_starts == []
    assert windowed.report.values["seam_excess"].value is None


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


def test_a_broken_model_names_the_step(folder: Path) -> None:
    pipeline = TextToVideoPipeline.from_pretrained(str(folder), device="cpu")
    pipeline.parts.unet.conv_out.bias.data.fill_(torch.inf)
    with pytest.raises(NonFiniteLatentsError, match="at step 1 of 3; set dtype to bfloat16 or float32"):
        pipeline("a red ball")


def test_an_adapter_for_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    tiny_adapter(tiny_unet("three")).save_pretrained(tmp_path)
    with pytest.raises(
        ModelLoadError, match=r"block_out_channels \(8, 16, 24\), but this U-Net has \(8, 16\)"
    ):
        TextToVideoPipeline.from_pretrained(str(folder), str(tmp_path), device="cpu")


def test_half_precision_on_a_cpu_is_warned_of(folder: Path) -> None:
    with pytest.warns(UserWarning, match="float16 is slow on a CPU and overflows"):
        TextToVideoPipeline.from_pretrained(str(folder), dtype="float16", device="cpu")


def test_devices_and_precisions_that_are_not_there_are_refused() -> None:
    with pytest.raises(DeviceError, match=r"device cuda:97 is not on this machine, which has .*cpu"):
        choose_device("cuda:97")
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device().type in {"cuda", "xpu", "mps", "cpu"}
    with pytest.raises(ValueError, match=r"dtype must be one of float32, .* not int8"):
        choose_dtype("int8")
    assert choose_dtype(None) == choose_dtype(torch.float32) == torch.float32


def test_temporal_layers_can_be_switched_off(folder: Path) -> None:
    """Then a frame does not depend on how many there are."""
    pipeline = TextToVideoPipeline.from_pretrained(str(folder), "none", device="cpu")
    one, many = (pipeline("a red ball", num_frames=n) for n in (1, 5))
    assert np.abs(many.frames[:1].astype(int) - one.frames.astype(int)).max() <= 1
    assert one.settings.motion_adapter == "none"
    assert (
        one.run_record.job_id
        != TextToVideoPipeline.from_pretrained(str(folder), device="cpu")(
            "a red ball", num_frames=1
        ).run_record.job_id
    )
