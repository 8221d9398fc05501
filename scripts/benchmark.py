"""How fast it is, against diffusers: both in turns in one process, on the same weights and threads.

python scripts/benchmark.py --docs docs/benchmarks.md --json benchmark.json       # all of it, on a CPU
python scripts/benchmark.py --shapes C --rounds 1 --no-drift                      # the embedded model alone
python scripts/benchmark.py --shapes D --device cuda --dtypes bfloat16 --no-drift  # on a GPU
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
from pathlib import Path
from statistics import median
from typing import Any

import torch
from benchmark_drift import drift_table
from benchmark_facts import counted_facts, start_up_seconds
from benchmark_models import SHAPES, build, quiet
from benchmark_report import about_this_run, write_page

import video_diffusion
from video_diffusion import TextToVideoPipeline
from video_diffusion.acceleration import FULL_STEP_EVERY, FeatureReuse, ReusingGuided, accelerate_unet

Variants = dict[str, Callable[[], Any]]
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


def in_turns(variants: Variants, rounds: int, device: str) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of every variant in every round, after one round to warm up, and the last results."""
    for work in variants.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in variants}
    results: dict[str, Any] = {}
    for turn in range(rounds):
        for name in list(variants) if turn % 2 == 0 else reversed(variants):
            spent, results[name] = seconds(variants[name], device)
            times[name].append(spent)
        print(f"  round {turn + 1} of {rounds}", file=sys.stderr, flush=True)
    return times, results


def unet_variants(name: str, dtype: torch.dtype, device: str, compiled: bool, levels: bool) -> Variants:
    """A guided prediction of each model; of speed levels a whole cycle of steps."""
    shape = SHAPES[name]
    ours, theirs = build(shape, dtype, device)
    latents, prompts = shape.inputs(dtype, device)
    per_frame = prompts.repeat_interleave(shape.num_frames, 0)
    accelerate_unet(ours)
    kind = str(dtype).removeprefix("torch.")
    variants: Variants = {
        f"diffusers {kind}": lambda: theirs(latents, 500, per_frame, return_dict=False)[0],
        f"ours {kind}": lambda: ours(latents, 500, prompts),
    }
    if compiled:
        faster: Any = torch.compile(theirs)
        variants[f"diffusers compiled {kind}"] = lambda: faster(latents, 500, per_frame, return_dict=False)[0]
    if not levels:
        return variants
    reuse = FeatureReuse(ours)
    for level, every in FULL_STEP_EVERY.items():
        if level == 0:
            continue
        guided = ReusingGuided(reuse, every, 1, ours, prompts[1:], prompts[:1], 7.5)
        variants[f"ours {kind} speed {level}"] = lambda g=guided, n=every: one_cycle(g, n, latents[:1])  # type: ignore[misc]  # mypy knows no default of a lambda
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

    return {
        "diffusers float32": diffusers,
        "ours float32": lambda: ours(PROMPT, seed=0).save(folder / "ours.mp4"),
    }


def compare(times: dict[str, list[float]], results: dict[str, Any], base: str) -> list[dict[str, Any]]:
    """A row for every variant, held against diffusers in float32 (or what it was given)."""
    rows = []
    for name, spent in times.items():
        steps = FULL_STEP_EVERY[int(name[-1])] if "speed" in name else 1
        kind = next(each for each in ("float32", "bfloat16", "float16") if each in name)
        row: dict[str, Any] = {"variant": name, "seconds": median(spent) / steps}
        for label, other in (("against_base", base), ("against_same_dtype", f"diffusers {kind}")):
            ratios = sorted(steps * a / b for a, b in zip(times[other], spent, strict=True))
            row[label] = [median(ratios), ratios[0], ratios[-1]]
        if "speed" not in name and isinstance(results[name], torch.Tensor):
            expected = results[base].double()
            row["difference"] = float((results[name].double() - expected).norm() / expected.norm())
        rows.append(row)
    return rows


@torch.no_grad()
def main() -> None:
    """Run what was asked for, print it, write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=["A", "B", "C"], choices=[*SHAPES, "C"])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compiled", action="store_true", help="torch.compile diffusers' model too: minutes")
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
        print(f"shape {shape}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            if shape == "C":
                variants = clip_variants(Path(folder))
            else:
                variants = {}
                for kind in options.dtypes:
                    dtype, levels = getattr(torch, kind), kind == options.dtypes[-1]
                    variants |= unet_variants(shape, dtype, options.device, options.compiled, levels)
            times, results = in_turns(variants, options.rounds, options.device)
        base = next(iter(variants))
        found["shapes"][shape] = compare(times, results, base)
        for row in found["shapes"][shape]:
            print(json.dumps(row), flush=True)
        del variants, results
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
