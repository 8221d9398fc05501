"""Weights in 8 bits: refused in one line without torchao; with it, clips close to the whole model's."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from tiny_models import relative_error, save_tiny_model
from torch import Tensor, nn

from video_diffusion import GenerationSettings, TextToVideoPipeline
from video_diffusion.settings import check_quantize

CLIP = {"num_frames": 3, "height": 16, "width": 24, "num_inference_steps": 2}
without_torchao = pytest.mark.skipif(find_spec("torchao") is not None, reason="torchao is installed")
with_torchao = pytest.mark.skipif(find_spec("torchao") is None, reason="needs torchao")


def test_other_kinds_are_refused() -> None:
    check_quantize(None)
    with pytest.raises(ValueError, match="quantize must be one of int8, not 'int3'"):
        check_quantize("int3")


@without_torchao
def test_without_torchao_one_line_says_what_to_install(tmp_path: Path) -> None:
    """Before any file of the model is looked at."""
    with pytest.raises(ValueError, match=r"quantize int8 needs torchao, .*video-diffusion\[quantize\]"):
        TextToVideoPipeline.from_pretrained(str(tmp_path / "gone"), quantize="int8")


def test_a_pipeline_makes_only_what_it_was_loaded_for(tmp_path: Path) -> None:
    pipeline = TextToVideoPipeline.from_pretrained(str(save_tiny_model(tmp_path / "m")), device="cpu")
    with pytest.raises(ValueError, match="quantize is 'int8' but this pipeline was loaded with None"):
        pipeline.resolve(GenerationSettings.from_values({"prompt": "a", "quantize": "int8"}))


def test_a_quantised_model_takes_no_lora() -> None:
    with pytest.raises(ValueError, match="quantize does not go with loras; keep one of them"):
        GenerationSettings.from_values({"prompt": "a", "loras": ["x.safetensors"], "quantize": "int8"})


@with_torchao
def test_clips_are_close_and_weights_a_quarter(tmp_path: Path) -> None:
    folder = str(save_tiny_model(tmp_path / "m"))
    found: list[Tensor] = []
    for kind in (None, "int8"):
        pipeline = TextToVideoPipeline.from_pretrained(folder, device="cpu", quantize=kind)
        made = pipeline("a red ball", **CLIP, on_step=lambda step: found.append(step.latents))
        assert made.record["settings"]["quantize"] == kind
    assert 0 < relative_error(found[-1], found[1]) < 0.05
    kept = {type(m.weight.data) is Tensor for m in pipeline.parts.unet.modules() if isinstance(m, nn.Conv2d)}
    assert kept == {True}
    for network in (pipeline.parts.unet, pipeline.parts.motion_adapter):
        for module in network.modules():
            if isinstance(module, nn.Linear):
                assert type(module.weight.data).__name__ == "Int8Tensor"
                assert module.weight.qdata.dtype == torch.int8
    with pytest.raises(ValueError, match="quantised weights cannot be written"):
        pipeline.save_pretrained(tmp_path / "saved")
