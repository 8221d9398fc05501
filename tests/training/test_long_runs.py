"""What long runs on large folders ask for: bounded caches, clips of several lengths, less memory."""

import shutil
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from click.testing import CliRunner
from simulated_device import simulated_device
from tiny_run import (
    FRAMES,
    memory_clips,
    tiny_frames,
    tiny_parts,
    tiny_settings,
    tiny_trainer,
    write_tiny_clips,
    write_tiny_model,
)

from video_diffusion.cli.main import main
from video_diffusion.pipeline import TextToVideoPipeline
from video_diffusion.settings.input_files import file_sha256
from video_diffusion.settings.training import ValidationSettings
from video_diffusion.training.clips import (
    ClipEncoder,
    ClipMix,
    EncodingCaches,
    Weighted,
    open_sources,
    plan_cache,
)
from video_diffusion.training.data import ClipDataset, ClipEntry, Draw, read_manifest, write_manifest
from video_diffusion.training.data.dataset import LatentCache
from video_diffusion.training.loop import Trainer
from video_diffusion.training.run import fit, open_run
from video_diffusion.training.run_folder import RunFolder
from video_diffusion.training.validation import Validator
from video_diffusion.video import write_video

DEFAULTS = {"num_frames": 5, "height": 16, "width": 24, "fps": "8"}


def folder_of(folder: Path, lengths: list[int]) -> Path:
    """Videos of so many frames each, at 8 fps."""
    folder.mkdir()
    entries = []
    for number, length in enumerate(lengths):
        path = folder / f"{number}.mp4"
        write_video(path, tiny_frames(number % 9, length).permute(0, 2, 3, 1).numpy(), Fraction(8), None)
        stat = path.stat()
        entries.append(
            ClipEntry(
                id=str(number), path=path.name, sha256=file_sha256(path), num_frames=length, fps=Fraction(8),
                width=24, height=16, caption=f"clip {number}", start=0.0, end=length / 8,
                num_bytes=stat.st_size, mtime_ns=stat.st_mtime_ns,
            )
        )  # fmt: skip
    write_manifest(folder, entries)
    return folder


def sources_of(place: Path | list[Path], **changes: Any) -> Any:
    folders = [str(path) for path in place] if isinstance(place, list) else str(place)
    return open_sources(tiny_settings(data=folders, **changes), DEFAULTS)


def test_clips_shorter_than_the_others_train_in_batches_of_their_own_length(tmp_path: Path) -> None:
    clips = folder_of(tmp_path / "clips", [8, 9, 4, 5, 3, 12])
    sources = sources_of(clips, clips={"too_short": "shorten", "num_frames": 8, "held_out": 0})
    (dataset,) = [each.clips for each in sources.training]
    assert Counter(clip.num_frames for clip in dataset.plan.clips) == {8: 3, 4: 2}
    assert [unusable.entry.id for unusable in dataset.plan.unusable] == ["4"]
    mix = ClipMix(sources.training, 2, seed=0)
    lengths = [{len(item["frames"]) for item in mix.read(number)} for number in range(10)]
    assert all(len(each) == 1 for each in lengths) and {8} in lengths and {4} in lengths
    trainer = tiny_trainer(sources=list(sources.training), num_steps=4, batch_size=2)
    assert all(step.loss > 0 for step in trainer.steps())


def test_windows_start_at_the_stated_places_and_nowhere_else(tmp_path: Path) -> None:
    clips = folder_of(tmp_path / "clips", [5, 6, 40])
    entries = read_manifest(clips)
    dataset = ClipDataset(entries, clips, FRAMES, Fraction(8), None, starts=4, flip=True)
    every = {dataset.window(number).content_key for number in range(dataset.num_windows)}
    assert len(every) == dataset.num_windows == 2 * (1 + 2 + 4)
    drawn = {dataset.sample(Draw(epoch, item)).content_key for epoch in range(300) for item in range(3)}
    assert drawn == every
    windows = map(dataset.window, range(dataset.num_windows))
    firsts = sorted({clip.times[0] for clip in windows if clip.entry.id == "2"})
    assert firsts == pytest.approx([0, 12 / 8, 23 / 8, 35 / 8])


