"""Clips steered by a ControlNet and by SparseCtrl, from settings to record, alone and in batches."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from control_networks import save_pictures, tiny_controlnet, tiny_sparse_control
from tiny_models import save_tiny_model

from video_diffusion import GeneratedVideo, GenerationSettings, TextToVideoPipeline
from video_diffusion.cli.main import main
from video_diffusion.loading import ModelLoadError
from video_diffusion.settings import content_sha256
from video_diffusion.settings.input_files import network_sha256
from video_diffusion.video import VideoReadError, read_record

pytestmark = pytest.mark.full

DEFAULTS = {
    "num_frames": 5, "height": 16, "width": 24, "fps": "8", "num_inference_steps": 3, "guidance_scale": 2.5,
    "scheduler": "ddim",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, its networks and what they read."""
    folder = tmp_path_factory.mktemp("steered")
    save_tiny_model(folder / "model", norm_scope="frame", **DEFAULTS)
    tiny_controlnet().save_pretrained(folder / "controlnet")
    tiny_sparse_control("scribble").save_pretrained(folder / "scribble")
    tiny_sparse_control("rgb").save_pretrained(folder / "rgb")
    save_pictures(folder / "edges", 12)
    save_pictures(folder / "pictures", 2, seed=6)
    return folder


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> TextToVideoPipeline:
    return TextToVideoPipeline.from_pretrained(str(folder / "model"), device="cpu")


@pytest.fixture
def controlled(folder: Path) -> dict[str, Any]:
    return {"controlnet": str(folder / "controlnet"), "control_video": str(folder / "edges")}


@pytest.fixture
def sparse(folder: Path) -> dict[str, Any]:
    pictures = {"0": str(folder / "pictures" / "000.png"), "-1": str(folder / "pictures" / "001.png")}
    return {"sparsectrl": str(folder / "rgb"), "sparse_images": pictures}


def distinct(videos: list[GeneratedVideo]) -> bool:
    frames = {video.frames_sha256 for video in videos}
    return len(frames) == len({video.run_record.job_id for video in videos}) == len(videos)


@pytest.mark.full
def test_every_setting_changes_the_clip_and_its_id(
    pipeline: TextToVideoPipeline, folder: Path, controlled: dict[str, Any], sparse: dict[str, Any]
) -> None:
    scribble = {**sparse, "sparsectrl": str(folder / "scribble")}
    moved = {**sparse, "sparse_images": {"2": sparse["sparse_images"]["0"]}}
    wanted: list[dict[str, Any]] = [
        {}, controlled, {**controlled, "controlnet_scale": 0.5}, {**controlled, "controlnet_steps": "0-0.5"},
        sparse, {**sparse, "sparsectrl_scale": 0.5}, scribble, moved, {**controlled, **sparse},
    ]  # fmt: skip
    assert distinct([pipeline("a red ball", **settings) for settings in wanted])


def test_scale_0_is_no_control(
    pipeline: TextToVideoPipeline, controlled: dict[str, Any], sparse: dict[str, Any]
) -> None:
    off = pipeline("a red ball", **controlled, **sparse, controlnet_scale=0.0, sparsectrl_scale=0.0)
    assert off.frames_sha256 == pipeline("a red ball").frames_sha256


@pytest.mark.full
def test_the_steps_of_a_controlnet_are_shares_of_those_that_are_done(
    pipeline: TextToVideoPipeline, folder: Path, controlled: dict[str, Any]
) -> None:
    """Of 10 steps, 0.25 to 0.8 are those from the fourth (0.3) to the eighth (its end is 0.8)."""
    pipeline("a", **controlled, num_inference_steps=1)
    network = pipeline._control_networks._kept["controlnet"][1]
    asked: list[float] = []
    handle = network.register_forward_pre_hook(lambda _, args: asked.append(float(args[1])))

    def steps(**settings: Any) -> list[int]:
        asked.clear()
        timesteps: list[float] = []
        pipeline("a", **controlled, **settings, on_step=lambda step: timesteps.append(step.timestep))
        return [timesteps.index(timestep) + 1 for timestep in asked]

    ten: dict[str, Any] = {"num_inference_steps": 10}
    assert steps(**ten) == list(range(1, 11))
    assert steps(**ten, controlnet_steps="0.25-0.8") == [4, 5, 6, 7, 8]
    assert steps(**ten, controlnet_steps="0-0.1") == [1]
    assert steps(**ten, controlnet_steps="0-0.5", freeinit=2) == [1, 2, 3, 4, 5] * 2
    of_video = {"init_video": controlled["control_video"], "strength": 0.6}
    assert steps(**ten, **of_video, controlnet_steps="0.5-1") == [4, 5, 6]
    assert steps(num_inference_steps=4, **of_video, enforce_steps=True, controlnet_steps="0-0.5") == [1, 2]
    handle.remove()
    with pytest.raises(ValueError, match=r"controlnet_steps 0.45-0.55 holds none of 10 steps"):
        pipeline("a", **controlled, **ten, controlnet_steps="0.45-0.55")


