import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from video_diffusion.loading import ModelLoadError
from video_diffusion.loading.weights import compare_weights, find_weights, read_header

TENSORS = {"a.weight": torch.randn(2, 3), "b": torch.zeros(4, dtype=torch.float16)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file(TENSORS, path)
    return path


def test_the_header_says_what_a_file_holds(file: Path) -> None:
    stored, _ = read_header(file)
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in stored.items()} == {
        "a.weight": ("F32", (2, 3)),
        "b": ("F16", (4,)),
    }


def with_header(header: bytes) -> Callable[[bytes], bytes]:
    return lambda whole: len(header).to_bytes(8, "little") + header


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda whole: whole[:-5], "has {short} bytes but should have {size}; download it again"),
        (lambda whole: whole + b"12345", "has {long} bytes but should have {size}; download it again"),
        (lambda whole: b"", "but is empty"),
        (lambda whole: whole[:6], "not a whole safetensors file: it has 6 bytes"),
        (lambda whole: whole[:40], "it has 40 bytes and claims a header of"),
        (lambda whole: b"\n <!DOCTYPE html><html>", "is a web page; download the file itself"),
        (
            lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:00",
            "a git-lfs pointer; run",
        ),
        (lambda whole: b"PK\x03\x04" + whole, "a pickle that could run code"),
        (lambda whole: b"\x80\x02}q\x00.", "a pickle that could run code"),
        (lambda whole: (2**62).to_bytes(8, "little") + whole[8:], "claims a header of 4611686018427387904"),
        (with_header(b"not json"), "its header is damaged"),
        (with_header(b"[1, 2]"), "its header is damaged"),
        (with_header(b'{"a": {"dtype": "F32"}}'), "its header is damaged"),
        (with_header(b"[" * 100_000), "its header is damaged"),
    ],
)
def test_what_is_not_a_whole_file_is_named(
    file: Path, change: Callable[[bytes], bytes], message: str
) -> None:
    whole = file.read_bytes()
    file.write_bytes(change(whole))
    with pytest.raises(ModelLoadError) as caught:
        read_header(file)
    sizes = {"size": len(whole), "short": len(whole) - 5, "long": len(whole) + 5}
    assert str(caught.value).startswith(f"{file}: ")
    assert message.format(**sizes) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_shards_are_read_together(file: Path, tmp_path: Path) -> None:
    file.rename(tmp_path / "diffusion_pytorch_model-00001-of-00002.safetensors")
    save_file({"c": torch.ones(5)}, tmp_path / "diffusion_pytorch_model-00002-of-00002.safetensors")
    shards = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a.weight": shards[0], "b": shards[0], "c": shards[1]}}))
    assert set(find_weights(tmp_path, "diffusion_pytorch_model").tensors) == {"a.weight", "b", "c"}
    index.write_text(json.dumps({"weight_map": {"a.weight": "../elsewhere.safetensors"}}))
    with pytest.raises(
        ModelLoadError, match=r"names '\.\./elsewhere\.safetensors', which is not a file beside it"
    ):
        find_weights(tmp_path, "diffusion_pytorch_model")


def test_a_half_precision_variant_is_taken_where_it_is_all_there_is(file: Path, tmp_path: Path) -> None:
    assert find_weights(tmp_path, "diffusion_pytorch_model").variant is None
    file.rename(tmp_path / "diffusion_pytorch_model.fp16.safetensors")
    assert find_weights(tmp_path, "diffusion_pytorch_model").variant == "fp16"


def test_a_variant_that_is_asked_for_is_taken_or_missed(file: Path, tmp_path: Path) -> None:
    half = tmp_path / "diffusion_pytorch_model.fp16.safetensors"
    with pytest.raises(
        ModelLoadError, match=r"no diffusion_pytorch_model.fp16.safetensors; leave the variant"
    ):
        find_weights(tmp_path, "diffusion_pytorch_model", "fp16")
    shutil.copy(file, half)
    assert find_weights(tmp_path, "diffusion_pytorch_model", "fp16").variant == "fp16"
    assert find_weights(tmp_path, "diffusion_pytorch_model").variant is None


def test_a_pickle_is_refused_unopened(tmp_path: Path) -> None:
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x02cos\nsystem\n")
    with pytest.raises(
        ModelLoadError, match=r"only diffusion_pytorch_model\.bin, a pickle that could run code"
    ):
        find_weights(tmp_path, "diffusion_pytorch_model")
    with pytest.raises(ModelLoadError, match=r"no model.safetensors; download the folder again"):
        find_weights(tmp_path / "nowhere", "model")


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 2, bias=False, device="meta")
        self.b = nn.Parameter(torch.zeros(4))


def check(folder: Path, tensors: dict[str, torch.Tensor], allow_extra: bool = False) -> None:
    save_file(tensors, folder / "model.safetensors")
    compare_weights(find_weights(folder, "model"), Model(), allow_extra)


def test_the_expected_tensors_pass_in_any_float_type(tmp_path: Path) -> None:
    check(tmp_path, TENSORS)
    check(tmp_path, {name: tensor.bfloat16() for name, tensor in TENSORS.items()})
    check(tmp_path, {name: tensor.double() for name, tensor in TENSORS.items()})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"b": None}, r"1 tensors \(b\) are missing"),
        (
            {"b": torch.zeros(5)},
            r"b must have the shape \(4,\) that config.json says, but is stored with \(5,\)",
        ),
        ({"b": torch.zeros(4, dtype=torch.int64)}, "b must be floating point, but is stored as I64"),
        ({"c": torch.zeros(1)}, r"1 tensors \(c\) are not part of the model"),
        (
            {f"c{i}": torch.zeros(1) for i in range(8)},
            r"8 tensors \(c0, c1, c2, c3, c4 and 3 more\) are not part of the model",
        ),
    ],
)
def test_any_difference_is_named(
    tmp_path: Path, changes: dict[str, torch.Tensor | None], message: str
) -> None:
    tensors = {name: tensor for name, tensor in (TENSORS | changes).items() if tensor is not None}
    with pytest.raises(ModelLoadError, match=message):
        check(tmp_path, tensors)


def test_surplus_tensors_can_be_allowed(tmp_path: Path) -> None:
    check(tmp_path, TENSORS | {"c": torch.zeros(1)}, allow_extra=True)
    check(tmp_path, TENSORS | {"embeddings.position_ids": torch.arange(3)})
