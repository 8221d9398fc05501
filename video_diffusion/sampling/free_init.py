"""FreeInit (Wu et al. 2023): denoise, keep what is slow of the result, start again.

A clip's slow content is in its noise already at the first step of denoising, because training never quite
hides it; pure noise lacks that. So the finished clip is noised again, its low frequencies are kept, its high
ones are drawn anew, and it is denoised once more.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, fft

from video_diffusion.sampling.denoise import DenoisingStep
from video_diffusion.settings import FrequencyFilter
from video_diffusion.shapes import Latents

AXES = (-3, -2, -1)  # frames, height, width


def free_init(
    run: Callable[[Latents], Iterator[DenoisingStep]],
    noise: Latents,
    fresh_noise: Callable[[int], Latents],
    low_pass: Float[Tensor, "f h w"],
    last_alphas_cumprod: float,
    num_iterations: int,
) -> Iterator[DenoisingStep]:
    """Denoise several times, yielding the steps of all times counted through.

    Args:
        run: Denoises from the noise it is given.
        noise: To start from; every later start is mixed from it, from the last result and from fresh noise.
        fresh_noise: Draws noise like `noise` for an iteration, 1, 2, …
        low_pass: Share of each frequency that is kept, see `low_pass_filter`.
        last_alphas_cumprod: How much of the signal, squared, the schedule leaves at its noisiest timestep.
        num_iterations: 1 denoises once, which is plain sampling.
    """
    start = noise
    for iteration in range(num_iterations):
        latents = start
        for step in run(start):
            latents = step.latents
            done = iteration * step.num_steps
            yield replace(step, index=done + step.index, num_steps=num_iterations * step.num_steps)
        if iteration + 1 < num_iterations:
            noised = last_alphas_cumprod**0.5 * latents + (1 - last_alphas_cumprod) ** 0.5 * noise
            start = mix_frequencies(noised, fresh_noise(iteration + 1).to(noised), low_pass)


def mix_frequencies(low: Latents, high: Latents, low_pass: Float[Tensor, "f h w"]) -> Latents:
    """Take the frequencies that pass from `low` and the others from `high`.

    Args:
        low: Gives its share `low_pass` of each frequency.
        high: Gives the rest.
        low_pass: 0 to 1 for each frequency, zero frequency in the middle as `fftshift` puts it.
    """
    mask = fft.ifftshift(low_pass.to(low), dim=AXES)
    mixed = fft.fftn(low, dim=AXES) * mask + fft.fftn(high, dim=AXES) * (1 - mask)
    return fft.ifftn(mixed, dim=AXES).real


def low_pass_filter(
    num_frames: int,
    height: int,
    width: int,
    kind: FrequencyFilter = "butterworth",
    spatial_cutoff: float = 0.25,
    temporal_cutoff: float = 0.25,
    order: int = 4,
) -> Float[Tensor, "f h w"]:
    """Compute what share of each frequency passes, in float64, zero frequency in the middle.

    With d² = (2t/T - 1)²·(d_s/d_t)² + (2y/H - 1)² + (2x/W - 1)² and d_s, d_t the cutoffs: butterworth
    1/(1 + (d²/d_s²)^order), gaussian exp(-d²/(2·d_s²)), ideal d² ≤ 2·d_s (as published, where d² ≤ d_s² would
    be expected), box: every axis within its own cutoff.

    Args:
        num_frames: Of the latents.
        height: Of the latents.
        width: Of the latents.
        kind: The filter's name.
        spatial_cutoff: d_s, as a share of the highest frequency; 0 lets nothing pass.
        temporal_cutoff: d_t, likewise.
        order: Of the Butterworth filter.
    """
    if 0 in {spatial_cutoff, temporal_cutoff}:
        return torch.zeros(num_frames, height, width, dtype=torch.float64)
    t, y, x = (2 * torch.arange(size, dtype=torch.float64) / size - 1 for size in (num_frames, height, width))
    t, y, x = t[:, None, None], y[None, :, None], x[None, None, :]
    if kind == "box":
        inside = (t.abs() <= temporal_cutoff) & (y.abs() <= spatial_cutoff) & (x.abs() <= spatial_cutoff)
        return inside.double()
    distance = ((spatial_cutoff / temporal_cutoff) * t) ** 2 + y**2 + x**2
    if kind == "ideal":
        return (distance <= 2 * spatial_cutoff).double()
    if kind == "gaussian":
        return torch.exp(-distance / (2 * spatial_cutoff**2))
    return 1 / (1 + (distance / spatial_cutoff**2) ** order)
