import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_motion_model import UNetMotionModel
from diffusers_pipelines import diffusers_adapter
from motion_files import published_file
from safetensors.torch import load_file, save_file
from tiny_models import save_tiny_model, tiny_adapter, tiny_unet

from video_diffusion.jobs.job import model_facts
from video_diffusion.loading import ModelLoadError, load_model, write_original_layout
from video_diffusion.models import VideoUNet

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("whole") / "model", num_frames=5, vocabulary=["red"])


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(whole, tmp_path / "model")


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def reweigh(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def test_every_part_is_loaded_as_it_was_saved(whole: Path, capfd: pytest.CaptureFixture[str]) -> None:
    parts = load_model(str(whole))
    assert capfd.readouterr() == ("", "")
    assert all(
        not part.training for part in (parts.text_encoder, parts.vae, parts.unet, parts.motion_adapter)
    )
    unet = tiny_unet()
    assert all(torch.equal(v, parts.unet.state_dict()[k]) for k, v in unet.state_dict().items())
    expected = tiny_adapter(unet).state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in parts.motion_adapter.state_dict().items())
    assert parts.motion_adapter.config.norm_scope == "clip"
    assert parts.scheduler_config["beta_schedule"] == "linear"
    assert parts.defaults == {"num_frames": 5, "vocabulary": ["red"]}
    assert parts.identity.name == str(whole)
    assert len(parts.identity.weights_sha256) == 64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_come_in_the_precision_asked_for(whole: Path, dtype: torch.dtype) -> None:
    parts = load_model(str(whole), dtype=dtype)
    for part in (parts.text_encoder, parts.vae, parts.unet, parts.motion_adapter):
        assert {parameter.dtype for parameter in part.parameters()} == {dtype}


def test_an_image_model_gets_idle_temporal_layers_and_a_warning(folder: Path) -> None:
    edit(folder / "model_index.json", lambda index: index.pop("motion_adapter"))
    edit(folder / "model_index.json", lambda index: index.update(_class_name="StableDiffusionPipeline"))
    with pytest.warns(UserWarning, match="frames will not be temporally consistent; set motion_adapter"):
        parts = load_model(str(folder))
    assert all(not p.any() for n, p in parts.motion_adapter.named_parameters() if ".proj_out." in n)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parts = load_model(str(folder), motion_adapter=str(folder / "motion_adapter"))
    assert parts.motion_adapter.config.motion_max_seq_length == 9
    assert len(parts.identity.motion_adapter_sha256) == 64


def test_an_adapter_can_be_taken_from_a_whole_model(whole: Path, folder: Path) -> None:
    parts = load_model(str(whole), motion_adapter=str(folder))
    assert parts.identity.motion_adapter == str(folder)
    assert parts.motion_adapter.config.norm_scope == "clip"


def test_a_folder_that_diffusers_saved_with_a_fused_unet_is_taken_apart(folder: Path) -> None:
    shutil.rmtree(folder / "motion_adapter")
    unet = tiny_unet()
    adapter = tiny_adapter(unet, num_transformer_layers=2, norm_scope="clip")
    reference = diffusers_adapter(adapter)
    fused = UNetMotionModel.from_unet2d(unet, reference).eval()
    fused.save_pretrained(folder / "unet")
    reference.save_pretrained(folder / "motion_adapter")
    edit(folder / "model_index.json", lambda index: index.update(unet=["diffusers", "UNetMotionModel"]))
    parts = load_model(str(folder))
    assert parts.motion_adapter.config.norm_scope == "frame"
    edit(folder / "motion_adapter" / "config.json", lambda config: config.update(norm_scope="clip"))
    parts = load_model(str(folder))
    latents, prompt_embeds = torch.randn(2, 4, 5, 6, 8), torch.randn(2, 7, 12)
    expected = fused(latents, 7, prompt_embeds.repeat_interleave(5, 0)).sample
    found = VideoUNet(parts.unet, parts.motion_adapter)(latents, 7, prompt_embeds)
    assert torch.allclose(found, expected, atol=1e-5)


def test_old_names_of_the_autoencoders_attention_are_known(folder: Path) -> None:
    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if ".attentions." in name]:
            old = name.replace("to_q", "query").replace("to_k", "key").replace("to_v", "value")
            tensors[old.replace("to_out.0", "proj_attn")] = tensors.pop(name)
        assert any("proj_attn" in name for name in tensors)

    reweigh(folder / "vae" / WEIGHTS, rename)
    assert load_model(str(folder)).vae is not None


