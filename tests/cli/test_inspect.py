"""`inspect` of clips, models, adapters and weights, and of what is none of these."""

import json
from pathlib import Path

import numpy as np
import pytest
from clip_commands import generate, run

pytestmark = pytest.mark.usefixtures("empty_folder")


def test_inspect_shows_clips_models_adapters_and_weights(tiny_model: Path) -> None:
    generate(tiny_model, "a red circle", "-o", "c.mp4", "-q", "--fps", "23.976")
    clip = json.loads(run("inspect", "c.mp4", "--json").stdout)
    assert (clip["kind"], clip["num_frames"], clip["fps"], clip["codec"]) == ("clip", 5, "2997/125", "h264")
    assert clip["record"]["settings"]["fps"] == "2997/125"
    model = json.loads(run("inspect", tiny_model, "--json").stdout)
    assert (model["kind"], model["pipeline"]) == ("model", "AnimateDiffPipeline")
    assert model["weights_sha256"] == clip["record"]["model"]["weights_sha256"]
    adapter = json.loads(run("inspect", tiny_model / "motion_adapter", "--json").stdout)
    assert (adapter["class"], adapter["norm_scope"]) == ("MotionAdapter", "clip")
    weights = json.loads(run("inspect", next((tiny_model / "unet").glob("*.safetensors")), "--json").stdout)
    assert weights["num_parameters"] == model["components"]["unet"]["num_parameters"] > 10_000
    assert "flicker: " in run("inspect", "c.json").stdout


def test_inspect_knows_the_embedded_model_by_its_name() -> None:
    assert json.loads(run("inspect", "embedded", "--json").stdout)["kind"] == "model"


def test_inspect_of_what_is_none_of_these() -> None:
    Path("text.mp4").write_text("no video")
    Path("w.safetensors").write_bytes(b"\xff" * 100)
    Path("r.json").write_text("{}")
    for name, code in (("none.mp4", 2), ("text.mp4", 2), ("w.safetensors", 3), ("r.json", 2)):
        result = run("inspect", name)
        assert (result.exit_code, len(result.stderr.splitlines()), result.stdout) == (code, 1, ""), name


def test_a_clip_without_a_record_is_still_shown(tiny_model: Path) -> None:
    from fractions import Fraction

    from video_diffusion.video import write_video

    write_video(
        "c.mp4", np.zeros((3, 16, 24, 3), np.uint8), Fraction(8), {"video_diffusion": '{"\\u001b[2J": 1}'}
    )
    result = run("inspect", "c.mp4")
    assert result.exit_code == 0 and "num_frames: 3" in result.stdout
    assert "record_problem: c.mp4 (embedded record): not a clip record" in result.stdout
    assert "\x1b" not in result.stdout
