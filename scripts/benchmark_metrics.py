"""How long the measures take beside what they cannot do without: the two optical flows of each pair.

Runs in turns, on one core: all weight-free metrics, VBench's temporal-flickering formula, and OpenCV DIS
flow forwards and backwards, on a clip of 64 frames of 512 × 512. Prints the median time of each, and the
ratios, taken within each turn so that a busy machine troubles all alike.

Then the wall clock of all metrics in one thread and in as many as there are cores.

python scripts/benchmark_metrics.py                                       # about 3 minutes
python scripts/benchmark_metrics.py --turns 1 --frames 8 --size 128
"""

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import cv2
import numpy as np
from synthetic_clips import clean_clip, frame_noise

from video_diffusion.metrics import measure
from video_diffusion.metrics.flow import DisFlow
from video_diffusion.metrics.measurement import idle_cores


def vbench_formula(frames: np.ndarray) -> float:
    """(255 − mean absolute difference of neighbours) / 255, as vbench/temporal_flickering.py computes it."""
    pairs = pairwise(np.array(frame, dtype=np.float32) for frame in frames)
    return (255.0 - float(np.mean([np.mean(cv2.absdiff(first, second)) for first, second in pairs]))) / 255.0


def flow_alone(frames: np.ndarray) -> None:
    """Both DIS flows of every pair at full resolution, as the metrics use them."""
    method = DisFlow()
    for index, (first, second) in enumerate(pairwise(frames)):
        method.between(index, first, second)


def seconds(work: Callable[[np.ndarray], object], frames: np.ndarray) -> float:
    """Processor time of one call: what the call used, not what it waited for others."""
    started = time.process_time()
    work(frames)
    return time.process_time() - started


def main() -> None:
    """Run the turns and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    clean = clean_clip("pebbles", "rotation", 4, options.frames, options.size, options.size).frames
    frames = frame_noise(clean, 3)
    works = {
        "all metrics": lambda clip: measure(clip, 8, threads=1),
        "VBench formula": vbench_formula,
        "two DIS flows": flow_alone,
    }
    for work in works.values():  # warm up: code, caches, the processor's clock
        work(frames[:4])
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(options.turns):
        for name, work in works.items():
            times[name].append(seconds(work, frames))
        print(f"turn {turn + 1}: " + ", ".join(f"{name} {taken[-1]:.2f} s" for name, taken in times.items()))
    size = f"{options.frames} frames of {options.size} × {options.size}"
    print(f"\n{size}, one thread, median of {options.turns} turns")
    for name, taken in times.items():
        median = statistics.median(taken)
        print(f"{name:16}{median:8.3f} s {1000 * median / options.frames:8.2f} ms/frame")
    for other in ("two DIS flows", "VBench formula"):
        ratios = [ours / theirs for ours, theirs in zip(times["all metrics"], times[other], strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"all metrics / {other}: {statistics.median(ratios):.2f} ({spread})")
    for threads in sorted({1, idle_cores()}):
        started = time.perf_counter()
        measure(frames, 8, threads=threads)
        print(f"all metrics, wall clock in {threads} threads: {time.perf_counter() - started:.2f} s")


if __name__ == "__main__":
    main()
