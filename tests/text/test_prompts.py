"""Weights, chunks and embeddings: equal in float64 to references written apart, for every syntax."""

import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prompt_references import (
    a1111_embeds,
    a1111_layout,
    a1111_weights,
    comfy_embeds,
    comfy_weights,
    run_encoder,
    words_of,
)
from tiny_models import TEXT_WIDTH, relative_error, tiny_text_encoder, tiny_tokenizer
from tiny_xl import tiny_second_text_encoder

from video_diffusion.settings import parse_prompt
from video_diffusion.text import PromptReading, TextEncoders, encode_prompt, split_chunks

LENGTH = 16  # of the tiny encoder, with start and end
PROMPTS = (
    "a (red:1.4) dot", "((big)) [dim] dot", "(a (red:1.2) dot:0.7), sea", r"a \(red\) dot", "(a:.5)(b:2.)",
    "[[x]] (y: 1.25 ) z", "(a:b) c", "one (two [three] (four)):five",
)  # fmt: skip


def encoders(double: bool = True) -> TextEncoders:
    encoder = tiny_text_encoder()
    return TextEncoders([tiny_tokenizer()], [encoder.double() if double else encoder])


def written(weights: Any, prompt: str) -> list[tuple[str, float]]:
    return [(text, pytest.approx(weight, rel=1e-12)) for text, weight in words_of(weights(prompt))]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_weights_are_read_as_each_program_reads_them(prompt: str) -> None:
    [part] = parse_prompt(prompt, "a1111").parts
    assert words_of([(sign, s.weight) for s in part for sign in s.text]) == written(a1111_weights, prompt)
    [part] = parse_prompt(prompt, "comfy").parts
    assert words_of([(sign, s.weight) for s in part for sign in s.text]) == written(comfy_weights, prompt)


def test_the_two_syntaxes_differ_where_their_programs_do() -> None:
    nested = "(a (b:1.5):1.2)"
    assert [s.weight for s in parse_prompt(nested, "a1111").parts[0]] == pytest.approx([1.2, 1.8])
    assert [s.weight for s in parse_prompt(nested, "comfy").parts[0]] == pytest.approx([1.2, 1.5])
    assert parse_prompt("[dim]", "comfy").text == "[dim]"


@pytest.mark.parametrize("syntax", ["a1111", "comfy"])
@pytest.mark.parametrize("prompt", ["a (red:1.4) dot", "((ab)) (c:0.3) d", "(x:-1) y", "(a:0) b"])
def test_weighted_embeddings_equal_the_published_formulas(syntax: Any, prompt: str) -> None:
    text = encoders()
    tokenizer, encoder = text.tokenizers[0], text.text_encoders[0]
    letters = (a1111_weights if syntax == "a1111" else comfy_weights)(prompt)
    words = words_of(letters)
    ids, weights = [], []
    for word, weight in words:
        found = tokenizer(word, add_special_tokens=False).input_ids
        ids, weights = ids + found, weights + [weight] * len(found)
    z, empty = (run_encoder(encoder, tokenizer, row, LENGTH) for row in (ids, []))
    expected = a1111_embeds(z, weights) if syntax == "a1111" else comfy_embeds(z, empty, weights)
    found = text.prompt_embeds([prompt], PromptReading(syntax))
    assert relative_error(found[0], expected) <= 1e-12
    assert relative_error(found[0], z) > 1e-3


@pytest.mark.parametrize("syntax", ["a1111", "comfy"])
def test_with_all_weights_1_nothing_differs_from_plain_in_a_single_bit(syntax: Any) -> None:
    text = encoders(double=False)
    plain = text.prompt_embeds(["a red dot", "", "sea, sky"])
    written_out = ["a (red:1.0) (dot:1)", "", "(sea:1), sky"]
    assert torch.equal(text.prompt_embeds(written_out, PromptReading(syntax)), plain)
    assert torch.equal(text.prompt_embeds(["a red dot", "", "sea, sky"], PromptReading(syntax)), plain)
    assert torch.equal(
        plain, encode_prompt(["a red dot", "", "sea, sky"], text.tokenizers[0], text.text_encoders[0])
    )


