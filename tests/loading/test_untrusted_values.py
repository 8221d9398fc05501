"""Files that anybody may have written: a model is loaded, or one line says why not."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from control_networks import tiny_controlnet, tiny_sparse_control
from diffusers.models.autoencoders.autoencoder_kl_temporal_decoder import AutoencoderKLTemporalDecoder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ip_adapter_files import ip_adapter_tensors, tiny_image_encoder
from json_places import A_THIRD_OR_ALL, OF_ANY_KIND, of_any_kind, places, replaced
from motion_files import published, published_file
from original_layout import small_unet
from safetensors.torch import load_file, save_file
from tiny_models import save_tiny_model, tiny_adapter, tiny_unet
from transformers.models.clip.modeling_clip import CLIPVisionModelWithProjection

from video_diffusion.jobs.job import model_facts
from video_diffusion.loading import (
    ModelLoadError,
    ModelParts,
    find_model,
    load_controlnet,
    load_embedding,
    load_ip_adapter,
    load_loras,
    load_model,
    load_sparse_control,
)
from video_diffusion.loading.components import load_text_encoder
from video_diffusion.loading.convert import convert
from video_diffusion.loading.lora import read_lora
from video_diffusion.loading.model import load_vae
from video_diffusion.loading.weights import find_weights, open_weights, read_header
from video_diffusion.loading.weights_facts import describe_weights
from video_diffusion.sampling import make_scheduler
from video_diffusion.video import weights_sha256

ODD_NUMBERS = st.sampled_from([0, -1, 1, 2**31, 10**8, 10**30, -(10**30), 1e308, float("nan"), float("inf")])
SCALARS = st.none() | st.booleans() | st.integers(-9, 99) | ODD_NUMBERS | st.floats() | st.text(max_size=5)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)
CONFIGS = (
    "unet/config.json", "vae/config.json", "text_encoder/config.json", "motion_adapter/config.json",
    "scheduler/scheduler_config.json", "model_index.json", "generation_defaults.json",
    "tokenizer/tokenizer_config.json",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("whole") / "model", num_frames=5, vocabulary=["red"])


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "model")


def assert_loads_or_says_why(folder: Path) -> None:
    try:
        parts = load_model(str(folder))
        make_scheduler("ddim", parts.scheduler_config)
    except ModelLoadError as refusal:
        assert str(refusal).startswith(str(folder)), refusal
        assert "\n" not in str(refusal)


@A_THIRD_OR_ALL
@pytest.mark.filterwarnings("ignore:.*is an image model without temporal layers")
@pytest.mark.parametrize("name", CONFIGS)
def test_a_value_of_any_kind_in_any_place_of_a_configuration(whole: Path, name: str, share: int) -> None:
    file = whole / name
    before = file.read_text()
    try:
        for values in of_any_kind(json.loads(before), share):
            file.write_text(json.dumps(values))
            assert_loads_or_says_why(whole)
    finally:
        file.write_text(before)


def with_header(file: Path, header: Any) -> None:
    text, data = json.dumps(header).encode(), file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
@given(data=st.data())
def test_any_value_in_any_place_of_a_header(tmp_path: Path, data: st.DataObject) -> None:
    file = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(2, 3), "b": torch.ones(4)}, file, {"format": "pt"})
    header = json.loads(file.read_bytes()[8 : 8 + int.from_bytes(file.read_bytes()[:8], "little")])
    with_header(file, replaced(header, data.draw(st.sampled_from(places(header))), data.draw(JSON)))
    try:
        assert all(type(size) is int for tensor in read_header(file)[0].values() for size in tensor.shape)
        describe_weights(file)
    except ModelLoadError as refusal:
        assert str(refusal).startswith(str(file)) and "\n" not in str(refusal)


@pytest.mark.parametrize("texts", [True, 0, "x", [], {"a": 1}, {"a": None}])
def test_texts_of_another_kind_are_a_damaged_header(tmp_path: Path, texts: object) -> None:
    """Symptom: a header that only the safetensors library refuses crashed when its tensors were read."""
    file = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(2, 3)}, file)
    header = json.loads(file.read_bytes()[8 : 8 + int.from_bytes(file.read_bytes()[:8], "little")])
    with_header(file, {"__metadata__": texts} | header)
    with pytest.raises(ModelLoadError, match="its header is damaged"):
        open_weights(file).load()


@pytest.mark.parametrize("entry", [b'"a": 0, ', rb'"a\ud800": 1, ', b'"b": {"x": 1e999}, '])
def test_whatever_the_library_refuses_of_a_header_is_told_in_one_line(tmp_path: Path, entry: bytes) -> None:
    file = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(2, 3)}, file)
    size = int.from_bytes(file.read_bytes()[:8], "little")
    text = b"{" + entry + file.read_bytes()[9 : 8 + size].lstrip()
    file.write_bytes(len(text).to_bytes(8, "little") + text + file.read_bytes()[8 + size :])
    with pytest.raises(ModelLoadError) as refusal:
        open_weights(file).load()
    assert str(refusal.value).startswith(str(file)) and "\n" not in str(refusal.value)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
@given(data=st.data())
def test_any_value_in_any_place_of_a_shard_index(tmp_path: Path, data: st.DataObject) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors")
    index = {"metadata": {"total_size": 8}, "weight_map": {"a": "x.safetensors", "b": "x.safetensors"}}
    path = data.draw(st.sampled_from(places(index)))
    file = tmp_path / "model.safetensors.index.json"
    file.write_text(json.dumps(replaced(index, path, data.draw(JSON))))
    try:
        assert "a" in find_weights(tmp_path, "model").tensors
    except ModelLoadError as refusal:
        assert str(refusal).startswith(str(tmp_path)) and "\n" not in str(refusal)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("generation_defaults.json", {"vocabulary": 5}, "vocabulary must be a list of words, but is 5"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": -3}, "timesteps must be a number"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**12}, "must be a number of 2…100000"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**5}, "leave nothing of an image long"),
        ("scheduler/scheduler_config.json", {"beta_end": "much"}, "beta_end must be a number of 0…1"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "odd"}, "makes no noise schedule"),
        ("scheduler/scheduler_config.json", {"prediction_type": "x0"}, "type must be one of epsilon"),
        ("motion_adapter/config.json", {"motion_layers_per_block": 10**8}, "per_block is 100000000"),
        ("unet/config.json", {"layers_per_block": [1, 10**8]}, "layers_per_block is .* tensors"),
        ("text_encoder/config.json", {"num_attention_heads": -1}, "num_attention_heads must be above 0"),
        ("text_encoder/config.json", {"num_hidden_layers": 10**8}, "num_hidden_layers is 100000000"),
        ("vae/config.json", {"scaling_factor": "x"}, "scaling_factor must be a number, such as 0.18215"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": "x"}, "tokenizer"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_its_file_at_once(
    folder: Path, name: str, change: dict[str, Any], message: str
) -> None:
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    started = time.monotonic()
    with pytest.raises(ModelLoadError, match=message) as refusal:
        load_model(str(folder))
    assert time.monotonic() - started < 10
    assert str(folder) in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_motion_file_that_claims_10_to_the_8_layers_is_refused_at_once(tmp_path: Path, whole: Path) -> None:
    adapter = tiny_adapter(tiny_unet())
    adapter.save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"motion_transformer_layers_per_block": 10**8}))
    started = time.monotonic()
    with pytest.raises(ModelLoadError, match="layers_per_block is 100000000, but the weights"):
        load_model(str(whole), str(tmp_path / "adapter"))
    assert time.monotonic() - started < 10


# Tensors that a strange file holds.


def halves(layer: str, rank: int = 2, width: int = 8) -> dict[str, torch.Tensor]:
    return {
        f"{layer}.lora_down.weight": torch.ones(rank, width),
        f"{layer}.lora_up.weight": torch.ones(8, rank),
        f"{layer}.alpha": torch.tensor(1.0),
    }


def strange(tensors: dict[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    """Each tensor in turn of other shapes and kinds, left out, alone, and under other names."""
    for name, tensor in tensors.items():
        rest = {key: value for key, value in tensors.items() if key != name}
        last = tensor.shape[-1] if tensor.ndim else 3
        for shape in ((), (0,), (0, last), (3, 0), (5,), (1, 2, last), (1, 1, 1, 1, 2)):
            yield {**rest, name: torch.ones(shape)}
        for kind in (torch.int32, torch.float8_e4m3fn, torch.bool):
            yield {**rest, name: tensor.to(kind)}
        for other in (f"{name}{'y' * 900}", f"{name}\n"):
            yield {**rest, other: tensor}
        yield from (rest, {name: tensor}, {**rest, name: torch.full_like(tensor, float("nan"))})


LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
MOTION = "down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q"
LIBRARIES_WORDS = (
    "index out of range", "state_dict", "torch.Size", "Tensor", "dimension", "TypeError", "argument",
    "NoneType", "expected", "not implemented",
)  # fmt: skip


@pytest.mark.parametrize("kind", ["image LoRA", "motion LoRA", "IP-Adapter", "embedding"])
def test_tensors_of_any_shape_and_kind_are_told_in_our_words(tmp_path: Path, whole: Path, kind: str) -> None:
    """Symptom: float8 and a half of no dimension crashed; of other shapes peft's words were told."""
    parts, file = load_model(str(whole)), tmp_path / "w.safetensors"
    before = {name: tensor.clone() for name, tensor in parts.unet.state_dict().items()}
    adapter = ip_adapter_tensors(parts.unet)
    tensors = {
        "image LoRA": halves(LAYER) | halves(LAYER.replace("attn1_to_q", "attn2_to_k"), width=12),
        "motion LoRA": halves(MOTION),
        "IP-Adapter": {name: adapter[name] for name in (*list(adapter)[:2], list(adapter)[-1])},
        "embedding": {"emb_params": torch.ones(2, 12)},
    }[kind]
    tiny_image_encoder().save_pretrained(tmp_path / "image_encoder")
    for changed in strange(tensors):
        whole_file = {**adapter, **changed} if kind == "IP-Adapter" else changed
        save_file({name: tensor.clone() for name, tensor in whole_file.items()}, file)
        for use in (lambda: used(kind, file, parts), lambda: describe_weights(file)):
            try:
                use()
            except ModelLoadError as refusal:
                assert str(refusal).startswith(str(file)) and "\n" not in str(refusal), refusal
                assert len(str(refusal)) < 700, refusal
                assert not any(words in str(refusal) for words in LIBRARIES_WORDS), refusal
    after = parts.unet.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def used(kind: str, file: Path, parts: ModelParts) -> None:
    if kind == "embedding":
        load_embedding(file, parts)
    elif kind == "IP-Adapter":
        load_ip_adapter(parts, str(file)).unload()
    else:
        load_loras(parts, [(str(file), 0.5)]).unload()
        read_lora(parts, str(file))


