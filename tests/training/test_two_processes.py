"""Two processes that share a batch are one process that computes it in two pieces."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tiny_run import tiny_trainer

STEPS = 8


def train_and_save(place: Path, name: str, turns: int = 1, **changes: bool) -> None:
    """Eight steps; the first process writes what they were."""
    # AdamW divides by the gradient's own size, so its first steps turn rounding into a share of the rate.
    rate = {"learning_rate": 1e-3}
    trainer = tiny_trainer(num_steps=STEPS, gradient_accumulation_steps=turns, optimizer=rate, **changes)
    steps = list(trainer.steps())
    unet = trainer.pipeline.parts.unet
    held = sum((p.to_local() if hasattr(p, "to_local") else p).numel() for p in unet.parameters())
    if trainer.accelerator.is_main_process:
        weights = {name: p.detach().clone() for name, p in trainer.target.parameters.items()}
        save_file(weights, place / f"{name}.safetensors")
        rows = [[step.loss, step.grad_norm, step.ids] for step in steps]
        facts = {"rows": rows, "processes": trainer.accelerator.num_processes, "unet_numbers": held}
        (place / f"{name}.json").write_text(json.dumps(facts))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_two(place: Path, call: str) -> list[subprocess.Popen[bytes]]:
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    program = (
        f"import sys; sys.path[:0] = {paths!r}; from pathlib import Path; "
        f"from test_two_processes import train_and_save; train_and_save(Path({str(place)!r}), {call})"
    )
    usual = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env=os.environ | usual | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]


@pytest.mark.parametrize(
    "sharded", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["copies", "FSDP shares"]
)
def test_two_gloo_processes_are_one_with_accumulation_2(tmp_path: Path, sharded: bool) -> None:
    # Shares are gathered again where activations are recomputed.
    started = start_two(tmp_path, f"'two', shard_frozen={sharded}, gradient_checkpointing={sharded}")
    train_and_save(tmp_path, "one", turns=2)
    for process in started:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors.decode()[-3000:]
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    assert (two["unet_numbers"] < 0.6 * one["unet_numbers"]) == sharded
    for (loss, norm, ids), (other_loss, other_norm, other_ids) in zip(one["rows"], two["rows"], strict=True):
        assert ids == other_ids
        assert other_loss == pytest.approx(loss, rel=1e-6)
        assert other_norm == pytest.approx(norm, rel=1e-6)
    weights, others = (load_file(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        assert float((weight - others[name]).abs().max()) <= 1e-5, name
