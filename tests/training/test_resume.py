"""A run that was stopped and resumed is the unbroken run, bit for bit; another run is never continued."""

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from tiny_run import tiny_settings, write_tiny_clips, write_tiny_model

from video_diffusion.settings.training import TrainingSettings
from video_diffusion.training.run import Run, fit, open_run
from video_diffusion.training.run_folder import RunFolder, RunInUseError, owned
from video_diffusion.training.state import ResumeError, is_complete, load_checkpoint, newest_checkpoint


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    write_tiny_model(folder / "model")
    write_tiny_clips(folder / "clips")
    write_tiny_clips(folder / "others", count=3, first=5)
    return folder


def settings_in(home: Path, **changes: Any) -> TrainingSettings:
    sources = [{"path": str(home / "clips"), "weight": 0.7}, {"path": str(home / "others"), "weight": 0.3}]
    usual = {"data": sources, "model": str(home / "model"), "num_steps": 5, "checkpoint": {"every": 2}}
    return tiny_settings(**(usual | changes))


def opened(settings: TrainingSettings, folder: Path) -> Run:
    folder.mkdir(exist_ok=True, parents=True)
    return open_run(settings, RunFolder(folder), Accelerator(cpu=True))


def train(settings: TrainingSettings, folder: Path, stop_after: int | None = None) -> Run:
    """Trains to the end, or drops the run after so many steps as a kill would, without saving."""
    torch.manual_seed(stop_after or 0)  # the process that goes on has another global random state
    run = opened(settings, folder)
    for step in fit(run):
        if step.step == stop_after:
            break
    return run


def state(folder: Path) -> dict[str, Any]:
    newest = newest_checkpoint(folder / "checkpoints")
    assert newest is not None
    step, groups, facts = load_checkpoint(newest)
    weights = {f"{group}.{name}": t for group, tensors in groups.items() for name, t in tensors.items()}
    rows = [row for row in RunFolder(folder).rows() if "loss" in row]
    return {"step": step, "weights": weights, "ema": facts["ema_steps"],
            "logged": [{k: v for k, v in row.items() if k != "seconds"} for row in rows]}  # fmt: skip


def assert_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (one["step"], one["ema"], one["logged"]) == (other["step"], other["ema"], other["logged"])
    assert one["weights"].keys() == other["weights"].keys()
    for name, tensor in one["weights"].items():
        assert torch.equal(tensor, other["weights"][name]), name


