"""How fast it is, against diffusers: both in turns in one process, on the same weights and threads.

python scripts/benchmark.py --docs docs/benchmarks.md --json benchmark.json       # all of it, on a CPU
python scripts/benchmark.py --shapes C --rounds 1 --no-drift                      # the embedded model alone
python scripts/benchmark.py --shapes D E --device cuda --dtypes bfloat16 --no-drift           # on a GPU
python scripts/benchmark.py --shapes D --device cuda --dtypes bfloat16 --no-drift --run-steps 25  # whole runs
python scripts/benchmark.py --shapes half --dtypes float32 --compiled --no-drift   # and compiled
python scripts/benchmark.py --page-of a.json b.json --docs docs/benchmarks.md      # nothing is run

Every round runs all variants once; ratios are taken within a round, so that a busy machine troubles all
alike. Seconds are processor time on CPUs and wall time on GPUs. About ten minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from benchmark_drift import drift_table
from benchmark_facts import counted_facts, start_up_seconds
from benchmark_models import SHAPES, build, quiet
from benchmark_report import about_this_run, write_page
from benchmark_runs import run_variants

import video_diffusion
from video_diffusion import GenerationSettings, TextToVideoPipeline
from video_diffusion.acceleration import FULL_STEP_EVERY, FeatureReuse, ReusingGuided, accelerate_unet
from video_diffusion.jobs import Job, Pipelines, run_jobs

Variants = dict[str, Callable[[], Any]]
NUM_JOBS = 4
PROMPT = "a large red circle moving left on a white background"


def seconds(work: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Time of one call, and what it returned."""
    if device == "cpu":
        started = time.process_time()
        result = work()
        return time.process_time() - started, result
    torch.cuda.synchronize()
    started = time.perf_counter()
    result = work()
    torch.cuda.synchronize()
    return time.perf_counter() - started, result


@dataclass
class Measured:
    """What one variant took: its first call, the others, memory beside the weights on a GPU, its result."""

    first: float
    spent: list[float] = field(default_factory=list)
    peak_gb: float | None = None
    result: Any = None


def in_turns(variants: Variants, rounds: int, device: str) -> dict[str, Measured]:
    """Run every variant once to warm up and then once in every round."""
    found = {}
    for name, work in variants.items():
        found[name] = Measured(seconds(work, device)[0])
        print(f"  {name}: first call {found[name].first:.1f} s", file=sys.stderr, flush=True)
    for turn in range(rounds):
        for name in list(variants) if turn % 2 == 0 else reversed(variants):
            own, before = found[name], 0
            if device != "cpu":
                before = torch.cuda.memory_allocated()
                torch.cuda.reset_peak_memory_stats()
            spent, own.result = seconds(variants[name], device)
            own.spent.append(spent)
            if device != "cpu":
                own.peak_gb = (torch.cuda.max_memory_allocated() - before) / 1e9
        print(f"  round {turn + 1} of {rounds}", file=sys.stderr, flush=True)
    return found


def unet_variants(name: str, dtype: torch.dtype, device: str, compiled: bool, levels: bool) -> Variants:
    """A guided prediction of each model; of speed levels a whole cycle of steps."""
    shape = SHAPES[name]
    ours, theirs = build(shape, dtype, device)
    latents, prompts = shape.inputs(dtype, device)
    per_frame = prompts.repeat_interleave(shape.num_frames, 0)
    more = shape.conditions(dtype, device)
    accelerate_unet(ours)
    kind = str(dtype).removeprefix("torch.")
    variants: Variants = {
        f"diffusers {kind}": lambda: theirs(latents, 500, per_frame, **more, return_dict=False)[0],
        f"ours {kind}": lambda: ours(latents, 500, prompts, **more),
    }
    if compiled:
        helps_most: Any = {"freezing": True} if device == "cpu" else None
        faster: Any = torch.compile(theirs, options=helps_most)
        variants[f"diffusers compiled {kind}"] = lambda: faster(
            latents, 500, per_frame, **more, return_dict=False
        )[0]
        twin, _ = build(shape, dtype, device)  # of the same weights
        accelerate_unet(twin, compiling=True)
        variants[f"ours compiled {kind}"] = lambda: twin(latents, 500, prompts, **more)
    if not levels:
        return variants
    low, _ = build(shape, dtype, device)  # of the same weights
    low.one_by_one = True
    accelerate_unet(low)
    variants[f"ours {kind} low memory"] = lambda: low(latents, 500, prompts, **more)
    reuse = FeatureReuse(ours)
    for level, every in FULL_STEP_EVERY.items():
        if level == 0:
            continue
        guided = ReusingGuided(reuse, every, 1, ours, prompts[1:], prompts[:1], 7.5, **more)
        variants[f"ours {kind} speed {level}"] = partial(one_cycle, guided, every, latents[:1])
    return variants


def one_cycle(guided: ReusingGuided, every: int, latents: torch.Tensor) -> torch.Tensor:
    """A full step and the shallow ones that follow it, in the middle of a run."""
    guided.begin()
    for step in range(every):
        prediction = guided(latents.float(), torch.tensor(500.0 - step))
    return prediction


