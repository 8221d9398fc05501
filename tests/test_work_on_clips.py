"""Work on a clip that is there: it goes on, or gets larger in a second pass."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tiny_models import relative_error, save_tiny_model

from video_diffusion import TextToVideoPipeline
from video_diffusion.cli.main import main
from video_diffusion.models import encode_frames
from video_diffusion.shapes import to_float
from video_diffusion.video import read_record, read_video, write_video

DEFAULTS: dict[str, Any] = {
    "num_frames": 5, "height": 32, "width": 32, "fps": "8", "num_inference_steps": 3, "guidance_scale": 2.5,
    "scheduler": "ddim",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and clips of another size and rate than its own."""
    folder = tmp_path_factory.mktemp("work")
    save_tiny_model(folder / "model", norm_scope="frame", **DEFAULTS)
    frames = np.random.default_rng(3).integers(0, 255, (7, 16, 24, 3), np.uint8)
    write_video(folder / "clip.mp4", frames, Fraction(12), codec="libx264rgb")
    write_video(folder / "odd.mp4", frames[:, :, :20], Fraction(12), codec="libx264rgb")
    return folder


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> TextToVideoPipeline:
    return TextToVideoPipeline.from_pretrained(str(folder / "model"), device="cpu")


@pytest.fixture
def before(folder: Path) -> np.ndarray:
    return read_video(folder / "clip.mp4").frames


@pytest.mark.parametrize("how", [{}, {"scheduler": "euler"}, {"scheduler": "dpmpp_2m", "freeinit": 2}])
def test_a_clip_goes_on_from_its_last_frames(
    pipeline: TextToVideoPipeline, folder: Path, before: np.ndarray, how: dict[str, Any]
) -> None:
    """What is made first are the held frames themselves, whatever the scheduler."""
    last: list[torch.Tensor] = []
    clip = pipeline(
        "a red ball", extend=str(folder / "clip.mp4"), extend_overlap=2, **how,
        on_step=lambda step: last.append(step.latents),
    )  # fmt: skip
    held = encode_frames(pipeline.parts.vae, to_float(before[-2:]), 4)
    assert relative_error(last[-1][0, :, :2], held) <= 1e-4
    assert clip.frames.shape == (7 + 5 - 2, 16, 24, 3)  # the clip's own size
    assert np.array_equal(clip.frames[:5], before[:5])
    made = pipeline.decode(last[-1])
    assert np.array_equal(clip.frames[7:], made[2:])
    for place, share in ((0, 1 / 3), (1, 2 / 3)):
        between = before[5 + place] * (1 - share) + made[place] * share
        assert np.array_equal(clip.frames[5 + place], between.round().astype(np.uint8))
    assert (clip.settings.num_frames, clip.settings.fps) == (5, 12)
    assert clip.run_record.window_starts == [7]
    assert clip.report.values["seam_excess"].details["seams"] == 1


def test_more_is_made_in_windows(pipeline: TextToVideoPipeline, folder: Path, before: np.ndarray) -> None:
    with pytest.warns(UserWarning, match="num_frames 13 is more than this model makes in one pass"):
        clip = pipeline("a red ball", extend=str(folder / "clip.mp4"), extend_overlap=3, num_frames=13)
    assert len(clip.frames) == 7 + 13 - 3
    starts = clip.run_record.window_starts
    assert 7 in starts and len(starts) > 2 and min(starts) > 4


def test_what_is_held_steers_what_follows(
    pipeline: TextToVideoPipeline, folder: Path, tmp_path: Path
) -> None:
    other = np.full((4, 16, 24, 3), 250, np.uint8)
    write_video(tmp_path / "other.mp4", other, Fraction(12), codec="libx264rgb")
    clips = [pipeline("a", extend=str(each)) for each in (folder / "clip.mp4", tmp_path / "other.mp4")]
    new = [clip.frames[-1] for clip in clips]
    assert not np.array_equal(*new)
    assert clips[0].run_record.noise_sha256 == clips[1].run_record.noise_sha256


@pytest.mark.parametrize("upscale", ["frames", "latents"])
def test_a_second_pass_is_larger_and_the_whole_clip(
    pipeline: TextToVideoPipeline, folder: Path, upscale: str
) -> None:
    clip = pipeline("a red ball", refine=str(folder / "clip.mp4"), refine_upscale=upscale)
    assert clip.frames.shape == (7, 32, 48, 3)  # twice its size, all its frames
    assert clip.settings.fps == 12
    given = pipeline(
        "a red ball", refine=str(folder / "clip.mp4"), refine_upscale=upscale, width=72, height=48
    )
    assert given.frames.shape == (7, 48, 72, 3)


def test_frames_made_larger_are_a_video_to_start_from(pipeline: TextToVideoPipeline, folder: Path) -> None:
    """The same arithmetic as diffusers' video-to-video run, which `--init-video` is tested against."""
    size: dict[str, Any] = {"height": 32, "width": 48, "num_frames": 7, "fps": 12, "strength": 0.7}
    refined = pipeline("a", refine=str(folder / "clip.mp4"), **size)
    again = pipeline("a", init_video=str(folder / "clip.mp4"), **size)
    assert refined.frames_sha256 == again.frames_sha256
    assert refined.record["job_id"] != again.record["job_id"]


