"""A clip for the tests of reading."""

from fractions import Fraction
from pathlib import Path

import pytest
from marked_clips import marked_frames

from video_diffusion.video import write_video


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """clip.mp4 in the test's folder: 6 marked frames of 48x32 at 8 fps."""
    write_video(tmp_path / "clip.mp4", marked_frames(), Fraction(8))
    return tmp_path / "clip.mp4"
