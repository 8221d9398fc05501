import math
from functools import partial

import pytest
import torch
from tiny_models import relative_error, tiny_text_encoder, tiny_tokenizer

from video_diffusion.text import encode_prompt, encode_travel_by, slerp, travel

EMBEDS = torch.randn(3, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_a_straight_line_between_two_prompts() -> None:
    found = travel([2.0, 6.0], EMBEDS[:2], 8)
    shares = [0, 0, 0, 0.25, 0.5, 0.75, 1, 1]
    expected = torch.stack([(1 - s) * EMBEDS[0] + s * EMBEDS[1] for s in shares])
    assert relative_error(found, expected) <= 1e-12
    assert torch.equal(found[[0, 2, 6]], EMBEDS[[0, 0, 1]])


def test_a_loop_has_no_end() -> None:
    found = travel([0.0, 4.0], EMBEDS[:2], 8, looped=True)
    assert relative_error(found[6], (EMBEDS[0] + EMBEDS[1]) / 2) <= 1e-12
    assert relative_error(found[7], found[1]) <= 1e-12


def test_an_arc_turns_evenly_and_keeps_length() -> None:
    start, end = torch.tensor([[2.0, 0, 0]]), torch.tensor([[0, 2.0, 0]])
    for share in (0.0, 0.3, 0.5, 1.0):
        angle = share * math.pi / 2
        expected = torch.tensor([[2 * math.cos(angle), 2 * math.sin(angle), 0]])
        assert torch.allclose(slerp(start, end, share), expected, atol=1e-6)


def test_an_arc_between_the_same_or_opposite_vectors_is_a_line() -> None:
    for end in (EMBEDS[0], -EMBEDS[0], 3 * EMBEDS[0]):
        assert relative_error(slerp(EMBEDS[0], end, 0.25), torch.lerp(EMBEDS[0], end, 0.25)) <= 1e-6


def test_slerp_is_used_along_frames() -> None:
    found = travel([0.0, 4.0], EMBEDS[:2], 5, "slerp")
    assert torch.equal(found[1], slerp(EMBEDS[0], EMBEDS[1], 0.25))
    assert relative_error(found[2], travel([0.0, 4.0], EMBEDS[:2], 5)[2]) > 1e-3


@pytest.mark.parametrize("blend", ["lerp", "slerp"])
def test_each_clip_travels_on_its_own(blend: str) -> None:
    tokenizer, encoder = tiny_tokenizer(), tiny_text_encoder()
    clips = [[(0.0, "red"), (3.0, "blue")], [(0.0, "green")]]
    encode = partial(encode_prompt, tokenizer=tokenizer, text_encoder=encoder)
    found = encode_travel_by(encode, clips, 5, blend, False)
    red, blue, green = encode_prompt(["red", "blue", "green"], tokenizer, encoder)
    assert found.shape == (2, 5, 16, 12)
    assert torch.equal(found[0, [0, 3, 4]], torch.stack([red, blue, blue]))
    assert torch.equal(found[1], green.expand(5, -1, -1))


def test_clips_that_do_not_travel_have_one_embedding() -> None:
    tokenizer, encoder = tiny_tokenizer(), tiny_text_encoder()
    encode = partial(encode_prompt, tokenizer=tokenizer, text_encoder=encoder)
    found = encode_travel_by(encode, [[(0.0, "red")], [(0.0, "blue")]], 5, "lerp", False)
    assert torch.equal(found, encode_prompt(["red", "blue"], tokenizer, encoder))