OTHER_PARTS: dict[str, tuple[Callable[[], Any], Callable[[Path, ModelParts], Any]]] = {
    "ControlNet": (tiny_controlnet, lambda folder, parts: load_controlnet(find_model(str(folder)), parts)),
    "SparseCtrl": (
        lambda: tiny_sparse_control("rgb"),
        lambda folder, parts: load_sparse_control(find_model(str(folder)), parts),
    ),
    "temporal decoder": (
        lambda: AutoencoderKLTemporalDecoder(block_out_channels=(32, 32), layers_per_block=1),
        lambda folder, parts: load_vae(find_model(str(folder)), parts.unet, torch.float32),
    ),
    "image encoder": (
        tiny_image_encoder,
        lambda folder, _: load_text_encoder(CLIPVisionModelWithProjection, folder, torch.float32),
    ),
}


@pytest.mark.full
@pytest.mark.parametrize("name", OTHER_PARTS)
def test_a_value_of_any_kind_in_any_place_of_another_part_s_configuration(
    tmp_path: Path, whole: Path, name: str
) -> None:
    """Symptom: "expected int, got NoneType", without the file or the key."""
    make, load = OTHER_PARTS[name]
    make().save_pretrained(tmp_path / "part")
    parts, file = load_model(str(whole)), tmp_path / "part" / "config.json"
    config = json.loads(file.read_text())
    for path in places(config):
        for value in OF_ANY_KIND:
            file.write_text(json.dumps(replaced(config, path, value)))
            try:
                load(tmp_path / "part", parts)
            except ModelLoadError as refusal:
                assert str(refusal).startswith(str(tmp_path / "part")) and "\n" not in str(refusal), refusal
                assert not any(words in str(refusal) for words in LIBRARIES_WORDS), refusal


