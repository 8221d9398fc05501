import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import randomised, relative_error
from torch import Tensor

from video_diffusion.models.temporal import SinusoidalPositions, TemporalAttention


def attention_by_hand(attention: TemporalAttention, frames: Tensor, motion_scale: float = 1) -> Tensor:
    """softmax(s·q·kᵀ/√d)·v, one site, one head and one frame at a time."""
    result = torch.zeros_like(frames)
    num_sites, num_frames, width = frames.shape
    size = width // attention.num_heads
    for site in range(num_sites):
        heads = []
        for head in range(attention.num_heads):
            rows = slice(head * size, (head + 1) * size)
            query, key, value = (
                frames[site] @ layer.weight[rows].T
                for layer in (attention.to_q, attention.to_k, attention.to_v)
            )
            mixed = []
            for frame in range(num_frames):
                scores = torch.stack([query[frame] @ other / math.sqrt(size) for other in key]) * motion_scale
                weights = scores.exp() / scores.exp().sum()
                mixed.append(sum(weight * row for weight, row in zip(weights, value, strict=True)))
            heads.append(torch.stack(mixed))
        out = attention.to_out[0]
        result[site] = torch.cat(heads, dim=1) @ out.weight.T + out.bias
    return result


@pytest.mark.parametrize("motion_scale", [1.0, 0.0, 0.5, 2.5])
def test_attention_is_the_formula(motion_scale: float) -> None:
    torch.manual_seed(0)
    attention = randomised(TemporalAttention(6, num_heads=2)).double()
    frames = torch.randn(3, 5, 6, dtype=torch.float64)
    expected = attention_by_hand(attention, frames, motion_scale)
    assert relative_error(attention(frames, motion_scale), expected) <= 1e-12


@given(st.permutations(range(5)))
def test_without_positions_frames_have_no_order(order: list[int]) -> None:
    torch.manual_seed(0)
    attention = randomised(TemporalAttention(6, num_heads=3)).double()
    frames = torch.randn(2, 5, 6, dtype=torch.float64)
    assert relative_error(attention(frames[:, order]), attention(frames)[:, order]) <= 1e-12


def test_sites_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    attention = randomised(TemporalAttention(6, num_heads=2)).double()
    frames = torch.randn(3, 5, 6, dtype=torch.float64)
    changed = frames.clone()
    changed[1] += 1
    before, after = attention(frames), attention(changed)
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[2], after[2])
    assert not torch.allclose(before[1], after[1])


def test_half_precision_attends_in_float32_when_training_on_a_cpu() -> None:
    torch.manual_seed(0)
    attention = randomised(TemporalAttention(8, num_heads=2))
    frames = torch.randn(3, 5, 8)
    seen: list[torch.dtype] = []

    class Recorder(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function is torch.nn.functional.scaled_dot_product_attention:
                seen.append(args[0].dtype)
            return function(*args, **(kwargs or {}))

    with Recorder(), torch.autocast("cpu", dtype=torch.bfloat16):
        trained = attention(frames)
        with torch.no_grad():
            sampled = attention(frames)
    assert seen == [torch.float32, torch.bfloat16]
    assert trained.dtype == sampled.dtype == torch.bfloat16
    assert relative_error(trained.float(), attention(frames)) < 0.02


def test_the_table_is_the_published_one() -> None:
    table = SinusoidalPositions(6, 4).pe
    assert table.shape == (1, 4, 6)
    for position in range(4):
        for pair in range(3):
            angle = position / 10000 ** (2 * pair / 6)
            assert math.isclose(float(table[0, position, 2 * pair]), math.sin(angle), abs_tol=1e-6)
            assert math.isclose(float(table[0, position, 2 * pair + 1]), math.cos(angle), abs_tol=1e-6)


def test_positions_are_added_by_row() -> None:
    positions = SinusoidalPositions(6, 9)
    frames = torch.randn(2, 3, 6)
    assert torch.equal(positions(frames), frames + positions.pe[:, :3])
    rows = torch.tensor([7, 0, 2])
    assert torch.equal(positions(frames, rows), frames + positions.pe[:, rows])


def test_every_frame_may_have_its_own_motion_scale() -> None:
    torch.manual_seed(0)
    attention = randomised(TemporalAttention(6, num_heads=2)).double()
    frames = torch.randn(3, 5, 6, dtype=torch.float64)
    scales = torch.tensor([1.0, 0.0, 2.0, 1.0, 0.5])
    found = attention(frames, scales)
    for frame, scale in enumerate(scales.tolist()):
        assert relative_error(found[:, frame], attention(frames, scale)[:, frame]) <= 1e-12