def test_latents_made_larger_begin_as_the_clips_own(
    pipeline: TextToVideoPipeline, folder: Path, before: np.ndarray
) -> None:
    from video_diffusion.pipeline.inputs import encode_input
    from video_diffusion.settings import GenerationSettings

    own = encode_frames(pipeline.parts.vae, to_float(before), 4)
    asked = {"prompt": "a", "refine": str(folder / "clip.mp4"), "refine_upscale": "latents"}
    found = encode_input(pipeline.parts, pipeline.resolve(GenerationSettings.from_values(asked)))
    assert found is not None and found.shape == (1, 4, 7, 16, 24)
    expected = torch.nn.functional.interpolate(own.transpose(0, 1), (16, 24), mode="bicubic")
    assert relative_error(found[0], expected.transpose(0, 1)) <= 1e-6


@pytest.mark.filterwarnings("ignore:refine .* is cut off to fit")
def test_latents_made_larger_keep_their_aspect(pipeline: TextToVideoPipeline, folder: Path) -> None:
    """A circle stays round: what does not fit is cut off before the latents are stretched."""
    from video_diffusion.pipeline.inputs import encode_input
    from video_diffusion.settings import GenerationSettings

    asked = {"prompt": "a", "refine": str(folder / "clip.mp4"), "width": 48, "height": 48}
    frames, latents = (
        encode_input(
            pipeline.parts, pipeline.resolve(GenerationSettings.from_values({**asked, "refine_upscale": how}))
        )
        for how in ("frames", "latents")
    )
    assert frames is not None and latents is not None and frames.shape == latents.shape
    both = torch.stack([frames.flatten(), latents.flatten()])
    assert float(torch.corrcoef(both)[0, 1]) > 0.5


@pytest.mark.parametrize("flags", [["--extend", "CLIP", "--extend-overlap", "3"], ["--refine", "CLIP"]])
def test_from_the_command_line_in_batches_and_again(folder: Path, tmp_path: Path, flags: list[str]) -> None:
    runner = CliRunner()
    words = ["generate", "a red ball", "--model", str(folder / "model")]
    words += [str(folder / "clip.mp4") if word == "CLIP" else word for word in flags]
    one = runner.invoke(main, [*words, "-o", str(tmp_path / "one.mp4"), "--seed", "1"])
    assert one.exit_code == 0, one.stderr
    shown = len(read_video(tmp_path / "one.mp4").frames)
    assert f" {shown} frames of " in one.stderr
    record = read_record(tmp_path / "one.mp4")
    assert list(record.inputs) == [flags[0].removeprefix("--")]
    assert runner.invoke(main, ["rerun", str(tmp_path / "one.mp4"), "-q"]).stdout == "identical\n"
    batch = runner.invoke(main, [*words, "--seeds", "0-1", "-o", str(tmp_path / "clips")])
    assert batch.exit_code == 0, batch.stderr
    rows = [json.loads(line) for line in (tmp_path / "clips" / "results.jsonl").read_text().splitlines()]
    assert rows[1]["job_id"] == record.job_id and rows[1]["frames_sha256"] == record.frames_sha256
    again = runner.invoke(main, [*words, "--seeds", "0-1", "-o", str(tmp_path / "clips")])
    assert "2 done (2 before)" in again.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extend": "CLIP", "width": 32, "height": 32}, "is 24x16, but the clip shall be 32x32; leave th"),
        ({"extend": "ODD"}, "is 20x16, but sides must be multiples of 8; crop it first"),
        ({"extend": "CLIP", "extend_overlap": 5}, "extend_overlap is 5, but num_frames, which counts"),
        ({"extend": "CLIP", "extend_overlap": 8, "num_frames": 9}, "has 7 frames, but extend_overlap is 8"),
        ({"extend": "CLIP", "loop": True}, "loop does not go with extend"),
        ({"extend": "CLIP", "init_image": "x.png"}, "extend does not go with init_image; keep one of them"),
        ({"refine": "CLIP", "extend": "CLIP"}, "refine does not go with extend; keep one of them"),
        ({"refine": "CLIP", "freeinit": 2}, "freeinit 2 does not go with refine"),
        ({"refine": "CLIP", "num_frames": 8}, "has 7 frames, but num_frames is 8; set num_frames to 7"),
        ({"refine": "CLIP", "refine_upscale": "pixels"}, "refine_upscale must be one of frames, latents"),
        ({"extend": "gone.mp4"}, "gone.mp4: no such file"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(
    pipeline: TextToVideoPipeline, folder: Path, changes: dict[str, Any], message: str
) -> None:
    places = {"CLIP": str(folder / "clip.mp4"), "ODD": str(folder / "odd.mp4")}
    with pytest.raises(ValueError, match=message) as refusal:
        pipeline("a", **{name: places.get(str(value), value) for name, value in changes.items()})
    assert "\n" not in str(refusal.value)


def test_another_size_is_told_before_a_model_is_loaded(folder: Path, tmp_path: Path) -> None:
    words = ["generate", "a", "--extend", str(folder / "clip.mp4"), "--size", "64x64"]
    result = CliRunner().invoke(main, [*words, "-o", str(tmp_path / "c.mp4")])
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1
    assert "is 24x16, but the clip shall be 64x64" in result.stderr


def test_another_rate_is_said(pipeline: TextToVideoPipeline, folder: Path) -> None:
    with pytest.warns(
        UserWarning, match="is at 12 fps and will be shown at 8; leave fps out to keep its rate"
    ):
        pipeline("a", extend=str(folder / "clip.mp4"), fps=8, num_inference_steps=1)