def clip_variants(folder: Path) -> Variants:
    """Prompt to file with the embedded model; ours measures the clip besides."""
    from diffusers.pipelines.animatediff.pipeline_animatediff import AnimateDiffPipeline
    from diffusers.utils.export_utils import export_to_video

    ours = TextToVideoPipeline.from_pretrained("embedded", device="cpu")
    with quiet():
        embedded = Path(video_diffusion.__file__).parent / "embedded"
        theirs = AnimateDiffPipeline.from_pretrained(embedded, torch_dtype=torch.float32)
    theirs.set_progress_bar_config(disable=True)

    def diffusers() -> Any:
        made = theirs(
            PROMPT, num_frames=16, height=64, width=64, num_inference_steps=12, guidance_scale=2.5,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        export_to_video(made.frames[0], str(folder / "theirs.mp4"), fps=8)

    pipelines = Pipelines()

    def jobs() -> None:
        settings = [GenerationSettings(prompt=PROMPT, seed=seed, device="cpu") for seed in range(NUM_JOBS)]
        named = [Job(each, f"{seed:012x}", f"{seed}.mp4", str(seed)) for seed, each in enumerate(settings)]
        outcomes = list(run_jobs(named, folder, pipelines, batch_size=None, overwrite=True))
        assert {outcome.status for outcome in outcomes} == {"ok"}

    return {
        "diffusers float32": diffusers,
        "ours float32": lambda: ours(PROMPT, seed=0).save(folder / "ours.mp4"),
        f"ours float32, one of {NUM_JOBS} jobs": jobs,
    }


def parts_of(name: str, whole: bool) -> int:
    """How many steps or clips one call of a variant makes."""
    if "jobs" in name:
        return NUM_JOBS
    return FULL_STEP_EVERY[int(name[-1])] if "speed" in name and not whole else 1


def compare(found: dict[str, Measured], base: str, whole: bool) -> list[dict[str, Any]]:
    """A row for every variant, held against diffusers in float32 (or what comes first).

    Args:
        found: See `in_turns`.
        base: Name of the first.
        whole: Whether these are whole runs, not single steps.
    """
    rows = []
    for name, own in found.items():
        parts = parts_of(name, whole)
        kind = next(each for each in ("float32", "bfloat16", "float16") if each in name)
        usual = median(own.spent)
        row: dict[str, Any] = {"variant": name, "seconds": usual / parts, "set_up": max(own.first - usual, 0)}
        for label, other in (("against_base", base), ("against_same_dtype", f"diffusers {kind}")):
            ratios = sorted(parts * a / b for a, b in zip(found[other].spent, own.spent, strict=True))
            row[label] = [median(ratios), ratios[0], ratios[-1]]
        if own.peak_gb is not None:
            row["peak_gb"] = own.peak_gb
        if "speed" not in name and isinstance(own.result, torch.Tensor):
            expected = found[base].result.double()
            row["difference"] = float((own.result.double() - expected).norm() / expected.norm())
        rows.append(row)
    return rows


def measure_shape(shape: str, options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """The rows of one shape, by its title."""
    print(f"shape {shape}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        if shape == "C":
            variants = clip_variants(Path(folder))
        else:
            variants = {}
            for kind in options.dtypes:
                dtype, levels = getattr(torch, kind), kind == options.dtypes[-1]
                if options.run_steps:
                    variants |= run_variants(shape, dtype, options.device, options.run_steps)
                else:
                    variants |= unet_variants(shape, dtype, options.device, options.compiled, levels)
        measured = in_turns(variants, options.rounds, options.device)
    base = next(iter(variants))
    title = shape
    if shape != "C":
        title += f", whole run of {options.run_steps} steps" if options.run_steps else ""
        title += ", compiled" if options.compiled else ""
    rows = compare(measured, base, bool(options.run_steps))
    for row in rows:
        print(json.dumps(row), flush=True)
    return {title: rows}


@torch.no_grad()
def main() -> None:
    """Run what was asked for, print it, write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="*", default=["A", "B", "C"], choices=[*SHAPES, "C"])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compiled", action="store_true", help="both compiled besides: takes minutes")
    parser.add_argument("--run-steps", type=int, metavar="N", help="whole runs of N steps, to frames")
    parser.add_argument("--no-facts", action="store_true", help="leave counted facts and start-up out")
    parser.add_argument("--no-drift", action="store_true", help="leave the speed levels' drift out")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--docs", type=Path)
    parser.add_argument("--page-of", nargs="+", type=Path, metavar="JSON", help="runs to put on the page")
    options = parser.parse_args()
    if options.page_of:
        write_page([json.loads(path.read_text(encoding="utf-8")) for path in options.page_of], options.docs)
        return
    torch.set_num_threads(options.threads)
    found: dict[str, Any] = {"run": about_this_run(sys.argv[1:], options.threads), "shapes": {}}
    for shape in options.shapes:
        found["shapes"] |= measure_shape(shape, options)
    if not options.no_facts:
        found["facts"] = counted_facts()
        found["start_up"] = start_up_seconds()
        print(json.dumps({"facts": found["facts"], "start_up": found["start_up"]}), flush=True)
    if not options.no_drift:
        found["drift"] = drift_table()
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if options.docs:
        write_page([found], options.docs)


if __name__ == "__main__":
    main()
