"""Kills at random moments: what --resume picks is always whole, and the end is the unbroken run's."""

import json
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from test_resume import assert_equal, settings_in, state, train
from tiny_run import write_tiny_clips, write_tiny_model

from video_diffusion.training.run import fit, open_run
from video_diffusion.training.run_folder import RunFolder
from video_diffusion.training.state import is_complete, load_checkpoint, newest_checkpoint

STEPS, LONGEST_WAIT = 300, 600.0
MORE: dict[str, Any] = {"num_steps": STEPS, "batch_size": 2, "checkpoint": {"every": 1}}
RATES = (1e-2, 3e-3, 1e-3)
RATE = "optimizer.learning_rate"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kills")
    write_tiny_model(folder / "model")
    write_tiny_clips(folder / "clips")
    write_tiny_clips(folder / "others", count=3, first=5)
    return folder


def optimizer(rate: float) -> dict[str, Any]:
    return {"optimizer": {"learning_rate": rate, "schedule": "constant"}}


def last_step(run: Path) -> int:
    """Of the newest checkpoint, be it whole or not."""
    return max((int(path.name.removeprefix("step-")) for path in run.glob("checkpoints/step-*")), default=0)


@contextmanager
def sittings(home: Path, run: Path) -> Iterator[Callable[[float, int | None, float], int]]:
    """Each call goes on with a run at a rate, in a process that is killed so many steps and seconds later.

    It returns the process's status; without a number of steps it is left to end by itself.

    One process is imported once and forks a child for each sitting: importing takes most of the time.
    """
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    program = textwrap.dedent(f"""
        import json, os, sys
        sys.path[:0] = {paths!r}
        from pathlib import Path
        from accelerate import Accelerator
        from test_resume import settings_in
        from video_diffusion.cli.train import check_folder
        from video_diffusion.training.run import fit, open_run
        from video_diffusion.training.run_folder import RunFolder
        run = Path(sys.argv[1])
        run.mkdir(exist_ok=True)
        for line in sys.stdin:
            child = os.fork()
            if child == 0:
                changes = json.loads({json.dumps(MORE)!r}) | json.loads(line)
                settings = settings_in(Path({str(home)!r}), **changes)
                check_folder(run, resume=True)
                for step in fit(open_run(settings, RunFolder(run), Accelerator(cpu=True), [{RATE!r}])):
                    pass
                os._exit(0)
            print(child, flush=True)
            print(os.waitpid(child, 0)[1], flush=True)
    """)
    words = [sys.executable, "-c", program, str(run)]
    parent = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    to_parent, from_parent = parent.stdin, parent.stdout
    assert to_parent is not None and from_parent is not None

    def sit(rate: float, steps: int | None, seconds: float) -> int:
        before, began = last_step(run), time.monotonic()
        to_parent.write(json.dumps(optimizer(rate)) + "\n")
        to_parent.flush()
        child = int(from_parent.readline())
        if steps is not None:
            while last_step(run) < min(before + steps, STEPS) and time.monotonic() - began < LONGEST_WAIT:
                time.sleep(0.01)
            time.sleep(seconds)
            subprocess.run(["kill", f"-{signal.SIGKILL.value}", str(child)], check=False)
        return int(from_parent.readline())

    yield sit
    to_parent.close()
    parent.wait()
    from_parent.close()


def kill_often(
    sit: Callable[[float, int | None, float], int], run: Path, kills: int, rates: tuple[float, ...]
) -> None:
    """Kill so often, see each time that what is left can be gone on from, then let the run end.

    A third of the kills come while the run opens, the others some steps later, in the middle of one or of its
    checkpoint.
    """
    chance, killed = random.Random(11), 0
    for attempt in range(kills):
        steps = chance.choice((0, 1, 1, 2, 2, 3))
        seconds = chance.uniform(0.05, 0.2 if steps else 1.5)
        killed += sit(rates[attempt % len(rates)], steps, seconds) == signal.SIGKILL
        newest = newest_checkpoint(run / "checkpoints")
        assert newest is None or load_checkpoint(newest)[0] > 0
    assert sit(rates[kills % len(rates)], None, 0) == 0 and killed > kills // 2
    assert all(is_complete(path) for path in (run / "checkpoints").iterdir())
    assert not list(run.rglob("*.part"))


def test_fifty_kills(home: Path, tmp_path: Path) -> None:
    train(settings_in(home, **MORE, **optimizer(RATES[0])), tmp_path / "whole")
    with sittings(home, tmp_path / "broken") as sit:
        kill_often(sit, tmp_path / "broken", 50, RATES[:1])
    assert_equal(state(tmp_path / "whole"), state(tmp_path / "broken"))


def test_sixty_kills_with_another_rate_after_each(home: Path, tmp_path: Path) -> None:
    """The end is that of a run which nobody kills, and which changes its rate at the same steps."""
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    with sittings(home, broken) as sit:
        kill_often(sit, broken, 60, RATES)
    rows = [row for row in RunFolder(broken).rows() if "learning_rate" in row]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    stretches = [
        (rate, [row["step"] for row in some]) for rate, some in groupby(rows, lambda r: r["learning_rate"])
    ]
    assert len(stretches) > 2
    whole.mkdir()
    for rate, steps in stretches:
        run = open_run(
            settings_in(home, **MORE, **optimizer(rate)), RunFolder(whole), Accelerator(cpu=True), [RATE]
        )
        assert run.trainer.step == steps[0] - 1
        for step in fit(run):
            if step.step == steps[-1]:
                break
    assert_equal(state(whole), state(broken))
    changes = [row for row in RunFolder(broken).rows() if "allowed" in row]
    assert f"{RATE} was" in (broken / "README.md").read_text() and changes
    print(f"60 kills, {len(changes)} changes of the rate that a checkpoint saw, {len(stretches)} stretches")
