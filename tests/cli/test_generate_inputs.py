"""Inputs of `generate` that cannot be used: refused before the model is loaded, in one line, exit code 2."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from video_diffusion.cli.main import main


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
