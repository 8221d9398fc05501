"""Motion LoRAs in every layout: scaled right, several at once, taken out bit for bit."""

import json
from pathlib import Path

import pytest
import torch
from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin
from diffusers.models.unets.unet_motion_model import UNetMotionModel
from diffusers_pipelines import diffusers_adapter
from motion_files import original_lora, stored_bits
from safetensors.torch import load_file, save_file
from tiny_models import TEXT_WIDTH, relative_error, tiny_adapter, tiny_unet
from torch import Tensor

from video_diffusion.loading import ModelLoadError
from video_diffusion.loading.motion_weights import add_motion_lora, read_motion_lora, write_motion_lora
from video_diffusion.models import MotionAdapter, VideoUNet


@pytest.fixture
def adapter() -> MotionAdapter:
    return tiny_adapter(tiny_unet(), norm_scope="clip")


@pytest.fixture
def file(tmp_path: Path, adapter: MotionAdapter) -> Path:
    save_file(original_lora(adapter), tmp_path / "zoom.safetensors")
    return tmp_path / "zoom.safetensors"


def test_both_layouts_round_trip_exactly(tmp_path: Path, file: Path) -> None:
    pairs = read_motion_lora(file)
    write_motion_lora(pairs, tmp_path / "diffusers.safetensors", "diffusers")
    assert all(name.startswith("unet.") for name in load_file(tmp_path / "diffusers.safetensors"))
    again = read_motion_lora(tmp_path / "diffusers.safetensors")
    write_motion_lora(again, tmp_path / "back.safetensors", "animatediff")
    stored, back = load_file(file), load_file(tmp_path / "back.safetensors")
    assert stored.keys() == back.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in stored.items())


@pytest.mark.parametrize("layout", ["ours", "old", "ab"])
def test_the_change_is_weight_times_up_down(tmp_path: Path, file: Path, layout: str) -> None:
    unet = tiny_unet()
    adapter = tiny_adapter(unet, norm_scope="clip")
    before = {name: p.detach().clone() for name, p in adapter.named_parameters()}
    if layout == "old":  # diffusers' conversion script: only prefixed and renamed
        renamed = {
            "unet." + name.replace(".temporal_transformer", "").replace(".attention_blocks.0", ".attn1")
            .replace(".attention_blocks.1", ".attn2"): tensor
            for name, tensor in load_file(file).items()
        }  # fmt: skip
        save_file(renamed, file)
    elif layout == "ab":
        write_motion_lora(read_motion_lora(file), file, "diffusers")
    add_motion_lora(adapter, read_motion_lora(file), 0.7, "file")
    lora = original_lora(adapter)
    place = "down_blocks.1.motion_modules.0.{}transformer_blocks.0.{}"
    key = place.format("temporal_transformer.", "attention_blocks.1.processor.to_out_lora.")
    name = place.format("", "attn2.to_out.0.weight")
    expected = before[name] + 0.7 * lora[f"{key}up.weight"] @ lora[f"{key}down.weight"]
    assert torch.allclose(dict(adapter.named_parameters())[name], expected, atol=1e-6)
    untouched = [
        n for n in before if not n.endswith(("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight"))
    ]
    assert all(torch.equal(dict(adapter.named_parameters())[n], before[n]) for n in untouched)


def test_it_equals_diffusers_with_the_same_lora(tmp_path: Path, file: Path) -> None:
    unet = tiny_unet().double()
    adapter = tiny_adapter(unet, norm_scope="clip")
    reference = UNetMotionModel.from_unet2d(unet, diffusers_adapter(adapter)).double().eval()
    write_motion_lora(read_motion_lora(file), tmp_path / "d.safetensors", "diffusers")
    state, alphas = StableDiffusionLoraLoaderMixin.lora_state_dict(load_file(tmp_path / "d.safetensors"))
    StableDiffusionLoraLoaderMixin.load_lora_into_unet(state, alphas, reference, adapter_name="zoom")
    reference.set_adapters(["zoom"], [0.6])
    add_motion_lora(adapter, read_motion_lora(file), 0.6, "file")
    latents, embeds = torch.randn(1, 4, 5, 6, 8).double(), torch.randn(1, 7, TEXT_WIDTH).double()
    expected = reference(latents, 7, embeds.repeat_interleave(5, 0)).sample
    # diffusers makes its motion U-Net, and peft its layers, in float32
    assert relative_error(VideoUNet(unet, adapter)(latents, 7, embeds), expected) <= 1e-6


@pytest.mark.parametrize("said", ["tensors", "metadata", "pattern"])
def test_alpha_over_rank_counts_where_a_file_has_it(
    tmp_path: Path, adapter: MotionAdapter, said: str
) -> None:
    pairs = {
        "down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q": (torch.ones(4, 8), torch.ones(8, 4))
    }
    (layer, (down, up)), metadata = next(iter(pairs.items())), None
    tensors = {f"unet.{layer}.lora_A.weight": down, f"unet.{layer}.lora_B.weight": up}
    if said == "tensors":
        tensors[f"unet.{layer}.alpha"] = torch.tensor(2.0)
    elif said == "metadata":
        metadata = {"lora_adapter_metadata": json.dumps({"unet.r": 4, "unet.lora_alpha": 2})}
    else:
        config = {"unet.r": 4, "unet.lora_alpha": 9, "unet.alpha_pattern": {layer: 2}}
        metadata = {"lora_adapter_metadata": json.dumps(config)}
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    assert read_motion_lora(tmp_path / "a.safetensors")[layer].scale == 0.5
    write_motion_lora(read_motion_lora(tmp_path / "a.safetensors"), tmp_path / "b.safetensors", "animatediff")
    again = read_motion_lora(tmp_path / "b.safetensors")[layer]
    assert again.scale == 1
    assert torch.equal(again.up, up / 2)
    before = stored_bits(adapter)
    add_motion_lora(adapter, read_motion_lora(tmp_path / "a.safetensors"), 3.0, "file")
    changed = [name for name, bits in stored_bits(adapter).items() if bits != before[name]]
    assert changed == [f"{layer}.weight"]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"unet.down_blocks.0.motion_modules.0.x.to_q.lora_A.weight": torch.ones(2, 8)}, "lacks one half"),
        (
            {"unet.down_blocks.0.motion_modules.0.strange": torch.ones(2, 8)},
            "strange is not part of a motion",
        ),
        ({"unet.a.motion_modules.0.to_q.lora_A.weight": torch.full((2, 8), torch.inf)}, "NaN or infinity"),
    ],
)
def test_broken_loras_are_refused(tmp_path: Path, tensors: dict[str, Tensor], message: str) -> None:
    save_file(tensors, tmp_path / "broken.safetensors")
    with pytest.raises(ModelLoadError, match=message):
        read_motion_lora(tmp_path / "broken.safetensors")


def test_a_lora_for_other_layers_names_both_shapes(file: Path) -> None:
    other = tiny_adapter(tiny_unet(block_out_channels=(12, 24)))
    before = stored_bits(other)
    with pytest.raises(
        ModelLoadError, match=r"of shape \(8, 8\), but the motion adapter has \(12, 12\) there"
    ):
        add_motion_lora(other, read_motion_lora(file), 1.0, "file")
    assert stored_bits(other) == before
