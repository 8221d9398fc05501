"""The pipeline as a notebook uses it: names of flags, lists, images in memory, bars, moving, swapping."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import save_tiny_model, tiny_adapter, tiny_unet

from video_diffusion import GenerationSettings, TextToVideoPipeline
from video_diffusion.loading import ModelLoadError

FEW: dict[str, Any] = {"frames": 3, "steps": 2, "size": "24x16", "progress": False}


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> TextToVideoPipeline:
    """A model that knows any word."""
    folder = save_tiny_model(tmp_path_factory.mktemp("notebook") / "model", fps="8", scheduler="ddim")
    return TextToVideoPipeline.from_pretrained(str(folder), device="cpu")


def test_flags_names_are_accepted_and_a_wrong_one_names_the_right_one(quiet: TextToVideoPipeline) -> None:
    video = quiet("a dot", guidance=2.5, **FEW)
    own = video.settings
    assert (own.num_frames, own.num_inference_steps, own.width, own.height, own.guidance_scale) == (
        3, 2, 24, 16, 2.5
    )  # fmt: skip
    assert GenerationSettings.from_values({"prompt": "a", "lora": "x:0.5"}).loras == ("x:0.5",)
    for values, reason in (
        ({"step": 3}, "no setting 'step'; did you mean"),
        ({"steps": 3, "num_inference_steps": 4}, "num_inference_steps a second time; keep one of them"),
        ({"size": "big"}, "size must be WIDTHxHEIGHT in pixels, such as 64x48"),
    ):
        with pytest.raises(ValueError, match=reason):
            quiet("a", **values)


def test_lists_of_prompts_and_seeds_make_every_clip(quiet: TextToVideoPipeline) -> None:
    clips = quiet(["a dot", "sea"], seed=[3, 4], **FEW)
    assert [(clip.settings.prompt, clip.settings.seed) for clip in clips] == [
        ("a dot", 3), ("a dot", 4), ("sea", 3), ("sea", 4)
    ]  # fmt: skip
    assert [clip.settings.seed for clip in quiet("a dot", seed=range(2), **FEW)] == [0, 1]
    assert quiet("sea", seed=4, **FEW).frames.shape == clips[3].frames.shape


def test_images_stand_wherever_a_path_does(quiet: TextToVideoPipeline, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (3, 16, 24, 3), np.uint8)
    Image.fromarray(pixels[0]).save(tmp_path / "a.png")
    by_path = quiet("a dot", init_image=str(tmp_path / "a.png"), **FEW)
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    for image in (tmp_path / "a.png", Image.fromarray(pixels[0]), pixels[0], pixels[0] / 255, tensor[0]):
        assert quiet("a dot", init_image=image, **FEW).frames_sha256 == by_path.frames_sha256
    first = quiet("a dot", init_video=pixels, **FEW)
    for video in (tensor, tensor.float() / 255, [Image.fromarray(frame) for frame in pixels]):
        again = quiet("a dot", init_video=video, **FEW)
        assert (again.frames_sha256, again.run_record.job_id) == (
            first.frames_sha256,
            first.run_record.job_id,
        )
    assert set(first.run_record.inputs) == {"init_video"}


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.zeros((4, 4)), r"init_image must be an image \(rows, columns, channels\)"),
        (np.zeros((4, 4, 3), np.int64), "init_image must be uint8, or floating point in \\[0, 1\\]"),
        (np.full((4, 4, 3), 2.0), "init_image must be in \\[0, 1\\] where it is floating point"),
        (np.full((4, 4, 3), np.nan), "init_image must be in \\[0, 1\\]"),
        (torch.zeros(5, 4, 4), r"init_image must be an image \(channels, rows, columns\)"),
        ([np.zeros((2, 4, 4, 3), np.uint8)], "init_image must be a list of images"),
        (3, "init_image must be text"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(quiet: TextToVideoPipeline, image: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        quiet("a dot", init_image=image, **FEW)


def test_bars_are_shown_unless_switched_off(
    quiet: TextToVideoPipeline, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[int] = []
    quiet("a dot", on_step=lambda step: told.append(step.index), **(FEW | {"progress": True}))
    shown = capfd.readouterr().err
    assert "denoise: 100%" in shown and "decode: 100%" in shown and "measure: 100%" in shown
    assert told == [1, 2]
    quiet("a dot", **FEW)
    assert capfd.readouterr().err == ""


def test_a_clip_shows_itself(quiet: TextToVideoPipeline) -> None:
    video = quiet("a <b>dot</b>", prompt_syntax="plain", **FEW)
    assert repr(video).startswith("<GeneratedVideo 'a <b>dot</b>': 3 frames of 24x16 at 8 fps, seed 0")
    assert len(repr(video)) < 150 and len(repr(video.report)) < 200
    page = video._repr_html_()
    assert '<video src="data:video/mp4;base64,' in page and "&lt;b&gt;dot&lt;/b&gt;" in page
    assert "<td>flicker</td>" in page
    assert [image.size for image in video.images] == [(24, 16)] * 3
    assert np.array_equal(np.asarray(video.images[1]), video.frames[1])
    settings = GenerationSettings(prompt="a", seed=3)
    assert repr(settings) == "GenerationSettings(prompt='a', seed=3)"


def test_words_the_model_never_learned_are_told(pipeline: TextToVideoPipeline) -> None:
    with pytest.warns(UserWarning, match="this model never learned 'dragon'; the words it knows: a, "):
        pipeline("a (red:1.2) dragon", **FEW)


def test_the_pipeline_moves_and_changes_its_precision(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", fps="8", scheduler="ddim")
    loaded = TextToVideoPipeline.from_pretrained(str(folder), dtype="float64", device="cpu")
    moved = TextToVideoPipeline.from_pretrained(str(folder), device="cpu")
    assert moved.to(torch.float64) is moved
    assert moved("a", **FEW).frames_sha256 == loaded("a", **FEW).frames_sha256
    assert repr(moved) == f"TextToVideoPipeline({str(folder)!r}, dtype='float64', device='cpu')"
    with pytest.raises(ValueError, match="to\\(\\) does not go with low_memory"):
        TextToVideoPipeline.from_pretrained(str(folder), device="cpu", low_memory=True).to("cpu")


def test_other_temporal_layers_are_as_if_loaded_with_the_model(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", fps="8", scheduler="ddim")
    tiny_adapter(tiny_unet(), seed=5).save_pretrained(tmp_path / "other")
    pipeline = TextToVideoPipeline.from_pretrained(str(folder), device="cpu")
    own = pipeline("a", **FEW)
    unet = pipeline.parts.unet
    for name in (str(tmp_path / "other"), "none", str(folder)):
        swapped = pipeline.use_motion_adapter(name)("a", **FEW)
        loaded = TextToVideoPipeline.from_pretrained(str(folder), name, device="cpu")("a", **FEW)
        assert swapped.frames_sha256 == loaded.frames_sha256
        assert swapped.run_record.job_id == loaded.run_record.job_id
    assert pipeline.parts.unet is unet
    assert pipeline("a", **FEW).frames_sha256 == own.frames_sha256
    with pytest.raises(ModelLoadError):
        pipeline.use_motion_adapter(str(tmp_path / "nowhere"))
    assert pipeline("a", **FEW).frames_sha256 == own.frames_sha256
