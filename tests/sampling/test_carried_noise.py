"""Noise carried along a video's motion: the formula place by place, and still standard normal."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from video_diffusion.sampling import step_noise
from video_diffusion.sampling.noise import carried_places, carry_noise


def own(num_frames: int, height: int = 5, width: int = 7, seed: int = 3) -> torch.Tensor:
    return step_noise(seed, 0, num_frames=num_frames, num_channels=2, height=height, width=width)


def moving(num_frames: int, right: float, down: float, height: int = 5, width: int = 7) -> list[np.ndarray]:
    """Backward flow of a picture that moves as a whole."""
    return [np.full((height, width, 2), (-right, -down), np.float32) for _ in range(num_frames - 1)]


@pytest.mark.parametrize("alpha", [0.5, 3.0])
def test_a_picture_that_moves_takes_its_noise_along(alpha: float) -> None:
    frames = own(3)
    found = carry_noise(frames, moving(3, 2.2, 1.0), alpha)
    size = (1 + alpha**2) ** 0.5
    for frame in (1, 2):
        carried = (alpha * found[:, frame - 1, :-1, :-2] + frames[:, frame, 1:, 2:]) / size
        assert torch.allclose(found[:, frame, 1:, 2:], carried, atol=1e-6)
        assert torch.equal(found[:, frame, 0], frames[:, frame, 0])  # what comes in at the edge is new
        assert torch.equal(found[:, frame, :, :2], frames[:, frame, :, :2])
    assert torch.equal(found[:, 0], frames[:, 0])


def test_a_still_video_gives_progressive_noise() -> None:
    frames = own(4)
    found = carry_noise(frames, moving(4, 0.1, 0), 2.0)
    expected = frames[:, 0]
    for frame in range(1, 4):
        expected = (2 * expected + frames[:, frame]) / 5**0.5
        assert torch.allclose(found[:, frame], expected, atol=1e-6)


def test_slow_motion_adds_up() -> None:
    """A quarter of a place a frame is a whole one as soon as half of one is passed."""
    frames = own(5)
    found = carry_noise(frames, moving(5, 0.25, 0), 1e6)
    for frame, moved in ((1, 0), (2, 0), (3, 1), (4, 1)):
        width = found.shape[-1] - moved
        assert torch.allclose(found[:, frame, :, moved:], found[:, 0, :, :width], atol=1e-4)


@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(1, 9))
def test_each_value_is_carried_once(seed: int, height: int, width: int) -> None:
    """Whatever the flow is: so values within a frame stay independent."""
    move = np.random.default_rng(seed).normal(0, 3, (height, width, 2)).astype(np.float32)
    places, sources = carried_places(move)
    assert len(set(places.tolist())) == len(places) == len(sources) == len(set(sources.tolist()))
    for place, source in zip(places.tolist(), sources.tolist(), strict=True):
        (y, x), (dx, dy) = divmod(place, width), move[place // width, place % width]
        assert source == (y + round(float(dy))) * width + x + round(float(dx))


def test_every_frame_is_standard_normal() -> None:
    moves = [np.random.default_rng(k).normal(0, 4, (64, 64, 2)).astype(np.float32) for k in range(5)]
    frames = carry_noise(own(6, 64, 64), moves, 2.0).transpose(0, 1).flatten(1)
    assert float((frames.std(1) - 1).abs().max()) < 0.03
    assert float(frames.mean(1).abs().max()) < 0.045  # four times what 8192 values' mean is known to
    shifted = torch.stack([(frame[:-1] * frame[1:]).mean() for frame in frames])
    assert float(shifted.abs().max()) < 0.05  # neighbours do not hang together


@given(st.integers(1, 6), st.integers(1, 6))
def test_a_longer_clip_starts_with_the_noise_of_a_shorter_one(first: int, second: int) -> None:
    short, long = sorted((first, second))
    moves = moving(long, 1, -2)
    assert torch.equal(carry_noise(own(long), moves)[:, :short], carry_noise(own(short), moves[: short - 1]))
