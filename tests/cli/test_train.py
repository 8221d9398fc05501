"""`video-diffusion train`: runs, goes on, stops when asked, refuses in one line, survives a full disk."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from forked_program import start
from tiny_run import write_tiny_clips, write_tiny_model

from video_diffusion.cli.main import main
from video_diffusion.training.state import is_complete, newest_checkpoint

CONFIG = """\
data: {clips}
model: {model}
num_steps: 3
batch_size: 2
device: cpu
checkpoint: {{every: 2}}
clips: {{held_out: 1}}
validation: {{prompts: [clip 1]}}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    clips, model = write_tiny_clips(folder / "clips"), write_tiny_model(folder / "model")
    (folder / "config.yaml").write_text(CONFIG.format(clips=clips, model=model))
    return folder


def run(*words):
    result = CliRunner().invoke(main, ["train", *map(str, words)])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def trained(home):
    code, out, err = run(home / "config.yaml", "-o", home / "run")
    assert code == 0, err
    return home / "run", out, err


def test_one_command_trains_measures_and_says_what_changed(trained):
    folder, out, err = trained
    assert out == f"{folder}\n"
    assert "temporal: " in err and "4 clips of" in err and "(1 held out)" in err
    assert "after 3 steps against step 0: held-out loss " in err.splitlines()[-1]
    names = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "report.html", "README.md", "motion_adapter"} <= names
    clips = sorted((folder / "validation").rglob("*.mp4"))
    assert [path.parent.name for path in clips] == ["step-00000000", "step-00000003"]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3]
    assert all(len(row["validation"]["quartiles"]) == 4 for row in rows if "validation" in row)


def test_a_run_and_its_checkpoints_are_motion_adapters(trained, home, tmp_path):
    folder, _, _ = trained
    for number, adapter in enumerate([folder, folder / "checkpoints" / "step-00000002"]):
        clip = tmp_path / f"{number}.mp4"
        words = ["generate", "clip 1", "--model", home / "model", "--motion-adapter", adapter, "-o", clip]
        result = CliRunner().invoke(main, [str(word) for word in [*words, "--device", "cpu", "-q"]])
        assert result.exit_code == 0, result.stderr
        assert clip.is_file()


def test_the_report_is_one_page_with_the_clips_over_time(trained):
    page = (trained[0] / "report.html").read_text()
    assert "Content-Security-Policy" in page and "default-src &#39;none&#39;" in page
    assert page.count("data-src=") == 2 and "before training" in page and "step 3" in page
    for curve in ("each step", "running mean", "least noise", "some noise", "much noise", "most noise"):
        assert f"<title>{curve}</title>" in page


def test_the_card_names_base_data_licence_and_measures(trained):
    card = (trained[0] / "README.md").read_text()
    assert card.startswith("---\n")
    for words in (
        "license: other\n",
        "base_model:",
        "| held-out loss |",
        "sha256",
        "num_steps: 3",
        "Licence: not stated",
    ):
        assert words in card
    assert "Licence: not stated" in card