@pytest.mark.parametrize("value", [None, [], 1.5, "x"])
def test_the_field_that_makes_no_network_is_named(tmp_path: Path, value: object) -> None:
    tiny_image_encoder().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_attention_heads": value}))
    with pytest.raises(ModelLoadError, match=r"config.json: .*num_attention_heads .*is (None|\[\]|1.5|'x')"):
        load_text_encoder(CLIPVisionModelWithProjection, tmp_path, torch.float32)


# What is looked at before anything large is read.


def test_a_motion_file_is_refused_before_the_image_model_is_read(tmp_path: Path, folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"damaged")
    torch.save({"state_dict": published("animatediff-v1")}, tmp_path / "mm.ckpt")
    with pytest.raises(ModelLoadError, match=r"mm.ckpt: a .ckpt file is a pickle"):
        load_model(str(folder), str(tmp_path / "mm.ckpt"))
    save_file({"a": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelLoadError, match=r"other.safetensors: holds no temporal layers"):
        load_model(str(folder), str(tmp_path / "other.safetensors"))


def test_what_is_no_adapter_is_never_hashed(tmp_path: Path, whole: Path) -> None:
    """Neither a folder far above some weights, nor a pipe that ends in .safetensors."""
    deep = tmp_path / "home" / "me" / "models" / "x"
    deep.mkdir(parents=True)
    save_file({"a": torch.ones(2)}, deep / "x.safetensors")
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert weights_sha256(tmp_path) is None
    with pytest.raises(ModelLoadError):
        model_facts(str(whole), str(tmp_path / "home"))
    (tmp_path / "pipe.safetensors").unlink()
    published_file(tmp_path, "animatediff-v3")
    assert len(weights_sha256(tmp_path) or "") == 64


# What is told in place of a circle.


def pickled(tmp_path: Path, unet: Any) -> dict[str, dict[str, Any]]:
    adapter = ip_adapter_tensors(unet)
    parts: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in adapter.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    lora = {
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight": torch.ones(2, 8),
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.weight": torch.ones(8, 2),
    }
    return {"LoRA": lora, "IP-Adapter": parts}


@pytest.mark.parametrize("kind", ["LoRA", "IP-Adapter"])
def test_a_pickle_of_any_kind_becomes_safetensors_by_the_command_that_is_told(
    tmp_path: Path, kind: str
) -> None:
    file, safe = tmp_path / "x.bin", tmp_path / "x.safetensors"
    torch.save(pickled(tmp_path, tiny_unet())[kind], file)
    facts = describe_weights(file, allow_pickle=True)
    assert facts["kind"] == kind
    assert facts["use"] == f"video-diffusion convert {file} {safe} --allow-pickle"
    with pytest.raises(ModelLoadError, match=r"convert .*x.bin x.safetensors --allow-pickle"):
        open_weights(file)
    convert(str(file), safe, "animatediff", allow_pickle=True)
    again = describe_weights(safe)
    assert (again["kind"], again["num_parameters"]) == (kind, facts["num_parameters"])
    assert again["use"].startswith("video-diffusion generate PROMPT")
    with pytest.raises(ModelLoadError, match="which needs no conversion; give it as"):
        convert(str(safe), tmp_path / "y.safetensors", "animatediff")


def test_a_checkpoint_without_autoencoder_and_text_encoder_is_not_told_to_be_downloaded_again(
    tmp_path: Path,
) -> None:
    from original_layout import original_unet

    file = tmp_path / "unet_only.safetensors"
    save_file({name: t.contiguous() for name, t in original_unet(small_unet("sd1")).items()}, file)
    facts = describe_weights(file)
    assert facts["kind"] == "image model in one file" and len(facts["lacks"]) == 2
    assert facts["use"].endswith("--vae PATH --text-encoder PATH")  # the command that gives what it lacks
    with pytest.raises(ModelLoadError, match=r"holds no autoencoder .* and no text encoder") as refusal:
        load_model(str(file))
    assert "download it again" not in str(refusal.value)


def test_a_loha_is_called_what_it_is(tmp_path: Path, whole: Path) -> None:
    names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    tensors = {f"lora_unet_mid_block_attentions_0_proj_in.{name}": torch.ones(2, 2) for name in names}
    save_file(tensors, tmp_path / "style.safetensors")
    parts: ModelParts = load_model(str(whole))
    with pytest.raises(ModelLoadError, match=r"this is a LoHa .*not supported; give a LoRA"):
        load_loras(parts, [(str(tmp_path / "style.safetensors"), 1.0)])


def test_surplus_weights_are_told_with_the_flag_that_allows_them(folder: Path) -> None:
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(file) | {"extra": torch.ones(2)}, file)
    with pytest.raises(ModelLoadError, match="--allow-extra-weights"):
        load_model(str(folder))
