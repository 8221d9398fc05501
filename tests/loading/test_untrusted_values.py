"""Files that anybody may have written: a model is loaded, or one line says why not."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ip_adapter_files import ip_adapter_tensors
from json_places import A_THIRD_OR_ALL, of_any_kind, places, replaced
from motion_files import published, published_file
from original_layout import small_unet
from safetensors.torch import load_file, save_file
from tiny_models import save_tiny_model, tiny_adapter, tiny_unet

from video_diffusion.jobs.job import model_facts
from video_diffusion.loading import ModelLoadError, ModelParts, load_loras, load_model
from video_diffusion.loading.convert import convert
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
