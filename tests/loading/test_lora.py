"""LoRAs in a loaded model: on temporal layers and on the image model, weighted, and out again bit for bit."""

import json
from pathlib import Path

import pytest
import torch
from motion_files import original_lora, stored_bits
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from tiny_models import TEXT_WIDTH, save_tiny_model, tiny_text_encoder, tiny_unet
from torch import nn

from video_diffusion.loading import ModelLoadError, ModelParts, find_lora, load_loras, load_model, parse_lora


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> ModelParts:
    return load_model(str(save_tiny_model(tmp_path_factory.mktemp("whole") / "model")))


@pytest.fixture(scope="module")
def motion(tmp_path_factory: pytest.TempPathFactory, parts: ModelParts) -> str:
    file = tmp_path_factory.mktemp("motion") / "zoom.safetensors"
    save_file(original_lora(parts.motion_adapter), file)
    return str(file)


def layer_tensors(module: nn.Module, layers: list[str], prefix: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(4)
    inject_adapter_in_model(LoraConfig(r=2, lora_alpha=2, target_modules=layers), module)
    for name, parameter in module.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    return {f"{prefix}.{k}": v.contiguous() for k, v in get_peft_model_state_dict(module).items()}


@pytest.fixture(scope="module")
def style(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("style") / "style.safetensors"
    unet = layer_tensors(tiny_unet(), ["to_q", "to_k"], "unet")
    save_file(unet | layer_tensors(tiny_text_encoder(), ["q_proj"], "text_encoder"), file)
    return str(file)


def everything(parts: ModelParts) -> dict[str, bytes]:
    modules = (parts.unet, parts.text_encoder, parts.motion_adapter)
    return {
        f"{i}.{name}": bits for i, module in enumerate(modules) for name, bits in stored_bits(module).items()
    }


def image(parts: ModelParts) -> torch.Tensor:
    torch.manual_seed(6)
    with torch.no_grad():
        return parts.unet(torch.randn(1, 4, 6, 8), 7, torch.randn(1, 7, TEXT_WIDTH)).sample


def test_loras_add_up_and_come_out_bit_for_bit(parts: ModelParts, motion: str, style: str) -> None:
    before, picture = everything(parts), image(parts)
    name = "down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q.weight"
    once = parts.motion_adapter.state_dict()[name].clone()
    with load_loras(parts, [(motion, 0.5), (style, 0.8), (motion, -0.25)]) as loaded:
        block = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0"
        key = f"{block}.attention_blocks.0.processor"
        change = original_lora(parts.motion_adapter)
        change_once = change[f"{key}.to_q_lora.up.weight"] @ change[f"{key}.to_q_lora.down.weight"]
        assert torch.allclose(parts.motion_adapter.state_dict()[name], once + 0.25 * change_once, atol=1e-6)
        assert [(lora.weight, lora.num_temporal > 0, lora.num_spatial > 0) for lora in loaded.loras] == [
            (0.5, True, False),
            (0.8, False, True),
            (-0.25, True, False),
        ]
        assert all(lora.sha256 and len(lora.sha256) == 64 for lora in loaded.loras)
        changed = image(parts)
        assert not torch.allclose(changed, picture, atol=1e-4)
    assert everything(parts) == before
    assert torch.equal(image(parts), picture)
    with load_loras(parts, [(style, 0.0)]):
        assert torch.allclose(image(parts), picture, atol=1e-6)
    with load_loras(parts, [(style, 0.4), (style, 0.4)]):
        assert torch.allclose(image(parts), changed, atol=1e-5)
    assert everything(parts) == before


def test_a_lora_that_does_not_fit_leaves_the_model_as_it_was(
    tmp_path: Path, parts: ModelParts, motion: str, style: str
) -> None:
    before = everything(parts)
    wide = layer_tensors(tiny_unet(cross_attention_dim=20), ["to_k"], "unet")
    save_file(wide, tmp_path / "sdxl.safetensors")
    with pytest.raises(ModelLoadError, match="reads text of width 20, but this one reads 12; use a LoRA"):
        load_loras(parts, [(motion, 1.0), (style, 1.0), (str(tmp_path / "sdxl.safetensors"), 1.0)])
    save_file({"a.weight": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelLoadError, match="holds no LoRA"):
        load_loras(parts, [(str(tmp_path / "other.safetensors"), 1.0)])
    assert everything(parts) == before


def rewrite(style: str, file: Path, layout: str) -> str:
    """The same LoRA, at half its strength, as other programs write it."""
    tensors, metadata = load_file(style), None
    if layout == "plain":
        tensors = {name.removeprefix("unet."): tensor for name, tensor in tensors.items() if "unet." in name}
        tensors = {name: tensor / 2 if "lora_B" in name else tensor for name, tensor in tensors.items()}
    elif layout == "kohya":
        renamed = {}
        for name, tensor in tensors.items():
            if not name.startswith("unet."):
                continue
            layer, _, part = name.removeprefix("unet.").removesuffix(".weight").rpartition(".")
            place = f"lora_unet_{layer.replace('.', '_')}"
            renamed[f"{place}.lora_{'down' if part == 'lora_A' else 'up'}.weight"] = tensor
            renamed[f"{place}.alpha"] = torch.tensor(1.0)
        tensors = renamed
    else:
        config = {"r": 2, "lora_alpha": 1, "target_modules": ["to_q", "to_k"], "nonsense": 3}
        metadata = {"lora_adapter_metadata": json.dumps({f"unet.{key}": v for key, v in config.items()})}
        tensors = {name: tensor for name, tensor in tensors.items() if name.startswith("unet.")}
    save_file(tensors, file, metadata)
    return str(file)


@pytest.mark.parametrize("layout", ["plain", "kohya", "peft"])
def test_other_layouts_and_their_scales_are_read(
    tmp_path: Path, parts: ModelParts, style: str, layout: str
) -> None:
    with load_loras(parts, [(style, 0.5)]):
        expected = image(parts)
    with load_loras(parts, [(rewrite(style, tmp_path / "x.safetensors", layout), 1.0)]):
        assert torch.allclose(image(parts), expected, atol=1e-5)


def test_a_lora_of_which_nothing_fits_is_refused(tmp_path: Path, parts: ModelParts) -> None:
    layer = "transformer.blocks.0.to_q"
    halves = {f"{layer}.lora_A.weight": torch.ones(2, 8), f"{layer}.lora_B.weight": torch.ones(8, 2)}
    save_file(halves, tmp_path / "dit.safetensors")
    with pytest.raises(ModelLoadError, match=r"none of its 2 tensors .* belong to a layer of this model"):
        load_loras(parts, [(str(tmp_path / "dit.safetensors"), 1.0)])


def test_a_lora_is_found_in_a_folder_or_a_run(tmp_path: Path) -> None:
    (tmp_path / "motion_lora").mkdir()
    file = tmp_path / "motion_lora" / "pytorch_lora_weights.safetensors"
    file.touch()
    assert (
        find_lora(str(tmp_path)) == find_lora(str(file)) == find_lora(str(tmp_path / "motion_lora")) == file
    )
    (tmp_path / "a.safetensors").touch()
    (tmp_path / "b.safetensors").touch()
    with pytest.raises(ModelLoadError, match=r"holds 2 weights files; give one, such as .*a\.safetensors"):
        find_lora(str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelLoadError, match="no safetensors file of a LoRA there"):
        find_lora(str(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.safetensors", ("a.safetensors", 1.0)),
        ("a:0.5", ("a", 0.5)),
        ("C:\\a:-1", ("C:\\a", -1.0)),
        ("a:b", ("a:b", 1.0)),
    ],
)
def test_path_and_weight_are_told_apart(text: str, expected: tuple[str, float]) -> None:
    assert parse_lora(text) == expected


@pytest.mark.parametrize("text", ["a:11", ":0.5", "a:nan", "a:-inf"])
def test_weights_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="with a weight from -10 to 10"):
        parse_lora(text)
