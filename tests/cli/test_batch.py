"""`generate --jobs`: clips with rows, skipping, failures, shards, kills; on a tiny real model."""

import json
import shutil
import sys

import pytest
from click.testing import CliRunner

from video_diffusion.cli.main import main

TOO_LONG = "prompt,num_frames,context_length\na red circle,4000,4000\n"  # for any model, in one window


def run(*words):
    result = CliRunner().invoke(main, ["generate", *map(str, words)])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def jobs(tmp_path, tiny_model):
    file = tmp_path / "jobs.csv"
    file.write_text("prompt,seed,num_frames\na red circle,1,\na circle,2,\n=a red,3,4\n")
    return ["--jobs", file, "-o", tmp_path / "clips", "--model", tiny_model, "--device", "cpu"]


def rows(tmp_path):
    lines = (tmp_path / "clips" / "results.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def hashes(tmp_path):
    return {row["job_id"]: row["frames_sha256"] for row in rows(tmp_path)}


def test_every_job_becomes_a_clip_a_record_and_a_row_and_is_made_once(tmp_path, jobs):
    code, out, err = run(*jobs)
    assert (code, len(out.splitlines())) == (0, 3)
    assert "3 done (0 before), 0 failed, 0 left" in err
    assert all((tmp_path / line).is_file() for line in out.splitlines())
    for row in rows(tmp_path):
        record = json.loads((tmp_path / "clips" / row["file"]).with_suffix(".json").read_text())
        assert (record["job_id"], record["frames_sha256"]) == (row["job_id"], row["frames_sha256"])
    again = run(*jobs, "--verify")
    assert (again[0], sorted(again[1].splitlines())) == (0, sorted(out.splitlines()))
    assert "3 done (3 before)" in again[2]
    assert len(rows(tmp_path)) == 3


@pytest.mark.parametrize("flag", ["--check", "--dry-run", "--quiet"])
def test_a_row_whose_model_cannot_be_used_ends_the_run_before_anything_is_made(
    tmp_path, jobs, tiny_model, flag
):
    """Symptom: the other rows were made first, exit 1; `--dry-run` ended with 0."""
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    (tmp_path / "jobs.csv").write_text(f"prompt,model\na circle,\na red,{broken}\n")
    code, out, err = run(*jobs, flag)
    assert (code, out) == (3, "")
    assert err.startswith(f"error: {tmp_path}/jobs.csv:3: {weights}: ") and len(err.splitlines()) == 1
    assert not (tmp_path / "clips").exists()


@pytest.mark.parametrize(
    ("extra", "place"), [((), "shared.yaml:1: "), (("--model", "{model}"), "--model: ")], ids=["file", "flag"]
)
def test_a_model_that_all_rows_share_is_not_blamed_on_the_first_of_them(tmp_path, jobs, extra, place):
    """Symptom: "--seeds: …/model: no such folder here", "jobs.csv:2: …" for a model of --config."""
    model = tmp_path / "nothing"
    (tmp_path / "shared.yaml").write_text(f"model: {model}\n")
    extra = [word.format(model=model) for word in extra]
    for rows_of in (["--jobs", jobs[jobs.index("--jobs") + 1]], ["a circle", "--seeds", "0-1"]):
        how = [] if extra else ["--config", str(tmp_path / "shared.yaml")]
        code, _, err = run(*rows_of, "-o", str(tmp_path / "clips"), *how, *extra)
        assert code == 3 and f"{place}{model}: " in err.splitlines()[-1] and "--seeds" not in err
        assert "jobs.csv" not in err


def test_a_setting_without_effect_is_said_once_for_a_whole_batch(tmp_path, jobs):
    """Symptom: a warning for every clip, three for two clips of a dry run."""
    code, _, err = run(*jobs, "--set", "control_make=canny")
    assert code == 0 and err.count("control_make is ignored without controlnet") == 1


@pytest.mark.full
def test_a_file_that_changed_between_two_runs_makes_what_is_new_and_keeps_what_is_gone(tmp_path, jobs):
    first = set(run(*jobs)[1].splitlines())
    file = tmp_path / "jobs.csv"
    file.write_text("num_frames,seed,prompt\n4,3,=a red\n,1,a red circle\n,5,a new circle\n")
    code, out, err = run(*jobs)
    assert (code, "3 done (2 before), 0 failed, 0 left" in err) == (0, True)
    assert len(set(out.splitlines()) & first) == 2
    assert len(rows(tmp_path)) == 4 == len(list((tmp_path / "clips").glob("*.mp4")))


@pytest.mark.full
def test_a_clip_that_is_gone_or_changed_is_made_again(tmp_path, jobs):
    before = run(*jobs)[1].splitlines()
    first = hashes(tmp_path)
    (tmp_path / before[0]).unlink()
    data = bytearray((tmp_path / before[1]).read_bytes())
    (tmp_path / before[1]).write_bytes(bytes(len(data)))
    assert "3 done (2 before)" in run(*jobs)[2]
    assert len(rows(tmp_path)) == 4
    run(*jobs, "--verify")
    assert len(rows(tmp_path)) == 5
    assert hashes(tmp_path) == first


@pytest.mark.full
def test_batches_and_shards_make_the_same_jobs(tmp_path, jobs):
    run(*jobs)
    whole = set(hashes(tmp_path))
    parts = tmp_path / "parts"
    jobs[3] = parts
    for shard in ("0/2", "1/2"):
        assert run(*jobs, "--shard", shard, "--batch-size", 2)[0] == 0
    lines = (parts / "results.jsonl").read_text().splitlines()
    assert {json.loads(line)["job_id"] for line in lines} == whole
    assert len(lines) == 3


def test_a_failing_job_is_a_row_and_the_others_go_on(tmp_path, jobs):
    (tmp_path / "jobs.csv").write_text(f"{TOO_LONG}a circle,5,\n")
    code, out, err = run(*jobs)
    assert (code, len(out.splitlines())) == (1, 1)
    assert [row["status"] for row in rows(tmp_path)].count("failed") == 1
    assert "jobs.csv:2" in err and "1 failed; results.jsonl has each reason" in err
    (tmp_path / "clips" / "results.jsonl").unlink()
    assert run(*jobs, "--fail-fast")[0] == 1
    assert [row["status"] for row in rows(tmp_path)] == ["failed"]


def test_a_dry_run_makes_nothing(tmp_path, jobs):
    code, out, err = run(*jobs, "--dry-run")
    assert (code, len(out.splitlines())) == (0, 3)
    assert "3 clips, about" in err and "MB (" in err
    assert not (tmp_path / "clips").exists()


@pytest.mark.full
def test_words_that_the_model_never_learned_are_told_once_with_their_row(tmp_path, jobs):
    (tmp_path / "jobs.csv").write_text("prompt\na red circle\na red unicorn\na unicorn\n")
    assert run(*jobs)[2].count("never learned") == 1
    assert f"{tmp_path}/jobs.csv:3: {jobs[5]} never learned 'unicorn'" in run(*jobs, "--dry-run")[2]


@pytest.mark.full
def test_a_dry_run_counts_what_is_done_and_shows_rows(tmp_path, jobs):
    run(*jobs, "--shard", "0/3")
    code, out, err = run(*jobs, "--dry-run", "--json")
    found = [json.loads(line) for line in out.splitlines()]
    assert (code, [row["done"] for row in found]) == (0, [True, False, False])
    assert found[2]["settings"]["num_frames"] == 4
    assert "3 clips, 1 of them done, about" in err


def test_json_gives_a_row_for_every_job_failed_ones_too(tmp_path, jobs):
    (tmp_path / "jobs.csv").write_text(f"{TOO_LONG}a circle,4,\n")
    run(*jobs)
    code, out, _ = run(*jobs, "--json", "-q")
    found = [json.loads(line) for line in out.splitlines()]
    assert (code, sorted(row["status"] for row in found)) == (1, ["failed", "skipped"])


def test_clips_are_encoded_as_asked_and_made_again_on_request(tmp_path, jobs):
    words = ["--codec", "libvpx-vp9", "--crf", "40", "--no-embed-metadata"]
    code, out, _ = run(*jobs, *words)
    assert (code, {line.rpartition(".")[2] for line in out.splitlines()}) == (0, {"webm"})
    assert b"frames_sha256" not in (tmp_path / out.splitlines()[0]).read_bytes()
    before = hashes(tmp_path)
    assert "3 done (0 before)" in run(*jobs, *words, "--overwrite")[2]
    assert (hashes(tmp_path), len(rows(tmp_path))) == (before, 6)


def test_the_shard_of_a_launcher_is_told_and_taken(tmp_path, jobs, monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    code, out, err = run(*jobs)
    assert (code, len(out.splitlines())) == (0, 1)
    assert "part 1 of 2, as the launcher says; --shard 0/1 makes everything" in err


def test_a_file_to_start_from_that_is_not_there_is_told_with_its_row(tmp_path, jobs):
    (tmp_path / "jobs.csv").write_text("prompt,init_image\na circle,\na circle,nothing.png\n")
    code, out, err = run(*jobs)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {tmp_path}/jobs.csv:3: nothing.png: ")


def test_a_lora_that_is_not_there_is_told_with_its_row_before_any_clip(tmp_path, jobs):
    (tmp_path / "jobs.csv").write_text("prompt,loras\na circle,\na circle,nothing.safetensors:0.5\n")
    code, out, err = run(*jobs)
    assert (code, out) == (3, "")
    assert err.startswith(f"error: {tmp_path}/jobs.csv:3: nothing.safetensors: no such file")
    assert not (tmp_path / "clips").exists()


def test_a_model_or_device_that_is_not_there_is_told_with_its_row_before_any_clip(tmp_path, jobs):
    (tmp_path / "jobs.csv").write_text("prompt,model\na red circle,\na circle,./nothing\n")
    code, out, err = run(*jobs)
    assert (code, out) == (3, "")
    assert err.startswith(f"error: {tmp_path}/jobs.csv:3: ")
    (tmp_path / "jobs.csv").write_text("prompt,device\na red circle,\na circle,cuda:99\n")
    code, out, err = run(*jobs)
    assert (code, out) == (4, "")
    assert err.startswith(f"error: {tmp_path}/jobs.csv:3: device cuda:99 is not on this machine")
    assert not (tmp_path / "clips").exists()


def test_quantize_without_torchao_is_told_with_its_row_before_any_clip(tmp_path, jobs, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)  # Python's way to say that it cannot be imported
    (tmp_path / "jobs.csv").write_text("prompt,quantize\na circle,\na circle,int8\na square,int8\n")
    code, out, err = run(*jobs)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {tmp_path}/jobs.csv:3: quantize int8 needs torchao, which is not ")
    assert err.count("torchao, which") == 1
    assert not (tmp_path / "clips").exists()


@pytest.mark.parametrize(
    "words", [["--shard", "0/2"], ["--engine", "ray"], ["--batch-size", "2"], ["--verify"]]
)
def test_flags_for_many_clips_are_refused_for_one(words):
    code, _, err = run("a red circle", *words)
    assert (code, f"{words[0]}: works on many clips" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--strip", "s.png"], "--strip: draws one clip"),
        (["--codec", "png"], "--codec: png makes a folder of each clip"),
        (["--crf", "99"], "--crf: crf for libx264 is from 0"),
        (["--engine", "slurm"], "--engine: must be local or ray"),
        (["--actors", "2"], "--actors: works with --engine ray only"),
        (["a prompt"], "PROMPT: cannot be given together with --jobs"),
        (["--shard", "2/2"], "--shard: shard must be i/n"),
        (["--batch-size", "0"], "--batch-size: must be auto or a number"),
        (["--seed", "-4"], "--seed: seed must be"),
    ],
)
def test_what_is_wrong_is_told_before_a_model_is_loaded(tmp_path, jobs, words, message):
    if words[0] == "--seed":
        (tmp_path / "jobs.csv").write_text("prompt\nx\n")
    code, out, err = run(*jobs, *words)
    assert (code, out) == (2, "")
    assert message in err
    assert not (tmp_path / "clips").exists()


def test_no_model_at_all_is_exit_3(tmp_path, jobs):
    jobs[5] = tmp_path / "nothing"
    assert run(*jobs)[0] == 3
