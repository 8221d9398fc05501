"""Kept encodings come back bit for bit; another source or encoder is another entry; damage is made anew."""

import multiprocessing
import os
import resource
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from video_diffusion.training.data.dataset import LatentCache, module_sha256

LATENTS = torch.randn(4, 3, 5, 7, generator=torch.Generator().manual_seed(0))


def never() -> Tensor:
    raise AssertionError("an entry that is kept is not encoded again")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_kept_tensor_comes_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    value = LATENTS.to(dtype)
    cache = LatentCache(tmp_path / "cache", "vae")
    assert cache.get("clip") is None and "clip" not in cache and not (tmp_path / "cache").exists()
    assert torch.equal(cache.get_or_encode("clip", value.requires_grad_), value)
    assert "clip" in cache
    again = LatentCache(tmp_path / "cache", "vae").get_or_encode("clip", never)
    assert torch.equal(again, value) and again.dtype == dtype and not again.requires_grad


def test_another_key_encoder_or_dtype_is_another_entry(tmp_path: Path) -> None:
    LatentCache(tmp_path, "vae").put("clip", LATENTS)
    for other, key in (
        (LatentCache(tmp_path, "vae"), "clip2"),
        (LatentCache(tmp_path, "vae2"), "clip"),
        (LatentCache(tmp_path, "vae", "bfloat16"), "clip"),
    ):
        assert key not in other and other.get(key) is None


@settings(max_examples=30, deadline=None)
@given(st.text(), st.text())
def test_any_text_is_a_key(tmp_path_factory: pytest.TempPathFactory, key: str, other: str) -> None:
    cache = LatentCache(tmp_path_factory.mktemp("cache"), "text encoder")
    cache.put(key, LATENTS)
    assert torch.equal(cache.get_or_encode(key, never), LATENTS)
    assert (other in cache) == (other == key)


def test_an_entry_that_is_not_contiguous_or_a_view(tmp_path: Path) -> None:
    cache = LatentCache(tmp_path, "vae")
    cache.put("clip", LATENTS.transpose(0, 3)[1:, :, :2])
    assert torch.equal(cache.get_or_encode("clip", never), LATENTS.transpose(0, 3)[1:, :, :2])


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "header", "other entry"])
def test_damaged_entries_are_made_anew(tmp_path: Path, damage: str) -> None:
    cache = LatentCache(tmp_path, "vae")
    cache.put("clip", LATENTS)
    (file,) = tmp_path.glob("*/*.safetensors")
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[-5] ^= 16
    elif damage == "header":
        data[:8] = b"\xff" * 8
    elif damage == "other entry":
        cache.put("other", LATENTS + 1)
        (other,) = set(tmp_path.glob("*/*.safetensors")) - {file}
        data = bytearray(other.read_bytes())
    file.write_bytes(data[: {"cut": -40, "empty": 0}.get(damage, len(data))])
    assert cache.get("clip") is None
    assert torch.equal(cache.get_or_encode("clip", lambda: LATENTS), LATENTS)
    assert torch.equal(cache.get_or_encode("clip", never), LATENTS)


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    """A limit on file sizes stands in for the full disk: both are an OSError while writing."""
    cache = LatentCache(tmp_path, "vae")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            cache.put("clip", LATENTS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert torch.equal(cache.get_or_encode("clip", lambda: LATENTS), LATENTS)


def _fill_until_killed(folder: str) -> None:
    cache = LatentCache(folder, "vae")
    for number in range(100_000):
        cache.put(str(number % 500), LATENTS + number % 500)


def test_killed_writers_leave_only_whole_entries(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for _ in range(3):
        writer = context.Process(target=_fill_until_killed, args=(str(tmp_path),))
        writer.start()
        while not list(tmp_path.glob("*/*.safetensors")):
            assert writer.is_alive()
        writer.join(0.1)
        os.kill(writer.pid or 0, signal.SIGKILL)
        writer.join()
    cache = LatentCache(tmp_path, "vae")
    kept = [number for number in range(500) if str(number) in cache]
    assert kept
    assert all(torch.equal(cache.get_or_encode(str(number), never), LATENTS + number) for number in kept)


def test_a_module_is_known_by_class_weights_and_configuration() -> None:
    def made(kind: type = nn.Linear, size: int = 3, **changes: object) -> nn.Module:
        torch.manual_seed(0)
        module = kind(size, 5)
        module.config = {"scaling_factor": 0.18, "_name_or_path": "here", **changes}
        return module

    one = module_sha256(made())
    assert module_sha256(made()) == module_sha256(made(_name_or_path="there")) == one
    other = made()
    with torch.no_grad():
        next(other.parameters())[0, 0] += 1e-7
    different = [other, made(size=4), made(scaling_factor=0.13), made().to(torch.float16)]
    assert len({one, *map(module_sha256, different), module_sha256(made(), "tokenizer")}) == 6
