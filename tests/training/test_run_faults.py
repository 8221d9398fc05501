"""What a run of days must outlive: files that go, memory that ends, losses that break, damaged disks."""

import errno
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from tiny_run import memory_clips, tiny_parts, tiny_settings, tiny_trainer, write_tiny_clips, write_tiny_model

from video_diffusion.pipeline import GeneratedVideo, TextToVideoPipeline
from video_diffusion.settings import GenerationSettings
from video_diffusion.settings.training import TrainingSettings
from video_diffusion.training.clips import Weighted
from video_diffusion.training.data import read_manifest, write_manifest
from video_diffusion.training.data.manifest import ClipChangedError
from video_diffusion.training.loop import MAX_OVERFLOWS, NonFiniteLossError, Trainer
from video_diffusion.training.run import DivergenceWatch, Run, fit, make_accelerator, open_run
from video_diffusion.training.run_folder import RunFolder, owned
from video_diffusion.training.state import ResumeError, is_complete, load_checkpoint, newest_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("faults") / "model")


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    return write_tiny_clips(tmp_path / "clips")


def settings_for(model: Path, clips: Path, /, **changes: Any) -> TrainingSettings:
    usual = {"data": str(clips), "model": str(model), "num_steps": 4, "latent_cache": False}
    return tiny_settings(**(usual | {"checkpoint": {"every": 2}} | changes))


def opened(settings: TrainingSettings, folder: Path, *allowed: str) -> Run:
    folder.mkdir(exist_ok=True, parents=True)
    return open_run(settings, RunFolder(folder), Accelerator(cpu=True), allowed)


def trained(settings: TrainingSettings, folder: Path, *allowed: str) -> Run:
    run = opened(settings, folder, *allowed)
    list(fit(run))
    return run


def weights_of(run: Run) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in run.trainer.target.parameters.values()])


def rows_with(folder: Path, key: str) -> list[dict[str, Any]]:
    return [row for row in RunFolder(folder).rows() if key in row]


@pytest.mark.full
@pytest.mark.parametrize("fault", ["missing", "broken"])
def test_a_missing_or_broken_video_is_replaced_and_told_once(
    model: Path, clips: Path, tmp_path: Path, fault: str
) -> None:
    settings, file = settings_for(model, clips), clips / "2.mp4"
    if fault == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-40])
    runs = []
    for name, workers in (("one", 0), ("again", 1)):
        with pytest.warns(UserWarning, match=r"2\.mp4: .*; the next clip takes its place") as told:
            changed = TrainingSettings.model_validate(settings.model_dump() | {"num_workers": workers})
            runs.append(trained(changed, tmp_path / name))
        assert len([each for each in told if "takes its place" in str(each.message)]) == 1
        assert ["2.mp4" in row["lost"] for row in rows_with(tmp_path / name, "lost")] == [True]
    assert runs[0].trainer.step == 4 and torch.equal(weights_of(runs[0]), weights_of(runs[1]))


@pytest.mark.full
def test_above_the_share_of_missing_files_the_run_saves_and_stops(
    model: Path, clips: Path, tmp_path: Path
) -> None:
    for number in (0, 2):
        (clips / f"{number}.mp4").unlink()
    settings = settings_for(model, clips, checkpoint={"every": 100})
    run = opened(settings, tmp_path / "run")
    with (
        pytest.warns(UserWarning, match="takes its place"),
        pytest.raises(ClipChangedError, match=r"2 of its files .* data\.max_missing allows 1"),
    ):
        list(fit(run))
    newest = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert newest is not None and newest.name == f"step-{run.trainer.step:08d}"
    sources = [{"path": str(clips), "max_missing": 0.5}]
    with pytest.warns(UserWarning, match="takes its place"):
        assert trained(settings_for(model, clips, data=sources), tmp_path / "run").trainer.step == 4