def layout(prompt: str, syntax: Any = "a1111") -> list[str]:
    tokenizer = tiny_tokenizer()
    chunks = split_chunks(prompt, tokenizer, LENGTH - 2, PromptReading(syntax))
    return [tokenizer.decode(list(chunk.tokens)).replace(" ", "") for chunk in chunks]


def test_long_prompts_are_laid_out_in_chunks_that_end_where_the_programs_end_them() -> None:
    assert layout("abcdefghijklmnopq") == ["abcdefghijklmn", "opq"]
    assert layout("abcdefghij,klmno p") == ["abcdefghij,klm", "nop"]  # the comma is 4 away: too far of 14
    assert layout("abcdefghijkl,m nop") == ["abcdefghijkl,", "mnop"]
    assert layout("ab BREAK cd") == ["ab", "cd"]
    assert layout("BREAK ab BREAK") == ["", "ab"]
    assert layout("ab BREAKcd") == ["abbreakcd"]
    assert layout("") == [""]
    assert layout("abcdefghijkl mno p", "comfy") == ["abcdefghijkl", "mnop"]  # words of 12, 3 and 1 tokens
    assert layout("abcdefghij klmnopqrst", "comfy") == ["abcdefghijklmn", "opqrst"]  # of 8 and more are cut


@settings(deadline=None, max_examples=60)
@given(st.text(alphabet="ab, ", max_size=120))
def test_chunks_equal_a_layout_written_apart(prompt: str) -> None:
    tokenizer = tiny_tokenizer()
    comma = tokenizer.get_vocab()[",</w>"]
    ids = tokenizer(prompt, add_special_tokens=False, truncation=True, max_length=9999).input_ids
    chunks = split_chunks(prompt, tokenizer, 30, PromptReading("a1111"))
    assert [list(chunk.tokens) for chunk in chunks] == a1111_layout(ids, 30, comma, 8)


def test_chunks_are_encoded_on_their_own_and_joined() -> None:
    text = encoders()
    found = text.prompt_embeds(["(abc:1.3) BREAK de", "x"], PromptReading("a1111"))
    assert found.shape == (2, 2 * LENGTH, TEXT_WIDTH)
    parts = [text.prompt_embeds([part], PromptReading("a1111"))[0] for part in ("(abc:1.3)", "de", "x", "")]
    assert relative_error(found[0], torch.cat(parts[:2])) <= 1e-12
    assert relative_error(found[1], torch.cat(parts[2:])) <= 1e-12
    assert text.num_chunks(["ab", "ab BREAK c BREAK d"], PromptReading("comfy")) == 3


