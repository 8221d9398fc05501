"""Writes docs/benchmarks.md from what `benchmark.py` found."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmark_facts import LONG_CLIPS
from benchmark_models import SHAPES

from video_diffusion.acceleration.kernels import processor_maker

NOTES = Path(__file__).with_name("benchmark_notes.md")
ABOUT = (
    "Ours and diffusers run in turns in one process on the same weights. Seconds are processor time on CPUs, "
    "ratios the median of those taken within a round, with the lowest and the highest; above 1 is faster "
    "than diffusers. Written by these commands:"
)
ABOUT_CLIP = "the embedded model, prompt to MP4, 16 frames in 12 steps; ours measures the clip besides"


def about_this_run(arguments: list[str], num_threads: int) -> dict[str, Any]:
    """Date, machine, versions, command."""
    libraries = ("torch", "diffusers", "transformers", "numpy")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{os.cpu_count()} cores of {processor_maker() or platform.processor()}",
        "load": list(os.getloadavg()),
        "threads": num_threads,
        "versions": {"python": platform.python_version(), **{n: metadata.version(n) for n in libraries}},
        "command": " ".join(["python scripts/benchmark.py", *arguments]),
    }


def write_page(runs: list[dict[str, Any]], path: Path) -> None:
    """The whole page: how it was measured, tables, then the notes that people keep beside this script.

    Args:
        runs: What `benchmark.py` found; where two have the same part, the later one stands.
        path: Is replaced.
    """
    lines = ["# Benchmarks", "", ABOUT, ""]
    lines += [f"- {_one_run(found['run'])}" for found in runs]
    shapes = {name: rows for found in runs for name, rows in found["shapes"].items()}
    parts = {name: part for found in runs for name, part in found.items()}
    for name, rows in sorted(shapes.items()):
        about = ABOUT_CLIP if name == "C" else SHAPES[name.partition(",")[0]].about
        about += "" if name == "C" or "whole" in name else "; one step"
        lines += ["", f"## Shape {name}: {about}", "", *_times(rows, is_clip=name == "C")]
    if "facts" in parts:
        lines += ["", "## Counted", "", *_facts(parts["facts"])]
        lines += ["", "## Start-up", "", "| fresh process | processor seconds |", "|---|---|"]
        lines += [f"| {name} | {spent:.2f} |" for name, spent in parts["start_up"].items()]
    if "drift" in parts:
        lines += [
            "",
            "## What speed levels cost in likeness",
            "",
            *_drift(parts["drift"], shapes.get("A", [])),
        ]
    lines += ["", NOTES.read_text(encoding="utf-8").rstrip(), ""]
    path.write_text("\n".join(lines), encoding="utf-8")


def _one_run(run: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    return (
        f"`{run['command']}`, {run['date']}, {run['machine']}, {run['threads']} thread(s), "
        f"load {run['load'][0]:.0f} at its start; {versions}"
    )


def _times(rows: list[dict[str, Any]], is_clip: bool) -> list[str]:
    """The table of one shape, with columns for what was measured."""
    base = rows[0]["variant"]
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "variant": lambda row: row["variant"],
        "seconds": lambda row: f"{row['seconds']:.2f}",
        f"against {base}": lambda row: _ratio(row["against_base"]),
        "against diffusers in the same precision": lambda row: _ratio(row["against_same_dtype"]),
    }
    notes = []
    if any("set_up" in row for row in rows):
        columns["set-up"] = lambda row: f"{row.get('set_up', 0):.1f} s"
        notes.append("Set-up: what the first call took longer than the others.")
    if any("peak_gb" in row for row in rows):
        columns["memory"] = lambda row: f"{row['peak_gb']:.2f} GB"
        notes.append("Memory: the allocator's peak beside what was there before.")
    if is_clip:
        columns["clips per minute"] = lambda row: f"{60 / row['seconds']:.0f}"
        notes.append("Clips per minute of one core; diffusers makes one after the other.")
    else:
        columns["difference"] = lambda row: f"{row['difference']:.1e}" if "difference" in row else ""
        notes.append("Difference: root mean square from the first row's output over its size.")
    table = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    table += [f"| {' | '.join(write(row) for write in columns.values())} |" for row in rows]
    return [*table, "", " ".join(notes)]


def _ratio(values: list[float]) -> str:
    return f"{values[0]:.2f} ({values[1]:.2f} to {values[2]:.2f})"


def _facts(facts: dict[str, float]) -> list[str]:
    rows = {
        "arithmetic of one guided step": f"{facts['step_tflop']:.2f} TFLOP",
        "a shallow step's share of it": f"{facts['shallow_step_share']:.1%}",
        "clones in a temporal layer, diffusers → plain → ours": " → ".join(
            f"{facts[name]:.0f}" for name in ("diffusers_clones", "plain_clones", "clones")
        ),
        "divisions by 1, plain → ours": f"{facts['plain_divisions']:.0f} → {facts['divisions']:.0f}",
        "projections of a prompt in one layer over 25 steps, diffusers → ours": (
            f"{facts['diffusers_projections']:.0f} → {facts['projections']:.0f}"
        ),
        "memory of a step, plain → ours": f"{facts['plain_peak_gb']:.2f} → {facts['peak_gb']:.2f} GB",
        "memory of a step, prompt and negative prompt apart": f"{facts['peak_two_passes_gb']:.2f} GB",
        "memory of a whole run, step and decoding, usual": f"{facts['run_peak_gb']:.2f} GB",
        "memory of a whole run, low memory": f"{facts['low_memory_run_peak_gb']:.2f} GB",
        "memory of a step of 128 frames in windows of 16, over that of 16": (
            f"{facts['long_peak_ratio']:.3f}"
        ),
        **{
            f"arithmetic for each frame of {frames} in windows of 16, overlap {overlap}, {schedule}": (
                f"{facts[f'long_{frames}_{overlap}_{schedule}_cost']:.3f}"
            )
            for frames, overlap, schedule in LONG_CLIPS
        },
        **{
            f"memory of decoding, {chunk} frames at once": f"{facts[f'decode_{chunk}_peak_gb']:.2f} GB"
            for chunk in (16, 4, 2, 1)
        },
    }
    about = (
        "SD 1.5 at 512x512, 16 frames, guided, bfloat16; exact counts, nothing was timed. Memory is that of "
        "tensors alive at once beside the weights."
    )
    return [about, "", "| what | how much |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items())]


def _drift(rows: list[dict[str, Any]], timed: list[dict[str, Any]]) -> list[str]:
    full = next((row["against_base"][0] for row in timed if row["variant"] == "ours bfloat16"), None)
    about = (
        "The embedded model's trained weights, 8 prompts, 20 DDIM steps, guidance 2.5; speed 0 is exact. "
        "Cost is the share of full steps as SD 1.5 would have it. Drift of latents: distance from the exact "
        "run's over their size. Flicker and motion: mean change of the measure. Followed: share of clips "
        "whose motion, colour, background and shape the scene reader finds as asked."
    )
    table = [
        "| run | cost | whole run in bfloat16 against diffusers float32, shape A | drift of latents "
        "| flicker | motion | followed |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        flicker, motion = ("-" if row[name] is None else f"{row[name]:.3f}" for name in ("flicker", "motion"))
        times = "-" if full is None else f"{full / row['cost']:.1f}"
        table.append(
            f"| {row['run']} | {row['cost']:.2f} | {times} | {row['latents']:.3f} | {flicker} | {motion} "
            f"| {row['joint']:.2f} |"
        )
    return [about, "", *table]
