"""Prompt alignment by CLIP where the scene reader cannot read: local weights, and only then."""

import numpy as np
import pytest
import torch
from tiny_models import save_tiny_model, tiny_tokenizer
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from video_diffusion.comparison.alignment import ROW_KEY, PromptMeter, kinds_of
from video_diffusion.metrics.learned.weights import MetricWeightsError
from video_diffusion.settings import GenerationSettings

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder, tokenizer = tmp_path_factory.mktemp("clip"), tiny_tokenizer()
    text = SIZES | {"vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length}
    text |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    vision = SIZES | {"image_size": 32, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        folder
    )
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_clip_measures_what_the_reader_cannot_read_and_rows_without_it_are_wanted(tmp_path, clip):
    model = save_tiny_model(tmp_path / "tiny", num_frames=3, height=32, width=48, fps="8")
    settings = GenerationSettings.from_values({"prompt": "a cat", "model": str(model)})
    frames = np.random.default_rng(0).integers(0, 256, (3, 40, 56, 3), dtype=np.uint8)
    plain, seeing = PromptMeter(), PromptMeter(clip)
    assert plain.measure(frames, settings) == {}
    found = seeing.measure(frames, settings)
    assert set(found) == {"prompt_alignment", "clip_adjacent", "clip_all_pairs", "background_consistency"}
    assert -100 <= found["prompt_alignment"]["value"] <= 100
    assert [kind.unit for kind in kinds_of([{ROW_KEY: found}])[-4:]] == [*["cosine"] * 3, "100 × cosine"]
    assert plain.wants({}) and not plain.wants({ROW_KEY: {}})
    assert seeing.wants({ROW_KEY: {}}) and not seeing.wants({ROW_KEY: found})


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(MetricWeightsError, match=r"config\.json"):
        PromptMeter(str(tmp_path))
