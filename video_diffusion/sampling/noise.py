"""Noise that depends on what it is for, and on nothing else.

Every frame draws from a generator of its own, seeded from (seed, step, frame). So a clip's noise does not
depend on its batch, its device or the clips before it, and a longer clip starts with the noise of a shorter
one.
"""

import hashlib

import torch
from jaxtyping import Float
from torch import Tensor

MAX_SEED = 2**63 - 1


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
    seed: int, num_frames: int, num_channels: int, height: int, width: int
) -> Float[Tensor, "c f h w"]:
    """Draw the noise that a clip is denoised from: standard normal, on the CPU, in float32.

    Args:
        seed: 0 to 2⁶³ - 1.
        num_frames: Frames of the clip.
        num_channels: Channels of the latents.
        height: Height of the latents, not of the picture.
        width: Width of the latents.
    """
    return step_noise(seed, 0, num_frames=num_frames, num_channels=num_channels, height=height, width=width)


def _generator(seed: int, step: int, frame: int) -> torch.Generator:
    numbers = b"".join(number.to_bytes(8, "big") for number in (seed, step, frame))
    digest = hashlib.blake2b(numbers, digest_size=8, person=b"video_diffusion").digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
