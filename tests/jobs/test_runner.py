"""The runner on a tiny real model: one bad clip, too little memory, odd clips, faults of a job."""

import json
import multiprocessing
import os
import resource
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import save_tiny_model

from video_diffusion.jobs import Pipelines, model_facts, read_jobs, run_jobs
from video_diffusion.jobs.runner import (
    AT_MOST,
    BatchSizes,
    ClipMaker,
    finish,
    fitting,
    flags_of,
    is_out_of_memory,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(
        tmp_path_factory.mktemp("models") / "tiny",
        num_frames=5, height=32, width=48, fps="8", num_inference_steps=2, guidance_scale=2.0,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "clips"
    made.mkdir()
    return made


def jobs(tmp_path, model, *lines):
    file = tmp_path / "jobs.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    return list(read_jobs(file, {"model": str(model), "device": "cpu"}, model_facts))


def statuses(outcomes):
    return {outcome.job.settings.prompt: outcome.status for outcome in outcomes}


@pytest.mark.full
def test_a_clip_that_breaks_down_takes_no_other_of_its_batch_with_it(tmp_path, model, folder):
    prompts = ["a red circle", "a box", "a zebra", "a cat"]
    asked = jobs(tmp_path, model, *({"prompt": prompt} for prompt in prompts))
    pipelines = Pipelines()
    parts = pipelines.get(asked[0].settings).parts
    z = parts.tokenizer.convert_tokens_to_ids(["z"])
    parts.text_encoder.get_input_embeddings().weight.data[z] = torch.nan
    outcomes = list(run_jobs(asked, folder, pipelines, batch_size=4))
    assert statuses(outcomes) == {"a red circle": "ok", "a box": "ok", "a zebra": "failed", "a cat": "ok"}
    (failed,) = [outcome.row for outcome in outcomes if outcome.status == "failed"]
    assert failed["error"].startswith("NonFiniteLatentsError: ")
    assert sorted(path.suffix for path in folder.iterdir()) == [".json"] * 3 + [".jsonl"] + [".mp4"] * 3


@pytest.mark.full
def test_clips_finished_behind_the_next_are_those_finished_at_once(tmp_path, model):
    asked = jobs(tmp_path, model, *({"prompt": "a cat", "seed": seed} for seed in range(3)))
    rows = []
    for behind in (False, True):
        folder = tmp_path / f"behind-{behind}"
        folder.mkdir()
        made = ClipMaker(folder, Pipelines(), BatchSizes(2)).make_alike(asked)
        rows += [[dict(each.row) for each in finish(replace(batch, behind=behind) for batch in made)]]
        assert all(row.pop("seconds") > 0 and row.pop("bytes") > 0 for row in rows[-1])
        assert [row["job_id"] for row in rows[-1]] == [job.job_id for job in asked]
    assert rows[0] == rows[1]


def test_a_file_that_a_job_names_and_that_is_gone_is_that_jobs_failure(tmp_path, model, folder):
    other = save_tiny_model(tmp_path / "other", num_frames=5, height=32, width=48, num_inference_steps=1)
    lines = [{"prompt": "a cat", "model": str(other)}, {"prompt": "a box"}]
    asked = jobs(tmp_path, model, *lines)
    for file in other.rglob("*.safetensors"):
        file.unlink()
    outcomes = list(run_jobs(asked, folder, Pipelines()))
    assert statuses(outcomes) == {"a cat": "failed", "a box": "ok"}


def _make_with_little_memory(asked, folder):
    """In a process of its own: one clip fits into 60 MB, eight at once do not."""
    pipelines = Pipelines()
    list(run_jobs(asked[:1], folder, pipelines))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + 60_000_000, resource.RLIM_INFINITY))
    list(run_jobs(asked, folder, pipelines, batch_size=8))


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process")
def test_a_batch_that_does_not_fit_into_memory_is_made_in_smaller_ones(tmp_path, model, folder):
    size = {"num_frames": 9, "width": 64, "height": 64, "num_inference_steps": 1}
    asked = jobs(tmp_path, model, *({"prompt": "a cat", "seed": seed, **size} for seed in range(9)))
    process = multiprocessing.get_context("spawn").Process(
        target=_make_with_little_memory, args=(asked, folder)
    )
    process.start()
    process.join(300)
    assert process.exitcode == 0
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert [row["status"] for row in rows] == ["ok"] * 9
    together = [json.loads(path.read_text())["batch_size"] for path in folder.glob("*.json")]
    assert len(together) == 9 and max(together) < 8


def test_the_errors_that_a_smaller_batch_can_help_are_told_from_others():
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: ..."))
    assert not is_out_of_memory(RuntimeError("shapes differ"))


@pytest.mark.full
def test_batch_sizes_are_given_or_measured_and_halved_when_memory_ran_out():
    sizes = BatchSizes(6)
    assert (sizes.get("kind"), sizes.groups) == (6, True)
    assert [sizes.ran_out("kind", tried) for tried in (6, 3, 1)] == [3, 1, 1]
    assert (sizes.get("kind"), sizes.get("other")) == (1, 6)
    auto = BatchSizes(None)
    with auto.measured("kind", "cpu"):
        assert auto.get("kind") == 1
    assert auto.groups and not BatchSizes(1).groups
    assert [fitting(free, 10) for free in (0, 9, 38, 10**9)] == [1, 1, 3, AT_MOST]


def test_odd_clips_are_flagged():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 255, (3, 4, 5, 3), generator=generator, dtype=torch.uint8).numpy()
    assert flags_of(noise) == []
    noise[1:] = noise[0]
    assert flags_of(noise) == ["repeated"]
    assert flags_of(noise[:1]) == []
    noise[:] = 7
    assert flags_of(noise) == ["constant", "repeated"]
    assert flags_of(noise[:1]) == ["constant"]


@pytest.mark.full
def test_a_clip_made_by_two_processes_at_once_counts_as_finished_whosoever_row_came_last(
    tmp_path, model, folder
):
    asked = jobs(tmp_path, model, {"prompt": "a cat"})
    (made,) = run_jobs(asked, folder, Pipelines())
    other = dict(made.row) | {"bytes": made.row["bytes"] + 1}  # of the file that was replaced
    with (folder / "results.jsonl").open("a") as file:
        file.write(json.dumps(other) + "\n")
    assert [outcome.status for outcome in run_jobs(asked, folder, Pipelines(), verify=True)] == ["skipped"]
    assert [outcome.status for outcome in run_jobs(asked, folder, Pipelines(), overwrite=True)] == ["ok"]


@pytest.mark.parametrize("motion_adapter", [None, "none", "other"])
def test_row_and_record_agree_on_the_id_of_a_model_that_says_nothing_of_its_defaults(
    tmp_path, folder, motion_adapter
):
    plain = save_tiny_model(tmp_path / "plain")
    line = {"prompt": "a cat", "num_inference_steps": 1}
    if motion_adapter is not None:
        line["motion_adapter"] = "none" if motion_adapter == "none" else str(plain / "motion_adapter")
    (outcome,) = run_jobs(jobs(tmp_path, plain, line), folder, Pipelines())
    assert outcome.status == "ok", outcome.row
    record = json.loads((folder / outcome.job.file).with_suffix(".json").read_text())
    assert record["job_id"] == outcome.job.job_id
    assert outcome.job.settings.num_frames == record["settings"]["num_frames"] == 9
