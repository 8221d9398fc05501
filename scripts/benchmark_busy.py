"""Processor time of every way in, alone and beside two busy programs; torch's threads must not spin.

Each runs as a process of its own: a clip by the command line, a clip by the Python API, a training of a few
steps, a comparison of two clips. They run in turns, quiet and busy, and the medians and their ratio are
printed: above 1.5 somebody's threads burn what others need.

python scripts/benchmark_busy.py              # about 10 minutes on two cores
python scripts/benchmark_busy.py --turns 1
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROMPT = "a red circle moving left on a white background"
API = f"""
from video_diffusion import TextToVideoPipeline
TextToVideoPipeline.from_pretrained("embedded")({PROMPT!r}, seed=1).save("api.mp4")
"""
TRAINING = "data: clips\nnum_steps: 6\nbatch_size: 2\nvalidation: {every: 0}\nclips: {held_out: 0}\n"
COMPARISON = "prompts: [a red circle moving left]\nseeds: [1]\ngrid: {guidance_scale: [2.5, 4]}\n"


def ways(folder: Path) -> dict[str, list[str]]:
    """Command lines, by name; each leaves nothing that the next would find."""
    program = [sys.executable, "-m", "video_diffusion"]
    return {
        "clip, command line": [*program, "generate", PROMPT, "-o", "cli.mp4", "--overwrite", "-q"],
        "clip, Python": [sys.executable, "-c", API],
        "training": [*program, "train", "train.yaml", "-o", f"run-{len(list(folder.glob('run-*')))}", "-q"],
        "comparison": [
            *program, "compare", "compare.yaml", "-o", f"cmp-{len(list(folder.glob('cmp-*')))}", "-q",
        ],
    }  # fmt: skip


def processor_time(command: list[str], folder: Path) -> float:
    """Seconds of user and system time that a process and its children took."""
    before = os.times()
    (folder / "api.mp4").unlink(missing_ok=True)
    (folder / "api.json").unlink(missing_ok=True)
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Inside, so many programs use all the processor that they can get."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def main() -> None:
    """Run the turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--busy", type=int, default=2, help="programs beside")
    options = parser.parse_args()
    spent: dict[str, tuple[list[float], list[float]]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "train.yaml").write_text(TRAINING)
        (folder / "compare.yaml").write_text(COMPARISON)
        make = [sys.executable, "-m", "video_diffusion", "data", "make", "clips", "--clips", "8"]
        subprocess.run(make, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        subprocess.run([*make[:3], "data", "check", "clips", "-q"], cwd=folder, check=True)
        for _ in range(options.turns):
            for name in ways(folder):
                quiet, loaded = spent.setdefault(name, ([], []))
                quiet.append(processor_time(ways(folder)[name], folder))
                with busy(options.busy):
                    loaded.append(processor_time(ways(folder)[name], folder))
    print(f"| processor seconds | alone | beside {options.busy} busy programs | ratio |")
    print("|---|---|---|---|")
    for name, (quiet, loaded) in spent.items():
        ratios = [slow / fast for fast, slow in zip(quiet, loaded, strict=True)]
        medians = statistics.median(quiet), statistics.median(loaded), statistics.median(ratios)
        print(f"| {name} | {medians[0]:.1f} | {medians[1]:.1f} | {medians[2]:.2f} |")


if __name__ == "__main__":
    main()