@pytest.mark.full
def test_windows_loops_freenoise_and_travel(
    pipeline: TextToVideoPipeline, controlled: dict[str, Any], sparse: dict[str, Any]
) -> None:
    long = {"num_frames": 11, "num_inference_steps": 2}
    windows = {"context_length": 5}
    clips = [
        pipeline("a red ball", **long, **steering, **how)
        for steering in ({}, controlled, sparse)
        for how in (windows, {**windows, "loop": True}, {"context_length": 6, "freenoise": True})
        if not (steering is sparse and "freenoise" in how)
    ]
    clips += [pipeline("a", **long, **windows, **controlled, prompt_travel={"6": "blue"})]
    assert distinct(clips)
    assert clips[0].frames.shape == (11, 16, 24, 3)


def test_a_batch_and_little_memory_change_nothing(
    folder: Path, controlled: dict[str, Any], sparse: dict[str, Any]
) -> None:
    clips = [
        GenerationSettings.from_values({"prompt": prompt, "seed": seed, **controlled, **sparse})
        for seed, prompt in enumerate(["a red ball", "blue"])
    ]
    usual = TextToVideoPipeline.from_pretrained(str(folder / "model"), dtype="float64", device="cpu")
    saving = TextToVideoPipeline.from_pretrained(
        str(folder / "model"), dtype="float64", device="cpu", low_memory=True
    )
    clips = [clip.model_copy(update={"dtype": "float64"}) for clip in clips]
    together = usual.generate(clips)
    for one, other, clip in zip(together, saving.generate(clips), clips, strict=True):
        assert np.array_equal(one.frames, other.frames)
        assert np.array_equal(one.frames, usual.generate([clip])[0].frames)


def test_the_record_names_networks_and_inputs_by_content(
    pipeline: TextToVideoPipeline,
    folder: Path,
    controlled: dict[str, Any],
    sparse: dict[str, Any],
    tmp_path: Path,
) -> None:
    clip = pipeline("a red ball", **controlled, **sparse)
    assert clip.record["inputs"] == {
        "controlnet": network_sha256(str(folder / "controlnet")),
        "control_video": content_sha256(str(folder / "edges")),
        "sparsectrl": network_sha256(str(folder / "rgb")),
        "sparse_images.0": content_sha256(sparse["sparse_images"]["0"]),
        "sparse_images.-1": content_sha256(sparse["sparse_images"]["-1"]),
    }
    moved = {name: shutil.copytree(folder / name, tmp_path / name) for name in ("controlnet", "edges", "rgb")}
    copy = tmp_path / "copy.png"
    shutil.copy(sparse["sparse_images"]["0"], copy)
    pictures = {**sparse["sparse_images"], "0": str(copy)}
    here = {
        "controlnet": str(moved["controlnet"]), "control_video": str(moved["edges"]),
        "sparsectrl": str(moved["rgb"]), "sparse_images": pictures,
    }  # fmt: skip

    def job_id(**settings: Any) -> str:
        return GenerationSettings.from_values({"prompt": "a", **settings}).job_id()

    before = job_id(**controlled, **sparse)
    assert job_id(**here) == before
    (tmp_path / "controlnet" / "README.md").write_text("of no account")
    assert job_id(**here) == before
    for changed in (copy, tmp_path / "controlnet" / "config.json", tmp_path / "rgb" / "config.json"):
        kept = changed.read_bytes()
        changed.write_bytes(kept + b" ")
        assert job_id(**here) != before
        changed.write_bytes(kept)
    assert job_id(**{**here, "sparse_images": {"1": str(copy), "-1": pictures["-1"]}}) != before


