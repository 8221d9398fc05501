"""`video-diffusion doctor`: what this machine has, and whether clips can be made on it."""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import click

from video_diffusion.cli.terminal import MACHINE, printable

NEEDED_CODECS = ("libx264", "png")
GIB = 2**30


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def doctor(as_json: bool) -> None:
    """Check versions, devices, codecs (each really tried), model cache, free disk and memory.

    Exits with 4 if something that every clip needs does not work.
    """
    facts = examine()
    if as_json:
        click.echo(json.dumps(facts))
    else:
        click.echo("\n".join(_lines(facts)))
    if facts["problems"]:
        raise click.exceptions.Exit(MACHINE)


def examine() -> dict[str, Any]:
    """Everything the command shows; `problems` is empty where clips can be made."""
    from video_diffusion.cli.outputs import available_memory
    from video_diffusion.video import library_versions, working_codecs

    codecs = working_codecs()
    memory = available_memory()
    facts: dict[str, Any] = {
        "versions": library_versions(),
        "ffmpeg": _ffmpeg_version(),
        "devices": available_devices(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "codecs": {name: problem or "works" for name, problem in codecs.items()},
        "model_cache": str(model_cache()),
        "free_gib": {
            str(place): round(shutil.disk_usage(_existing(place)).free / GIB, 1)
            for place in (Path.cwd(), Path(tempfile.gettempdir()), model_cache())
        },
        "free_memory_gib": None if memory is None else round(memory / GIB, 1),
        "published_models_that_fit": published_models_that_fit(memory),
    }
    broken = [f"codec {name}: {codecs[name]}" for name in NEEDED_CODECS if codecs[name] is not None]
    full = [f"{place} is full" for place, free in facts["free_gib"].items() if free < 0.1]
    return {**facts, "problems": broken + full}


def available_devices() -> dict[str, str]:
    """Devices torch can use here, by the names that --device takes."""
    import torch

    devices = {"cpu": f"{torch.get_num_threads()} threads"}
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        facts = torch.cuda.get_device_properties(index)
        devices[f"cuda:{index}"] = f"{facts.name}, {facts.total_memory / GIB:.0f} GiB"
    if torch.backends.mps.is_available():
        devices["mps"] = "Apple GPU"
    for index in range(torch.xpu.device_count() if torch.xpu.is_available() else 0):
        devices[f"xpu:{index}"] = str(torch.xpu.get_device_name(index))
    return devices


def published_models_that_fit(free_memory: int | None) -> dict[str, str]:
    """For each name of `video-diffusion models`, whether its weights and a clip fit; a rule of thumb."""
    import torch

    from video_diffusion.loading.model_catalogue import CATALOGUE, what_fits

    if torch.cuda.is_available():
        memory, is_gpu, where = torch.cuda.get_device_properties(0).total_memory, True, "cuda:0 in float16"
    elif free_memory is not None:
        memory, is_gpu, where = free_memory, False, "cpu in float32"
    else:
        return {}
    return {
        name: f"{what_fits(entry, memory / 1e9, is_gpu)}, on {where}" for name, entry in CATALOGUE.items()
    }


def model_cache() -> Path:
    """Where hub models are kept, by the standard variables."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _ffmpeg_version() -> str:
    import imageio_ffmpeg

    try:
        return str(imageio_ffmpeg.get_ffmpeg_version())
    except (RuntimeError, OSError, IndexError, subprocess.SubprocessError) as error:
        return f"does not run ({type(error).__name__})"


def _existing(path: Path) -> Path:
    """The path or the nearest folder above it that exists."""
    return next(place for place in (path, *path.parents) if place.exists())


def _lines(facts: dict[str, Any]) -> list[str]:
    lines = []
    for key, value in facts.items():
        name = key.replace("_", " ")
        if isinstance(value, dict) and value:
            width = max(len(part) for part in value)
            lines.append(name)
            lines += [f"  {printable(part):<{width}}  {printable(str(text))}" for part, text in value.items()]
        elif key == "problems":
            lines += [f"problem: {printable(text)}" for text in value] or ["no problems found"]
        else:
            lines.append(f"{name}  {printable(str(value))}")
    return lines
