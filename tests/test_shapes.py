import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from video_diffusion.shapes import fold_frames, to_float, to_uint8, unfold_frames

sizes = st.integers(1, 4)


@given(sizes, sizes, sizes, sizes, sizes)
def test_unfolding_undoes_folding(b: int, c: int, f: int, h: int, w: int) -> None:
    video = torch.arange(float(b * c * f * h * w)).reshape(b, c, f, h, w)
    assert torch.equal(unfold_frames(fold_frames(video), f), video)


def test_folding_puts_the_frames_of_a_video_side_by_side() -> None:
    video = torch.arange(2.0 * 3).reshape(2, 1, 3, 1, 1)
    assert fold_frames(video).flatten().tolist() == [0, 1, 2, 3, 4, 5]


def test_every_level_survives_the_round_trip() -> None:
    frames = np.arange(256, dtype=np.uint8).repeat(3).reshape(2, 16, 8, 3)
    assert np.array_equal(to_uint8(to_float(frames)), frames)


def test_levels_are_rounded_not_truncated_and_clipped() -> None:
    frames = torch.tensor([-0.2, 0.0, 0.49 / 255, 0.51 / 255, 254.4 / 255, 254.6 / 255, 1.0, 1.7])
    assert to_uint8(frames.reshape(1, 1, 2, 4)).flatten().tolist() == [0, 0, 0, 1, 254, 255, 255, 255]


def test_channels_go_last() -> None:
    frames = torch.zeros(2, 3, 4, 5)
    frames[1, 2, 3, 4] = 1
    levels = to_uint8(frames)
    assert levels.shape == (2, 4, 5, 3)
    assert levels[1, 3, 4, 2] == 255
    assert levels.sum() == 255


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_type_is_taken(dtype: torch.dtype) -> None:
    assert to_uint8(torch.full((1, 3, 2, 2), 0.5, dtype=dtype)).flatten().tolist() == [128] * 12


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_frames_that_are_not_numbers_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="frames must be finite"):
        to_uint8(torch.full((1, 3, 2, 2), value))
