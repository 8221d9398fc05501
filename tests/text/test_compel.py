"""Where compel means the same: weights from 1 upwards, away from the empty prompt, as ComfyUI has them.

Weights that float32 holds exactly, since compel keeps them in it.
"""

import pytest
import torch
from tiny_models import relative_error, tiny_text_encoder, tiny_tokenizer

from video_diffusion.text import PromptReading, TextEncoders


@pytest.mark.parametrize("weight", [1.0, 1.25, 1.5])
def test_weights_above_one_equal_compel(weight: float) -> None:
    compel = pytest.importorskip("compel", reason="pip install --no-deps compel pyparsing")
    tokenizer, encoder = tiny_tokenizer(), tiny_text_encoder().double()
    theirs = compel.EmbeddingsProvider(tokenizer, encoder, truncate=True)
    expected = theirs.get_embeddings_for_weighted_prompt_fragments(
        [["a", "red", "dot"]], [[1.0, weight, 1.0]], device="cpu"
    )
    text = TextEncoders([tokenizer], [encoder])
    ours = text.prompt_embeds([f"a (red:{weight}) dot"], PromptReading("comfy"))
    assert relative_error(ours, torch.as_tensor(expected)) <= 1e-12
