"""IP-Adapters of every kind: found with their encoder, refused in one line, out again bit for bit."""

import shutil
from pathlib import Path

import pytest
import torch
from ip_adapter_files import ip_adapter_tensors, save_picture, save_tiny_ip_adapter, tiny_image_encoder
from motion_files import stored_bits
from safetensors.torch import load_file, save_file
from tiny_models import TEXT_WIDTH, save_tiny_model, tiny_unet

from video_diffusion.loading import ModelLoadError, ModelParts, find_ip_adapter, load_ip_adapter, load_model
from video_diffusion.loading.weights_facts import describe_weights


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> ModelParts:
    return load_model(str(save_tiny_model(tmp_path_factory.mktemp("whole") / "model")))


@pytest.mark.parametrize(
    ("kind", "num_tokens", "image_width"), [("image", 4, 10), ("plus", 3, 18), ("full", 257, 18)]
)
def test_it_goes_in_and_comes_out_bit_for_bit(
    parts: ModelParts, tmp_path: Path, kind: str, num_tokens: int, image_width: int
) -> None:
    file = save_tiny_ip_adapter(tmp_path, tiny_unet(), kind)
    facts = find_ip_adapter(str(file)).facts
    assert (facts.kind, facts.num_tokens, facts.image_width) == (kind, num_tokens, image_width)
    assert (facts.text_width, facts.num_layers) == (TEXT_WIDTH, 4)
    unet = parts.unet
    before, processors, own = stored_bits(unet), unet.attn_processors, set(vars(unet))
    loaded = load_ip_adapter(parts, str(file.parent), 0.5)
    scales = [p.scale for p in unet.attn_processors.values() if hasattr(p, "to_k_ip")]
    assert scales == [[0.5]] * 4
    assert unet.config.encoder_hid_dim_type == "ip_image_proj"
    loaded.unload()
    loaded.unload()
    assert stored_bits(unet) == before
    assert unet.attn_processors.keys() == processors.keys()
    assert all(unet.attn_processors[name] is processor for name, processor in processors.items())
    assert (unet.encoder_hid_proj, unet.config.encoder_hid_dim_type, set(vars(unet))) == (None, None, own)


@pytest.mark.parametrize("kind", ["image", "plus", "full", "face"])
def test_a_file_says_what_it_is_and_how_it_is_used(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "x.safetensors"
    save_file(ip_adapter_tensors(tiny_unet(cross_attention_dim=768), kind), file)
    facts = describe_weights(file)
    assert (facts["kind"], facts["base"]) == ("IP-Adapter", "Stable Diffusion 1.x")
    usual = f"video-diffusion generate PROMPT --model MODEL --ip-adapter {file} --ip-image IMAGE"
    assert facts["use"] == (None if kind == "face" else usual)


def written(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    file = save_tiny_ip_adapter(folder, tiny_unet())
    save_file(tensors, file)
    return file


def test_files_that_do_not_fit_leave_the_model_as_it_was(parts: ModelParts, tmp_path: Path) -> None:
    unet = parts.unet
    before, processors = stored_bits(unet), unet.attn_processors
    good = ip_adapter_tensors(tiny_unet())
    wide = ip_adapter_tensors(tiny_unet(), text_width=20)
    other = ip_adapter_tensors(tiny_unet("attention"))
    cases = {
        "reads text of width 20, but this one reads 12": wide,
        r"has 7 layers of widths \[8, 16\], but this model's cross attention has 4 of \[8, 16\]": other,
        "holds no IP-Adapter": {"a.weight": torch.ones(2, 2)},
        "reads face identities": ip_adapter_tensors(tiny_unet(), "face"),
        "image_proj.norm.weight holds NaN": good | {"image_proj.norm.weight": torch.full((12,), torch.nan)},
        "does not fit the model .*norm.bias": {k: v for k, v in good.items() if k != "image_proj.norm.bias"},
        "must be floating point": good | {"image_proj.norm.bias": torch.ones(12, dtype=torch.int32)},
        "other shapes than an IP-Adapter's": good | {"image_proj.proj.weight": torch.ones(7)},
    }
    for number, (message, tensors) in enumerate(cases.items()):
        file = written(tmp_path / str(number), tensors)
        with pytest.raises(ModelLoadError, match=message) as caught:
            load_ip_adapter(parts, str(file))
        assert "\n" not in str(caught.value)
        assert stored_bits(unet) == before
        assert all(unet.attn_processors[name] is processor for name, processor in processors.items())


def test_the_encoder_is_found_where_publishers_put_it(tmp_path: Path) -> None:
    file = save_tiny_ip_adapter(tmp_path, tiny_unet())
    xl = tmp_path / "sdxl_models"
    xl.mkdir()
    moved = Path(shutil.copy(file, xl / "ip-adapter_sdxl_vit-h.safetensors"))
    assert find_ip_adapter(str(moved)).encoder == tmp_path / "models" / "image_encoder"
    tiny_image_encoder(projection_dim=14).save_pretrained(xl / "image_encoder")  # of another width
    assert find_ip_adapter(str(moved)).encoder == tmp_path / "models" / "image_encoder"
    tiny_image_encoder().save_pretrained(xl / "image_encoder")
    assert find_ip_adapter(str(moved)).encoder == xl / "image_encoder"


def test_a_missing_or_other_encoder_is_said_with_the_way_out(tmp_path: Path) -> None:
    file = save_tiny_ip_adapter(tmp_path, tiny_unet())
    encoder = file.parent / "image_encoder"
    tiny_image_encoder(projection_dim=14).save_pretrained(encoder)
    with pytest.raises(
        ModelLoadError, match=rf"vectors of width 10, but the image encoder gives 14 \({encoder}"
    ):
        find_ip_adapter(str(file))
    shutil.rmtree(encoder)
    with pytest.raises(ModelLoadError, match=f"no image encoder beside it.*copy the one .* to {encoder}"):
        find_ip_adapter(str(file))


def test_damaged_encoders_are_refused_by_tensor(parts: ModelParts, tmp_path: Path) -> None:
    file = save_tiny_ip_adapter(tmp_path, tiny_unet())
    weights = file.parent / "image_encoder" / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensor for name, tensor in tensors.items() if "visual_projection" not in name}, weights)
    picture = save_picture(tmp_path / "a.png", 3)
    with (
        load_ip_adapter(parts, str(file)) as loaded,
        pytest.raises(ModelLoadError, match=r"visual_projection.weight\) are missing"),
    ):
        loaded.image_embeds([(0.0, picture)], 4, 1, guided=False, looped=False)
    assert parts.unet.encoder_hid_proj is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere/at/all", "no such file or folder"),
        ("x.bin", "is a pickle that could run code"),
        ("EMPTY", "holds no safetensors file; give the IP-Adapter's file itself"),
        ("TWO", "holds 2 safetensors files; give the IP-Adapter's file itself, such as .*/a.safetensors"),
    ],
)
def test_names_that_mean_no_adapter_are_refused(name: str, message: str, tmp_path: Path) -> None:
    if name in {"EMPTY", "TWO"}:
        for file in ("a", "b") if name == "TWO" else ():
            save_file({"a": torch.ones(1)}, tmp_path / f"{file}.safetensors")
        name = str(tmp_path)
    with pytest.raises(ModelLoadError, match=message):
        find_ip_adapter(name)
