"""Two processes that share a batch are one process that computes it in two pieces."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_run import tiny_trainer

STEPS = 8


def train_and_save(place: Path, turns: int) -> None:
    """Eight steps; the first process writes what they were."""
    trainer = tiny_trainer(num_steps=STEPS, gradient_accumulation_steps=turns, loss={"noise_offset": 0.1})
    steps = list(trainer.steps())
    if trainer.accelerator.is_main_process:
        weights = {name: p.detach().clone() for name, p in trainer.target.parameters.items()}
        save_file(weights, place / f"{turns}.safetensors")
        facts = [[step.loss, step.grad_norm, step.ids] for step in steps]
        (place / f"{turns}.json").write_text(json.dumps(facts))
    assert trainer.accelerator.num_processes == (2 if turns == 1 else 1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_two_gloo_processes_are_one_with_accumulation_2(tmp_path: Path) -> None:
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    program = (
        f"import sys; sys.path[:0] = {paths!r}; from pathlib import Path; "
        f"from test_two_processes import train_and_save; train_and_save(Path({str(tmp_path)!r}), 1)"
    )
    usual = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env=os.environ | usual | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    train_and_save(tmp_path, 2)
    for process in started:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors.decode()[-3000:]
    one, two = (json.loads((tmp_path / f"{turns}.json").read_text()) for turns in (2, 1))
    assert [ids for *_, ids in one] == [ids for *_, ids in two]
    assert [loss for loss, *_ in two] == pytest.approx([loss for loss, *_ in one], rel=1e-6)
    assert [norm for _, norm, _ in two] == pytest.approx([norm for _, norm, _ in one], rel=1e-6)
    weights, others = (load_file(tmp_path / f"{turns}.safetensors") for turns in (2, 1))
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        assert float((weight - others[name]).abs().max()) <= 1e-5, name
    assert not torch.equal(next(iter(weights.values())), torch.zeros(()))
