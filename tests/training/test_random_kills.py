"""Fifty kills at random moments: what --resume picks is always whole, and the end is the unbroken run's."""

import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from test_resume import assert_equal, settings_in, state, train
from tiny_run import write_tiny_clips, write_tiny_model

from video_diffusion.training.state import load_checkpoint, newest_checkpoint

KILLS, STEPS = 50, 150


@pytest.mark.slow
def test_fifty_kills(tmp_path: Path) -> None:
    home = tmp_path / "home"
    write_tiny_model(home / "model")
    write_tiny_clips(home / "clips")
    write_tiny_clips(home / "others", count=3, first=5)
    more = {"num_steps": STEPS, "batch_size": 2, "checkpoint": {"every": 1}}
    train(settings_in(home, **more), tmp_path / "whole")
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    # One process that is imported once and forks a child for each attempt: importing takes most of the time.
    program = textwrap.dedent(f"""
        import os, sys
        sys.path[:0] = {paths!r}
        from pathlib import Path
        from test_resume import opened, settings_in
        from video_diffusion.training.run import fit
        for _ in sys.stdin:
            child = os.fork()
            if child == 0:
                for step in fit(opened(settings_in(Path({str(home)!r}), **{more!r}), Path(sys.argv[1]))):
                    pass
                os._exit(0)
            print(child, flush=True)
            print(os.waitpid(child, 0)[1], flush=True)
    """)
    words = [sys.executable, "-c", program, str(tmp_path / "broken")]
    parent = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdin is not None and parent.stdout is not None
    chance = random.Random(11)
    killed = 0
    for attempt in range(KILLS + 1):
        parent.stdin.write("go\n")
        parent.stdin.flush()
        child = int(parent.stdout.readline())
        if attempt < KILLS:
            time.sleep(chance.uniform(0.05, 2.0))
            subprocess.run(["kill", f"-{signal.SIGKILL.value}", str(child)], check=False)
        status = int(parent.stdout.readline())
        killed += status == signal.SIGKILL
        newest = newest_checkpoint(tmp_path / "broken" / "checkpoints")
        if newest is not None:
            assert load_checkpoint(newest)[0] == int(newest.name.removeprefix("step-"))
    parent.stdin.close()
    parent.stdout.close()
    parent.wait()
    assert status == 0 and killed > KILLS // 2
    assert_equal(state(tmp_path / "whole"), state(tmp_path / "broken"))
    assert not list((tmp_path / "broken").rglob("*.part"))
