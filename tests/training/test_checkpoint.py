"""Checkpoints are whole or absent."""

import json
import os
from pathlib import Path

import pytest
import torch

from video_diffusion.training.state import (
    MANIFEST,
    is_complete,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)


def groups(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return {"model": {"weight": torch.full((3, 5), value)}, "optimizer": {"0.step": torch.tensor(value)}}


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    saved = save_checkpoint(tmp_path, 7, groups(0.25), {"seconds": 1.5})
    step, tensors, facts = load_checkpoint(saved)
    assert (step, facts) == (7, {"seconds": 1.5})
    assert torch.equal(tensors["model"]["weight"], torch.full((3, 5), 0.25))
    assert tensors["optimizer"]["0.step"].item() == 0.25


def test_old_ones_are_pruned_and_the_newest_is_found(tmp_path: Path) -> None:
    for step in (1, 2, 30):
        save_checkpoint(tmp_path, step, groups(step), {}, keep=2)
    assert [c.name for c in sorted(tmp_path.glob("*"))] == ["step-00000002", "step-00000030"]
    assert newest_checkpoint(tmp_path) == tmp_path / "step-00000030"
    assert newest_checkpoint(tmp_path / "nothing here") is None


@pytest.mark.parametrize(
    "damage", ["flip a bit", "truncate", "remove a file", "no manifest", "torn manifest"]
)
def test_a_damaged_checkpoint_is_never_picked(tmp_path: Path, damage: str) -> None:
    good, bad = (save_checkpoint(tmp_path, step, groups(step), {}) for step in (4, 5))
    weights = bad / "model.safetensors"
    content = bytearray(weights.read_bytes())
    if damage == "flip a bit":
        content[-1] ^= 1
        weights.write_bytes(content)
    elif damage == "truncate":
        weights.write_bytes(content[:-9])
    elif damage == "remove a file":
        weights.unlink()
    elif damage == "no manifest":
        (bad / MANIFEST).unlink()
    else:
        (bad / MANIFEST).write_text(json.dumps({"step": 5})[:-1])
    assert not is_complete(bad)
    assert newest_checkpoint(tmp_path) == good


@pytest.mark.parametrize("value", [None, True, -1, 10**30, "x", [], ["a", []], {}, {"a": []}])
@pytest.mark.parametrize("place", [(), ("step",), ("sha256",), ("sha256", "model.safetensors"), ("facts",)])
def test_a_value_of_any_kind_in_a_manifest_is_damage_and_nothing_else(
    tmp_path: Path, place: tuple[str, ...], value: object
) -> None:
    """Symptom: `train --resume` crashed, or took a checkpoint whose manifest named none of its files."""
    good, bad = (save_checkpoint(tmp_path, step, groups(step), {}) for step in (4, 5))
    manifest = json.loads((bad / MANIFEST).read_text())
    at = manifest
    for name in place[:-1]:
        at = at[name]
    if place:
        at[place[-1]] = value
    (bad / MANIFEST).write_text(json.dumps(manifest if place else value))
    is_right = (place == ("facts",) and isinstance(value, dict)) or (place == ("step",) and value == 10**30)
    assert newest_checkpoint(tmp_path) == (bad if is_right else good)


@pytest.mark.parametrize("name", ["/dev/zero", "../step-00000004/model.safetensors", "pipe"])
def test_a_manifest_names_no_file_outside_and_no_pipe(tmp_path: Path, name: str) -> None:
    """Symptom: /dev/zero in a manifest was hashed for ever."""
    good, bad = (save_checkpoint(tmp_path, step, groups(step), {}) for step in (4, 5))
    os.mkfifo(bad / "pipe")
    manifest = json.loads((bad / MANIFEST).read_text())
    manifest["sha256"][name] = manifest["sha256"]["model.safetensors"]
    (bad / MANIFEST).write_text(json.dumps(manifest))
    assert newest_checkpoint(tmp_path) == good


@pytest.mark.parametrize(
    "facts", [{"optimizer": []}, {"optimizer": {"0": 1}}, {"optimizer": {"0.a": "x"}}, {"seconds": "1"}]
)
def test_facts_of_another_kind_are_damage(tmp_path: Path, facts: dict[str, object]) -> None:
    good = save_checkpoint(tmp_path, 4, groups(4), {})
    bad = save_checkpoint(tmp_path, 5, groups(5), {})
    manifest = json.loads((bad / MANIFEST).read_text()) | {"facts": facts}
    (bad / MANIFEST).write_text(json.dumps(manifest))
    assert newest_checkpoint(tmp_path) == good
