"""One clip's settings: ranges, exact frame rates, prompts that can be stored, identity."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from video_diffusion.settings import (
    PIXEL_FIELDS,
    GenerationSettings,
    model_defaults,
    parse_fps,
    without_effect,
)


@pytest.mark.parametrize(
    "values, expected",
    [
        ({"prompt": ""}, "prompt is empty; say what the clip shows (given '')"),
        ({"prompt": " \t\n"}, "prompt is empty"),
        ({}, "prompt is missing; give it"),
        ({"prompt": 5}, "prompt must be text (given 5)"),
        ({"prompt": "a\0b"}, "prompt holds a NUL character at position 1"),
        ({"prompt": "é\udcff"}, "prompt is not valid UTF-8 at byte 2"),
        ({"prompt": "a" * 65_537}, "prompt must be at most 65536 characters, not 65537"),
        ({"negative_prompt": "a\0"}, "negative_prompt holds a NUL"),
        ({"seed": -1}, "seed must be a whole number from 0 to 9223372036854775807 (given -1)"),
        ({"seed": 2**63}, "seed must be a whole number from 0 to 9223372036854775807"),
        ({"seed": 2**64}, "seed must be a whole number from 0 to 9223372036854775807"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"seed": True}, "seed must be a whole number"),
        ({"seed": "7"}, "seed must be a whole number"),
        ({"seed": None}, "seed must be a whole number"),
        (
            {"seed": 10**5000},
            "seed must be a whole number from 0 to 9223372036854775807 (given a huge number)",
        ),
        ({"num_frames": 0}, "num_frames must be a whole number from 1 to 4096 (given 0)"),
        ({"num_frames": 4097}, "num_frames must be a whole number from 1 to 4096"),
        ({"num_frames": True}, "num_frames must be a whole number from 1 to 4096 (given True)"),
        ({"width": 513}, "width must be a whole number, a multiple of 8, from 16 to 8192 (given 513)"),
        ({"height": 8}, "height must be a whole number, a multiple of 8, from 16 to 8192 (given 8)"),
        ({"height": 100_000}, "height must be a whole number, a multiple of 8, from 16 to 8192"),
        ({"num_inference_steps": 0}, "num_inference_steps must be a whole number from 1 to 1000"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be a finite number from 0 to 50 (given nan)"),
        ({"guidance_scale": float("inf")}, "guidance_scale must be a finite number from 0 to 50 (given inf)"),
        ({"guidance_scale": -1.0}, "guidance_scale must be a finite number from 0 to 50"),
        ({"guidance_scale": True}, "guidance_scale must be a finite number"),
        ({"scheduler": "ddmi"}, "scheduler must be one of ddim, ddpm, euler"),
        ({"dtype": "float8"}, "dtype must be one of float32, float16, bfloat16, float64 (given 'float8')"),
        ({"device": "cuda:x"}, "device must be auto, cpu, cuda, cuda:N, xpu, xpu:N or mps (given 'cuda:x')"),
        ({"model": " "}, "model is empty"),
        ({"decode_chunk_size": 0}, "decode_chunk_size must be a whole number from 1 to 4096"),
        ({"noise_type": "pink"}, "noise_type must be one of independent, mixed, progressive, constant"),
        ({"noise_alpha": -0.5}, "noise_alpha must be a finite number from 0 to 100 (given -0.5)"),
        ({"motion_scale": 11.0}, "motion_scale must be a finite number from 0 to 10 (given 11.0)"),
        ({"context_length": 1}, "context_length must be a whole number from 2 to 4096 (given 1)"),
        (
            {"context_length": 8, "context_overlap": 8},
            "context_overlap must be below context_length 8; a quarter of it is usual (given 8)",
        ),
        (
            {"context_schedule": "static", "loop": True},
            "loop does not go with context_schedule static; leave the schedule out (given True)",
        ),
        (
            {"motion_scale_travel": {3: 2}, "motion_scale_steps": {3: 2}},
            "motion_scale_steps does not go with motion_scale_travel; keep one of them",
        ),
        (
            {"guidance_scale_steps": {"a": 2}},
            "guidance_scale_steps has the step 'a'; a step is a number such",
        ),
        ({"motion_scale_blocks": {"in": 2}}, "motion_scale_blocks has the block 'in'; a block is down, mid,"),
        ({"motion_scale_blocks": {"up": 11}}, "motion_scale_blocks at block up must be a number from 0 to"),
        ({"motion_effect_blocks": 3}, "motion_effect_blocks must be a map from blocks to factors"),
        ({"position_stretch": 0}, "position_stretch must be a finite number from 0.1 to 10 (given 0)"),
        ({"loop": 1}, "loop must be true or false (given 1)"),
        ({"loras": [3]}, "loras must be a list of texts such as style.safetensors:0.8 (given [3])"),
        ({"loras": [" "]}, "loras is empty; name a file or folder"),
        ({"sede": 3}, "no setting 'sede'; did you mean 'seed'?"),
    ],
)
def test_refused_in_one_line_with_rule_and_value(values: dict[str, Any], expected: str) -> None:
    given_values = values if "prompt" in values or not values else {"prompt": "a red circle", **values}
    with pytest.raises(ValueError) as caught:
        GenerationSettings.from_values(given_values)
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value, expected",
    [
        (24, Fraction(24)),
        ("24", Fraction(24)),
        (23.976, Fraction(2997, 125)),
        ("23.976", Fraction(2997, 125)),
        ("30000/1001", Fraction(30000, 1001)),
        (Fraction(1, 10), Fraction(1, 10)),
        (None, None),
    ],
)
def test_fps_is_an_exact_fraction(value: Any, expected: Fraction | None) -> None:
    assert GenerationSettings(prompt="a", fps=value).fps == expected


@pytest.mark.parametrize(
    "value", [0, -8, "0", "nan", "1/0", 1_000_000, float("inf"), True, "", "8 fps", "0x8", [8]]
)
def test_fps_outside_the_range_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"from 0\.1 to 240"):
        parse_fps(value)


def test_fps_that_no_container_writes_exactly_is_refused() -> None:
    with pytest.raises(ValueError, match="terms up to 1000000"):
        parse_fps("24.0000001")


def test_settings_are_frozen_and_prompts_verbatim() -> None:
    prompt = "  two \x1b[2J\u202e spaces\n"
    frozen = GenerationSettings(prompt=prompt, prompt_syntax="plain")
    assert frozen.prompt == prompt
    with pytest.raises(ValueError, match="frozen"):
        frozen.seed = 3  # type: ignore[misc] # that this is an error is the point


def test_canonical_json_is_independent_of_order_and_of_how_numbers_were_given() -> None:
    one = GenerationSettings.from_values({"prompt": "é", "seed": 7, "fps": "24", "guidance_scale": 2})
    two = GenerationSettings.from_values({"guidance_scale": 2.0, "fps": 24, "seed": 7, "prompt": "é"})
    assert one.canonical_json() == two.canonical_json()
    assert '"fps":"24"' in one.canonical_json()
    assert one.job_id() == two.job_id()


OTHER: dict[str, Any] = {
    "prompt": "b", "negative_prompt": "c", "seed": 1, "num_frames": 3, "height": 24, "width": 32,
    "num_inference_steps": 2, "guidance_scale": 3.0, "scheduler": "euler", "model": "x",
    "motion_adapter": "y", "dtype": "bfloat16", "fps": 12, "device": "cpu", "decode_chunk_size": 2,
    "noise_type": "mixed", "noise_alpha": 2.0, "noise_video": "a.mp4", "motion_scale": 1.5,
    "context_length": 8, "context_overlap": 2,
    "context_stride": 2, "context_schedule": "static", "context_fuse": "flat", "loop": True,
    "prompt_travel": {"3": "b"}, "negative_prompt_travel": {"3": "b"}, "prompt_head": "h", "prompt_tail": "t",
    "prompt_blend": "slerp", "guidance_scale_travel": {"3": 2.0}, "motion_scale_travel": {"3": 2.0},
    "motion_effect": 0.5, "motion_effect_travel": {"3": 2.0}, "guidance_scale_steps": {"3": 2.0},
    "motion_scale_steps": {"3": 2.0}, "motion_effect_steps": {"3": 2.0}, "motion_scale_blocks": {"up": 0.5},
    "motion_effect_blocks": {"mid": 0.5}, "position_stretch": 2.0, "prompt_syntax": "comfy",
    "embeddings": [f"{__file__}=a"], "clip_skip": 2, "lora_folder": "x",
    "freenoise": True, "freeinit": 3, "freeinit_filter": "box", "freeinit_spatial_cutoff": 0.5,
    "freeinit_temporal_cutoff": 0.5, "init_video": "a.mp4", "init_image": "a.png", "strength": 0.5,
    "video_start": 1.5, "video_stride": 2,
    "image_hold": 0.5, "enforce_steps": True, "loras": ["x.safetensors:0.5"], "speed": 2,
    "compile": True,
    "guidance_interval": (0.2, 0.8), "temporal_guidance": 1.0, "deflicker": 0.5,
    "ip_adapter": "x.safetensors", "ip_image": {"0-3": "a.png"},
    "ip_scale": 0.5, "quantize": "int8",
    "controlnet": "n", "control_video": "e.mp4", "controlnet_scale": 0.5,
    "controlnet_steps": (0.0, 0.5), "sparsectrl": "s", "sparse_images": {"-1": "d.png"},
    "sparsectrl_scale": 0.5, "control_make": ["canny"], "vae": "v", "text_encoder": "t",
    "extend": "a.mp4", "extend_overlap": 2, "refine": "a.mp4", "refine_upscale": "latents",
}  # fmt: skip

# What cannot be without another setting.
NEEDED = {
    "controlnet": {"control_video": "e.mp4"}, "sparsectrl": {"sparse_images": {"0": "d.png"}},
    "prompt_syntax": {"prompt": "(a)"},
}  # fmt: skip


def test_the_job_id_changes_with_everything_that_changes_the_pixels_and_with_nothing_else() -> None:
    base = GenerationSettings(prompt="a")
    assert set(OTHER) == set(GenerationSettings.model_fields)
    for name, value in OTHER.items():
        needs = NEEDED.get(name, {})
        base = GenerationSettings.from_values({"prompt": "a", **needs})
        changed = GenerationSettings.from_values({"prompt": "a", **needs, name: value})
        assert (changed.job_id() != base.job_id()) == (name in PIXEL_FIELDS), name
    assert len(base.job_id()) == 12


def test_the_rate_of_a_clip_counts_where_it_says_which_frames_of_a_video_are_taken(tmp_path: Path) -> None:
    def ids(**values: object) -> set[str]:
        given = [{"prompt": "a", "fps": fps, **values} for fps in (8, 12)]
        return {GenerationSettings.from_values(each).job_id() for each in given}

    assert (
        len(ids()) == len(ids(init_video="a.mp4", video_stride=1)) == len(ids(init_video=str(tmp_path))) == 1
    )
    assert len(ids(init_video="a.mp4")) == len(ids(noise_video="a.mp4")) == 2


def test_job_ids_from_before_a_setting_existed_stay() -> None:
    """Golden value of 2026-11-24, when the settings ended at `dtype`."""
    assert GenerationSettings(prompt="a red circle moving right", seed=7).job_id() == "3dd6afa50168"
    for name, value in without_effect().items():
        assert name in PIXEL_FIELDS
        assert GenerationSettings.from_values({"prompt": "a", name: value}).job_id() == (
            GenerationSettings(prompt="a").job_id()
        )


def test_the_job_id_goes_by_the_weights_where_they_are_known() -> None:
    here, there = (
        GenerationSettings(prompt="a", model=model) for model in ("embedded", "/elsewhere/embedded")
    )
    assert here.job_id() != there.job_id()
    assert here.job_id({"weights_sha256": "1"}) == there.job_id({"weights_sha256": "1"})
    assert here.job_id({"weights_sha256": "1"}) != here.job_id({"weights_sha256": "2"})


def test_defaults_fill_only_what_was_left_open() -> None:
    own = {"num_frames": 16, "height": 64, "fps": "12", "guidance_scale": 2, "vocabulary": ["a"], "seed": 5}
    defaults = model_defaults({}, {}, {}, own, "model")
    filled = GenerationSettings(prompt="a", num_frames=3).with_defaults(defaults)
    assert (filled.num_frames, filled.height, filled.width, filled.seed) == (3, 64, None, 0)
    assert (filled.fps, filled.guidance_scale) == (Fraction(12), 2.0)
    with pytest.raises(ValueError, match="height must be"):
        model_defaults({}, {}, {}, {"height": 63}, "model")


@settings(deadline=None)
@given(st.text())
def test_a_prompt_is_kept_verbatim_or_refused_in_one_line(prompt: str) -> None:
    try:
        asked = GenerationSettings.from_values({"prompt": prompt, "prompt_syntax": "plain"})
        assert asked.prompt == prompt
    except ValueError as error:
        assert "\n" not in str(error)
        assert not prompt.strip() or "\0" in prompt or any("\ud800" <= sign <= "\udfff" for sign in prompt)
