"""A stretched position table: rows between rows lie on the sinusoids."""

import pytest
import torch
from tiny_models import TEXT_WIDTH, relative_error, tiny_adapter, tiny_unet
from torch import Tensor

from video_diffusion.acceleration import accelerate_unet
from video_diffusion.models import VideoUNet
from video_diffusion.models.temporal import SinusoidalPositions

WIDTH = 6


def predict(num_frames: int, **conditions: object) -> Tensor:
    """Of a model that knows nine positions; the faster ways must agree."""
    unet = tiny_unet().double()
    video_unet = VideoUNet(unet, tiny_adapter(unet))
    torch.manual_seed(3)
    latents = torch.randn(1, 4, num_frames, 6, 10, dtype=torch.float64)
    embeds = torch.randn(1, 7, TEXT_WIDTH, dtype=torch.float64)
    with torch.no_grad():
        plain = video_unet(latents, 20, embeds, **conditions)
        with accelerate_unet(video_unet):
            assert relative_error(video_unet(latents, 20, embeds, **conditions), plain) <= 1e-12
    return plain


def test_rows_between_rows_lie_on_the_sinusoids() -> None:
    """The formula written out: sin and cos of p · 10000^(-2i/width), interleaved."""
    positions = torch.tensor([0.0, 0.5, 1.0, 2.25])
    found = SinusoidalPositions(WIDTH, 4).rows(4, positions)
    for row, p in zip(found, positions.tolist(), strict=True):
        angles = torch.tensor([p * 10000 ** (-2 * i / WIDTH) for i in range(WIDTH // 2)])
        expected = torch.stack([angles.sin(), angles.cos()], dim=1).flatten()
        assert torch.allclose(row, expected, atol=1e-6)


def test_whole_rows_are_the_table() -> None:
    table = SinusoidalPositions(WIDTH, 40)
    assert torch.equal(table.rows(40, torch.arange(40.0)), table.pe[0])
    assert torch.equal(table.rows(3, torch.tensor([7, 0, 39])), table.pe[0, [7, 0, 39]])


def test_frames_twice_as_dense_take_every_second_row() -> None:
    expected = predict(5, frame_positions=torch.arange(5) * 2)
    assert relative_error(predict(5, position_stretch=0.5), expected) <= 1e-6  # computed in float32
    assert relative_error(predict(5), expected) > 1e-3


def test_a_stretched_table_serves_longer_clips() -> None:
    assert predict(17, position_stretch=2.0).shape[2] == 17
    with pytest.raises(ValueError, match=r"must lie in 0…8, .* but span 0…8.5; take frames that lie closer"):
        predict(18, position_stretch=2.0)
    with pytest.raises(ValueError, match="num_frames is 17 but this motion adapter knows 9 positions"):
        predict(17)


def test_every_window_begins_at_the_first_row() -> None:
    windows = [((0, 1, 2, 3), (1.0,) * 4), ((4, 5, 6, 7), (1.0,) * 4)]
    apart = predict(8, frame_windows=windows, position_stretch=2.0)
    assert relative_error(apart, predict(8, frame_windows=windows)) > 1e-3
    same = predict(8, frame_windows=windows, frame_positions=torch.tensor([0.0, 0.5, 1.0, 1.5, 0, 0, 0, 0]))
    assert relative_error(same, apart) <= 1e-12
