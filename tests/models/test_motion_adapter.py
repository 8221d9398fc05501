import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_motion_model import MotionAdapter as DiffusersMotionAdapter
from safetensors.torch import load_file
from tiny_models import tiny_adapter, tiny_unet

from video_diffusion.models import MotionAdapter

SETTINGS: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "motion_layers_per_block": (1, 2),
    "motion_transformer_layers_per_block": (2, 1),
    "motion_mid_block_layers_per_block": 2,
    "motion_transformer_layers_per_mid_block": (1, 2),
    "motion_num_attention_heads": (2, 4),
    "motion_norm_num_groups": 4,
    "motion_max_seq_length": 9,
}


@pytest.mark.parametrize("mid", [True, False])
def test_a_diffusers_folder_opens_here(tmp_path: Path, mid: bool) -> None:
    theirs = DiffusersMotionAdapter(**SETTINGS, use_motion_mid_block=mid)
    theirs.save_pretrained(tmp_path)
    ours = MotionAdapter.from_pretrained(tmp_path)
    expected = theirs.state_dict()
    assert ours.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in ours.state_dict().items())
    assert ours.config.norm_scope == "frame"
    assert MotionAdapter.from_pretrained(tmp_path, norm_scope="clip").config.norm_scope == "clip"


@pytest.mark.parametrize("mid", [True, False])
def test_our_folder_opens_in_diffusers(tmp_path: Path, mid: bool) -> None:
    ours = MotionAdapter(**SETTINGS, use_motion_mid_block=mid, norm_scope="clip")
    ours.save_pretrained(tmp_path)
    theirs, info = DiffusersMotionAdapter.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in theirs.state_dict().items())
    read_back = {key: theirs.config[key] for key in SETTINGS}
    assert json.dumps(read_back) == json.dumps({key: ours.config[key] for key in SETTINGS})


def test_our_folder_opens_here_with_its_norm_scope(tmp_path: Path) -> None:
    ours = tiny_adapter(tiny_unet(), norm_scope="clip")
    ours.save_pretrained(tmp_path)
    again, info = MotionAdapter.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert again.config.norm_scope == "clip"
    assert json.loads((tmp_path / "config.json").read_text())["_class_name"] == "MotionAdapter"
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in again.state_dict().items())


def test_position_tables_are_stored_as_diffusers_stores_them(tmp_path: Path) -> None:
    MotionAdapter(**SETTINGS).save_pretrained(tmp_path)
    stored = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    tables = {name: value for name, value in stored.items() if name.endswith("pos_embed.pe")}
    expected = {k: v for k, v in DiffusersMotionAdapter(**SETTINGS).state_dict().items() if k.endswith("pe")}
    assert tables.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in tables.items())


def test_parameters_are_every_weight_but_the_tables() -> None:
    adapter = MotionAdapter(**SETTINGS)
    tables = {name for name in adapter.state_dict() if name.endswith("pos_embed.pe")}
    assert {name for name, _ in adapter.named_parameters()} == set(adapter.state_dict()) - tables


def test_for_unet_takes_over_shape_and_precision() -> None:
    unet = tiny_unet("three", layers_per_block=(1, 2, 1)).to(torch.float64)
    adapter = MotionAdapter.for_unet(unet, num_attention_heads=2, max_num_frames=24)
    assert adapter.dtype == torch.float64
    assert adapter.max_num_frames == 24
    assert [len(block.motion_modules) for block in adapter.down_blocks] == [1, 2, 1]
    assert [len(block.motion_modules) for block in adapter.up_blocks] == [2, 3, 2]


def test_making_an_adapter_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    MotionAdapter.for_unet(tiny_unet(), num_attention_heads=2)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_scope": "video"}, "norm_scope must be 'frame' or 'clip', not 'video'"),
        ({"noise_type": "pink"}, "noise_type must be one of independent, mixed, .*, not 'pink'"),
        ({"resnet_norm_scope": "video"}, "resnet_norm_scope must be 'frame' or 'clip', not 'video'"),
        (
            {"motion_layers_per_block": (1, 2, 3)},
            "motion_layers_per_block must be one number or 2 of them, but holds 3",
        ),
        ({"motion_num_attention_heads": (3, 4)}, "3 heads do not divide 8 channels"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """As they come from a config file, where no type checker has looked."""
    MotionAdapter(**SETTINGS).save_config(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        MotionAdapter.from_config(MotionAdapter.load_config(tmp_path))
