"""What bfloat16 leaves in float32: sums inside norms and attention, and the scheduler's step."""

import pytest
import torch
from tiny_models import save_tiny_model
from torch.nn import functional

from video_diffusion import TextToVideoPipeline
from video_diffusion.acceleration.kernels import scaled_dot_product_attention

ONE_ROUNDING = 2.0**-8  # of bfloat16, relative


@torch.no_grad()
def test_norms_sum_in_float32() -> None:
    # sums in bfloat16 would lose the spread beside the mean
    pixels = (torch.randn(3, 8, 40, 50) + 30).bfloat16()
    weight, bias = torch.randn(8).bfloat16(), torch.randn(8).bfloat16()
    exact = functional.group_norm(pixels.double(), 2, weight.double(), bias.double(), 1e-6)
    found = functional.group_norm(pixels, 2, weight, bias, 1e-6)
    assert float((found.double() - exact).abs().max()) <= 2 * ONE_ROUNDING * float(exact.abs().max())
    tokens = (torch.randn(5, 7, 640) + 30).bfloat16()
    exact = functional.layer_norm(tokens.double(), (640,))
    found = functional.layer_norm(tokens, (640,))
    assert float((found.double() - exact).abs().max()) <= 2 * ONE_ROUNDING * float(exact.abs().max())


@torch.no_grad()
def test_attention_by_two_products_rounds_no_worse_than_twice_the_fused_kernel() -> None:
    query, key, value = (torch.randn(2, 3, length, 40).bfloat16() for length in (9, 77, 77))
    exact = functional.scaled_dot_product_attention(query.double(), key.double(), value.double())

    def error(found: torch.Tensor) -> float:
        return float((found.double() - exact).norm() / exact.norm())

    fused = error(functional.scaled_dot_product_attention(query, key, value))
    assert error(scaled_dot_product_attention(query, key, value)) <= 2 * fused + ONE_ROUNDING


@pytest.mark.parametrize("accelerated", [False, True])
def test_the_scheduler_steps_in_float32(tmp_path_factory: pytest.TempPathFactory, accelerated: bool) -> None:
    folder = save_tiny_model(tmp_path_factory.mktemp("half") / "model")
    pipeline = TextToVideoPipeline.from_pretrained(str(folder), dtype="bfloat16", device="cpu")
    pipeline.accelerated = accelerated
    seen = []
    size = {"num_frames": 3, "height": 16, "width": 24}
    pipeline("a", num_inference_steps=3, on_step=lambda step: seen.append(step.latents.dtype), **size)
    assert seen == [torch.float32] * 3
