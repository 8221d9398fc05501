"""Long clips by FreeNoise, FreeInit, and clips that start from a video or a picture, end to end."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from motion_files import original_lora
from PIL import Image
from safetensors.torch import save_file
from tiny_models import save_tiny_model

from video_diffusion import GeneratedVideo, GenerationSettings, TextToVideoPipeline
from video_diffusion.loading import ModelLoadError
from video_diffusion.pipeline.clip_denoiser import draw_noise
from video_diffusion.pipeline.inputs import encode_input, noise_moves
from video_diffusion.sampling import DenoisingStep
from video_diffusion.settings import content_sha256
from video_diffusion.settings.input_files import lora_identity
from video_diffusion.video import VideoReadError, read_record, write_video

DEFAULTS = {
    "num_frames": 4,
    "height": 16,
    "width": 24,
    "fps": "8",
    "num_inference_steps": 3,
    "guidance_scale": 2.5,
    "scheduler": "ddim",
}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> TextToVideoPipeline:
    folder = save_tiny_model(tmp_path_factory.mktemp("inputs") / "model", norm_scope="frame", **DEFAULTS)
    return TextToVideoPipeline.from_pretrained(str(folder), device="cpu")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("video") / "in.mkv"
    write_video(path, np.random.default_rng(0).integers(0, 255, (5, 16, 24, 3), np.uint8), Fraction(8))
    return str(path)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("picture") / "in.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (16, 24, 3), np.uint8)).save(path)
    return str(path)


def distinct(videos: list[GeneratedVideo]) -> bool:
    frames = {video.frames_sha256 for video in videos}
    return len(frames) == len({video.run_record.job_id for video in videos}) == len(videos)


@pytest.mark.full
def test_freenoise_makes_clips_of_any_length(pipeline: TextToVideoPipeline) -> None:
    settings = {"num_frames": 11, "freenoise": True, "num_inference_steps": 2}
    clips = [pipeline("a red ball", context_length=length, **settings) for length in (6, 8)]
    clips.append(pipeline("a red ball", context_length=6, context_overlap=2, **settings))
    assert distinct(clips)
    assert clips[0].frames.shape == (11, 16, 24, 3)
    assert clips[0].run_record.window_starts == [0, 1, 2, 3, 4, 5]
    assert clips[2].run_record.window_starts == [0, 4, 5]
    assert clips[0].record["settings"]["freenoise"] is True


@pytest.mark.full
def test_freeinit_denoises_again(pipeline: TextToVideoPipeline) -> None:
    steps: list[DenoisingStep] = []
    twice = pipeline("a red ball", freeinit=2, on_step=steps.append)
    assert [(step.index, step.num_steps) for step in steps] == [(k, 6) for k in range(1, 7)]
    once = pipeline("a red ball", freeinit=1)
    assert once.frames_sha256 == pipeline("a red ball").frames_sha256
    gaussian = pipeline("a red ball", freeinit=2, freeinit_filter="gaussian")
    assert distinct([twice, once, gaussian])


def test_a_clip_starts_from_a_video(pipeline: TextToVideoPipeline, video: str, tmp_path: Path) -> None:
    steps: list[DenoisingStep] = []
    clip = pipeline("a red ball", init_video=video, strength=0.7, on_step=steps.append)
    assert [step.num_steps for step in steps] == [2, 2]
    whole: list[DenoisingStep] = []
    enforced = pipeline(
        "a red ball", init_video=video, strength=0.7, enforce_steps=True, on_step=whole.append
    )
    assert [step.num_steps for step in whole] == [3, 3, 3]
    assert enforced.run_record.job_id != clip.run_record.job_id
    assert distinct([clip, pipeline("a red ball"), pipeline("a red ball", init_video=video, strength=1.0)])
    assert clip.record["inputs"] == {"init_video": content_sha256(video)}
    clip.save(tmp_path / "clip.mp4")
    assert read_record(tmp_path / "clip.mp4").inputs == clip.record["inputs"]


def test_noise_moves_as_a_video_does(pipeline: TextToVideoPipeline, video: str, tmp_path: Path) -> None:
    """A ground that is panned three latents to the right a frame takes its noise along."""
    ground = np.random.default_rng(2).integers(0, 255, (16, 24 + 6 * 3, 3), np.uint8)
    ground = np.asarray(cv2.GaussianBlur(ground, (0, 0), 2))
    panned = np.stack([ground[:, 6 * (3 - frame) : 6 * (3 - frame) + 24] for frame in range(4)])
    write_video(tmp_path / "pan.mkv", panned, Fraction(8), codec="libx264rgb")
    values = {"prompt": "a", "noise_video": str(tmp_path / "pan.mkv"), "noise_alpha": 100.0}
    settings = pipeline.resolve(GenerationSettings.from_values(values))
    moves = noise_moves(settings, 2)
    assert moves is not None
    assert [move.shape for move in moves] == [(8, 12, 2)] * 3
    noise = draw_noise(settings, [3], (4, 8, 12), moves)[0]

    def likeness(first: torch.Tensor, second: torch.Tensor) -> float:
        return float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])

    assert likeness(noise[:, 1, 2:-2, 5:-2], noise[:, 0, 2:-2, 2:-5]) > 0.6  # flow in so small a picture errs
    assert abs(likeness(noise[:, 1], noise[:, 0])) < 0.3
    moved = pipeline("a red ball", noise_video=video)
    closer = pipeline("a red ball", noise_video=video, noise_alpha=3.0)
    assert distinct([moved, closer, pipeline("a red ball")])
    assert moved.record["inputs"] == {"noise_video": content_sha256(video)}
    with pytest.raises(ValueError, match="noise_video does not go with noise_type mixed; set noise_"):
        pipeline("a red ball", noise_video=video, noise_type="mixed")
    with pytest.raises(ValueError, match=r"noise_video .* has 5 frames, but num_frames is 6"):
        pipeline("a red ball", noise_video=video, num_frames=6)


def test_the_less_strength_the_nearer_to_the_video(pipeline: TextToVideoPipeline, video: str) -> None:
    """After the autoencoder, which loses most of noise: the latents' distance from the input's."""
    settings = pipeline.resolve(GenerationSettings.from_values({"prompt": "a", "init_video": video}))
    known = encode_input(pipeline.parts, settings)
    assert known is not None
    assert tuple(known.shape) == (1, 4, 4, 8, 12)
    distances = []
    for strength in (0.1, 0.4, 1.0):
        steps: list[DenoisingStep] = []
        pipeline("a", init_video=video, strength=strength, num_inference_steps=10, on_step=steps.append)
        distances.append(float((steps[-1].latents - known).abs().mean()))
    assert distances == sorted(distances)


def test_a_clip_begins_with_a_picture(pipeline: TextToVideoPipeline, picture: str) -> None:
    steps: list[DenoisingStep] = []
    common = {"init_image": picture, "num_inference_steps": 12, "strength": 1.0}
    clip = pipeline("a red ball", **common, image_hold=0.0, on_step=steps.append)
    settings = pipeline.resolve(GenerationSettings.from_values({"prompt": "a", "init_image": picture}))
    known = encode_input(pipeline.parts, settings)
    assert known is not None
    error = (steps[-1].latents - known).abs().mean((0, 1, 3, 4))
    assert float(error[0]) < 0.02
    assert float(error[1:].min()) > 0.2
    held: list[DenoisingStep] = []
    assert distinct([clip, pipeline("a red ball", **common, image_hold=0.99, on_step=held.append)])
    assert float((held[-1].latents - steps[-1].latents)[:, :, 0].abs().max()) < 1e-4
    assert float((held[-1].latents - known).abs()[:, :, 1:].mean()) < float(error[1:].mean())
    assert clip.record["inputs"] == {"init_image": content_sha256(picture)}


def test_loras_are_at_work_for_their_clips_alone(pipeline: TextToVideoPipeline, tmp_path: Path) -> None:
    file = tmp_path / "zoom.safetensors"
    save_file(original_lora(pipeline.parts.motion_adapter), file)
    before = pipeline("a red ball")
    clips = [pipeline("a red ball", loras=[f"{file}{weight}"]) for weight in ("", ":0.5")]
    assert distinct([before, *clips])
    assert pipeline("a red ball").frames_sha256 == before.frames_sha256
    assert list(clips[0].record["inputs"]) == ["loras.0"]
    assert clips[0].record["settings"]["loras"] == [str(file)]
    moved = file.rename(tmp_path / "moved.safetensors")
    again = GenerationSettings.from_values({"prompt": "a", "loras": [f"{moved}:1"]})
    moved.rename(file)
    assert again.job_id() != GenerationSettings.from_values({"prompt": "a"}).job_id()
    with pytest.raises(ModelLoadError, match="no such file or folder"):
        pipeline("a red ball", loras=["gone.safetensors"])


def test_a_lora_is_named_by_its_content_and_weight(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "motion_lora").mkdir(parents=True)
    file = run / "motion_lora" / "pytorch_lora_weights.safetensors"
    file.write_bytes(b"weights")
    expected = f"{content_sha256(str(file))}:1"
    assert {lora_identity(str(path)) for path in (file, file.parent, run)} == {expected}
    assert lora_identity(f"{run}:1.0") == expected
    assert lora_identity(f"{run}:0.5") == expected.replace(":1", ":0.5")
    assert lora_identity("owner/model:0.5") == "owner/model:0.5"


def test_the_job_id_goes_by_what_is_in_the_file(picture: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.png"
    copy.write_bytes(Path(picture).read_bytes())

    def job_id(path: object) -> str:
        return GenerationSettings.from_values({"prompt": "a", "init_image": str(path)}).job_id()

    assert job_id(picture) == job_id(copy)
    copy.write_bytes(copy.read_bytes() + b"\0")
    assert job_id(picture) != job_id(copy)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "1.png").write_bytes(b"1")
    before = content_sha256(str(folder))
    (folder / "1.png").rename(folder / "2.png")
    assert before != content_sha256(str(folder)) is not None
    assert content_sha256(str(tmp_path / "none")) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_video": "VIDEO", "num_frames": 6}, "has 5 frames, but num_frames is 6; set num_frames to 5"),
        (
            {"init_video": "VIDEO", "strength": 0.1},
            "strength 0.1 of 3 steps leaves none to do; set it to 0.33",
        ),
        (
            {"init_video": "VIDEO", "strength": 0.001, "enforce_steps": True},
            "enforce_steps with strength 0.001 divides the schedule into 3000 steps, but the model was",
        ),
        ({"init_video": "VIDEO", "freeinit": 2}, "freeinit 2 does not go with init_video"),
        ({"init_video": "VIDEO", "init_image": "x.png"}, "init_image does not go with init_video"),
        ({"init_image": " "}, "init_image is empty; name a file or folder"),
        ({"strength": 0.0}, "strength must be a finite number from 0.001 to 1"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    pipeline: TextToVideoPipeline, video: str, changes: dict[str, Any], message: str
) -> None:
    values = {name: video if value == "VIDEO" else value for name, value in changes.items()}
    with pytest.raises(ValueError, match=message):
        pipeline("a red ball", **values)


def test_a_missing_input_is_named(pipeline: TextToVideoPipeline) -> None:
    with pytest.raises(VideoReadError, match=r"gone.mp4: no such file"):
        pipeline("a red ball", init_video="gone.mp4")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strength": 0.5}, "strength is ignored without init_video or init_image"),
        ({"enforce_steps": True}, "enforce_steps is ignored without init_video or init_image"),
        ({"image_hold": 0.5}, "image_hold is ignored without init_image"),
        ({"freenoise": True, "loop": True}, "loop and context_schedule are ignored by freenoise"),
    ],
)
def test_settings_without_effect_are_said(
    pipeline: TextToVideoPipeline, changes: dict[str, Any], message: str
) -> None:
    with pytest.warns(UserWarning, match=message):
        pipeline.resolve(GenerationSettings.from_values({"prompt": "a", **changes}))


def test_records_of_before_still_open(pipeline: TextToVideoPipeline, tmp_path: Path) -> None:
    pipeline("a red ball").save(tmp_path / "clip.mp4")
    record = json.loads((tmp_path / "clip.json").read_text())
    for name in ("freenoise", "prompt_travel", "context_length", "noise_type", "init_video"):
        del record["settings"][name]
    del record["inputs"], record["window_starts"]
    (tmp_path / "old.json").write_text(json.dumps(record))
    assert read_record(tmp_path / "old.json").settings.freenoise is False
