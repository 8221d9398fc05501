"""`video-diffusion train` where something goes wrong: what it says, with which code, and how it goes on."""

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from tiny_run import write_tiny_clips, write_tiny_model

from video_diffusion.cli.main import main
from video_diffusion.training import run as training_run
from video_diffusion.training.loop import Trainer
from video_diffusion.training.state import newest_checkpoint

CONFIG = """\
data: {clips}
model: {model}
num_steps: 3
batch_size: 2
device: cpu
checkpoint: {{every: 2}}
clips: {{held_out: 1}}
validation: {{every: 0}}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train_faults")
    clips, model = write_tiny_clips(folder / "clips"), write_tiny_model(folder / "model")
    (folder / "config.yaml").write_text(CONFIG.format(clips=clips, model=model))
    return folder


def run(*words, command="train", env=None):
    result = CliRunner().invoke(main, [command, *map(str, words)], env=env)
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def trained(home):
    code, _, err = run(home / "config.yaml", "-o", home / "run")
    assert code == 0, err
    return home / "run"


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def test_memory_that_runs_out_is_told_with_what_training_can_do(home, tmp_path, monkeypatch):
    before = Trainer._one_step

    def short_of_memory(trainer, *rest):
        if trainer.step == 2:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")
        return before(trainer, *rest)

    monkeypatch.setattr(Trainer, "_one_step", short_of_memory)
    code, _, err = run(home / "config.yaml", "-o", tmp_path / "run", "-q")
    assert code == 4 and err.startswith("error: out of memory in step 3 (") and err.count("\n") == 1
    for way in (
        "mixed_precision: bf16", "gradient_checkpointing: true", "gradient_accumulation_steps: 2",
        "clips.num_frames", "target: motion_lora", "--resume --allow KEYS goes on from step 2",
    ):  # fmt: skip
        assert way in err
    assert "--low-memory" not in err
    monkeypatch.undo()
    allowed = ["--set", "gradient_checkpointing=true", "--allow", "gradient_checkpointing"]
    code, _, err = run("-o", tmp_path / "run", "--resume", *allowed)
    assert code == 0, err
    assert "going on with another setting: gradient_checkpointing was False, is True" in err


def test_other_settings_are_refused_unless_allowed_and_the_card_says_them(copy):
    changed = ["-o", copy, "--resume", "--set", "num_steps=4", "--set", "optimizer.learning_rate=0.001"]
    code, _, err = run(*changed)
    assert code == 2 and "optimizer.learning_rate was 0.0001, is 0.001" in err and "--allow" in err
    assert "learning_rate: 0.0001" in (copy / "config.yaml").read_text()
    code, _, err = run(*changed, "--allow", "optimizer.learning_rate,mixed_precision")
    assert code == 0, err
    assert "from step 3: optimizer.learning_rate was 0.0001, is 0.001" in (copy / "README.md").read_text()
    code, _, err = run("-o", copy, "--resume")  # the run is now one with these settings
    assert code == 0, err


def test_what_may_not_be_allowed_is_refused_in_one_line(home, copy):
    code, _, err = run("-o", copy, "--resume", "--allow", "optimizer.learning_rat")
    assert code == 2 and "--allow: no setting 'optimizer.learning_rat'; did you mean" in err
    code, _, err = run(home / "config.yaml", "-o", copy.with_name("other"), "--allow", "seed")
    assert code == 2 and "--allow: says what may differ from the run so far; give it with --resume" in err


def test_with_every_checkpoint_damaged_resume_does_not_begin_at_step_0(copy):
    published = (copy / "motion_adapter" / "diffusion_pytorch_model.safetensors").read_bytes()
    for checkpoint in (copy / "checkpoints").iterdir():
        (checkpoint / "manifest.json").write_text("{")
    code, _, err = run("-o", copy, "--resume")
    assert code == 2 and "every checkpoint is damaged" in err and err.count("\n") == 1
    assert (copy / "motion_adapter" / "diffusion_pytorch_model.safetensors").read_bytes() == published


def test_a_damaged_line_of_the_log_is_told(copy):
    log = copy / "metrics.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(lines[0] + lines[1][:-9] + b"\n" + lines[2])
    code, _, err = run("-o", copy, "--resume")
    assert code == 0 and f"warning: {log}:2: is damaged" in err
    assert log.read_bytes().splitlines(keepends=True)[1] == lines[1][:-9] + b"\n"


@pytest.mark.full
def test_a_run_killed_in_its_first_seconds_is_begun_by_resume(home, tmp_path):
    folder = tmp_path / "run"
    words = [sys.executable, "-m", "video_diffusion", "train", str(home / "config.yaml"), "-o", str(folder)]
    process = subprocess.Popen([*words, "-q"])
    end = time.monotonic() + 90
    while not (folder / "config.yaml").is_file() and time.monotonic() < end:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not (folder / "metrics.jsonl").is_file()
    code, _, err = run("-o", folder, "--resume")
    assert code == 0 and "has no checkpoint yet, so the run begins at step 0" in err, err
    assert newest_checkpoint(folder / "checkpoints") is not None


def test_resume_of_a_folder_in_which_nothing_was_begun_says_what_to_give(tmp_path):
    (tmp_path / "run").mkdir()
    code, _, err = run("-o", tmp_path / "run", "--resume")
    assert code == 2 and "so nothing was begun there; give CONFIG to begin" in err


def test_of_several_processes_under_torchrun_one_says_what_is_refused(home):
    env = {"TORCHELASTIC_RUN_ID": "none", "RANK": "1", "WORLD_SIZE": "2"}
    words = [home / "config.yaml", "--set", "num_steps=0"]
    assert run(*words, env=env) == (2, "", "")
    code, _, err = run(*words, env={**env, "RANK": "0"})
    first, second = err.splitlines()
    assert code == 2 and "num_steps must be a whole number, 1 or more" in first
    assert second == "what torchrun prints below is its own and says no more than this line"


def test_a_run_of_a_domain_lora_is_converted_into_a_folder_that_is_not_there(home, tmp_path):
    pytest.importorskip("peft")
    lora = ["--target", "domain_lora", "--set", "lora.rank=2", "--steps", "1"]
    code, _, err = run(home / "config.yaml", "-o", tmp_path / "look", *lora)
    assert code == 0, err
    trained = load_file(tmp_path / "look" / "domain_lora" / "pytorch_lora_weights.safetensors")
    for name in ("new/folder/look", "other/folder/look.safetensors"):
        written = tmp_path / name
        code, out, err = run(tmp_path / "look", written, "--dtype", "float16", command="convert")
        assert code == 0 and out == f"{written}\n", err
        file = written if written.is_file() else written / "pytorch_lora_weights.safetensors"
        found = load_file(file)
        assert all(torch.equal(found[key], tensor.half()) for key, tensor in trained.items())
    _, out, _ = run(tmp_path / "look", tmp_path / "x", "--json", command="convert")
    assert json.loads(out)["num_parameters"]


def test_a_refused_run_leaves_no_folder_and_a_stopped_one_its_settings(home, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    code, _, _ = run(home / "config.yaml", "-o", folder, "--set", "temporal_and=atn2")
    assert code == 2 and not folder.exists()
    code, _, _ = run(home / "config.yaml", "-o", folder, "--dry-run")
    assert code == 0 and not folder.exists()

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training_run, "open_run", stopped)
    code, _, _ = run(home / "config.yaml", "-o", folder)
    assert code == 130 and (folder / "config.yaml").is_file() and not (folder / ".owner").exists()