def test_a_copy_of_a_held_out_clip_is_never_trained_on(tmp_path: Path) -> None:
    one, other = folder_of(tmp_path / "one", [5] * 8), folder_of(tmp_path / "other", [5] * 9)
    sources = sources_of([one, other], clips={"held_out": 2})
    apart = {entry.sha256 for clips in sources.held_out for entry in {c.entry for c in clips.plan.clips}}
    trained = {clip.entry.sha256 for each in sources.training for clip in each.clips.plan.clips}
    assert len(apart) >= 2 and trained and not apart & trained
    assert any("are left out, since a clip that is held out comes from the same file" in line
               for line in sources.unused)  # fmt: skip
    single = tmp_path / "single"
    single.mkdir()
    shutil.copy(one / "0.mp4", single / "0.mp4")
    whole = read_manifest(one)[0]
    write_manifest(single, [ClipEntry(**{**vars(whole), "id": str(n)}) for n in range(20)])
    alone = sources_of(single)
    assert alone.held_out == () and len(alone.training[0].clips) == 20
    assert any("no clip is held out, since all of them come from the same few files" in line
               for line in alone.unused)  # fmt: skip


def test_a_prefix_stands_before_every_caption_and_alone_where_there_is_none(tmp_path: Path) -> None:
    clips = folder_of(tmp_path / "clips", [5] * 4)
    entries = read_manifest(clips)
    write_manifest(clips, [ClipEntry(**{**vars(entries[0]), "caption": ""}), *entries[1:]])
    sources = sources_of(clips, clips={"caption_prefix": "in the manner of zky, ", "held_out": 0})
    seen = {item["caption"] for item in ClipMix(sources.training, 4, seed=0).read(0)}
    assert seen == {"in the manner of zky", *(f"in the manner of zky, clip {n}" for n in (1, 2, 3))}
    assert "" in {item["caption"] for item in ClipMix(sources_of(clips).training, 4, seed=0).read(0)}


def test_videos_without_captions_are_taken_where_asked(tmp_path: Path) -> None:
    clips = folder_of(tmp_path / "clips", [5] * 3)
    (clips / "manifest.jsonl").unlink()
    (clips / "1.txt").write_text("one\n")
    refused = CliRunner().invoke(main, ["data", "check", str(clips), "--workers", "0", "--frames", "5"])
    assert "has no caption: no 0.txt; --captionless takes it without" in refused.stderr
    assert [entry.caption for entry in read_manifest(clips)] == ["one"]
    words = ["data", "check", str(clips), "--workers", "0", "--frames", "5", "--captionless"]
    assert CliRunner().invoke(main, words).exit_code == 0
    assert sorted(entry.caption for entry in read_manifest(clips)) == ["", "", "one"]


def test_a_cache_keeps_to_its_bound_and_the_oldest_goes(tmp_path: Path) -> None:
    value = torch.arange(1000.0)
    size = 4000 + 300
    cache = LatentCache(tmp_path, "vae", max_bytes=10 * size)
    for number in range(40):
        cache.put(str(number), value + number)
        used = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
        assert used <= 10 * size
    assert "39" in cache and "0" not in cache
    assert torch.equal(cache.get("39"), value + 39)
    again = LatentCache(tmp_path, "vae", max_bytes=10 * size)
    again.put("40", value)
    assert "40" in again and sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors")) <= 10 * size
    tiny = LatentCache(tmp_path / "tiny", "vae", max_bytes=100)
    tiny.put("0", value)
    assert "0" not in tiny


def test_a_bounded_cache_changes_no_weight(tmp_path: Path) -> None:
    model, clips = write_tiny_model(tmp_path / "model"), write_tiny_clips(tmp_path / "clips")
    ends = []
    kinds = {"whole": {}, "bounded": {"latent_cache_gb": 4e-6}, "none": {"latent_cache": False}}
    for name, changes in kinds.items():
        settings = tiny_settings(data=str(clips), model=str(model), num_steps=3, **changes)
        folder = tmp_path / name
        folder.mkdir()
        run = open_run(settings, RunFolder(folder), Accelerator(cpu=True))
        list(fit(run))
        ends.append(run.trainer.target.parameters)
        kept = sum(path.stat().st_size for path in (folder / "cache" / "latents").rglob("*.safetensors"))
        assert kept <= 4000 if name != "whole" else kept > 4000
    assert all(torch.equal(ends[0][name], each[name]) for each in ends[1:] for name in each)


