"""ControlNets and SparseCtrl encoders that do not fit their image model are refused in one line."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from control_networks import published_sparse_control, tiny_controlnet, tiny_sparse_control
from diffusers.models.controlnets.controlnet import ControlNetModel
from motion_files import stored_bits
from original_layout import original_unet, small_unet
from safetensors.torch import save_file
from tiny_models import randomised, tiny_vae
from tiny_run import tiny_parts
from tiny_xl import save_tiny_xl
from torch import Tensor

from video_diffusion.loading import (
    ModelLoadError,
    ModelParts,
    find_model,
    load_controlnet,
    load_model,
    load_sparse_control,
)
from video_diffusion.loading.weights_facts import describe_weights


@pytest.fixture(scope="module")
def parts() -> ModelParts:
    return tiny_parts()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("networks")
    tiny_controlnet(cross_attention_dim=20).save_pretrained(folder / "width")
    tiny_controlnet(block_out_channels=(8, 24)).save_pretrained(folder / "blocks")
    shuffling = tiny_controlnet()
    shuffling.register_to_config(global_pool_conditions=True)
    shuffling.save_pretrained(folder / "shuffle")
    tiny_sparse_control("rgb", layers_per_block=2).save_pretrained(folder / "layers")
    tiny_sparse_control("rgb", conditioning_channels=3).save_pretrained(folder / "channels")
    tiny_sparse_control("scribble", conditioning_embedding_out_channels=(6, 8, 10)).save_pretrained(
        folder / "stride"
    )
    save_file(published_sparse_control("rgb"), folder / "sparse.safetensors")
    return folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("width", "is for an image model that reads text of width 20, but this one's is 12"),
        ("blocks", r"has blocks of widths \(8, 24\), but this one's is \(8, 16\)"),
        ("shuffle", "this ControlNet shuffles content instead of placing it, which is not supported"),
        ("sparse.safetensors", "holds no ControlNet; give its file or its folder. A SparseCtrl encoder's"),
    ],
)
def test_controlnets_for_another_model_are_refused(
    parts: ModelParts, folder: Path, name: str, message: str
) -> None:
    with pytest.raises(ModelLoadError, match=message):
        load_controlnet(find_model(str(folder / name)), parts)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("layers", "has layers per block: 2, but this one's is 1"),
        ("channels", "must read images of 4 channels, but reads 3"),
        ("stride", "shrinks images 4 times, but this model's latents are 2 times smaller"),
        ("sparse.safetensors", "reads text of width 768, but this one's is 12"),
        ("width", "must describe a SparseControlNetModel, but names 'ControlNetModel'"),
    ],
)
def test_sparse_encoders_for_another_model_are_refused(
    parts: ModelParts, folder: Path, name: str, message: str
) -> None:
    with pytest.raises(ModelLoadError, match=message):
        load_sparse_control(find_model(str(folder / name)), parts)


@pytest.mark.full
def test_one_for_another_kind_of_model_is_refused_for_sdxl(tmp_path: Path) -> None:
    tiny_controlnet().save_pretrained(tmp_path / "controlnet")
    tiny_sparse_control("rgb").save_pretrained(tmp_path / "sparse")
    xl = load_model(str(save_tiny_xl(tmp_path / "xl")))
    for load, name in ((load_controlnet, "controlnet"), (load_sparse_control, "sparse")):
        with pytest.raises(ModelLoadError, match="is not for Stable Diffusion XL, as this model is; use one"):
            load(find_model(str(tmp_path / name)), xl)


def original_controlnet(network: ControlNetModel, kind: str) -> dict[str, Tensor]:
    """A ControlNet's tensors as its makers name them (`cldm.py`): half a U-Net, hints, zero convs."""
    unet, state = small_unet(kind), network.state_dict()
    unet.load_state_dict({name: state.get(name, own) for name, own in unet.state_dict().items()})
    half = ("input_blocks.", "middle_block.", "time_embed.", "label_emb.")
    tensors = {
        name.removeprefix("model.diffusion_model."): tensor for name, tensor in original_unet(unet).items()
    }
    tensors = {name: tensor for name, tensor in tensors.items() if name.startswith(half)}
    hints = {"conv_in": 0, "conv_out": 14} | {f"blocks.{number}": 2 * number + 2 for number in range(6)}
    for part in ("weight", "bias"):
        for ours, theirs in hints.items():
            hint = state[f"controlnet_cond_embedding.{ours}.{part}"]
            tensors[f"input_hint_block.{theirs}.{part}"] = hint
        for number in range(len(network.controlnet_down_blocks)):
            tensors[f"zero_convs.{number}.0.{part}"] = state[f"controlnet_down_blocks.{number}.{part}"]
        tensors[f"middle_block_out.0.{part}"] = state[f"controlnet_mid_block.{part}"]
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


@pytest.mark.full
@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("layout", ["control_model.", "", "diffusers"])
def test_a_controlnet_in_one_file_finds_every_tensor(tmp_path: Path, kind: str, layout: str) -> None:
    unet = small_unet(kind)
    network = randomised(ControlNetModel.from_unet(unet))
    tensors = network.state_dict()
    if layout != "diffusers":
        tensors = {f"{layout}{name}": t for name, t in original_controlnet(network, kind).items()}
    if layout == "control_model.":  # some hold the image model too
        tensors["model.diffusion_model.out.2.weight"] = torch.zeros(4, 32, 3, 3)
    save_file(tensors, tmp_path / "controlnet.safetensors")
    eighth = tiny_vae(
        block_out_channels=(4,) * 4, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    found = load_controlnet(
        find_model(str(tmp_path / "controlnet.safetensors")), replace(tiny_parts(), unet=unet, vae=eighth)
    )
    assert stored_bits(found) == stored_bits(network)
    assert describe_weights(tmp_path / "controlnet.safetensors")["kind"] == "ControlNet"
    with pytest.raises(ModelLoadError, match=r"must have the shape|belong to another model|not part of"):
        other = small_unet("sd2" if kind == "sd1" else "sd1")
        load_controlnet(
            find_model(str(tmp_path / "controlnet.safetensors")),
            replace(tiny_parts(), unet=other, vae=eighth),
        )
