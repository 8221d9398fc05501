"""An LCM LoRA as it is published: every layer, kohya's names with alpha; few steps, one pass each."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import TEXT_WIDTH, save_tiny_model
from torch import Tensor, nn

from video_diffusion.loading import load_loras
from video_diffusion.pipeline import TextToVideoPipeline

RANK, ALPHA = 4, 2.0
# What latent-consistency/lcm-lora-sdv1-5 changes; names end with these.
LAYERS = (
    "to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2",
    "conv_shortcut", "time_emb_proj", "downsamplers.0.conv", "upsamplers.0.conv",
)  # fmt: skip


def lcm_lora(unet: nn.Module) -> dict[str, Tensor]:
    torch.manual_seed(4)
    tensors = {}
    for name, module in unet.named_modules():
        if not name.endswith(LAYERS):
            continue
        assert isinstance(module, nn.Linear | nn.Conv2d)
        place = f"lora_unet_{name.replace('.', '_')}"
        rows, *columns = module.weight.shape
        tensors[f"{place}.lora_down.weight"] = torch.randn(RANK, *columns) * columns[0] ** -0.5
        tensors[f"{place}.lora_up.weight"] = torch.randn(rows, RANK, *(1 for _ in columns[1:])) / 9
        tensors[f"{place}.alpha"] = torch.tensor(ALPHA)
    return tensors


def merged(unet: nn.Module, tensors: dict[str, Tensor], weight: float) -> nn.Module:
    """The same change made by hand: W + weight · alpha / rank · up · down."""
    changed = copy.deepcopy(unet)
    for name, module in changed.named_modules():
        place = f"lora_unet_{name.replace('.', '_')}"
        if f"{place}.alpha" in tensors:
            up, down = tensors[f"{place}.lora_up.weight"], tensors[f"{place}.lora_down.weight"]
            change = (up.flatten(1) @ down.flatten(1)).view_as(module.weight)
            module.weight.data += weight * ALPHA / RANK * change
    return changed


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> TextToVideoPipeline:
    folder = save_tiny_model(tmp_path_factory.mktemp("lcm") / "model")
    return TextToVideoPipeline.from_pretrained(str(folder), device="cpu")


def test_every_layer_is_changed_as_by_hand(pipeline: TextToVideoPipeline, tmp_path: Path) -> None:
    unet, tensors = pipeline.parts.unet, lcm_lora(pipeline.parts.unet)
    file = tmp_path / "pytorch_lora_weights.safetensors"
    save_file(tensors, file)
    torch.manual_seed(6)
    asked: Any = (torch.randn(1, 4, 6, 8), 7, torch.randn(1, 7, TEXT_WIDTH))
    with torch.no_grad():
        before, expected = unet(*asked).sample, merged(unet, tensors, 0.8)(*asked).sample
        with load_loras(pipeline.parts, [(str(tmp_path), 0.8)]) as loaded:
            assert loaded.loras[0].num_spatial > 30
            found = unet(*asked).sample
        assert torch.equal(unet(*asked).sample, before)
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, before, atol=1e-2)


def test_four_steps_take_four_passes_and_the_record_names_it(
    pipeline: TextToVideoPipeline, tmp_path: Path
) -> None:
    file = tmp_path / "lcm.safetensors"
    save_file(lcm_lora(pipeline.parts.unet), file)
    batches: list[int] = []
    handle = pipeline.parts.unet.conv_in.register_forward_pre_hook(
        lambda _, inputs: batches.append(len(inputs[0]))
    )
    clip = pipeline(
        "a red ball", loras=[f"{file}:0.8"], scheduler="lcm", num_inference_steps=4, guidance_scale=1.0,
        num_frames=3, height=16, width=24,
    )  # fmt: skip
    handle.remove()
    assert batches == [3] * 4
    assert list(clip.record["inputs"]) == ["loras.0"]
    assert clip.record["settings"]["loras"] == [f"{file}:0.8"]