@pytest.mark.full
@pytest.mark.parametrize("part", ["unet", "vae", "motion_adapter", "text_encoder"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(sorted(tensors)[0]), "1 tensors .* are missing"),
        (
            lambda tensors: tensors.update(extra=torch.zeros(2)),
            r"1 tensors \(extra\) are not part of the model",
        ),
        (lambda tensors: tensors.update({sorted(tensors)[0]: torch.zeros(3, 1)}), "but is stored with"),
        (lambda tensors: [t.fill_(torch.nan) for t in list(tensors.values())[:1]], "holds NaN or infinity"),
        (
            lambda tensors: tensors.update({sorted(tensors)[0]: tensors[sorted(tensors)[0]].long()}),
            "stored as I64",
        ),
    ],
    ids=["missing", "surplus", "shape", "nan", "integer"],
)
def test_wrong_weights_are_refused(
    folder: Path, part: str, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    file = folder / part / ("model.safetensors" if part == "text_encoder" else WEIGHTS)
    reweigh(file, change)
    with pytest.raises(ModelLoadError, match=message) as caught:
        load_model(str(folder))
    assert str(folder / part) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_surplus_weights_can_be_allowed(folder: Path) -> None:
    reweigh(folder / "unet" / WEIGHTS, lambda tensors: tensors.update(extra=torch.zeros(2)))
    assert load_model(str(folder), allow_extra_weights=True).unet is not None


def test_weights_that_overflow_in_the_precision_asked_for_are_refused(folder: Path) -> None:
    reweigh(folder / "vae" / WEIGHTS, lambda tensors: tensors["encoder.conv_in.bias"].fill_(1e6))
    assert load_model(str(folder)).vae is not None
    with pytest.raises(
        ModelLoadError, match=r"encoder\.conv_in\.bias holds NaN or infinity after loading as torch.float16"
    ):
        load_model(str(folder), dtype=torch.float16)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("unet", {"_class_name": "UNet3DConditionModel"}, "must describe a UNet2DConditionModel, but names"),
        (
            "unet",
            {"block_out_chanels": [8, 16]},
            "has no field 'block_out_chanels'; did you mean 'block_out_channels'",
        ),
        ("unet", {"block_out_channels": [8, 10**6]}, "must have the shape"),
        (
            "unet",
            {"block_out_channels": "wide"},
            "block_out_channels must be a number, such as .*, but is 'wide'",
        ),
        (
            "unet",
            {"down_block_types": ["NoSuchBlock", "DownBlock2D"]},
            "cannot be built from its configuration",
        ),
        ("motion_adapter", {"norm_scope": "video"}, "norm_scope must be 'frame' or 'clip', not 'video'"),
        ("motion_adapter", {"conv_in_channels": 9}, "conv_in.* missing"),
        ("text_encoder", {"hidden_size": 10**9}, "must have the shape"),
    ],
)
def test_wrong_configurations_are_refused(
    folder: Path, file: str, change: dict[str, Any], message: str
) -> None:
    """As they come from a file, whatever type checkers say."""
    edit(folder / file / "config.json", lambda config: config.update(change))
    with pytest.raises(ModelLoadError, match=message):
        load_model(str(folder))


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": ' * 3000, "null"])
def test_what_is_not_json_is_refused(folder: Path, text: str) -> None:
    (folder / "vae" / "config.json").write_text(text)
    with pytest.raises(ModelLoadError, match=r"vae/config.json: (not JSON|must hold a mapping|is empty)"):
        load_model(str(folder))


@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"])
def test_missing_files_are_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelLoadError, match=f"{name}: no such file"):
        load_model(str(folder))


def test_a_tokenizer_without_its_files_is_refused(folder: Path) -> None:
    for file in (folder / "tokenizer").iterdir():
        file.unlink()
    with pytest.raises(ModelLoadError, match="tokenizer"):
        load_model(str(folder))


@pytest.mark.parametrize(
    "entry",
    [
        ["my_code", "UNet2DConditionModel"],
        ["diffusers", "UNet3DConditionModel"],
        "unet.py",
        ["diffusers"],
        None,
    ],
)
def test_other_code_is_never_run(folder: Path, entry: object) -> None:
    (folder / "my_code.py").write_text("raise SystemExit('this must never run')")
    edit(folder / "model_index.json", lambda index: index.update(unet=entry))
    with pytest.raises(
        ModelLoadError, match=r"unet must be UNet2DConditionModel or UNetMotionModel .* never run"
    ):
        load_model(str(folder))


