"""SparseCtrl encoders in AnimateDiff's own layout: told by names and shapes, loaded, converted, refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from control_networks import published_sparse_control
from diffusers.models.controlnets.controlnet_sparsectrl import SparseControlNetModel
from safetensors.torch import load_file, save_file
from tiny_models import relative_error, tiny_unet, tiny_vae
from tiny_run import tiny_parts
from torch import Tensor

from video_diffusion.cli.main import main
from video_diffusion.loading import ModelLoadError, ModelParts, find_model, load_sparse_control

FULL_WIDTHS = (320, 640, 1280, 1280)


@pytest.fixture(scope="module")
def parts() -> ModelParts:
    """With a U-Net of the published encoders' layers, and an autoencoder eight times smaller."""
    unet = tiny_unet("four", layers_per_block=2, cross_attention_dim=768, block_out_channels=(32, 64, 64, 96))
    vae = tiny_vae(
        block_out_channels=(4, 4, 4, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    own = tiny_parts()
    return ModelParts(**{**vars(own), "unet": unet, "vae": vae})


def write(folder: Path, reads: str, **changes: Any) -> Path:
    save_file(published_sparse_control(reads, **changes), folder / f"{reads}.safetensors")
    return folder / f"{reads}.safetensors"


def load(path: Path, parts: ModelParts) -> Any:
    return load_sparse_control(find_model(str(path)), parts)


@pytest.mark.full
@pytest.mark.parametrize("reads", ["rgb", "scribble"])
@pytest.mark.parametrize("positions", [True, False], ids=["positions", "no positions"])
def test_its_own_file_gives_what_diffusers_gives(
    tmp_path: Path, parts: ModelParts, reads: str, positions: bool
) -> None:
    """Against diffusers' model, filled by the names of its own conversion written out: same residuals."""
    path = write(tmp_path, reads, positions=positions)
    found = load(path, parts)
    expected = SparseControlNetModel(
        block_out_channels=(32, 64, 64, 96),
        conditioning_channels=4 if reads == "rgb" else 3,
        use_simplified_condition_embedding=reads == "rgb",
    )
    renamed = {
        name.replace(".attention_blocks.0.pos_encoder", ".pos_embed")
        .replace(".attention_blocks.0", ".attn1")
        .replace(".ff_norm", ".norm3")
        .replace(".norms.0", ".norm1")
        .replace(".temporal_transformer", ""): tensor
        for name, tensor in load_file(path).items()
    }
    missing, surplus = expected.load_state_dict(renamed, strict=False)
    assert not surplus
    assert all(name.endswith("pos_embed.pe") for name in missing)
    assert bool(missing) != positions
    latents = torch.randn(1, 4, 1, 8, 8)  # one frame: norms of a frame and of a clip are the same
    size = (8, 8) if reads == "rgb" else (64, 64)
    condition = torch.randn(1, 4 if reads == "rgb" else 3, 1, *size)
    arguments = {
        "encoder_hidden_states": torch.randn(1, 3, 768),
        "controlnet_cond": condition,
        "conditioning_mask": torch.ones(1, 1, 1, *size),
        "return_dict": False,
    }
    with torch.no_grad():
        downs, mid = found(latents, torch.tensor(7), **arguments)
        expected_downs, expected_mid = expected.eval()(latents, torch.tensor(7), **arguments)
    assert len(downs) == 12
    for one, other in zip((*downs, mid), (*expected_downs, expected_mid), strict=True):
        assert relative_error(one, other) <= 1e-5


@pytest.mark.parametrize("reads", ["rgb", "scribble"])
def test_the_real_size_has_the_names_and_shapes_of_diffusers(reads: str) -> None:
    with torch.device("meta"):
        published = published_sparse_control(reads, FULL_WIDTHS)
        theirs = SparseControlNetModel(
            conditioning_channels=4 if reads == "rgb" else 3,
            use_simplified_condition_embedding=reads == "rgb",
        )
    shapes = sorted(tuple(tensor.shape) for tensor in published.values())
    assert shapes == sorted(tuple(tensor.shape) for tensor in theirs.state_dict().values())


def test_inspect_and_convert_know_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tensors = {
        name: tensor.half() if name.startswith("conv_in") else tensor
        for name, tensor in published_sparse_control("scribble").items()
    }
    torch.save({"controlnet": tensors, "animatediff_config": ""}, "scribble.ckpt")
    words = ["convert", "scribble.ckpt", "scribble.safetensors", "--allow-pickle"]
    assert CliRunner().invoke(main, words).exit_code == 0
    back = load_file("scribble.safetensors")
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
    facts = json.loads(CliRunner().invoke(main, ["inspect", "scribble.safetensors", "--json"]).stdout)
    assert (facts["kind"], facts["reads"], facts["base"]) == (
        "SparseCtrl encoder", "scribble", "Stable Diffusion 1.x",
    )  # fmt: skip
    assert facts["max_num_frames"] == 32
    assert "--sparsectrl scribble.safetensors --sparse-image '0: IMAGE'" in facts["use"]
    result = CliRunner().invoke(main, ["convert", "scribble.safetensors", "folder", "--to", "diffusers"])
    assert "DST must end with .safetensors for a SparseCtrl encoder" in result.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("mid_block.resnets.0.conv1.weight"),
            r"1 tensors \(mid_block.resnets.0.conv1",
        ),
        (lambda t: t.update(extra=torch.zeros(1)), r"1 tensors \(extra\) are not part of the model"),
        (lambda t: t["conv_in.bias"].fill_(torch.nan), "conv_in.bias holds NaN or infinity"),
        (lambda t: t.update({"conv_in.bias": torch.zeros(32, dtype=torch.int64)}), "must be floating point"),
        (lambda t: t.update({"conv_in.bias": torch.zeros(31)}), r"conv_in.bias must have the shape \(32,\)"),
        (lambda t: [t.pop(name) for name in list(t) if "motion_modules" in name], "not a SparseCtrl encoder"),
        (lambda t: [t.pop(name) for name in list(t) if ".attn2." in name], "is not whole; download it again"),
    ],
)
def test_wrong_tensors_are_refused_by_name(
    tmp_path: Path, parts: ModelParts, change: Any, message: str
) -> None:
    tensors: dict[str, Tensor] = published_sparse_control("rgb")
    change(tensors)
    save_file(tensors, tmp_path / "wrong.safetensors")
    with pytest.raises(ModelLoadError, match=message) as refusal:
        load(tmp_path / "wrong.safetensors", parts)
    assert "\n" not in str(refusal.value)


def test_another_kind_of_file_is_refused(tmp_path: Path, parts: ModelParts) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelLoadError, match="not a SparseCtrl encoder"):
        load(tmp_path / "other.safetensors", parts)
    save_file({"weight": torch.zeros(1)}, tmp_path / "another.safetensors")
    with pytest.raises(ModelLoadError, match=r"holds no config.json and 2 safetensors files"):
        load(tmp_path, parts)
    (tmp_path / "scope").mkdir()
    (tmp_path / "scope" / "config.json").write_text('{"norm_scope": "video"}')
    with pytest.raises(ModelLoadError, match="norm_scope must be frame or clip, but is 'video'"):
        load(tmp_path / "scope", parts)
