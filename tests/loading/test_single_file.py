"""Image models in one file: told by shapes, every tensor in its place, nothing asked of any network."""

from pathlib import Path
from typing import Any

import pytest
import torch
from motion_files import stored_bits
from original_layout import (
    original_clip,
    original_open_clip,
    original_unet,
    original_vae,
    small_text_encoder,
    small_unet,
    small_vae,
)
from safetensors.torch import save_file
from tiny_models import tiny_tokenizer
from torch import Tensor

from video_diffusion.loading import ModelLoadError, ModelParts, load_model
from video_diffusion.loading.weights_facts import describe_weights

pytestmark = pytest.mark.filterwarnings("ignore:.*is an image model without temporal layers")


def components(kind: str) -> dict[str, Any]:
    parts: dict[str, Any] = {"unet": small_unet(kind), "vae": small_vae(kind)}
    if kind == "sd2":
        return parts | {"text_encoder": small_text_encoder(1024, 1, None, "gelu")}
    parts["text_encoder"] = small_text_encoder(768, 2, None, "quick_gelu")
    if kind == "sdxl":
        parts["text_encoder_2"] = small_text_encoder(1280, 1, 40, "gelu")
    return parts


def write(folder: Path, kind: str, parts: dict[str, Any], **more: Tensor) -> Path:
    tensors = original_unet(parts["unet"]) | original_vae(parts["vae"])
    if kind == "sd1":
        tensors |= original_clip(parts["text_encoder"], "cond_stage_model.transformer.")
    elif kind == "sd2":
        tensors |= original_open_clip(parts["text_encoder"], "cond_stage_model.model.", spare_layers=1)
    else:
        tensors |= original_clip(parts["text_encoder"], "conditioner.embedders.0.transformer.")
        tensors |= original_open_clip(parts["text_encoder_2"], "conditioner.embedders.1.model.", 0)
        tiny_tokenizer().save_pretrained(folder / "tokenizer_2")
    tensors |= {"alphas_cumprod": torch.rand(1000), "model_ema.num_updates": torch.tensor(3), **more}
    tiny_tokenizer().save_pretrained(folder / "tokenizer")
    save_file(
        {name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / "model.safetensors"
    )
    return folder / "model.safetensors"


def assert_same(parts: ModelParts, expected: dict[str, Any]) -> None:
    for name, component in expected.items():
        found = getattr(parts, name)
        assert stored_bits(found) == stored_bits(component), name
        own = component.config.to_dict() if "text" in name else component.config
        for field, value in dict(own).items():
            if field[0] != "_" and field not in {
                "dtype",
                "architectures",
                "transformers_version",
                "torch_dtype",
            }:
                theirs = getattr(found.config, field)
                assert _plain(theirs) == _plain(value), (name, field)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("kind", ["sd1", pytest.param("sd2", marks=pytest.mark.slow), "sdxl"])
@pytest.mark.filterwarnings("ignore:model.safetensors does not say what it predicts")
def test_every_tensor_finds_its_place(tmp_path: Path, kind: str) -> None:
    expected = components(kind)
    file = write(tmp_path, kind, expected)
    parts = load_model(str(file))
    assert_same(parts, expected)
    assert parts.scheduler_config["beta_schedule"] == "scaled_linear"
    assert parts.scheduler_config["prediction_type"] == ("v_prediction" if kind == "sd2" else "epsilon")
    assert parts.zeros_for_empty_prompt == (kind == "sdxl")
    ids = torch.arange(5)[None]
    with torch.no_grad():
        hidden = parts.text_encoder(ids).last_hidden_state
        assert torch.equal(hidden, expected["text_encoder"](ids).last_hidden_state)
    assert describe_weights(file)["base"].startswith("Stable Diffusion")
    assert len(parts.identity.weights_sha256 or "") == 64


@pytest.mark.full
def test_a_file_says_what_it_predicts(tmp_path: Path) -> None:
    file = write(tmp_path, "sd1", components("sd1"), v_pred=torch.zeros(1), ztsnr=torch.zeros(1))
    config = load_model(str(file), dtype=torch.bfloat16).scheduler_config
    assert (config["prediction_type"], config["rescale_betas_zero_snr"]) == ("v_prediction", True)
    file.with_suffix(".yaml").write_text('model:\n  params:\n    parameterization: "eps"\n')
    assert load_model(str(file)).scheduler_config["prediction_type"] == "epsilon"


def test_broken_files_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = components("sd1")
    key = "model.diffusion_model.middle_block.0.in_layers.2.weight"
    file = write(tmp_path, "sd1", expected, **{key: torch.full((96, 96, 3, 3), torch.nan)})
    with pytest.raises(ModelLoadError, match=r"middle_block\.0\.in_layers\.2\.weight holds NaN"):
        load_model(str(file))
    write(tmp_path, "sd1", expected, **{key: torch.zeros(96, 95, 3, 3)})
    with pytest.raises(ModelLoadError, match=r"\(96, 96, 3, 3\) .*but is stored with \(96, 95, 3, 3\)"):
        load_model(str(file))
    save_file({"model.diffusion_model.out.2.weight": torch.zeros(4, 32, 3, 3)}, file)
    with pytest.raises(
        ModelLoadError, match=r"must be an image model of Stable Diffusion 1\.x, .* original layout"
    ):
        load_model(str(file))


def test_without_a_tokenizer_it_says_where_to_take_one(tmp_path: Path) -> None:
    file = write(tmp_path, "sd1", components("sd1"))
    for part in (tmp_path / "tokenizer").iterdir():
        part.unlink()
    with pytest.raises(
        ModelLoadError, match="holds no tokenizer, and none is in the local cache; put the folder"
    ):
        load_model(str(file))
