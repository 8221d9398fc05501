"""Each replaced layer by itself equals torch's own."""

from typing import Any

import pytest
import torch
from counting import count_operations
from small_passes import root_mean_square_error
from tiny_models import relative_error
from torch import nn

from video_diffusion.acceleration.kernels import (
    convolution_fits,
    convolution_forward,
    feed_forward,
    linear_forward,
    uses_onednn,
)
from video_diffusion.models.temporal import FeedForward


@torch.no_grad()
def test_linear_maps_by_onednn_equal_torch_up_to_rounding() -> None:
    layer = nn.Linear(48, 37)
    rows = torch.randn(3, 5, 48)
    assert root_mean_square_error(linear_forward(layer, rows), layer(rows)) <= 1e-6
    strided = torch.randn(3, 48, 5).transpose(1, 2)
    assert root_mean_square_error(linear_forward(layer, strided), layer(strided)) <= 1e-6
    assert not uses_onednn(torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "shape",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "padding": 1, "stride": 2},
        {"kernel_size": 1, "bias": False},
        {"kernel_size": (3, 2), "padding": (2, 0), "dilation": (1, 2), "stride": (2, 1)},
    ],
)
@torch.no_grad()
def test_convolutions_of_few_pixels_equal_torch_up_to_rounding(
    dtype: torch.dtype, shape: dict[str, Any]
) -> None:
    layer = nn.Conv2d(5, 96, **shape).to(dtype)
    pictures = torch.randn(2, 5, 3, 7, dtype=dtype)
    assert convolution_fits(layer)
    operations = count_operations(lambda: convolution_forward(layer, pictures))
    assert operations["aten.convolution"] == 0
    found, expected = convolution_forward(layer, pictures), layer(pictures)
    assert found.shape == expected.shape
    assert found.is_contiguous()
    assert root_mean_square_error(found, expected) <= (1e-14 if dtype == torch.float64 else 1e-6)
    many = torch.randn(40, 5, 3, 7, dtype=dtype)
    assert torch.equal(convolution_forward(layer, many), layer(many))


def test_unusual_convolutions_stay_as_they_are() -> None:
    assert not convolution_fits(nn.Conv2d(4, 6, 3, groups=2))
    assert not convolution_fits(nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"))
    assert not convolution_fits(nn.Conv2d(4, 6, 3, padding="same"))
    assert not convolution_fits(nn.Conv1d(4, 6, 3))


@torch.no_grad()
def test_feed_forward_in_pieces_equals_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = FeedForward(16).double()
    tokens = torch.randn(3, 11, 16, dtype=torch.float64)
    expected = layer(tokens)
    for num_bytes in (1, 3 * 128 * 8, 2**25):
        monkeypatch.setattr("video_diffusion.acceleration.kernels.MAX_BYTES", num_bytes)
        assert relative_error(feed_forward(layer, tokens), expected) <= 1e-13
