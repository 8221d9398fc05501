"""Prompt files in the formats of AnimateDiff and animatediff-cli-prompt-travel, each field accounted for."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from video_diffusion.cli.main import main
from video_diffusion.jobs import check_jobs, model_facts, read_jobs
from video_diffusion.jobs.published import convert_prompts
from video_diffusion.settings import ConfigError, GenerationSettings, read_config, validate

ANIMATEDIFF = """
- dreambooth_path: models/mine.safetensors
  lora_model_path: ""
  inference_config: configs/inference/inference-v3.yaml
  motion_module: models/Motion_Module/v3_sd15_mm.ckpt
  motion_module_lora_configs: [{path: models/MotionLoRA/v2_lora_ZoomIn.ckpt, alpha: 0.5}]
  adapter_lora_path: models/Motion_Module/v3_sd15_adapter.ckpt
  controlnet_config: configs/sparse.yaml
  controlnet_path: models/v3_sd15_sparsectrl_rgb.ckpt
  controlnet_image_indexs: [0, -1]
  controlnet_images: [a.png, b.png]
  seed: [12345678901234567890, -1]
  steps: 25
  guidance_scale: 8
  H: 256
  prompt: ["a (bright) sea", "a wood"]
  n_prompt: ["dull"]
"""
TRAVEL: dict[str, Any] = {
    "name": "sample", "path": "share/mine.safetensors", "motion_module": "models/own.ckpt", "seed": [7],
    "scheduler": "k_dpmpp_sde", "steps": 20, "guidance_scale": 10, "clip_skip": 2, "prompt_fixed_ratio": 0.5,
    "head_prompt": "(best:1.2)", "prompt_map": {"0": "sea", "32": "((wood))"}, "tail_prompt": "sharp",
    "n_prompt": ["(dull:1.4)"], "lora_map": {"a.safetensors": 0.8}, "motion_lora_map": {},
    "output": {"format": "mp4", "fps": 12}, "ip_adapter_map": {"enable": False},
    "controlnet_map": {"input_image_dir": "", "controlnet_tile": {"enable": True}},
}  # fmt: skip


def written_to(path: Path, values: Any) -> Path:
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return path


def test_an_animatediff_file_becomes_jobs_of_ours(tmp_path: Path) -> None:
    source = written_to(tmp_path / "theirs.yaml", ANIMATEDIFF)
    target = tmp_path / "ours.yaml"
    result = CliRunner().invoke(main, ["convert", str(source), str(target)])
    assert result.exit_code == 0, result.stderr
    assert f"2 clips; use: video-diffusion generate --jobs {target}" in result.stderr
    assert "not supported" not in result.stderr
    first, second = (job.settings for job in read_jobs(target, {"model": "embedded"}, lambda *_: FACTS))
    assert (first.prompt, second.prompt, first.negative_prompt) == ("a (bright) sea", "a wood", "dull")
    assert first.prompt_syntax == "plain"  # AnimateDiff reads brackets as letters
    assert (first.seed, second.seed) == (12345678901234567890 % 2**63, 0)
    assert (first.num_frames, first.width, first.height, first.guidance_scale) == (16, 512, 256, 8)
    assert first.motion_adapter == "guoyww/animatediff-motion-adapter-v1-5-3"
    assert first.loras == (
        "guoyww/animatediff-motion-lora-zoom-in:0.5",
        "models/Motion_Module/v3_sd15_adapter.safetensors:1",
    )
    assert dict(first.sparse_images) == {"0": "a.png", "-1": "b.png"}


FACTS = model_facts("embedded", None)


def test_a_travelling_file_becomes_settings_of_ours(tmp_path: Path) -> None:
    source, target = written_to(tmp_path / "theirs.json", TRAVEL), tmp_path / "ours.yaml"
    result = CliRunner().invoke(main, ["convert", str(source), str(target), "--json"])
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts["whole"] and facts["num_clips"] == 1
    assert facts["fields"]["scheduler"] == {
        "fate": "translated", "about": "k_dpmpp_sde as dpmpp_sde, the nearest there is"
    }  # fmt: skip
    assert "convert models/own.ckpt models/own.safetensors" in facts["fields"]["motion_module"]["about"]
    settings = validate(GenerationSettings, read_config(target))
    assert dict(settings.prompt_travel) == {"0": "sea", "16": "sea", "32": "((wood))", "48": "((wood))"}
    assert (settings.prompt_head, settings.prompt_tail) == ("(best:1.2),", ", sharp")
    assert (settings.num_frames, settings.context_length, settings.loop) == (64, 16, True)
    assert (settings.clip_skip, settings.prompt_blend, settings.prompt_syntax) == (2, "slerp", "a1111")
    assert (settings.loras, settings.fps, settings.seed) == (("a.safetensors:0.8",), 12, 7)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"region_map": {"0": {"enable": True}}}, "region_map"),
        ({"ip_adapter_map": {"enable": True}}, "ip_adapter_map"),
        ({"controlnet_map": {"input_image_dir": "x", "controlnet_tile": {"enable": True}}}, "controlnet_map"),
        ({"lcm_map": {"enable": True}}, "lcm_map"),
        ({"vae_path": "a.ckpt"}, "vae_path"),
        ({"scheduler": "pndm"}, "scheduler"),
        ({"something_new": 3}, "something_new"),
    ],
)
def test_what_cannot_be_turned_into_settings_is_named(tmp_path: Path, changes: Any, name: str) -> None:
    converted = convert_prompts(written_to(tmp_path / "theirs.json", TRAVEL | changes))
    assert [each for each, (fate, _) in converted.fates.items() if fate == "not supported"] == [name]
    assert not converted.is_whole


def test_every_field_is_accounted_for(tmp_path: Path) -> None:
    converted = convert_prompts(written_to(tmp_path / "theirs.json", TRAVEL))
    assert TRAVEL.keys() <= converted.fates.keys()


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.json", "{", "cannot be read"),
        ("a.yaml", "prompt: a\nseed: 1\n", "is neither a prompt file of AnimateDiff"),
        ("a.json", "[]", "is neither a prompt file of AnimateDiff"),
        ("a.json", '{"prompt": ["(a"], "motion_module": "m"}', "opens ( at sign 1 and never closes it"),
        ("a.json", '{"prompt": ["a"], "motion_module": "m", "seed": ["x"]}', "seed must be a number"),
        ("a.json", '{"prompt_map": ["a"], "motion_module": "m"}', "prompt_map holds something else"),
        ("a.yaml", "- prompt: [a]\n  controlnet_path: 3\n", "motion_module holds something else"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, name: str, text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        convert_prompts(written_to(tmp_path / name, text))
    assert reason in str(caught.value) and "\n" not in str(caught.value)


def test_the_jobs_are_checked_like_any_others(tmp_path: Path) -> None:
    source, target = written_to(tmp_path / "theirs.yaml", ANIMATEDIFF), tmp_path / "ours.yaml"
    assert CliRunner().invoke(main, ["convert", str(source), str(target)]).exit_code == 0
    assert check_jobs(target, {}).count == 2
