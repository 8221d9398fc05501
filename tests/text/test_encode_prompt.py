import warnings

import pytest
import torch
from tiny_models import TEXT_WIDTH, tiny_text_encoder, tiny_tokenizer

from video_diffusion.text import encode_prompt, unknown_words


def test_one_sequence_of_embeddings_for_each_prompt() -> None:
    tokenizer, text_encoder = tiny_tokenizer(), tiny_text_encoder()
    embeds = encode_prompt(["a red ball", "", "a dog"], tokenizer, text_encoder)
    assert embeds.shape == (3, 16, TEXT_WIDTH)
    assert not embeds.requires_grad
    assert torch.allclose(embeds[1:2], encode_prompt([""], tokenizer, text_encoder), atol=1e-6)
    assert not torch.allclose(embeds[0], embeds[2])


def test_a_prompt_that_is_too_long_is_cut_with_a_warning_that_quotes_the_end(
    capfd: pytest.CaptureFixture[str],
) -> None:
    tokenizer, text_encoder = tiny_tokenizer(), tiny_text_encoder()
    kept, lost = "a red ball, abcde", "fg hi"  # the two marks leave room for 14 letters and signs
    with pytest.warns(UserWarning, match="prompt has 18 tokens but this text encoder reads 14") as caught:
        cut = encode_prompt([kept + " " + lost], tokenizer, text_encoder)
    assert len(caught) == 1
    assert "dropped its end: 'fg hi'; shorten it" in str(caught[0].message)
    assert torch.equal(cut, encode_prompt([kept], tokenizer, text_encoder))
    assert capfd.readouterr().err == ""


def test_a_prompt_that_just_fits_is_not_complained_about() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode_prompt(["abcdefghijklmn"], tiny_tokenizer(), tiny_text_encoder())


def test_the_attention_mask_is_used_if_the_encoder_was_trained_with_it() -> None:
    tokenizer, text_encoder = tiny_tokenizer(), tiny_text_encoder()
    without = encode_prompt(["a dog"], tokenizer, text_encoder)
    text_encoder.config.use_attention_mask = True
    assert not torch.allclose(encode_prompt(["a dog"], tokenizer, text_encoder), without)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("A small RED ball, moving left.", ["ball"]),
        ("a dragon! a dragon?  smiles", ["dragon", "smiles"]),
        ("a red-hot ball's red", ["red-hot", "ball's"]),
        ("красный шар 7", ["красный", "шар", "7"]),
        ("a red 🦄!", ["🦄"]),
        ("", []),
    ],
)
def test_words_outside_the_vocabulary_are_listed_once_in_order(prompt: str, expected: list[str]) -> None:
    assert unknown_words(prompt, {"a", "small", "red", "moving", "left"}) == expected


def test_without_a_vocabulary_no_word_is_unknown() -> None:
    assert unknown_words("anything at all", ()) == []