@pytest.mark.full
def test_from_the_command_line_and_again(
    folder: Path, controlled: dict[str, Any], sparse: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copytree(folder / "controlnet", tmp_path / "controlnet")
    words = [
        "generate", "a red ball", "--model", str(folder / "model"),
        "--controlnet", str(tmp_path / "controlnet"),
        "--control-video", controlled["control_video"], "--controlnet-scale", "0.8", "--controlnet-steps",
        "0-0.7", "--sparsectrl", sparse["sparsectrl"], "--sparsectrl-scale", "0.9",
        "-o", str(tmp_path / "clip.mp4"),
    ]  # fmt: skip
    for frame, path in sparse["sparse_images"].items():
        words += ["--sparse-image", f"{frame}: {path}"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    settings = read_record(tmp_path / "clip.mp4").settings
    assert (settings.controlnet_scale, settings.controlnet_steps) == ((0.8,), ((0.0, 0.7),))
    assert dict(settings.sparse_images) == sparse["sparse_images"]
    again = CliRunner().invoke(main, ["rerun", str(tmp_path / "clip.mp4")])
    assert (again.exit_code, again.stdout.strip()) == (0, "identical")
    moved = (tmp_path / "controlnet").rename(tmp_path / "elsewhere")
    gone = CliRunner().invoke(main, ["rerun", str(tmp_path / "clip.mp4")])
    assert gone.exit_code == 2
    assert "which is not here; say where it is, or give --controlnet" in gone.stderr
    found = CliRunner().invoke(main, ["rerun", str(tmp_path / "clip.mp4"), "--controlnet", str(moved)])
    assert (found.exit_code, found.stdout.strip()) == (0, "identical")
    (moved / "config.json").write_text((moved / "config.json").read_text() + "\n")
    other = CliRunner().invoke(main, ["rerun", str(tmp_path / "clip.mp4"), "--controlnet", str(moved)])
    assert other.exit_code == 2
    assert "is not the controlnet of the record" in other.stderr


@pytest.mark.full
def test_several_from_the_command_line_and_again(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "controlnet", tmp_path / "second")
    save_pictures(tmp_path / "depth", 5, seed=8)
    words = [
        "generate", "a red ball", "--model", str(folder / "model"),
        "--controlnet", str(folder / "controlnet"), "--control-video", str(folder / "edges"),
        "--controlnet", str(tmp_path / "second"), "--control-video", str(tmp_path / "depth"),
        "--control-make", "none", "--control-make", "soft", "--controlnet-scale", "0.8",
        "--controlnet-scale", "0.5", "--controlnet-steps", "0-0.7", "--controlnet-steps", "0.3-1",
    ]  # fmt: skip
    result = CliRunner().invoke(main, [*words, "-o", str(tmp_path / "clip.mp4")])
    assert result.exit_code == 0, result.output
    record = read_record(tmp_path / "clip.mp4")
    assert record.settings.controlnet_scale == (0.8, 0.5) and record.settings.control_make == ("none", "soft")
    numbered = {"controlnet.0", "controlnet.1", "control_video.0", "control_video.1"}
    assert set(record.inputs) == numbered
    again = CliRunner().invoke(main, ["rerun", str(tmp_path / "clip.mp4")])
    assert (again.exit_code, again.stdout.strip()) == (0, "identical")
    moved = (tmp_path / "second").rename(tmp_path / "elsewhere")
    gone = CliRunner().invoke(main, ["rerun", str(tmp_path / "clip.mp4")])
    assert (gone.exit_code, "which is not here; say where it is" in gone.stderr) == (2, True)
    here = ["--controlnet", str(folder / "controlnet"), "--controlnet", str(moved)]
    found = CliRunner().invoke(main, ["rerun", str(tmp_path / "clip.mp4"), *here])
    assert (found.exit_code, found.stdout.strip()) == (0, "identical")
    values = record.settings.model_dump() | {"controlnet": [str(folder / "controlnet"), str(moved)]}
    assert (
        GenerationSettings.from_values(values).job_id()
        == record.settings.model_copy(
            update={"controlnet": (str(folder / "controlnet"), str(moved))}
        ).job_id()
    )
    moved.rename(tmp_path / "second")
    batch = CliRunner().invoke(main, [*words, "--seeds", "0-1", "-o", str(tmp_path / "clips")])
    assert batch.exit_code == 0, batch.output
    row = json.loads((tmp_path / "clips" / "results.jsonl").read_text().splitlines()[0])
    assert row["settings"]["controlnet_scale"] == [0.8, 0.5]


def test_one_control_is_written_as_before() -> None:
    """Records and ids of one ControlNet stay what they were when there could be only one."""
    values = {
        "controlnet": "a",
        "control_video": "v",
        "controlnet_steps": (0.0, 0.5),
        "controlnet_scale": 0.5,
    }
    settings = GenerationSettings.from_values({"prompt": "a", **values})
    plain = settings.model_dump(mode="json")
    assert [plain[name] for name in values] == ["a", "v", [0.0, 0.5], 0.5]
    assert settings.job_id() == "1c21718356c6"
    assert GenerationSettings.from_values(plain) == settings


@pytest.mark.full
def test_jobs_are_steered_too(folder: Path, controlled: dict[str, Any], tmp_path: Path) -> None:
    rows = [{"prompt": "a", "seed": seed, **controlled} for seed in (1, 2)] + [{"prompt": "a", "seed": 1}]
    (tmp_path / "jobs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["generate", "--jobs", str(tmp_path / "jobs.jsonl"), "-o", str(tmp_path / "clips")]
    result = CliRunner().invoke(main, [*words, "--model", str(folder / "model")])
    assert result.exit_code == 0, result.output
    records = [read_record(path) for path in (tmp_path / "clips").glob("*.mp4")]
    assert len({record.frames_sha256 for record in records}) == 3
    assert sorted(len(record.inputs) for record in records) == [0, 2, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"controlnet": "x"}, "control_video is missing, but controlnet is set; name what it reads"),
        ({"controlnet": ["x", "y"], "control_video": "v.mp4"},
         "control_video names 1 for 2 ControlNets; give one for each, in their order"),
        ({"controlnet": ["x", "y", "z"], "control_video": ["v", "v", "v"], "controlnet_scale": [1, 2]},
         "controlnet_scale names 2 for 3 ControlNets; give one for each, in their order, or one for all"),
        ({"controlnet": "x", "control_video": "v", "control_make": "lines"}, "control_make must be canny"),
        ({"controlnet": "x", "control_video": "v", "controlnet_scale": [11]}, "controlnet_scale must be a"),
        ({"controlnet": "x", "control_video": "v", "controlnet_steps": "0.6-0.2"}, "two shares from 0 to 1"),
        ({"sparsectrl": "x"}, "sparse_images is missing, but sparsectrl is set"),
        ({"controlnet": "FOLDER/controlnet", "control_video": "FOLDER/pictures"},
         "control_video .*/pictures has 2 frames, but num_frames is 5; set num_frames to 2 or less"),
        ({"sparsectrl": "FOLDER/rgb", "sparse_images": {"5": "x.png"}},
         "sparse_images names frame 5, but the clip has 5 frames"),
        ({"sparsectrl": "FOLDER/rgb", "sparse_images": {"0": "x.png", "0.1": "y.png"}},
         "sparse_images names frame 0 of 5 frames twice"),
        ({"controlnet": "FOLDER/controlnet", "control_video": "FOLDER/edges", "speed": 2},
         "speed is 2 but controlnet is set, and they do not go together"),
        ({"sparsectrl": "FOLDER/rgb", "sparse_images": {"0": "FOLDER/pictures/000.png"}, "num_frames": 8},
         "knows 7 frames, but 8 are made at once; set context_length to 7 or less"),
        ({"sparsectrl": "FOLDER/rgb", "sparse_images": {"0": "FOLDER/pictures/000.png"}, "num_frames": 11,
          "freenoise": True, "context_length": 5}, "leave freenoise out and set context_length to 7 or less"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_line(
    pipeline: TextToVideoPipeline, folder: Path, changes: dict[str, Any], message: str
) -> None:
    settings = json.loads(json.dumps(changes).replace("FOLDER", str(folder)))
    with pytest.raises(ValueError, match=message) as refusal:
        pipeline("a red ball", **settings)
    assert "\n" not in str(refusal.value)


def test_missing_files_are_named(
    pipeline: TextToVideoPipeline, controlled: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(VideoReadError, match=r"gone.mp4: no such file"):
        pipeline("a", **{**controlled, "control_video": "gone.mp4"})
    with pytest.raises(ModelLoadError, match=r"gone: no such file or folder"):
        pipeline("a", **{**controlled, "controlnet": "gone"})
    words = ["generate", "a", "--controlnet", "gone", "--control-video", controlled["control_video"]]
    result = CliRunner().invoke(main, [*words, "-o", str(tmp_path / "clip.mp4")])
    assert result.exit_code == 3
    (line,) = result.stderr.strip().splitlines()
    assert "gone: no such file or folder, and not a hub id" in line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"control_video": "x.mp4"}, "control_video is ignored without controlnet"),
        ({"controlnet_scale": 0.5}, "controlnet_scale is ignored without controlnet"),
        ({"controlnet_steps": "0-0.5"}, "controlnet_steps is ignored without controlnet"),
        ({"sparse_images": {"0": "x.png"}}, "sparse_images is ignored without sparsectrl"),
    ],
)
def test_settings_without_effect_are_said(
    pipeline: TextToVideoPipeline, changes: dict[str, Any], message: str
) -> None:
    with pytest.warns(UserWarning, match=message):
        pipeline.resolve(GenerationSettings.from_values({"prompt": "a", **changes}))
