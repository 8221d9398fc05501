"""A value of any kind in any place of what a user may write: it is read, or one line says what is wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from json_places import A_THIRD_OR_ALL, OF_ANY_KIND, of_any_kind, places, replaced
from tiny_run import write_tiny_clips

from video_diffusion.comparison.design import design_from
from video_diffusion.jobs.job import check_jobs
from video_diffusion.jobs.published import convert_prompts
from video_diffusion.jobs.results import Results
from video_diffusion.settings import GenerationSettings, Layer, parse_json, read_config, validate
from video_diffusion.settings.errors import is_ours
from video_diffusion.settings.training import TrainingSettings
from video_diffusion.training.data import read_manifest
from video_diffusion.training.data.probe import KNOWN_FILE, ProbeRun
from video_diffusion.training.report import write_report
from video_diffusion.training.run_folder import RunFolder
from video_diffusion.training.validation import validations_of, what_changed
from video_diffusion.video import RunRecord

SETTINGS = {
    "prompt": "a", "prompt_travel": {"8": "b"}, "negative_travel": {"0": "c"}, "seed": 1, "num_frames": 16,
    "fps": "8", "guidance_scale_travel": {"4": 2.0}, "motion_scale_blocks": {"mid": 2.0}, "loras": ["x:0.5"],
    "guidance_interval": [0.1, 0.9], "controlnet": ["n"], "control_video": ["v"], "control_make": ["canny"],
    "controlnet_scale": [1.0], "controlnet_steps": [[0, 0.5]], "sparsectrl": "s", "sparse_images": {"0": "i"},
    "ip_adapter": "p", "ip_image": {"0-7": "i"}, "embeddings": ["e=w"], "device": "cpu", "scheduler": "ddim",
}  # fmt: skip
COMPARISON = {
    "title": "t", "settings": {"num_frames": 2, "size": "24x16"}, "grid": {"guidance_scale": [1, 2]},
    "baseline": {"guidance_scale": 1}, "prompts": ["a"], "seeds": [0, 1], "margins": {"flicker": 0.1},
    "alpha": 0.05,
}  # fmt: skip
ARMS = {
    "arms": {"one": {"size": "24x16"}, "two": {"guidance_scale": 2, "seeds": [4]}}, "prompts": ["a"],
    "seeds": "0",
}  # fmt: skip
ANIMATEDIFF = [
    {
        "motion_module": "mm.ckpt", "dreambooth_path": "", "lora_model_path": "l", "lora_alpha": 0.8, "L": 16,
        "motion_module_lora_configs": [{"path": "m", "alpha": 1.0}], "seed": [1, -1], "steps": 25, "W": 512,
        "prompt": ["a", "b"], "n_prompt": ["c", ""], "controlnet_path": "s", "controlnet_images": ["i"],
        "controlnet_image_indexs": [0],
    }
]  # fmt: skip
TRAVEL = {
    "path": "m.safetensors", "motion_module": "mm.ckpt", "lora_map": {"l.safetensors": 1.0}, "seed": [1],
    "scheduler": "k_dpmpp_sde", "steps": 20, "guidance_scale": 7, "clip_skip": 2, "prompt_fixed_ratio": 0.5,
    "head_prompt": "h", "prompt_map": {"0": "a", "8": "b"}, "n_prompt": ["n"], "output": {"fps": 8},
    "ip_adapter_map": {"enable": True}, "img2img_map": {"enable": True, "init_img_dir": "d"},
    "controlnet_map": {"input_image_dir": "x", "controlnet_canny": {"enable": True}}, "region_map": {"0": {}},
}  # fmt: skip
ROW = {"job_id": "a" * 12, "status": "ok", "file": "c.mp4", "bytes": 5, "frames_sha256": "0" * 64}
PYTHONS_WORDS = ("NoneType", "unhashable", "has no attribute", "not iterable", "subscriptable", "unpack")


def finished(file: Path) -> Any:
    file.write_text(file.read_text() + json.dumps(ROW) + "\n")  # else it is a last line that a kill tore
    return Results(file.parent).finished()


def known(file: Path) -> Any:
    return [ProbeRun(file.parent, 0)._recall(task) for task, _ in ProbeRun(file.parent, 0)._known.values()]


Reader = Callable[[Path], Any]
READERS: dict[str, tuple[str, Any, Reader]] = {
    "job": ("j.jsonl", SETTINGS, lambda file: check_jobs(file, Layer({}))),
    "jobs": ("j.json", [SETTINGS, "b"], lambda file: check_jobs(file, Layer({}))),
    "yaml jobs": ("j.yaml", {"jobs": [SETTINGS, "b"]}, lambda file: check_jobs(file, Layer({}))),
    "config": ("c.yaml", SETTINGS, lambda file: validate(GenerationSettings, read_config(file))),
    "grid": ("k.yaml", COMPARISON, lambda file: design_from(read_config(file)).against_itself().to_yaml()),
    "arms": ("k.yaml", ARMS, lambda file: design_from(read_config(file)).against_itself().to_yaml()),
    "animatediff": ("a.yaml", ANIMATEDIFF, convert_prompts),
    "travel": ("t.json", TRAVEL, convert_prompts),
    "results": ("results.jsonl", ROW, finished),
}


def assert_read_or_refused(reader: Reader, file: Path, names: tuple[str, ...]) -> None:
    try:
        reader(file)
    except ValueError as refusal:
        for line in getattr(refusal, "problems", [str(refusal)]):
            assert is_ours(refusal) and "\n" not in line and len(line) < 700, line
            assert any(name in line for name in names), line
            assert not any(words in line for words in PYTHONS_WORDS), line


@pytest.mark.full
@pytest.mark.parametrize("name", READERS)
def test_a_value_of_any_kind_in_any_place_of_a_file(tmp_path: Path, name: str) -> None:
    """Symptom: `control_make: [[]]` in a job, a seed under `prompt_map` and the like crashed."""
    file_name, values, reader = READERS[name]
    file = tmp_path / file_name
    for path in places(values):
        for value in OF_ANY_KIND:
            file.write_text(json.dumps(replaced(values, path, value)) + "\n")
            assert_read_or_refused(reader, file, (str(tmp_path), "prompts", "seeds", "grid", "a comparison"))


@A_THIRD_OR_ALL
def test_a_value_of_any_kind_in_any_place_of_a_training(tmp_path: Path, share: int) -> None:
    file = tmp_path / "t.yaml"
    usual = TrainingSettings.model_validate({"data": "clips"}).model_dump(mode="json")
    for values in of_any_kind(usual, share):
        file.write_text(json.dumps(values))
        assert_read_or_refused(
            lambda file: validate(TrainingSettings, read_config(file)), file, (str(tmp_path),)
        )


@pytest.mark.full
def test_a_value_of_any_kind_in_any_place_of_what_is_known_of_clips(tmp_path: Path) -> None:
    """A manifest is refused with its line, what an earlier check found is found again."""
    file = write_tiny_clips(tmp_path / "clips", 1) / "manifest.jsonl"
    row = json.loads(file.read_text())
    for path in places(row):
        for value in (*OF_ANY_KIND, "1/0"):
            file.write_text(json.dumps(replaced(row, path, value)) + "\n")
            assert_read_or_refused(read_manifest, file, (f"{file}:1",))
    run = ProbeRun(file.parent, 0)
    list(run.results([]))
    task = {"path": "0.mp4", "stretches": [None, [0, 1]], "allow_truncated": False}
    probe = {"num_bytes": 1, "sha256": "0", "fps": "8", "stretches": [{"num_frames": 1}], "notes": ["a"]}
    known_row = {"format": 1, "task": task, "probe": probe}
    file = file.parent / KNOWN_FILE
    file.write_text(json.dumps(known_row) + "\n")
    assert len(ProbeRun(file.parent, 0)._known) == 1
    for path in places(known_row):
        for value in (*OF_ANY_KIND, "1/0"):
            file.write_text(json.dumps(replaced(known_row, path, value)) + "\n")
            known(file)


LOGGED = {
    "step": 3, "loss": 0.5, "learning_rate": 1e-4, "allowed": ["a"],
    "validation": {
        "held_out_loss": 0.4, "quartiles": [1.0, 2.0, 3.0, 4.0], "measures": {"flicker": 1.0},
        "clips": [{
            "file": "c.mp4", "prompt": "a", "seed": 0, "measures": {"flicker": 1.0},
            "size": {"num_frames": 2, "height": 16, "width": 24, "fps": 8.0},
        }],
        "losses": {"x": 0.4}, "motion_distance": {"distance": 0.1, "low": 0.0, "high": 0.2, "p": 0.5},
    },
}  # fmt: skip


@pytest.mark.full
def test_a_value_of_any_kind_in_any_place_of_a_run_s_log(tmp_path: Path) -> None:
    """Symptom: a loss that is a text, or a validation that is null, crashed a resumed run and its report."""
    run = RunFolder(tmp_path)
    good = json.dumps(LOGGED)
    for path in places(LOGGED):
        for value in OF_ANY_KIND:
            run.metrics.write_text(f"{good}\n{json.dumps(replaced(LOGGED, path, value))}\n{good}\n")
            found = validations_of(run.rows())
            assert len(run.rows()) + len(run.damaged_lines()) == 3
            what_changed(found[0], found[-1])
            write_report(run, "title", {})
            run.forget_after(2)


@pytest.mark.full
def test_a_value_of_any_kind_in_any_place_of_a_record(tmp_path: Path) -> None:
    record = {
        "settings": {"prompt": "a"}, "model": {"name": "m"}, "job_id": "a" * 12, "frames_sha256": "0" * 64,
        "measures": {"flicker": {"value": 1.0, "unit": "%", "status": "ok", "series": [1.0]}},
        "inputs": {"init_video": "0" * 64}, "timings": {"a": 1.0}, "window_starts": [0],
    }  # fmt: skip
    assert parse_json(RunRecord.from_json(json.dumps(record), "here").to_json())["job_id"] == "a" * 12
    for path in places(record):
        for value in OF_ANY_KIND:
            text = json.dumps(replaced(record, path, value))
            assert_read_or_refused(
                lambda _, text=text: RunRecord.from_json(text, "here"), tmp_path, ("here",)
            )
