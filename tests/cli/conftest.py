"""What the commands run on: a whole tiny model, real and untrained; an empty folder; two clips to measure."""

from fractions import Fraction
from pathlib import Path

import pytest
from measured_clips import CLEAN, FLICKERING
from tiny_models import save_tiny_model

from video_diffusion.video import write_video


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(
        tmp_path_factory.mktemp("models") / "tiny",
        num_frames=5,
        height=32,
        width=48,
        fps="8",
        num_inference_steps=3,
        guidance_scale=2.0,
        scheduler="ddim",
        vocabulary=["a", "red", "circle"],
    )


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with nothing in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def clean_and_flickering(empty_folder: Path) -> None:
    """clean.mp4 and flickering.mp4 in the current folder, without loss."""
    write_video("clean.mp4", CLEAN, Fraction(8), codec="libx264rgb")
    write_video("flickering.mp4", FLICKERING, Fraction(8), codec="libx264rgb")
