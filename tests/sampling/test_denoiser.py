import pytest
import torch
from torch import Tensor

from video_diffusion.sampling import Guided

LATENTS = torch.arange(2.0 * 3 * 4 * 5 * 6, dtype=torch.float64).reshape(2, 3, 4, 5, 6) / 100
PROMPT = torch.linspace(1, 2, 2 * 7 * 8).reshape(2, 7, 8)
NEGATIVE = torch.linspace(-1, 0, 2 * 7 * 8).reshape(2, 7, 8)


class Model:
    """Multiplies the latents by the sum of the prompt, and remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[tuple[int, ...], torch.dtype, dict[str, object]]] = []

    def __call__(
        self, latents: Tensor, timestep: Tensor, prompt_embeds: Tensor, **conditions: object
    ) -> Tensor:
        self.calls.append((tuple(latents.shape), latents.dtype, conditions))
        return latents * prompt_embeds.sum((1, 2))[:, None, None, None, None]


def by_prompt(embeds: Tensor) -> Tensor:
    return LATENTS * embeds.double().sum((1, 2))[:, None, None, None, None]


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.5, 7.5])
def test_guidance_is_the_formula_in_one_pass(scale: float) -> None:
    model = Model()
    guided = Guided(model, PROMPT.double(), NEGATIVE.double(), scale, marker=3)
    expected = by_prompt(NEGATIVE) + scale * (by_prompt(PROMPT) - by_prompt(NEGATIVE))
    assert torch.allclose(guided(LATENTS, torch.tensor(5)), expected, rtol=1e-12)
    assert model.calls == [((4, 3, 4, 5, 6), torch.float64, {"marker": 3})]


def test_a_scale_of_one_is_one_pass_without_doubling() -> None:
    model = Model()
    guided = Guided(model, PROMPT.double(), None, 1.0)
    assert torch.equal(guided(LATENTS, torch.tensor(5)), by_prompt(PROMPT))
    assert [shape for shape, _, _ in model.calls] == [(2, 3, 4, 5, 6)]


def test_the_model_runs_in_the_precision_of_its_prompt() -> None:
    model = Model()
    guided = Guided(model, PROMPT.bfloat16(), NEGATIVE.bfloat16(), 2.0)
    assert guided(LATENTS, torch.tensor(5)).dtype == torch.float64
    assert model.calls[0][1] == torch.bfloat16


@pytest.mark.parametrize("negative", [None, NEGATIVE[:, :5]])
def test_guidance_needs_a_matching_negative_prompt(negative: Tensor | None) -> None:
    with pytest.raises(ValueError, match=r"must have the shape \(2, 7, 8\) of prompt_embeds"):
        Guided(Model(), PROMPT, negative, 2.0)


def test_every_frame_may_have_its_own_scale() -> None:
    scales = torch.tensor([1.0, 0.0, 2.0, 5.0])
    found = Guided(Model(), PROMPT.double(), NEGATIVE.double(), scales)(LATENTS, torch.tensor(5))
    for frame, scale in enumerate(scales.tolist()):
        expected = Guided(Model(), PROMPT.double(), NEGATIVE.double(), scale)(LATENTS, torch.tensor(5))
        assert torch.allclose(found[:, :, frame], expected[:, :, frame], rtol=1e-12)
    model = Model()
    Guided(model, PROMPT.double(), None, torch.ones(4))(LATENTS, torch.tensor(5))
    assert [shape for shape, _, _ in model.calls] == [(2, 3, 4, 5, 6)]


def test_a_negative_prompt_for_the_clip_meets_prompts_for_frames() -> None:
    seen: list[Tensor] = []

    def model(latents: Tensor, timestep: Tensor, prompt_embeds: Tensor, **conditions: object) -> Tensor:
        seen.append(prompt_embeds)
        return latents

    frames = torch.randn(2, 4, 7, 8)
    Guided(model, frames, NEGATIVE, 2.0)(LATENTS, torch.tensor(5))
    assert torch.equal(seen[0][:2], NEGATIVE[:, None].expand(2, 4, 7, 8))
    assert torch.equal(seen[0][2:], frames)
    Guided(model, NEGATIVE, frames, 2.0)(LATENTS, torch.tensor(5))
    assert torch.equal(seen[1][:2], frames)
