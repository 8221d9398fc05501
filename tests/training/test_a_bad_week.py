"""One run through all that a bad week brings, day by day, by the commands that each day's message gives."""

import errno
import json
import math
import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny_run import write_tiny_clips, write_tiny_model

from video_diffusion.cli.main import main
from video_diffusion.pipeline import TextToVideoPipeline
from video_diffusion.training import state
from video_diffusion.training.loop import Trainer
from video_diffusion.training.state import is_complete

CONFIG = """\
data: {clips}
model: {model}
num_steps: 20
batch_size: 2
device: cpu
latent_cache: false
checkpoint: {{every: 2, keep: 3}}
clips: {{held_out: 1}}
validation: {{every: 10, prompts: [clip 1]}}
optimizer: {{learning_rate: 0.001}}
"""

pytestmark = pytest.mark.slow


def test_a_run_of_a_bad_week_ends_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips, model = write_tiny_clips(tmp_path / "clips", 7), write_tiny_model(tmp_path / "model")
    (tmp_path / "config.yaml").write_text(CONFIG.format(clips=clips, model=model))
    run = tmp_path / "run"

    def train(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["train", "-o", str(run), *words])
        return result.exit_code, result.stderr

    # Monday: a file system without locks, and a step whose loss is not a number.
    fcntl, backward = pytest.importorskip("fcntl"), Trainer._backward

    def without_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    def broken_step(trainer: Trainer, *rest: object) -> object:
        return backward(trainer, *rest) * (math.nan if trainer.step == 6 else 1)

    with monkeypatch.context() as monday:
        monday.setattr(fcntl, "flock", without_locks)
        monday.setattr(Trainer, "_backward", broken_step)
        code, said = train(str(tmp_path / "config.yaml"))
    assert code == 1 and "at step 7; lower the rate: --resume --set optimizer.learning_rate=0.0005" in said
    assert "knows no locks" in said

    # Tuesday: at half the rate, until memory runs out.
    def short_of_memory(trainer: Trainer, *rest: object) -> object:
        if trainer.step == 9:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return backward(trainer, *rest)

    with monkeypatch.context() as tuesday:
        tuesday.setattr(Trainer, "_backward", short_of_memory)
        code, said = train(
            "--resume", "--set", "optimizer.learning_rate=0.0005", "--allow", "optimizer.learning_rate"
        )
    assert code == 4 and "out of memory in step 10" in said and "gradient_checkpointing: true" in said
    assert "step 7 broke before" in said and "goes on from step 8" in said

    # Wednesday: with recomputed activations, until the disk is full.
    save_file = state.save_file

    def full_disk(tensors: object, path: Path, *rest: object) -> None:
        if "step-00000012" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        save_file(tensors, path, *rest)

    with monkeypatch.context() as wednesday:
        wednesday.setattr(state, "save_file", full_disk)
        code, said = train(
            "--resume", "--set", "gradient_checkpointing=true", "--allow", "gradient_checkpointing"
        )
    assert code == 4 and "No space left on device" in said
    assert not [path for path in (run / "checkpoints").iterdir() if path.name.startswith(".")]

    # Thursday: a video goes, a checkpoint is damaged, a validation fails; the run ends.
    (clips / "3.mp4").unlink()
    newest = max((run / "checkpoints").iterdir())
    (newest / "optimizer.safetensors").write_bytes(b"")

    def failing(*_: object) -> None:
        raise MemoryError("no memory for clips")

    with monkeypatch.context() as thursday:
        thursday.setattr(TextToVideoPipeline, "generate", failing)
        code, said = train("--resume")
    assert code == 0, said
    assert f"{newest} is not whole and is passed over; the run goes on from step 8" in said
    assert said.count("3.mp4: ") == said.count("takes its place") == 1
    assert "the validation at step 20 failed (no memory for clips)" in said

    # Friday: the validation that failed is made up for, and the run is whole.
    code, said = train("--resume")
    assert code == 0, said
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "learning_rate" in row]
    assert [row["step"] for row in steps] == list(range(1, 21))
    assert [row["step"] for row in steps if row.get("skipped")] == [7]
    assert all(row["loss"] > 0 for row in steps if not row.get("skipped"))
    assert [row["step"] for row in rows if row.get("validation", {}).get("clips")] == [0, 20]
    assert all(is_complete(path) for path in (run / "checkpoints").iterdir())
    card = (run / "README.md").read_text()
    assert "optimizer.learning_rate was 0.001, is 0.0005" in card
    assert "gradient_checkpointing was False, is True" in card
    assert not (run / ".owner").exists()
