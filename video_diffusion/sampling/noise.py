"""The noise that clips start from: from (seed, frame) alone, correlated, shuffled or warped along motion."""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from video_diffusion.settings import NoiseType

MAX_SEED = 2**63 - 1
SHARED = 2**64 - 1  # stands in for the frame number of noise that belongs to all frames


def frame_generators(seed: int, step: int, num_frames: int) -> list[torch.Generator]:
    """One CPU generator for each frame, seeded from (seed, step, frame).

    The three numbers are hashed, so that neighbouring seeds have nothing in common. PyTorch's CPU generator
    uses 32 bits of what comes out: two given frames share their noise by accident once in 4·10⁹ pairs.

    Args:
        seed: The clip's seed, 0 to 2⁶³ - 1.
        step: 0 for the noise that a clip starts from, k for what its k-th denoising step adds.
        num_frames: Frames of the clip.

    Raises:
        ValueError: The seed is outside its range.
    """
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed must lie in 0…2^63-1, but is {seed}; choose another one")
    return [_generator(seed, step, frame) for frame in range(num_frames)]


def step_noise(
    seed: int, step: int, *, num_frames: int, num_channels: int, height: int, width: int
) -> Float[Tensor, "c f h w"]:
    """Draw standard normal noise on the CPU in float32; arguments as in `frame_generators`."""
    shape = (num_channels, height, width)
    generators = frame_generators(seed, step, num_frames)
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators], dim=1)


def initial_noise(
    seed: int,
    num_frames: int,
    num_channels: int,
    height: int,
    width: int,
    noise_type: NoiseType = "independent",
    noise_alpha: float = 1.0,
) -> Float[Tensor, "c f h w"]:
    """Draw the noise that a clip is denoised from: each frame standard normal, on the CPU, in float32.

    With own_i the noise of frame i, a = `noise_alpha` and PYoCo's two ways (Ge et al. 2023, section 4):

    - independent: own_i.
    - mixed: (a · shared + own_i) / √(1 + a²), so any two frames correlate by a² / (1 + a²).
    - progressive: own_0, then (a · e_(i-1) + own_i) / √(1 + a²); frames k apart correlate by
      (a / √(1 + a²))^k.
    - constant: own_0 for every frame.

    Args:
        seed: 0 to 2⁶³ - 1.
        num_frames: Frames of the clip; the first k frames are the same for every length.
        num_channels: Channels of the latents.
        height: Height of the latents, not of the frames.
        width: Width of the latents.
        noise_type: How frames hang together.
        noise_alpha: Weight of what frames have in common against their own; at least 0.

    Raises:
        ValueError: The seed or `noise_alpha` is outside its range.

    >>> short, long = (initial_noise(7, num_frames, 4, 8, 8) for num_frames in (2, 5))
    >>> torch.equal(short, long[:, :2])
    True
    """
    if not 0 <= noise_alpha < math.inf:
        raise ValueError(f"noise_alpha must be 0 or more, but is {noise_alpha}; 1 and 2 are usual")
    own = step_noise(seed, 0, num_frames=num_frames, num_channels=num_channels, height=height, width=width)
    common, alone = noise_alpha / math.hypot(1, noise_alpha), 1 / math.hypot(1, noise_alpha)
    if noise_type == "mixed":
        shared = torch.randn(own[:, 0].shape, generator=_generator(seed, 0, SHARED))
        return common * shared.unsqueeze(1) + alone * own
    if noise_type == "progressive":
        frames = [own[:, 0]]
        for each in own[:, 1:].unbind(1):
            frames.append(common * frames[-1] + alone * each)
        return torch.stack(frames, dim=1)
    if noise_type == "constant":
        return own[:, :1].expand(own.shape).clone()
    return own


def noise_sha256(noise: Float[Tensor, "c f h w"]) -> str:
    """SHA-256 over shape and float32 values of one clip's noise, in hex; equal only where two start alike."""
    values = noise.detach().to("cpu", torch.float32).contiguous()
    return hashlib.sha256(f"{tuple(values.shape)} ".encode() + values.numpy().tobytes()).hexdigest()