def test_plain_cuts_and_says_which_text_and_what_is_lost() -> None:
    text = encoders()
    with pytest.warns(UserWarning, match=r"negative_prompt has 17 tokens .*dropped its end: 'opq'"):
        text.prompt_embeds(["abcdefghijklmnopq"], name="negative_prompt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text.prompt_embeds(["abcdefghijklmnopq"], PromptReading("a1111"))


def test_clip_skip_counts_layers_from_the_end_as_a1111_does() -> None:
    """clip_skip 2 is diffusers' clip_skip 1: the layer before the last one, through the last norm.

    Its formula stands here: diffusers 0.42 looks for `text_model`, which transformers 5 no longer has.
    """
    text = encoders()
    tokenizer, encoder = text.tokenizers[0], text.text_encoders[0]
    rows = tokenizer(["a dot"], padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids
    with torch.no_grad():
        hidden = encoder(rows, output_hidden_states=True).hidden_states
        expected = encoder.final_layer_norm(hidden[-(1 + 1)])
    assert torch.equal(text.prompt_embeds(["a dot"], PromptReading(clip_skip=2)), expected)
    assert torch.equal(
        text.prompt_embeds(["a dot"], PromptReading(clip_skip=1)), text.prompt_embeds(["a dot"])
    )
    with pytest.raises(ValueError, match="clip_skip is 3, but this text encoder has 2 layers"):
        text.prompt_embeds(["a dot"], PromptReading(clip_skip=3))


def test_sdxl_weighs_each_encoder_on_its_own_and_pools_the_first_chunk_without_weights() -> None:
    first, second = tiny_text_encoder().double(), tiny_second_text_encoder().double()
    tokenizer = tiny_tokenizer()
    both = TextEncoders([tokenizer, tokenizer], [first, second], zeros_for_empty=True)
    reading = PromptReading("a1111")
    found = both.prompt_embeds(["a (red:1.4) dot BREAK sea", ""], reading)
    assert found.shape == (2, 2 * LENGTH, TEXT_WIDTH + second.config.hidden_size)
    assert not found[1].any()
    ids = tokenizer("a red dot", add_special_tokens=False).input_ids
    row = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
    row += [tokenizer.pad_token_id] * (LENGTH - len(row))
    weights = [1.0] + [1.4] * 3 + [1.0] * 3
    with torch.no_grad():
        hidden = [encoder(torch.tensor([row]), output_hidden_states=True) for encoder in (first, second)]
    expected = torch.cat([a1111_embeds(each.hidden_states[-2][0], weights) for each in hidden], dim=-1)
    assert relative_error(found[0, :LENGTH], expected) <= 1e-12
    pooled = both.pooled_embeds(["a (red:1.4) dot BREAK sea", ""], reading)
    assert relative_error(pooled[0], hidden[1].text_embeds[0]) <= 1e-12 and not pooled[1].any()


def vectors(count: int, width: int = TEXT_WIDTH) -> torch.Tensor:
    return torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("syntax", ["a1111", "comfy"])
def test_an_embedding_s_vectors_take_the_place_of_its_word(syntax: Any) -> None:
    """Equal to the same vectors as new rows of the encoder's table, which is how diffusers adds them."""
    text, own = encoders(), vectors(3)
    word = "bad-hands" if syntax == "a1111" else "embedding:bad-hands"
    found = text.prompt_embeds([f"a ({word}:1.2), sea"], PromptReading(syntax, None, {"bad-hands": [own]}))
    tokenizer, encoder = text.tokenizers[0], encoders().text_encoders[0]
    table = encoder.get_input_embeddings()
    first = table.num_embeddings
    table.weight = torch.nn.Parameter(torch.cat([table.weight, own]))
    ids = [tokenizer(each, add_special_tokens=False).input_ids for each in ("a", ", sea")]
    z = run_encoder(encoder, tokenizer, [*ids[0], first, first + 1, first + 2, *ids[1]], LENGTH)
    empty = run_encoder(encoder, tokenizer, [], LENGTH)
    weights = [1.0] + [1.2] * 3
    expected = a1111_embeds(z, weights) if syntax == "a1111" else comfy_embeds(z, empty, weights)
    assert relative_error(found[0], expected) <= 1e-12
    assert not text.text_encoders[0].get_input_embeddings()._forward_hooks


def test_an_embedding_is_never_cut_and_one_that_no_chunk_holds_is_refused() -> None:
    reading = PromptReading("a1111", None, {"neg": [vectors(5)]})
    chunks = split_chunks("abcdefghijk neg, z", tiny_tokenizer(), LENGTH - 2, reading)
    assert [len(chunk.tokens) for chunk in chunks] == [11, 7]
    with pytest.raises(ValueError, match="has one of 15 vectors, but this text encoder reads 14"):
        split_chunks(
            "neg", tiny_tokenizer(), LENGTH - 2, PromptReading("a1111", None, {"neg": [vectors(15)]})
        )


def test_whole_words_only_stand_for_embeddings() -> None:
    reading = PromptReading("a1111", None, {"neg": [vectors(1)], "neg-2": [vectors(2)]})
    [chunk] = split_chunks("NEG, ne-g neg-2 x-neg", tiny_tokenizer(), 60, reading)
    kinds = "".join("v" if not isinstance(token, int) else "." for token in chunk.tokens)
    assert kinds.count("v") == 3 and kinds.startswith("v") and not kinds.endswith("v")
