"""FreeInit: filters and frequency mixing against diffusers, the outer loop against the formula."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers.pipelines.free_init_utils import FreeInitMixin
from tiny_models import relative_error
from torch import Tensor

from video_diffusion.sampling import DenoisingStep, free_init, low_pass_filter, mix_frequencies

SHAPE = (2, 3, 6, 5, 8)  # b c f h w


@pytest.mark.parametrize("kind", ["butterworth", "gaussian", "ideal"])
@pytest.mark.parametrize("cutoffs", [(0.25, 0.25), (0.4, 0.2), (0.0, 0.25), (0.25, 0.0)])
@pytest.mark.parametrize("size", [(6, 5, 8), (1, 4, 4), (7, 1, 3)])
def test_filters_equal_diffusers(kind: Any, cutoffs: tuple[float, float], size: tuple[int, int, int]) -> None:
    expected = FreeInitMixin()._get_free_init_freq_filter(size, "cpu", kind, 4, *cutoffs)
    found = low_pass_filter(*size, kind, *cutoffs)
    assert found.dtype == torch.float64
    assert torch.allclose(found, expected.double(), rtol=0, atol=1e-7)  # theirs is stored in float32


@pytest.mark.parametrize("kind", ["butterworth", "gaussian", "ideal", "box"])
def test_mixing_equals_diffusers(kind: Any) -> None:
    low, high = torch.randn(2, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask = low_pass_filter(6, 5, 8, kind, 0.5, 0.4)
    expected = FreeInitMixin()._apply_freq_filter(low, high, mask)
    assert relative_error(mix_frequencies(low, high, mask), expected) <= 1e-12


def test_the_box_keeps_what_lies_within_all_cutoffs() -> None:
    mask = low_pass_filter(8, 4, 4, "box", 0.5, 0.25)
    t, y, x = torch.meshgrid(*(2 * torch.arange(n) / n - 1 for n in (8, 4, 4)), indexing="ij")
    assert torch.equal(mask == 1, (t.abs() <= 0.25) & (y.abs() <= 0.5) & (x.abs() <= 0.5))
    assert mask.sum() == 3 * 3 * 3


def test_all_or_nothing_passes() -> None:
    low, high = torch.randn(2, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert relative_error(mix_frequencies(low, high, torch.ones(6, 5, 8)), low) <= 1e-12
    assert relative_error(mix_frequencies(low, high, torch.zeros(6, 5, 8)), high) <= 1e-12


def test_slow_content_is_kept_and_the_rest_drawn_anew() -> None:
    still = torch.ones(1, 1, 8, 4, 4, dtype=torch.float64) * 3
    fast = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(4)[None, None, :, None, None] * torch.ones(
        4, 4
    )
    mixed = mix_frequencies(still + fast, torch.zeros_like(still), low_pass_filter(8, 4, 4, "box"))
    assert relative_error(mixed, still) <= 1e-12


def halving(start: Tensor) -> Iterator[DenoisingStep]:
    for index in (1, 2):
        start = start / 2
        yield DenoisingStep(index, 2, 10.0 - index, start, start)


def test_every_round_starts_from_the_last_result_noised_with_the_first_noise() -> None:
    noise = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    fresh = {k: torch.randn(SHAPE, dtype=torch.float64) for k in (1, 2)}
    mask = low_pass_filter(6, 5, 8)
    steps = list(free_init(halving, noise, fresh.__getitem__, mask, 0.36, 3))
    assert [step.index for step in steps] == [1, 2, 3, 4, 5, 6]
    assert {step.num_steps for step in steps} == {6}
    expected = noise
    for k in (1, 2):
        expected = mix_frequencies(0.6 * expected / 4 + 0.8 * noise, fresh[k], mask)
    assert relative_error(steps[-1].latents, expected / 4) <= 1e-12


def test_one_round_is_plain_sampling() -> None:
    noise = torch.randn(SHAPE)
    once = free_init(halving, noise, lambda _: noise, low_pass_filter(6, 5, 8), 0.5, 1)
    assert [torch.equal(a.latents, b.latents) for a, b in zip(once, halving(noise), strict=True)] == [
        True
    ] * 2
