"""`models`: the list needs no network, knows the cache, and agrees with the shipped configs."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from motion_files import published

from video_diffusion.cli.doctor import published_models_that_fit
from video_diffusion.loading import detect
from video_diffusion.loading.model_catalogue import CATALOGUE, SD1, what_fits
from video_diffusion.settings import read_config

CONFIGS = Path(__file__).parents[2] / "configs" / "generate"


def run(cache: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the hub's client reads its settings when it is imported."""
    settings = {**os.environ, "HF_HOME": str(cache), "HF_ENDPOINT": "http://127.0.0.1:9", **environment}
    command = [sys.executable, "-m", "video_diffusion", "models", *words]
    return subprocess.run(command, env=settings, capture_output=True, text=True, check=False)


def put(cache: Path, repo: str, *files: str) -> None:
    folder = cache / "hub" / f"models--{repo.replace('/', '--')}"
    for file in files:
        path = folder / "snapshots" / ("a" * 40) / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text("a" * 40)


@pytest.mark.full
def test_the_list_tells_what_is_cached(tmp_path: Path) -> None:
    whole = [f"{part}/{file}" for part in ("unet", "vae") for file in ("config.json", "model.safetensors")]
    put(tmp_path, SD1, "model_index.json", *whole, "safety_checker/config.json")
    put(tmp_path, "guoyww/animatediff-motion-adapter-v1-5-3", "config.json", "m.safetensors")
    put(tmp_path, "guoyww/animatediff-motion-adapter-v1-5-2", "config.json")
    put(tmp_path, "ByteDance/AnimateDiff-Lightning", "animatediff_lightning_4step_diffusers.safetensors")
    rows = json.loads(run(tmp_path, "--json").stdout)
    cached = {name: row["cached"] for name, row in rows.items()}
    assert cached == {
        "animatediff": "yes", "animatediff-v2": "in part", "animatediff-v1": "in part",
        "long-animatediff": "in part", "pia": "in part", "animatelcm": "in part", "lightning": "yes",
        "animatediff-sdxl": "no", "hotshot-xl": "no",
    }  # fmt: skip
    listed = run(tmp_path)
    assert listed.returncode == 0
    assert (
        "animatediff       AnimateDiff v3; download 6.0 GB, weights 3.0 GB in float16; cached: yes"
        in listed.stdout
    )


def test_a_download_without_network_is_one_line(tmp_path: Path) -> None:
    done = run(tmp_path, "download", "lightning")
    assert (done.returncode, done.stdout) == (3, "")
    assert "the hub cannot be reached" in done.stderr.splitlines()[-1]
    done = run(tmp_path, "download", "lightnin")
    assert done.returncode == 2
    assert "NAME must be one of animatediff, " in done.stderr


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_name_has_its_settings(name: str) -> None:
    values = read_config(CONFIGS / f"{name}.yaml").values
    assert values["model"] == CATALOGUE[name].model
    assert values["motion_adapter"] == CATALOGUE[name].motion_adapter


@pytest.mark.full
def test_what_is_published_as_a_pickle_is_fetched_and_says_how_it_is_converted(tmp_path: Path) -> None:
    """In the list, in the cache, and by `convert` straight from the hub's cache."""
    entry = CATALOGUE["long-animatediff"]
    whole = [f"{part}/{file}" for part in ("unet", "vae") for file in ("config.json", "model.safetensors")]
    put(tmp_path, SD1, "model_index.json", *whole)
    repo, _, file = entry.pickle.rpartition("/")
    put(tmp_path, repo, file)
    pickle = tmp_path / "hub" / f"models--{repo.replace('/', '--')}" / "snapshots" / ("a" * 40) / file
    torch.save(published("long-animatediff"), pickle)
    listed = json.loads(run(tmp_path, "--json").stdout)["long-animatediff"]
    assert listed["cached"] == "yes"
    done = run(tmp_path, "download", "long-animatediff", HF_HUB_OFFLINE="1")
    assert done.stdout.splitlines()[1] == str(pickle)
    command = shlex.split(entry.note.removeprefix("once: video-diffusion "))
    settings = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [sys.executable, "-m", "video_diffusion", *command], cwd=tmp_path, env=settings, check=True
    )
    assert detect(tmp_path / entry.motion_adapter).family == "long-animatediff"


def test_what_fits_follows_the_size_of_the_memory() -> None:
    small, large = CATALOGUE["animatediff"], CATALOGUE["animatediff-sdxl"]
    answers = ["no", "with --low-memory", "yes"]
    assert [what_fits(small, memory, is_gpu=True) for memory in (3.0, 4.2, 8.0)] == answers
    assert [what_fits(large, memory, is_gpu=True) for memory in (8.0, 10.0, 24.0)] == answers
    assert [what_fits(small, memory, is_gpu=False) for memory in (8.0, 9.5)] == ["no", "yes"]
    assert published_models_that_fit(10**13).keys() == CATALOGUE.keys()
    assert {text.split(",")[0] for text in published_models_that_fit(10**13).values()} == {"yes"}
