"""The parts of the embedded model: one token per word, attention that folds frames, pools that fill once."""

import string
from pathlib import Path

import numpy as np
import pytest
import torch
from embedded.model import (
    build_motion_adapter,
    build_text_encoder,
    build_unet,
    word_tokenizer,
)
from embedded.pool import LatentPool
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from video_diffusion.models import VideoUNet
from video_diffusion.procedural import World, vocabulary
from video_diffusion.training.loop import FoldedFrameAttention


def test_every_word_is_one_token_also_after_saving(tmp_path: Path) -> None:
    tokenizer = word_tokenizer(vocabulary())
    tokenizer.save_pretrained(tmp_path)
    for words in (tokenizer, CLIPTokenizer.from_pretrained(tmp_path)):
        for word in vocabulary():
            assert len(words(word).input_ids) == 3, word
        assert len(words("ein Zebra").input_ids) > 5


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.text(string.ascii_lowercase, min_size=1, max_size=7), min_size=1, max_size=12, unique=True)
)
def test_no_list_of_words_disturbs_itself(words: list[str]) -> None:
    tokenizer = word_tokenizer(words)
    assert all(len(tokenizer(word).input_ids) == 3 for word in words)


def test_folding_frames_into_the_queries_changes_no_number() -> None:
    torch.manual_seed(0)
    unet = build_unet((32, 48), text_width=24, latent_channels=3, sample_size=6)
    video_unet = VideoUNet(unet, build_motion_adapter(unet, 8))
    latents, prompts = torch.randn(2, 3, 5, 6, 6), torch.randn(2, 7, 24)
    with torch.no_grad():
        stock = video_unet(latents, torch.tensor([10, 500]), prompts)
        processor = FoldedFrameAttention()
        processor.num_frames = 5
        unet.set_attn_processor(processor)
        folded = video_unet(latents, torch.tensor([10, 500]), prompts)
    torch.testing.assert_close(folded, stock, rtol=1e-4, atol=1e-5)


def test_token_embeddings_start_loud() -> None:
    encoder = build_text_encoder(word_tokenizer(vocabulary()), 32)
    assert encoder.get_input_embeddings().weight.std().item() == pytest.approx(0.5, rel=0.05)


def test_a_pool_fills_once_and_reads_the_same_in_another_process(tmp_path: Path) -> None:
    calls = []

    def encode(frames: torch.Tensor) -> torch.Tensor:
        calls.append(len(frames))
        return torch.nn.functional.avg_pool3d(frames, (1, 8, 8)) + 0.25

    def pool() -> LatentPool:
        return LatentPool(
            tmp_path / "pool.f16",
            world=World(),
            size=9,
            latent_shape=(4, 3, 2, 2),
            encode=encode,
            side=16,
            seed=3,
            centre_out=False,
        )

    first = pool().latents([5, 2, 5])
    assert first.shape == (3, 4, 3, 2, 2)
    assert torch.equal(first[0], first[2])
    assert calls == [2]
    again = pool()
    assert torch.equal(again.latents([2, 5]), first[[1, 0]])
    assert calls == [2]
    again.fill()
    assert sum(calls) == 9
    assert again.scene(5) == World().sample(np.random.default_rng((3, 5)))
