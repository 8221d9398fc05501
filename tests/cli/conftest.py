"""A whole tiny model on disk, real and untrained, for the commands to run on."""

from pathlib import Path

import pytest
from tiny_models import save_tiny_model


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