def test_data_encode_leaves_nothing_to_encode(tmp_path: Path) -> None:
    """The videos may even go: a run whose clips are all kept reads none of them."""
    model, clips = write_tiny_model(tmp_path / "model"), folder_of(tmp_path / "clips", [5, 9, 30])
    config = tmp_path / "config.yaml"
    config.write_text(
        f"data: {clips}\nmodel: {model}\nnum_steps: 3\nbatch_size: 2\ndevice: cpu\n"
        "clips: {held_out: 0, starts: 3}\nvalidation: {every: 0}\n"
    )
    words = ["-o", str(tmp_path / "run")]

    def call(*more: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(main, [*more, str(config), *words])
        return done.exit_code, done.stdout, done.stderr

    assert "7 of 7 clips to encode" in call("data", "encode", "--dry-run")[2]
    assert call("data", "encode", "--shard", "1/2")[0] == 0
    code, out, err = call("data", "encode")
    assert (code, out) == (0, f"{tmp_path / 'run' / 'cache'}\n") and "4 of 7 clips to encode" in err
    assert "0 of 7 clips to encode" in call("data", "encode")[2]
    for path in clips.glob("*.mp4"):
        path.unlink()
    code, _, err = call("train")
    assert code == 0, err
    assert "latent cache: 7 clips of" in err and "7 are there" in err and "takes its place" not in err
    config.write_text(config.read_text().replace(", starts: 3", ""))
    code, _, err = call("data", "encode", "--set", "latent_cache=elsewhere")
    assert code == 2 and "windows may start at any frame" in err and "set clips.starts" in err


def test_a_run_begun_by_data_encode_or_killed_while_its_teacher_worked_goes_on(tmp_path: Path) -> None:
    """The cache alone is no run; with a config it is one that --resume begins."""
    model, clips = write_tiny_model(tmp_path / "model"), write_tiny_clips(tmp_path / "clips")
    config = tmp_path / "config.yaml"
    config.write_text(
        f"data: {clips}\nmodel: {model}\nnum_steps: 1\nbatch_size: 2\nvalidation: {{every: 0}}\n"
    )
    run = tmp_path / "run"
    (run / "cache").mkdir(parents=True)
    shutil.copy(config, run / "config.yaml")
    refused = CliRunner().invoke(main, ["train", str(config), "-o", str(run)])
    assert refused.exit_code == 2 and "holds a run; --resume goes on with it" in refused.stderr
    assert CliRunner().invoke(main, ["train", "--resume", "-o", str(run)]).exit_code == 0


@pytest.fixture
def bf16() -> Iterator[Accelerator]:
    """accelerate knows one precision a process; give it back its first one."""
    AcceleratorState._reset_state()
    yield Accelerator(cpu=True, mixed_precision="bf16")
    AcceleratorState._reset_state()


def halved_trainer(accelerator: Accelerator, **changes: Any) -> Trainer:
    settings = tiny_settings(mixed_precision="bf16", num_steps=4, **changes)
    pipeline = TextToVideoPipeline(tiny_parts(), "cpu")
    return Trainer(settings, pipeline, [Weighted(memory_clips())], accelerator)


def test_frozen_weights_in_half_precision_give_the_same_bits(bf16: Accelerator) -> None:
    """Autocast rounds the weights of every product anyway."""
    halved, whole = halved_trainer(bf16), halved_trainer(bf16)
    fresh = tiny_parts().unet.state_dict()
    for name, parameter in whole.pipeline.parts.unet.named_parameters():
        parameter.data = fresh[name]
    kinds = [
        {p.dtype for p in each.pipeline.parts.unet.parameters() if p.ndim >= 2} for each in (halved, whole)
    ]
    assert kinds == [{torch.bfloat16}, {torch.float32}]
    assert [step.loss for step in halved.steps()] == [step.loss for step in whole.steps()]
    assert {each.dtype for each in halved.target.parameters.values()} == {torch.float32}


def test_only_what_is_frozen_is_halved(bf16: Accelerator) -> None:
    trainer = halved_trainer(bf16, temporal_and=r"attn2\.to_k")
    named = dict(trainer.pipeline.parts.unet.named_parameters())
    assert {p.dtype for name, p in named.items() if "attn2.to_k" in name} == {torch.float32}
    assert named["conv_in.weight"].dtype == torch.bfloat16 and named["conv_in.bias"].dtype == torch.float32
    list(trainer.steps(stop_at=1))


def test_a_run_in_half_precision_still_makes_its_validation_clips(bf16: Accelerator, tmp_path: Path) -> None:
    trainer = halved_trainer(bf16)
    found = Validator(
        trainer, ValidationSettings(prompts=("clip 1",)), [memory_clips(1)], tmp_path
    ).validate()
    assert found is not None and not found.error, found
    assert found.held_out_loss is not None and len(found.clips) == 1


def test_activations_kept_elsewhere_change_no_bit() -> None:
    ends = [
        [step.loss for step in tiny_trainer(activation_offload=offload, num_steps=3).steps()]
        for offload in (False, True)
    ]
    assert ends[0] == ends[1]


def test_encoders_that_have_nothing_to_do_leave_the_device(tmp_path: Path) -> None:
    with simulated_device() as device:
        parts = TextToVideoPipeline(tiny_parts(), device).parts
        mix = ClipMix([Weighted(memory_clips())], 2, seed=0)
        encoder = ClipEncoder(parts, mix.read_again, EncodingCaches(tmp_path, parts))
        items = mix.read(0)

        def step() -> None:
            encoder.latents(items)
            encoder.prompts([item["caption"] for item in items])
            encoder.rest()

        step()
        assert parts.vae.device.type == parts.text_encoder.device.type == device.type
        step()
        assert parts.vae.device.type == parts.text_encoder.device.type == "cpu"
        encoder.latents(mix.read(7))
        assert parts.vae.device.type == device.type and parts.text_encoder.device.type == "cpu"
        with encoder.awake():
            assert parts.text_encoder.device.type == device.type


def test_trackers_get_the_run_its_clips_and_what_changed(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    model, clips = write_tiny_model(tmp_path / "model"), write_tiny_clips(tmp_path / "clips")
    settings = tiny_settings(
        data=str(clips), model=str(model), num_steps=2, log_with="tensorboard", log_name="mine",
        clips={"held_out": 1}, validation={"prompts": ["clip 1"]},
    )  # fmt: skip
    run = open_run(settings, RunFolder(tmp_path))
    list(fit(run))
    read = events.EventAccumulator(str(tmp_path / "mine"), size_guidance={"images": 0, "tensors": 0})
    read.Reload()
    tags = read.Tags()
    assert "loss" in tags["scalars"] and any("validation/clip 1 0" in tag for tag in tags["images"])
    assert any("what changed" in tag for tag in tags["tensors"])


def test_a_run_of_many_clips_looks_for_few_of_its_encodings(tmp_path: Path) -> None:
    clips = folder_of(tmp_path / "clips", [5, 7, 30, 9])
    cache = LatentCache(tmp_path / "cache", "vae")
    plan = plan_cache(sources_of(clips, clips={"held_out": 1, "starts": 8, "flip": True}), cache, (4, 8, 12))
    assert plan is not None and len(
        {plan.window(number)[1].content_key for number in range(len(plan))}
    ) == len(plan)
    for number in range(0, len(plan), 2):
        cache.put(plan.window(number)[1].content_key, torch.zeros(3))
    half = plan.num_there()
    assert half == sum(map(plan.is_there, range(len(plan)))) >= len(plan) // 2
    assert plan.num_there(most=5) == pytest.approx(half, abs=len(plan) / 3)


def test_a_cache_plan_is_told_only_where_it_can_be_complete(tmp_path: Path) -> None:
    clips = folder_of(tmp_path / "clips", [5, 30])
    cache = LatentCache(tmp_path / "cache", "vae")
    any_start, bounded, first = (
        plan_cache(sources_of(clips, clips={"held_out": 0} | changes), cache, (4, 8, 12))
        for changes in ({}, {"starts": 2}, {"random_start": False})
    )
    assert any_start is None
    assert bounded is not None and len(bounded) == 3 and bounded.num_there() == 0
    assert first is not None and len(first) == 2
    assert first.bytes_each == pytest.approx(4 * 5 * 4 * 8 * 12, abs=400)
