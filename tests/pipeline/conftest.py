"""A tiny model on disk, and the pipeline loaded from it."""

from pathlib import Path

import pytest
from tiny_models import save_tiny_model

from video_diffusion import TextToVideoPipeline

DEFAULTS = {
    "num_frames": 4,
    "height": 16,
    "width": 24,
    "fps": "30000/1001",
    "num_inference_steps": 3,
    "guidance_scale": 2.5,
    "scheduler": "euler_a",
    "vocabulary": ["a", "red", "ball", "blue", "box", "one", "two"],
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("pipeline") / "model", norm_scope="frame", **DEFAULTS)


@pytest.fixture(scope="session")
def pipeline(folder: Path) -> TextToVideoPipeline:
    return TextToVideoPipeline.from_pretrained(str(folder), device="cpu")
