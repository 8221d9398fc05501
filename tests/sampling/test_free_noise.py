import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from video_diffusion.sampling import shuffle_noise

CHANNELS, HEIGHT, WIDTH = 2, 3, 5


def noise(num_frames: int) -> torch.Tensor:
    """Every frame holds its own number."""
    return torch.arange(float(num_frames))[:, None, None].expand(CHANNELS, num_frames, HEIGHT, WIDTH)


@given(st.integers(1, 80), st.integers(2, 16), st.integers(1, 16), st.integers(0, 2**63 - 1))
def test_every_block_is_an_earlier_one_in_another_order(n: int, length: int, stride: int, seed: int) -> None:
    stride = min(stride, length)
    found = shuffle_noise(noise(n), seed, length, stride)[0, :, 0, 0].tolist()
    assert found[:length] == list(range(min(n, length)))
    for first in range(length, n, stride):
        block = found[first : first + stride]
        source = found[first - length : first - length + stride]
        assert sorted(block) == sorted(source) if len(block) == stride else set(block) <= set(source)
        assert len(set(block)) == len(block)


@given(st.integers(1, 60), st.integers(1, 60))
def test_a_longer_clip_starts_with_the_noise_of_a_shorter_one(first: int, second: int) -> None:
    short, long = sorted((first, second))
    found = shuffle_noise(noise(long), 7, 16, 4)[:, :short]
    assert torch.equal(found, shuffle_noise(noise(short), 7, 16, 4))


@pytest.mark.parametrize("seed", [8, 9])
def test_the_order_belongs_to_the_seed(seed: int) -> None:
    assert not torch.equal(shuffle_noise(noise(64), 7, 16, 4), shuffle_noise(noise(64), seed, 16, 4))
    assert torch.equal(shuffle_noise(noise(64), seed, 16, 4), shuffle_noise(noise(64), seed, 16, 4))