def test_nothing_is_overwritten_and_resume_of_a_finished_run_trains_no_step(trained, home):
    folder, _, _ = trained
    code, _, err = run(home / "config.yaml", "-o", folder)
    assert (code, err.count("\n")) == (2, 1) and "holds a run; --resume goes on with it" in err
    before = (folder / "metrics.jsonl").read_text()
    code, out, err = run("-o", folder, "--resume", "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert (facts["steps"], facts["run"]) == (3, str(folder)) and facts["changed"].startswith("after 3 steps")
    assert (folder / "metrics.jsonl").read_text() == before


def test_resuming_with_other_settings_names_them(trained, home):
    code, _, err = run(home / "config.yaml", "-o", trained[0], "--resume", "--set", "seed=7")
    assert code == 2 and "seed was 0, is 7" in err and err.count("\n") <= 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "CONFIG: is missing; give a config file, or --data DIR"),
        (["--resume"], "--resume: needs --output RUN"),
        (
            ["CONFIG", "--set", "optimizer.learning_rat=1"],
            "no setting 'optimizer.learning_rat'; did you mean",
        ),
        (["CONFIG", "--target", "spatial"], "target must be one of temporal, motion_lora, domain_lora"),
        (["CONFIG", "--set", "temporal_and='('"], "temporal_and is no regular expression"),
        (["CONFIG", "--set", "temporal_and=atn2"], "matches none of the"),
        (
            ["CONFIG", "--set", "loss.zero_terminal_snr=true"],
            "zero_terminal_snr needs a model of v_prediction",
        ),
        (["CONFIG", "--set", "clips.num_frames=12"], "12 frames"),
        (["CONFIG", "--data", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(home, tmp_path, words, said):
    words = [str(home / "config.yaml") if word == "CONFIG" else word for word in words]
    if "--resume" not in words:
        words += ["-o", str(tmp_path / "run")]
    code, _, err = run(*words)
    assert code == 2, err
    assert said in err and "Traceback" not in err
    assert err.strip().count("\n") == 0
    assert not (tmp_path / "run").exists()


def test_a_dry_run_trains_nothing(home, tmp_path):
    code, out, err = run(home / "config.yaml", "-o", tmp_path / "run", "--dry-run")
    assert (code, out) == (0, "") and "3 steps of 2 clips" in err
    assert not (tmp_path / "run").exists()


def test_a_lora_without_peft_is_refused_in_one_line(home, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    code, _, err = run(home / "config.yaml", "-o", tmp_path / "run", "--target", "motion_lora")
    assert code == 2 and err.startswith("error: target motion_lora needs peft"), err
    assert not (tmp_path / "run").exists()


def test_a_device_that_is_not_here_exits_with_4_and_trains_nothing(home, tmp_path):
    code, _, err = run(home / "config.yaml", "-o", tmp_path / "run", "--device", "cuda:99")
    assert code == 4 and err.startswith("error: device cuda:99 is not on this machine"), err
    assert not (tmp_path / "run").exists()


@pytest.mark.full
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_at_the_next_step_and_resume_goes_on(home, tmp_path, number, code):
    folder = tmp_path / "a run"
    more = ["--set", "validation.every=0", "--set", "checkpoint.every=1000"]
    program = start(["train", home / "config.yaml", "-o", folder, *more, "--steps", "1000"])
    wait_for(lambda: (folder / "metrics.jsonl").is_file() and (folder / "metrics.jsonl").stat().st_size > 0)
    program.send_signal(number)
    done = program.end()
    err = done.stderr
    assert done.returncode == code, err
    assert "stopped after step" in err and f"--output '{folder}' --resume goes on" in err
    newest = newest_checkpoint(folder / "checkpoints")
    assert newest is not None
    logged = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert logged[-1] == int(newest.name.removeprefix("step-"))


@pytest.mark.full
def test_a_full_disk_ends_with_4_and_the_checkpoint_before_it_verifies(home, tmp_path):
    folder = tmp_path / "run"
    more = ["--set", "validation.every=0", "--set", "optimizer.schedule=constant"]
    words = [str(home / "config.yaml"), "-o", str(folder), *more]
    assert run(*words, "--steps", "2")[0] == 0
    whole = newest_checkpoint(folder / "checkpoints")
    longer = ["train", *words, "--steps", "4", "--resume"]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**15, hard))  # which the program inherits
    try:
        program = start(longer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    full = program.end()
    assert full.returncode == 4, full.stderr
    assert "Traceback" not in full.stderr
    assert whole is not None and is_complete(whole) and newest_checkpoint(folder / "checkpoints") == whole
    assert not [path for path in (folder / "checkpoints").iterdir() if path.name.startswith(".")]
    assert run(*longer[1:])[0] == 0


def wait_for(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_help_imports_no_torch():
    code = (
        "import sys; from video_diffusion.cli.main import main\n"
        "try: main(['train', '--help'])\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0


def test_shipped_configs_are_valid_and_headed():
    from video_diffusion.cli.train import settings_from

    configs = sorted((Path(__file__).parents[2] / "configs" / "train").glob("*.yaml"))
    assert len(configs) >= 1
    for path in configs:
        heading = path.read_text()
        for part in ("# Purpose:", "# Command:", "# Expect:", "# Memory:", "# Time:"):
            assert part in heading, (path.name, part)
        assert f"configs/train/{path.name}" in heading
        settings, _ = settings_from(str(path), (), None, (), {}, resume=False)
        assert settings.data or settings.distil.prompts
