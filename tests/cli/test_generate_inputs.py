"""Inputs of `generate` that cannot be used: refused before the model is loaded, in one line, exit code 2."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from video_diffusion.cli.main import main
from video_diffusion.cli.rerun import settings_to_repeat
from video_diffusion.settings import GenerationSettings
from video_diffusion.video import ModelIdentity, RunRecord


@pytest.mark.parametrize(
    ("content", "flag", "message"),
    [
        (None, "--init-video", "no such file"),
        (b"", "--init-video", "is empty"),
        (b"not a video at all", "--init-video", "in.mp4"),
        (b"\x89PNG\r\n\x1a\n", "--init-image", "in.png"),
    ],
)
def test_broken_inputs_are_refused_before_loading(
    content: bytes | None, flag: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("video_diffusion.pipeline.load_model", None)  # whoever loads, fails
    path = tmp_path / ("in.mp4" if flag == "--init-video" else "in.png")
    if content is not None:
        path.write_bytes(content)
    result = CliRunner().invoke(main, ["generate", "a", flag, str(path), "-o", str(tmp_path / "out.mp4")])
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "out.mp4").exists()


def record(**settings: object) -> RunRecord:
    made = GenerationSettings.from_values({"prompt": "a", **settings})
    return RunRecord(
        settings=made,
        model=ModelIdentity(name="embedded"),
        job_id=made.job_id(),
        frames_sha256="0" * 64,
        inputs=made.input_sha256s(),
    )


def test_rerun_refuses_an_input_that_is_not_the_one_it_was(tmp_path: Path) -> None:
    path = tmp_path / "in.png"
    path.write_bytes(b"first")
    then = record(init_image=str(path))
    assert settings_to_repeat(then, None, None, None) == then.settings
    path.write_bytes(b"other picture")
    with pytest.raises(
        click.UsageError, match=r"in.png: is not the init_image of the record; put the file back"
    ):
        settings_to_repeat(then, None, None, None)


def test_rerun_wants_the_ip_adapter_and_the_pictures_that_it_had(tmp_path: Path) -> None:
    adapter, picture = tmp_path / "x.safetensors", tmp_path / "a.png"
    adapter.write_bytes(b"weights")
    picture.write_bytes(b"picture")
    then = record(ip_adapter=str(adapter), ip_image={"0-7": str(picture)})
    assert set(then.inputs) == {"ip_adapter", "ip_image.0-7"}
    assert settings_to_repeat(then, None, None, None) == then.settings
    picture.write_bytes(b"other")
    with pytest.raises(click.UsageError, match=r"a.png: is not the ip_image.0-7 of the record"):
        settings_to_repeat(then, None, None, None)
    picture.write_bytes(b"picture")
    adapter.write_bytes(b"others")
    with pytest.raises(click.UsageError, match=r"x.safetensors: is not the ip_adapter of the record"):
        settings_to_repeat(then, None, None, None)
    adapter.unlink()
    with pytest.raises(
        click.UsageError, match=r"--ip-adapter: the record names .*, which is not here; say where"
    ):
        settings_to_repeat(then, None, None, None)
    moved = tmp_path / "y.safetensors"
    moved.write_bytes(b"weights")
    found = settings_to_repeat(then, None, None, None, {"ip_adapter": str(moved)})
    assert (found.ip_adapter, found.ip_image) == (str(moved), then.settings.ip_image)


def test_rerun_fetches_no_lora_because_of_a_record(tmp_path: Path) -> None:
    with pytest.raises(
        click.UsageError, match=r"owner/model:0.5: the record names this LoRA, which is not here"
    ):
        settings_to_repeat(record(loras=["owner/model:0.5"]), None, None, None)
    (tmp_path / "zoom.safetensors").write_bytes(b"weights")
    here = record(loras=[f"{tmp_path}/zoom.safetensors:0.5"])
    assert settings_to_repeat(here, None, None, None) == here.settings