@pytest.mark.full
def test_a_manifest_that_lost_a_clip_is_gone_on_with_where_that_is_allowed(
    model: Path, clips: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    trained(settings_for(model, clips, num_steps=2, optimizer={"schedule": "constant"}), folder)
    write_manifest(clips, read_manifest(clips)[1:])
    longer = settings_for(model, clips, optimizer={"schedule": "constant"})
    with pytest.raises(ResumeError, match=r"data\.folder_0 was .* allow them to change \(--allow KEY,KEY\)"):
        opened(longer, folder)
    assert trained(longer, folder, "data").trainer.step == 4
    [row] = rows_with(folder, "allowed")
    assert row["step"] == 2 and row["allowed"][0].startswith("data.folder_0 was ")
    assert "from step 2: data.folder_0 was" in (folder / "README.md").read_text()
    assert opened(longer, folder).trainer.step == 4  # it is the run's own data now


@pytest.mark.full
def test_another_rate_is_gone_on_with_where_it_is_allowed_and_another_target_never(
    model: Path, clips: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    trained(settings_for(model, clips, num_steps=2), folder)
    changed = settings_for(model, clips, num_steps=3, seed=1, optimizer={"learning_rate": 1e-3})
    with pytest.raises(ResumeError, match="seed was 0, is 1"):
        opened(changed, folder, "optimizer", "num_steps")
    run = trained(changed, folder, "optimizer", "num_steps", "seed")
    assert run.trainer.step == 3 and rows_with(folder, "learning_rate")[-1]["learning_rate"] == 1e-3
    lora = settings_for(model, clips, target="motion_lora", lora={"rank": 2})
    with pytest.raises(ResumeError, match="what is trained cannot change within a run"):
        opened(lora, folder, *TrainingSettings.names())


@pytest.mark.full
def test_a_failing_validation_is_a_row_after_the_checkpoint_and_the_next_is_smaller(
    model: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, asked = tmp_path / "run", list[GenerationSettings]()
    validation = {"every": 2, "prompts": ["clip 1", "clip 2"]}
    run = opened(settings_for(model, clips, num_steps=6, validation=validation), folder)
    generate = TextToVideoPipeline.generate

    def short_of_memory(
        pipeline: TextToVideoPipeline, settings: list[GenerationSettings], *more: Any
    ) -> list[GeneratedVideo]:
        step = run.trainer.step
        assert step == 0 or is_complete(folder / "checkpoints" / f"step-{step:08d}")
        asked.extend(settings)
        if len(asked) <= 2:
            raise MemoryError("DefaultCPUAllocator: can't allocate memory")
        return generate(pipeline, settings, *more)

    monkeypatch.setattr(TextToVideoPipeline, "generate", short_of_memory)
    with pytest.warns(UserWarning, match=r"the validation at step [02] failed \(DefaultCPUAllocator"):
        list(fit(run))
    found = [(row["step"], row["validation"].get("error", "")) for row in rows_with(folder, "validation")]
    assert [step for step, error in found if error] == [0, 2] and [step for step, _ in found] == [0, 2, 4, 6]
    # whole; with frames decoded one by one; and from then on with half of the clips
    assert [each.decode_chunk_size for each in asked] == [None, 1, 1, 1]
    assert [each.prompt for each in asked] == ["clip 1"] * 4
    assert {each.step for each in run.validations()} == {4, 6}
    assert "report.html" in {path.name for path in folder.iterdir()}


def test_a_held_out_clip_that_is_gone_does_not_end_the_validation(
    model: Path, clips: Path, tmp_path: Path
) -> None:
    run = opened(settings_for(model, clips, clips={"held_out": 2}), tmp_path / "run")
    source, number = run.validator.held_out[0]
    assert not isinstance(source, type(memory_clips()))
    (clips / source.plan.clips[number].entry.path).unlink()
    with pytest.warns(UserWarning, match="the held-out loss does without this clip from now on"):
        found = run.validator.validate()
    assert found is not None and found.held_out_loss is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is told once
        again = run.validator.validate()
    assert again is not None and again.quartiles == found.quartiles


def test_a_signal_is_looked_at_within_a_validation(model: Path, clips: Path, tmp_path: Path) -> None:
    validation = {"every": 0, "prompts": ["clip 1"], "num_inference_steps": 50}
    run = opened(settings_for(model, clips, validation=validation), tmp_path / "run")
    asked = 0

    def wants_to_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3  # before the clip, and after two of its steps, it is still no

    weights = weights_of(run)
    assert run.validator.validate(wants_to_stop) is None
    assert asked == 4 and torch.equal(weights_of(run), weights)
    settings = settings_for(model, clips, validation={"prompts": ["clip 1"]})
    assert list(fit(opened(settings, tmp_path / "other"), lambda: True)) == []


@pytest.mark.full
def test_the_step_that_broke_is_left_out_and_the_run_goes_on_with_another_rate(
    model: Path, clips: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    run = opened(settings_for(model, clips), folder)
    steps = fit(run)
    for _ in range(2):
        next(steps)
    run.trainer.pipeline.parts.unet.conv_in.weight.data[0, 0, 0, 0] = float("inf")
    advice = r"at step 3; lower the rate: --resume --set optimizer\.learning_rate=0\.005 --allow"
    with pytest.raises(NonFiniteLossError, match=advice):
        next(steps)
    lower = settings_for(model, clips, optimizer={"learning_rate": 1e-3, "schedule": "cosine"})
    again = trained(lower, folder, "optimizer")
    assert again.trainer.step == 4 and again.trainer.num_skipped == 1
    by_step = {row["step"]: row for row in rows_with(folder, "learning_rate")}
    assert by_step[3]["skipped"] and by_step[3]["loss"] is None and by_step[4]["loss"] > 0
    third = shutil.copytree(folder, tmp_path / "third")
    shutil.rmtree(third / "checkpoints" / "step-00000004")
    once_more = trained(lower, third)  # killed before the end: the step is left out again
    assert torch.equal(weights_of(once_more), weights_of(again))


@pytest.mark.full
def test_in_fp16_a_run_whose_steps_all_overflow_is_given_up() -> None:
    accelerator = Accelerator(cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)
    settings = tiny_settings(num_steps=100, optimizer={"schedule": "constant_with_warmup", "warmup_steps": 9})
    trainer = Trainer(
        settings, TextToVideoPipeline(tiny_parts(), "cpu"), [Weighted(memory_clips())], accelerator
    )
    steps = trainer.steps()
    first = [next(steps) for _ in range(2)]
    weight = trainer.pipeline.parts.unet.conv_in.weight.data
    kept, weight[0, 0, 0, 0] = weight[0, 0, 0, 0].item(), float("inf")
    lost = next(steps)
    assert lost.skipped and trainer.num_skipped == 1
    weight[0, 0, 0, 0] = kept
    after = next(steps)
    rates = [step.learning_rate for step in (*first, after)]
    assert rates == pytest.approx([1e-4 / 9, 2e-4 / 9, 3e-4 / 9])  # the lost step is none of the warm-up
    weight[0, 0, 0, 0] = float("inf")
    with pytest.raises(
        NonFiniteLossError, match=f"fp16 overflowed in {MAX_OVERFLOWS} steps in a row"
    ) as error:
        list(steps)
    assert error.value.step is None


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(ValueError, match=r"fp16 needs a GPU, .* set bf16 or no"):
        make_accelerator(tiny_settings(mixed_precision="fp16"))


def test_a_loss_that_runs_away_is_told_once() -> None:
    watch = DivergenceWatch()
    usual = [1.0 + 0.5 * (number % 3) for number in range(100)]
    assert not any(watch.diverges(loss) for loss in [*usual, *[9.0] * 49, 1.0])  # it came back
    told = [watch.diverges(loss) for loss in [*[9.0] * 80, None, float("nan")]]
    assert told.index(True) == 49 and sum(told) == 1


def test_with_every_checkpoint_damaged_a_run_does_not_begin_anew(
    model: Path, clips: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    trained(settings_for(model, clips), folder)
    for checkpoint in (folder / "checkpoints").iterdir():
        (checkpoint / "trained.safetensors").write_bytes(b"")
    before = (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(ResumeError, match=r"every checkpoint is damaged \(step-00000004, step-00000002\)"):
        opened(settings_for(model, clips), folder)
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_a_damaged_line_of_the_log_is_known_and_stays(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in (1, 2, 3):
        folder.append({"step": step, "loss": 0.5})
    lines = folder.metrics.read_bytes().splitlines(keepends=True)
    folder.metrics.write_bytes(lines[0] + b'{"step": 2, "l\xff\x00ss"\n' + lines[2] + b'{"step": 4, "lo')
    assert folder.damaged_lines() == [2] and [row["step"] for row in folder.rows()] == [1, 3]
    folder.forget_after(2)
    assert folder.metrics.read_bytes() == lines[0] + b'{"step": 2, "l\xff\x00ss"\n'


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_without_locks_a_run_goes_on_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def without_locks(*_: object) -> None:
        raise OSError(number, "no locks")

    monkeypatch.setattr(fcntl, "flock", without_locks)
    with pytest.warns(UserWarning, match="knows no locks") as told, owned(tmp_path / "run") as folder:
        folder.append({"step": 1})
    assert len(told) == 1 and (tmp_path / "run" / "metrics.jsonl").is_file()


@pytest.mark.full
def test_a_video_that_went_after_its_latents_were_kept_is_not_missed(
    model: Path, clips: Path, tmp_path: Path
) -> None:
    """And where the kept ones were damaged too, another clip takes its place."""
    settings = settings_for(model, clips, latent_cache=True, clips={"random_start": False})
    whole = trained(settings, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole" / "cache", tmp_path / "run" / "cache")
    file = clips / "2.mp4"
    content = file.read_bytes()
    file.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(weights_of(trained(settings, tmp_path / "run")), weights_of(whole))
    for entry in (tmp_path / "run" / "cache" / "latents").rglob("*.safetensors"):
        entry.write_bytes(b"damaged")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.warns(UserWarning, match="takes its place"):
        assert trained(settings, tmp_path / "run").trainer.step == 4
    file.write_bytes(content)


def test_a_checkpoint_says_how_many_steps_were_left_out(model: Path, clips: Path, tmp_path: Path) -> None:
    run = trained(settings_for(model, clips, num_steps=2), tmp_path / "run")
    newest = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert newest is not None and load_checkpoint(newest)[2]["skipped"] == run.trainer.num_skipped == 0
    assert json.loads((newest / "manifest.json").read_text())["facts"]["skipped"] == 0


@pytest.mark.full
def test_steps_that_broke_before_read_no_clips() -> None:
    trainer = tiny_trainer(num_steps=4, gradient_accumulation_steps=2)
    trainer.broken_steps = frozenset({2})
    whole = tiny_trainer(num_steps=4, gradient_accumulation_steps=2)
    steps, others = list(trainer.steps()), list(whole.steps())
    assert [step.ids for step in steps] == [() if step.step == 2 else step.ids for step in others]
