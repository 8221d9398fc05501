"""Threads that wait do not burn the processor, whichever way somebody comes in."""

import os
import subprocess
import sys

import pytest
import torch

from video_diffusion.pipeline import text_to_video

REPORT = "import os, video_diffusion as v; print(os.environ['OMP_WAIT_POLICY'], v.TORCH_CAME_FIRST)"


def started(code: str, **environment: str) -> list[str]:
    clean = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=clean | environment, capture_output=True, text=True, check=True
    ).stdout.split()


@pytest.mark.parametrize(
    ("code", "environment", "told"),
    [
        (REPORT, {}, ["PASSIVE", "False"]),
        (REPORT, {"OMP_WAIT_POLICY": "ACTIVE"}, ["ACTIVE", "False"]),
        (f"import torch\n{REPORT}", {}, ["PASSIVE", "True"]),
        (f"import torch\n{REPORT}", {"OMP_WAIT_POLICY": "passive"}, ["passive", "False"]),
        (f"import video_diffusion.training.run\n{REPORT}", {}, ["PASSIVE", "False"]),
    ],
    ids=["package first", "somebody's own wish", "torch first", "torch first, told", "trainer"],
)
def test_threads_are_told_to_sleep_where_it_is_ours_to_say(
    code: str, environment: dict[str, str], told: list[str]
) -> None:
    assert started(code, **environment) == told


def test_a_busy_machine_is_told_of_where_torch_came_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_to_video, "TORCH_CAME_FIRST", True)
    monkeypatch.setattr(os, "getloadavg", lambda: (99.0, 0.0, 0.0))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.warns(UserWarning, match=r"torch, imported before video_diffusion, spins while it waits"):
        text_to_video._warn_of_spinning_threads(torch.device("cpu"))