SLOW = pytest.mark.slow
LORA = {"target": "motion_lora", "lora": {"rank": 2, "dropout": 0.2}}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        LORA | {"latent_cache": False, "num_workers": 2},
        pytest.param({"optimizer": {"name": "muon", "learning_rate": 1e-3}}, marks=pytest.mark.full),
        pytest.param({"optimizer": {"name": "prodigy", "learning_rate": 1.0}}, marks=pytest.mark.full),
        pytest.param(
            {"validation": {"every": 2, "prompts": ["clip 1"]}, "clips": {"held_out": 1}}, marks=SLOW
        ),
        pytest.param(
            {"loss": {"noise_type": "mixed", "min_snr_gamma": 5.0}, "gradient_accumulation_steps": 2},
            marks=SLOW,
        ),
        pytest.param({"clips": {"image_fraction": 0.3}, "temporal_and": "attn2"}, marks=SLOW),
    ],
    ids=[
        "full",
        "lora, no cache, workers",
        "muon",
        "prodigy",
        "validated",
        "mixed noise, accumulated",
        "pictures, extras",
    ],
)
def test_dropped_and_resumed_is_unbroken(home: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    """Dropped twice, in the middle of an epoch and between checkpoints; steps since the last are repeated."""
    settings = settings_in(home, **changes)
    train(settings, tmp_path / "whole")
    train(settings, tmp_path / "broken", stop_after=1)
    train(settings, tmp_path / "broken", stop_after=3)
    last = train(settings, tmp_path / "broken")
    assert last.trainer.step == 5
    assert_equal(state(tmp_path / "whole"), state(tmp_path / "broken"))


@pytest.mark.full
def test_cache_workers_and_validation_change_nothing(home: Path, tmp_path: Path) -> None:
    plain = settings_in(home, num_steps=3, clips={"held_out": 1}, latent_cache=False)
    train(plain, tmp_path / "plain")
    for name, change in {
        "cache": {"latent_cache": True},
        "shared cache": {"latent_cache": str(tmp_path / "cache")},
        "workers": {"num_workers": 2},
        "validation": {"validation": {"every": 1, "prompts": ["clip 1"]}},
    }.items():
        train(TrainingSettings.model_validate(plain.model_dump() | change), tmp_path / name)
        assert_equal(state(tmp_path / "plain"), state(tmp_path / name))
    assert any((tmp_path / "cache").rglob("*.safetensors"))


def _train_until_killed(settings: TrainingSettings, folder: Path, step: int) -> None:
    torch.manual_seed(9)
    for done in fit(opened(settings, folder)):
        if done.step == step:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.full
def test_killed_by_the_system_and_resumed_is_unbroken(home: Path, tmp_path: Path) -> None:
    settings = settings_in(home, num_steps=6, checkpoint={"every": 3})
    train(settings, tmp_path / "whole")
    process = multiprocessing.get_context("fork").Process(
        target=_train_until_killed, args=(settings, tmp_path / "broken", 4)
    )
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    again = train(settings, tmp_path / "broken")
    assert again.trainer.step == 6
    assert_equal(state(tmp_path / "whole"), state(tmp_path / "broken"))


@pytest.mark.full
def test_another_run_is_not_continued_and_the_differences_are_named(home: Path, tmp_path: Path) -> None:
    train(settings_in(home, num_steps=3), tmp_path / "run")
    for changes, named in (
        ({"seed": 5, "batch_size": 2}, r"batch_size was 4, is 2; seed was 0, is 5"),
        ({"loss": {"min_snr_gamma": 5.0}}, r"loss\.min_snr_gamma was None, is 5\.0"),
        ({"num_steps": 9}, r"num_steps was 3, is 9"),
        ({"data": str(home / "clips")}, r"data\.folder_0 was"),
    ):
        with pytest.raises(ResumeError, match=named):
            opened(settings_in(home, **({"num_steps": 3} | changes)), tmp_path / "run")
    other = shutil.copytree(home / "model", tmp_path / "other model")
    weights = other / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ResumeError, match=r"model\.weights_sha256 was"):
        opened(settings_in(home, num_steps=3, model=str(other)), tmp_path / "run")


def test_the_same_clips_in_another_place_are_the_same_run(home: Path, tmp_path: Path) -> None:
    train(settings_in(home, num_steps=3), tmp_path / "run")
    moved = shutil.copytree(home / "clips", tmp_path / "moved")
    sources = [{"path": str(moved), "weight": 0.7}, {"path": str(home / "others"), "weight": 0.3}]
    assert opened(settings_in(home, num_steps=3, data=sources), tmp_path / "run").trainer.step == 3


@pytest.mark.full
def test_a_run_at_a_constant_rate_can_be_made_longer(home: Path, tmp_path: Path) -> None:
    rate = {"optimizer": {"schedule": "constant"}}
    train(settings_in(home, num_steps=6, **rate), tmp_path / "whole")
    train(settings_in(home, num_steps=3, **rate), tmp_path / "longer")
    train(settings_in(home, num_steps=6, **rate), tmp_path / "longer")
    assert_equal(state(tmp_path / "whole"), state(tmp_path / "longer"))


def test_a_damaged_checkpoint_is_passed_over(home: Path, tmp_path: Path) -> None:
    train(settings_in(home), tmp_path / "run")
    newest = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert newest is not None and newest.name == "step-00000005"
    (newest / "motion_adapter" / "config.json").write_text("{}")
    assert not is_complete(newest)
    assert opened(settings_in(home), tmp_path / "run").trainer.step == 4


def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    with (
        owned(tmp_path / "run"),
        pytest.raises(RunInUseError, match=rf"process {os.getpid()} on .* trains in this folder"),
        owned(tmp_path / "run"),
    ):
        pass
    with owned(tmp_path / "run"):
        pass


def test_a_torn_last_row_is_forgotten(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in (1, 2, 3):
        folder.append({"step": step, "loss": 0.5})
    with folder.metrics.open("a") as file:
        file.write('{"step": 4, "lo')
    folder.forget_after(2)
    assert [json.loads(line)["step"] for line in folder.metrics.read_text().splitlines()] == [1, 2]
