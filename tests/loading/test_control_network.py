"""ControlNets and SparseCtrl encoders that do not fit their image model are refused in one line."""

from pathlib import Path

import pytest
from control_networks import published_sparse_control, tiny_controlnet, tiny_sparse_control
from safetensors.torch import save_file
from tiny_run import tiny_parts
from tiny_xl import save_tiny_xl

from video_diffusion.loading import (
    ModelLoadError,
    ModelParts,
    find_model,
    load_controlnet,
    load_model,
    load_sparse_control,
)


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
        ("sparse.safetensors", "a ControlNet must be a folder in diffusers' layout"),
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
def test_sdxl_is_refused(tmp_path: Path) -> None:
    tiny_controlnet().save_pretrained(tmp_path / "controlnet")
    xl = load_model(str(save_tiny_xl(tmp_path / "xl")))
    with pytest.raises(ModelLoadError, match="ControlNets for Stable Diffusion XL are not supported"):
        load_controlnet(find_model(str(tmp_path / "controlnet")), xl)