@pytest.mark.parametrize("named", ["StableDiffusion3Pipeline", ["pipeline", "MyPipeline"], None])
def test_other_pipelines_are_refused(folder: Path, named: object) -> None:
    edit(folder / "model_index.json", lambda index: index.update(_class_name=named))
    with pytest.raises(
        ModelLoadError, match="must describe a StableDiffusionPipeline or AnimateDiffPipeline"
    ):
        load_model(str(folder))


def test_parts_of_different_models_are_told_apart(folder: Path) -> None:
    tiny_unet(cross_attention_dim=20).save_pretrained(folder / "unet")
    with pytest.raises(
        ModelLoadError, match="reads text embeddings of width 20, but its text encoder makes 12"
    ):
        load_model(str(folder))


def test_inpainting_models_are_refused(folder: Path) -> None:
    tiny_unet(in_channels=9).save_pretrained(folder / "unet")
    with pytest.raises(ModelLoadError, match="its U-Net takes 9 channels, but its autoencoder makes 4"):
        load_model(str(folder))


def test_pickles_are_refused_and_never_run(folder: Path, tmp_path: Path) -> None:
    """The canary: a pickle that would leave a file behind."""
    canary = tmp_path / "canary"
    payload = b"cposix\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR."
    (folder / "unet" / WEIGHTS).unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(payload)
    with pytest.raises(ModelLoadError, match="a pickle that could run code"):
        load_model(str(folder))
    (folder / "unet" / WEIGHTS).write_bytes(payload)
    with pytest.raises(ModelLoadError):
        load_model(str(folder))
    assert not canary.exists()


def test_an_adapter_of_a_published_family_brings_its_schedule_and_settings(
    tmp_path: Path, whole: Path
) -> None:
    unet = tiny_unet("four")
    folder = shutil.copytree(whole, tmp_path / "base")
    unet.save_pretrained(folder / "unet")
    edit(folder / "scheduler" / "scheduler_config.json", lambda c: c.update(beta_schedule="scaled_linear"))
    adapter = tiny_adapter(unet)
    adapter.register_to_config(family="animatelcm")
    write_original_layout(adapter, tmp_path / "adapter.safetensors")
    parts = load_model(str(folder), motion_adapter=str(tmp_path / "adapter.safetensors"))
    assert parts.scheduler_config["beta_schedule"] == "linear"
    assert parts.scheduler_config["original_inference_steps"] == 100
    assert parts.scheduler_config["prediction_type"] == "epsilon"
    expected = {"num_inference_steps": 6, "guidance_scale": 1.5, "scheduler": "lcm", "num_frames": 9}
    assert parts.defaults == {"fps": "8", "vocabulary": ["red"], **expected}
    facts = model_facts(str(folder), str(tmp_path / "adapter.safetensors"))
    assert expected.items() <= facts.defaults.items()
    assert parts.identity.motion_adapter_sha256 == facts.identity["motion_adapter_sha256"]


def test_a_distilled_adapter_brings_its_steps_and_its_guidance(tmp_path: Path, whole: Path) -> None:
    adapter = shutil.copytree(whole / "motion_adapter", tmp_path / "student")
    schedule = {"num_inference_steps": 4, "guidance_scale": 1.0, "scheduler": "ddim"}
    edit(adapter / "config.json", lambda c: c.update(distilled={**schedule, "timestep_spacing": "trailing"}))
    parts = load_model(str(whole), motion_adapter=str(adapter))
    assert schedule.items() <= parts.defaults.items()
    assert schedule.items() <= model_facts(str(whole), str(adapter)).defaults.items()
    assert "guidance_scale" not in load_model(str(whole)).defaults


def test_an_adapter_for_another_base_is_one_line_with_both_widths(tmp_path: Path, whole: Path) -> None:
    file = published_file(tmp_path, "hotshot-xl")
    with pytest.raises(
        ModelLoadError, match=r"block_out_channels \(32, 64, 96\), but this U-Net has \(8, 16\)"
    ):
        load_model(str(whole), motion_adapter=str(file))
