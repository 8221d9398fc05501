"""What no refactoring may move: job ids, resolved settings, records, frames, a summary, trained weights.

`python tests/test_golden.py` writes `golden.json` anew from the code as it is. It was made at e56f8f9, on the
tiny random model, in float64 where pixels count, so that rounding on another processor does not show.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from click.testing import CliRunner
from tiny_models import save_tiny_model
from tiny_run import write_tiny_clips, write_tiny_model

from video_diffusion import GenerationSettings, TextToVideoPipeline
from video_diffusion.cli.main import main
from video_diffusion.jobs import model_facts
from video_diffusion.jobs.job import make_job

GOLDEN = Path(__file__).with_name("golden.json")
DEFAULTS = {
    "num_frames": 4, "height": 16, "width": 24, "fps": "30000/1001", "num_inference_steps": 3,
    "guidance_scale": 2.5, "scheduler": "euler_a",
}  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "prompt alone": {},
    "seed": {"seed": 2**63 - 1},
    "negative": {"negative_prompt": "blurry"},
    "shape": {"num_frames": 6, "height": 32, "width": 40, "fps": "23.976"},
    "steps": {"num_inference_steps": 7, "guidance_scale": 1, "scheduler": "dpmpp_2m"},
    "one frame": {"num_frames": 1},
    "no temporal layers": {"motion_adapter": "none"},
    "bfloat16": {"dtype": "bfloat16"},
    "decode chunk": {"decode_chunk_size": 2},
    "mixed noise": {"noise_type": "mixed", "noise_alpha": 2.0},
    "progressive noise": {"noise_type": "progressive"},
    "independent noise, said": {"noise_type": "independent", "noise_alpha": 1.0},
    "constant noise": {"noise_type": "constant"},
    "motion scale": {"motion_scale": 1.2},
    "motion effect": {"motion_effect": 0.5},
    "windows": {"num_frames": 12, "context_length": 6},
    "windows, all said": {
        "num_frames": 12, "context_length": 6, "context_overlap": 2, "context_stride": 2,
        "context_schedule": "uniform", "context_fuse": "linear",
    },
    "static windows": {"num_frames": 12, "context_length": 6, "context_schedule": "static"},
    "even windows": {"num_frames": 12, "context_length": 6, "context_schedule": "even"},
    "loop": {"num_frames": 8, "context_length": 4, "loop": True},
    "freenoise": {"num_frames": 9, "context_length": 6, "context_overlap": 3, "freenoise": True},
    "freeinit": {"freeinit": 2},
    "freeinit filter": {
        "freeinit": 3, "freeinit_filter": "gaussian", "freeinit_spatial_cutoff": 0.2,
        "freeinit_temporal_cutoff": 0.3,
    },
    "speed": {"speed": 2},
    "speed by name": {"speed": "exact"},
    "guidance interval": {"guidance_interval": "0.2-0.8"},
    "travel": {
        "prompt_travel": {"0": "a circle", "-1": "a square"}, "prompt_head": "best", "prompt_tail": "hd",
    },
    "travel without a prompt": {"prompt": None, "prompt_travel": {"2": "a circle"}},
    "negative travel": {"negative_prompt_travel": {"0.5": "dull"}, "prompt_blend": "slerp"},
    "guidance travel": {"guidance_scale_travel": {"0": 1, "3": 4.5}},
    "motion travel": {"motion_scale_travel": {"0": 0.5}, "motion_effect_travel": {"-1": 0}},
    "over steps": {"guidance_scale_steps": {"0": 5, "1.0": 1}, "motion_scale_steps": {"0": 2}},
    "effect over steps": {"motion_effect_steps": {"0": 0.5, "1": 1}},
    "blocks": {"motion_scale_blocks": {"down": 0.8, "up.1": 1.2}, "motion_effect_blocks": {"up": 0}},
    "position stretch": {"position_stretch": 1.5},
    "init image": {"init_image": "{image}", "strength": 0.5, "image_hold": 0.6},
    "init video": {"init_video": "{video}", "enforce_steps": True},
    "noise video": {"noise_video": "{video}", "noise_alpha": 3.0},
    "a file that is not there": {"init_image": "nowhere.png"},
    "compiled": {"compile": True},
    "ignored": {"image_hold": 0.3, "context_overlap": 2},
    "a LoRA that is not there": {"loras": ["nowhere.safetensors:0.7"]},
}  # fmt: skip
NOT_HERE = {"a file that is not there", "a LoRA that is not there", "no temporal layers", "bfloat16"}
RUNS = (
    "prompt alone", "mixed noise", "windows, all said", "freenoise", "travel", "init image",
)  # fmt: skip
VOLATILE = ("timings", "versions", "processor", "platform", "created", "num_threads")
METRICS = ("flicker", "raw_flicker", "motion", "sharpness", "mean_luma")
COMPARISON = """\
prompts: [a red circle, a square, words]
arms: {own: {}, half: {motion_effect: 0.5}}
settings: {model: MODEL, dtype: float64, device: cpu, num_inference_steps: 1}
"""
TRAINING = """\
data: CLIPS
model: MODEL
num_steps: 3
batch_size: 2
device: cpu
validation: {every: 0}
"""


def clip_settings(name: str, model: Path, files: dict[str, Path]) -> GenerationSettings:
    values = {"prompt": "a red circle", "seed": 3, "model": str(model), **SETTINGS[name]}
    for key, value in values.items():
        if isinstance(value, str):
            values[key] = value.format(**files)
    return GenerationSettings.from_values({key: value for key, value in values.items() if value is not None})


def plain(settings: Any, folder: Path) -> dict[str, Any]:
    """Values as JSON, without the folder that this test happened to be run in."""
    return dict(json.loads(json.dumps(settings.model_dump(mode="json")).replace(str(folder), "TMP")))


def golden_settings(folder: Path, model: Path, files: dict[str, Path]) -> dict[str, Any]:
    pipelines: dict[tuple[str | None, str], TextToVideoPipeline] = {}
    found = {}
    for name in SETTINGS:
        settings = clip_settings(name, model, files)
        job = make_job(settings, model_facts, "here")
        row = {"settings": plain(settings, folder), "job_id": job.job_id, "file": job.file}
        if name not in NOT_HERE:
            key = (settings.motion_adapter, settings.dtype)
            if key not in pipelines:
                pipelines[key] = TextToVideoPipeline.from_pretrained(
                    str(model), settings.motion_adapter, settings.dtype, "cpu"
                )
            row["resolved"] = plain(pipelines[key].resolve(settings), folder)
        found[name] = row
    return found


def golden_runs(folder: Path, model: Path, files: dict[str, Path]) -> dict[str, Any]:
    pipeline = TextToVideoPipeline.from_pretrained(str(model), dtype="float64", device="cpu")
    found = {}
    for name in RUNS:
        settings = clip_settings(name, model, files).model_copy(update={"dtype": "float64"})
        (video,) = pipeline.generate([settings])
        record = json.loads(json.dumps(video.record).replace(str(folder), "TMP"))
        kept = {key: value for key, value in record.items() if key not in VOLATILE}
        measures = kept.pop("measures")
        kept["measures"] = {key: round(measures[key]["value"] or 0, 6) for key in METRICS}
        found[name] = kept
    return found


def golden_comparison(folder: Path, model: Path) -> dict[str, Any]:
    config = folder / "compare.yaml"
    config.write_text(COMPARISON.replace("MODEL", str(model)))
    result = CliRunner().invoke(main, ["compare", str(config), "-o", str(folder / "compared"), "-q"])
    assert result.exit_code == 0, result.stderr
    summary = json.loads((folder / "compared" / "summary.json").read_text())
    return {
        "baseline": summary["baseline"],
        "clips": {f"{clip['arm']} {clip['prompt']}": clip["frames_sha256"] for clip in summary["clips"]},
        "flicker": [
            [round(value or 0, 6) for value in each["span"].values()]
            for metric in summary["metrics"] if metric["name"] == "flicker"
            for each in metric["differences"]
        ],
        "outcomes": [each["outcome"] for each in summary["verdicts"]],
    }  # fmt: skip


def golden_training(folder: Path) -> dict[str, str]:
    clips, model = write_tiny_clips(folder / "clips"), write_tiny_model(folder / "trained_model")
    config = folder / "train.yaml"
    config.write_text(TRAINING.replace("CLIPS", str(clips)).replace("MODEL", str(model)))
    result = CliRunner().invoke(main, ["train", str(config), "-o", str(folder / "run")])
    assert result.exit_code == 0, result.stderr
    weights = sorted((folder / "run" / "motion_adapter").glob("*.safetensors"))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in weights}


def golden(folder: Path) -> dict[str, Any]:
    import numpy as np
    from PIL import Image

    model = save_tiny_model(folder / "model", norm_scope="frame", **DEFAULTS)
    image, video = folder / "image.png", folder / "video"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (16, 24, 3), np.uint8)).save(image)
    video.mkdir()
    for number in range(6):
        Image.fromarray(rng.integers(0, 255, (16, 24, 3), np.uint8)).save(video / f"{number:04d}.png")
    files = {"image": image, "video": video}
    return {
        "settings": golden_settings(folder, model, files),
        "runs": golden_runs(folder, model, files),
        "comparison": golden_comparison(folder, model),
        "training": golden_training(folder),
    }


def as_then(value: Any, then: Any) -> Any:
    """Without settings that came later and say nothing."""
    if not isinstance(value, dict) or not isinstance(then, dict):
        return value
    usual = GenerationSettings(prompt="-").model_dump(mode="json")
    return {
        key: as_then(each, then.get(key))
        for key, each in value.items()
        if key in then or key not in usual or each != usual[key]
    }


@pytest.mark.full
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_ids_records_frames_summaries_and_weights_are_as_they_were(tmp_path: Path) -> None:
    found = json.loads(json.dumps(golden(tmp_path)))
    expected = json.loads(GOLDEN.read_text())
    for part in expected:
        for name, value in expected[part].items():
            assert as_then(found[part][name], value) == value, f"{part}: {name}"
        assert found[part].keys() == expected[part].keys()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        GOLDEN.write_text(json.dumps(golden(Path(place)), indent=1, sort_keys=True) + "\n")