def frame_order(seed: int, first: int, count: int) -> list[int]:
    """Draw an order of 0 … count - 1 for the frames that follow frame `first`."""
    return torch.randperm(count, generator=_generator(seed, SHARED, first)).tolist()


def _generator(seed: int, step: int, frame: int) -> torch.Generator:
    numbers = b"".join(number.to_bytes(8, "big") for number in (seed, step, frame))
    digest = hashlib.blake2b(numbers, digest_size=8, person=b"video_diffusion").digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


# FreeNoise (Qiu et al. 2023): long clips in one pass, from noise that repeats in another order.
#
# Frames of one window that start from the same noise as frames of another look alike, and temporal attention
# in windows keeps within what the adapter was trained for. The windows are the model's own affair, see
# `VideoUNet`'s `frame_windows`; here is the noise.


def shuffle_noise(
    noise: Float[Tensor, "c f h w"], seed: int, window_length: int, window_stride: int
) -> Float[Tensor, "c f h w"]:
    """Make every frame after the first window one of the `window_length` frames before, in shuffled order.

    For i = L, L + s, …: frames i … i+s-1 are frames i-L … i-L+s-1, permuted. A longer clip begins with the
    noise of a shorter one, whatever its length.

    Args:
        noise: Of one clip; its first window stays.
        seed: Decides the order.
        window_length: L, frames of a window.
        window_stride: s, frames by which windows move on.
    """
    shuffled, num_frames = noise.clone(), noise.shape[1]
    for first in range(window_length, num_frames, window_stride):
        order = frame_order(seed, first, window_stride)[: num_frames - first]
        shuffled[:, first : first + window_stride] = shuffled[:, [first - window_length + k for k in order]]
    return shuffled


# Warped noise: each frame's is that of the frame before, moved along the motion of a video.


def carry_noise(
    own: Float[Tensor, "c f h w"], moves: Sequence[Float[np.ndarray, "h w 2"]], noise_alpha: float = 1.0
) -> Float[Tensor, "c f h w"]:
    """Mix each frame's own noise with what the motion of a video brings from the frame before.

    e_0 = own_0; where a place of frame i comes from a place of frame i-1 that no other place comes from,
    e_i = (a · warped + own_i) / √(1 + a²) with a = `noise_alpha`; elsewhere e_i = own_i. This is progressive
    noise (Ge et al. 2023) along motion instead of in place. Places are whole, and each value goes to
    one place at most, so every frame stays standard normal with independent values. What is less than half a
    place of a motion is kept for the next frame, so that slow motion counts too.

    Args:
        own: Standard normal noise, independent from frame to frame.
        moves: From each frame but the first back to the one before, to the right and downwards, in latents.
        noise_alpha: Weight of what is warped against the frame's own, at least 0.
    """
    common, alone = noise_alpha / math.hypot(1, noise_alpha), 1 / math.hypot(1, noise_alpha)
    frames, left = [own[:, 0]], np.zeros((*own.shape[2:], 2))
    for each, move in zip(own[:, 1:].unbind(1), moves, strict=True):
        whole = np.rint(move + left)
        left = move + left - whole
        places, sources = (torch.from_numpy(numbers) for numbers in carried_places(whole))
        made, before = each.flatten(1).clone(), frames[-1].flatten(1)
        made[:, places] = common * before[:, sources] + alone * made[:, places]
        frames.append(made.view_as(each))
    return torch.stack(frames, dim=1)


def carried_places(move: Float[np.ndarray, "h w 2"]) -> tuple[np.ndarray, np.ndarray]:
    """List the places that are carried to, and where each comes from, both as numbers in reading order."""
    height, width = move.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    rows = rows + np.rint(move[..., 1]).astype(np.int64)
    columns = columns + np.rint(move[..., 0]).astype(np.int64)
    inside = ((rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)).ravel()
    places = np.flatnonzero(inside)
    # of several places that come from one, the first has it
    sources, first = np.unique((rows * width + columns).ravel()[places], return_index=True)
    return places[first], sources
