"""What is trained moves, what is frozen stays bit for bit, and what is saved is what was trained."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from tiny_models import tiny_adapter, tiny_unet
from tiny_run import (
    FRAMES,
    HEIGHT,
    WIDTH,
    frozen_tensors,
    memory_clips,
    tiny_parts,
    tiny_settings,
    tiny_trainer,
    write_tiny_model,
)
from torch import Tensor

from video_diffusion.loading import ModelLoadError, ModelParts, load_loras, load_model
from video_diffusion.loading.components import EXTRAS_FILE, IMAGE_LORA_FILE, apply_unet_changes
from video_diffusion.loading.convert import convert
from video_diffusion.loading.motion_weights import add_motion_lora, read_motion_lora
from video_diffusion.loading.sources import find_lora
from video_diffusion.models import MotionAdapter, VideoUNet
from video_diffusion.pipeline import TextToVideoPipeline
from video_diffusion.training.clips import Weighted
from video_diffusion.training.loop import Trainer
from video_diffusion.training.targets import matching_parameters, merge_domain_lora, record_noise

EXTRA = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"


def digests(trainer: Trainer) -> dict[str, str]:
    frozen = frozen_tensors(trainer)
    return {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in frozen.items()}


def answer(trainer: Trainer) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(2, 4, FRAMES, HEIGHT // 2, WIDTH // 2, generator=generator)
    embeds = trainer.encoder.prompts(["clip 1", "clip 2"])
    with torch.no_grad():
        return trainer.pipeline.video_unet(latents, torch.tensor([100, 700]), embeds)


@pytest.mark.full
@pytest.mark.parametrize(
    ("target", "more", "trained"),
    [
        ("temporal", {}, {"motion_adapter"}),
        ("temporal", {"temporal_and": r"attn2\.to_[kv]"}, {"motion_adapter", "unet"}),
        ("motion_lora", {"lora": {"rank": 3}}, {"motion_adapter"}),
        ("domain_lora", {"lora": {"rank": 3}}, {"unet"}),
    ],
)
def test_one_step_moves_the_target_and_nothing_else(
    target: str, more: dict[str, object], trained: set[str]
) -> None:
    trainer = tiny_trainer(target=target, **more)
    assert {name.split(".")[0] for name in trainer.target.parameters} == trained
    before, frozen = {n: p.detach().clone() for n, p in trainer.target.parameters.items()}, digests(trainer)
    assert len(frozen) > 100
    list(trainer.steps(stop_at=2))
    assert digests(trainer) == frozen
    still = [n for n, p in trainer.target.parameters.items() if torch.equal(p.detach(), before[n])]
    assert not still


def test_fresh_layers_learn_through_their_last_projection_first_and_then_everywhere() -> None:
    """At step 0 the output projections are zero, so nothing before them has a gradient yet."""
    trainer = tiny_trainer(tiny_parts(fresh_adapter=True), loss={"caption_dropout": 0.0})
    parameters = trainer.target.parameters
    items, draws = trainer.mix.read(0), [trainer_draw(trainer, 0)[0]] * 4
    for stage in (0, 1):
        latents = trainer.encoder.latents(items)
        trainer.losses(items, draws, trainer.objective, latents).mean().backward()
        moved = {
            name for name, p in parameters.items() if p.grad is not None and bool(p.grad.abs().max() > 0)
        }
        projections = {name for name in parameters if ".proj_out." in name}
        assert moved == (projections if stage == 0 else set(parameters))
        trainer.raw_optimizer.step()
        trainer.raw_optimizer.zero_grad()


def trainer_draw(trainer: Trainer, step: int) -> list:  # type: ignore[type-arg]
    from video_diffusion.training.objective import draw_step

    return draw_step(trainer.settings.seed, step, 4, trainer.settings.loss)


def test_one_frame_gives_temporal_layers_exactly_no_gradient() -> None:
    clips = memory_clips()
    clips.frames = [frames[:1] for frames in clips.frames]
    trainer = tiny_trainer(sources=[Weighted(clips)], optimizer={"weight_decay": 0.0})
    before = {n: p.detach().clone() for n, p in trainer.target.parameters.items()}
    steps = list(trainer.steps(stop_at=2))
    assert [step.grad_norm for step in steps] == [0.0, 0.0]
    assert all(torch.equal(p.detach(), before[n]) for n, p in trainer.target.parameters.items())


def test_a_regex_that_matches_nothing_names_near_misses() -> None:
    with pytest.raises(ValueError, match=r"'atn2.to_k' matches none .* nearest are .*attn2\.to_k"):
        tiny_trainer(temporal_and="atn2.to_k")
    found = matching_parameters(tiny_unet(), r"attn2\.to_k")
    assert found and all(".attn2.to_k." in name for name in found)


def test_a_saved_adapter_is_the_averaged_one(tmp_path: Path) -> None:
    trainer = tiny_trainer(temporal_and="attn2")
    list(trainer.steps(stop_at=3))
    raw = answer(trainer)
    with trainer.averaged():
        averaged = answer(trainer)
        trainer.target.save(tmp_path)
    assert torch.equal(answer(trainer), raw) and not torch.equal(averaged, raw)
    loaded = MotionAdapter.from_pretrained(tmp_path / "motion_adapter")
    unet = tiny_unet()
    apply_unet_changes(unet, tmp_path / "motion_adapter")
    trainer.pipeline.video_unet.detach()
    trainer.pipeline.video_unet = VideoUNet(unet, loaded)
    torch.testing.assert_close(answer(trainer), averaged, rtol=0, atol=0)


@pytest.mark.full
def test_a_run_that_trained_parts_of_the_image_model_brings_them_along(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    plain = load_model(str(model))
    settings = tiny_settings(temporal_and="attn2.to_k", model=str(model))
    pipeline = TextToVideoPipeline(load_model(str(model)), "cpu")
    trainer = Trainer(settings, pipeline, [Weighted(memory_clips())], Accelerator(cpu=True))
    list(trainer.steps(stop_at=2))
    (tmp_path / "run").mkdir()
    with trainer.averaged():
        trained = answer(trainer)
        trainer.target.save(tmp_path / "run")
    convert(str(tmp_path / "run"), tmp_path / "converted", "diffusers")
    for place in ("run", "converted"):
        found = load_model(str(model), str(tmp_path / place))
        trainer.pipeline.video_unet.detach()
        trainer.pipeline.video_unet = VideoUNet(found.unet, found.motion_adapter)
        assert torch.equal(answer(trainer), trained), place
        assert not torch.equal(found.unet.state_dict()[EXTRA], plain.unet.state_dict()[EXTRA])
    with pytest.warns(UserWarning, match="parts of the image U-Net .* which this layout cannot hold"):
        convert(str(tmp_path / "run"), tmp_path / "file.safetensors", "animatediff")
    file = tmp_path / "run" / "motion_adapter" / EXTRAS_FILE
    save_file({EXTRA: torch.zeros(3, 5)}, file)
    with pytest.raises(ModelLoadError, match=r"of shape \(3, 5\), but the image U-Net has .* another base"):
        load_model(str(model), str(tmp_path / "run"))


def image_lora_run(model: Path, folder: Path, **changes: object) -> tuple[Trainer, torch.Tensor]:
    """Trained for two steps and saved; and what its averaged weights answer."""
    settings = tiny_settings(
        model=str(model), image_lora=True, lora={"rank": 2, "alpha": 4.0, "dropout": 0.2}, **changes
    )
    pipeline = TextToVideoPipeline(load_model(str(model), settings.motion_adapter), "cpu")
    trainer = Trainer(settings, pipeline, [Weighted(memory_clips())], Accelerator(cpu=True))
    list(trainer.steps(stop_at=2))
    folder.mkdir()
    with trainer.averaged():
        trained = answer(trainer)
        trainer.target.save(folder)
    return trainer, trained


def answer_of(trainer: Trainer, parts: ModelParts) -> torch.Tensor:
    """What another model answers to the same question."""
    trainer.pipeline.video_unet.detach()
    trainer.pipeline.video_unet = VideoUNet(parts.unet, parts.motion_adapter)
    return answer(trainer)


def test_a_lora_on_the_image_model_is_trained_with_the_layers_and_comes_with_them(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    trainer, trained = image_lora_run(model, tmp_path / "run")
    owners = {name.partition(".")[0] for name in trainer.target.parameters}
    assert owners == {"motion_adapter", "unet"}
    assert all(".lora_" in name for name in trainer.target.parameters if name.startswith("unet."))
    convert(str(tmp_path / "run"), tmp_path / "converted", "diffusers")
    with pytest.warns(UserWarning, match=r"also trained a LoRA on the image model .*one\.lora\.safetensors"):
        convert(str(tmp_path / "run"), tmp_path / "one.safetensors", "animatediff")
    for place in ("run", "converted"):
        parts = load_model(str(model), str(tmp_path / place))
        torch.testing.assert_close(answer_of(trainer, parts), trained, rtol=1e-5, atol=1e-5)
    plain = load_model(str(model), str(tmp_path / "one.safetensors"))
    assert not torch.allclose(answer_of(trainer, plain), trained, atol=1e-3)
    with load_loras(plain, [(str(tmp_path / "one.lora.safetensors"), 1.0)]):  # the two files apart
        torch.testing.assert_close(answer_of(trainer, plain), trained, rtol=1e-5, atol=1e-5)
    wrong = {"lora_A": torch.zeros(2, 3), "lora_B": torch.zeros(7, 2)}
    save_file({f"unet.conv_in.{half}.weight": tensor for half, tensor in wrong.items()},
              tmp_path / "run" / "motion_adapter" / IMAGE_LORA_FILE)  # fmt: skip
    with pytest.raises(ModelLoadError, match=r"of shape \(7, 3\), but the image U-Net has .* another base"):
        load_model(str(model), str(tmp_path / "run"))


def test_what_an_adapter_changed_in_the_image_model_stays_with_one_trained_from_it(tmp_path: Path) -> None:
    """A second run, which trains the temporal layers alone, used to save an adapter without it."""
    model = write_tiny_model(tmp_path / "model")
    image_lora_run(model, tmp_path / "first")
    for second in ({}, {"image_lora": True, "lora": {"rank": 3}}):
        settings = tiny_settings(model=str(model), motion_adapter=str(tmp_path / "first"), **second)
        parts = load_model(str(model), str(tmp_path / "first"))
        trainer = Trainer(
            settings, TextToVideoPipeline(parts, "cpu"), [Weighted(memory_clips())], Accelerator(cpu=True)
        )
        list(trainer.steps(stop_at=2))
        place = tmp_path / f"second{len(second)}"
        place.mkdir()
        with trainer.averaged():
            trained = answer(trainer)
            trainer.target.save(place)
        again = load_model(str(model), str(place))
        assert again.unet_changes
        torch.testing.assert_close(answer_of(trainer, again), trained, rtol=1e-5, atol=1e-5)


def test_a_motion_lora_keeps_to_the_noise_of_its_adapter() -> None:
    with pytest.raises(ValueError, match=r"noise_type is mixed, .* are made with independent; set that"):
        tiny_trainer(target="motion_lora", loss={"noise_type": "mixed"})
    noise = {"noise_type": "progressive", "noise_alpha": 2.0}
    parts, again = tiny_parts(), tiny_parts()
    for each in (parts, again):
        record_noise(each.motion_adapter, tiny_settings(loss=noise))
    with pytest.raises(ValueError, match=r"noise_type is independent, .* made with progressive; set that"):
        tiny_trainer(parts, target="motion_lora")
    tiny_trainer(again, target="motion_lora", loss=noise)


@pytest.mark.full
def test_pure_noise_at_the_last_step_is_written_down_and_sampled_from(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    parts = tiny_parts(prediction_type="v_prediction")
    tiny_trainer(parts, loss={"zero_terminal_snr": True}).target.save(tmp_path)
    found = load_model(str(model), str(tmp_path)).scheduler_config
    assert found["rescale_betas_zero_snr"] is True and found["timestep_spacing"] == "trailing"
    convert(str(tmp_path / "motion_adapter"), tmp_path / "file.safetensors", "animatediff")
    assert load_model(str(model), str(tmp_path / "file.safetensors")).scheduler_config == found
    assert load_model(str(model)).scheduler_config["rescale_betas_zero_snr"] is False


def test_a_saved_motion_lora_on_its_base_is_the_trained_model(tmp_path: Path) -> None:
    """Applied as up · down with nothing else, whatever alpha was, as programs that know no alpha do."""
    trainer = tiny_trainer(target="motion_lora", lora={"rank": 3, "alpha": 6.0})
    untrained = answer(trainer)
    list(trainer.steps(stop_at=3))
    with trainer.averaged():
        trained = answer(trainer)
        trainer.target.save(tmp_path)
    assert not torch.allclose(trained, untrained, atol=1e-3)
    tensors = load_file(tmp_path / "motion_lora" / "pytorch_lora_weights.safetensors")
    assert all(name.startswith("unet.") for name in tensors)
    adapter = tiny_adapter(trainer.pipeline.parts.unet)
    pairs = read_motion_lora(find_lora(str(tmp_path / "motion_lora")))
    add_motion_lora(adapter, pairs, 1.0, "it")
    trainer.pipeline.video_unet.detach()
    trainer.pipeline.video_unet = VideoUNet(trainer.pipeline.parts.unet, adapter)
    torch.testing.assert_close(answer(trainer), trained, rtol=1e-4, atol=1e-5)


def test_a_domain_lora_learns_from_single_frames_and_is_then_in_effect(tmp_path: Path) -> None:
    trainer = tiny_trainer(target="domain_lora", lora={"rank": 3})
    list(trainer.steps(stop_at=3))
    with trainer.averaged():
        trained = answer(trainer)
        trainer.target.save(tmp_path)
    after = tiny_trainer(domain_lora=str(tmp_path))
    assert not any("lora" in name for name in after.target.parameters)
    torch.testing.assert_close(answer(after), trained, rtol=1e-4, atol=1e-5)
    parts = tiny_parts()
    merge_domain_lora(parts, f"{tmp_path}:0.5")
    half = parts.unet
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    own, whole = tiny_unet().get_parameter(name), after.pipeline.parts.unet.get_parameter(name)
    torch.testing.assert_close(half.get_parameter(name), (own + whole) / 2)


def test_a_domain_lora_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    trainer = tiny_trainer(target="domain_lora", lora={"rank": 3})
    trainer.target.save(tmp_path)
    other = replace(tiny_parts(), unet=tiny_unet(block_out_channels=(8, 24)))
    with pytest.raises(ModelLoadError, match="this LoRA does not fit the model"):
        merge_domain_lora(other, str(tmp_path))
    with pytest.raises(ModelLoadError, match="no such file or folder"):
        merge_domain_lora(tiny_parts(), str(tmp_path / "nothing"))
    tiny_trainer(target="motion_lora").target.save(tmp_path / "motion")
    with pytest.raises(ValueError, match="must change the image U-Net alone"):
        merge_domain_lora(tiny_parts(), str(tmp_path / "motion"))


def test_another_domain_lora_is_another_run(tmp_path: Path) -> None:
    tiny_trainer(target="domain_lora", lora={"rank": 3}, seed=1).target.save(tmp_path / "one")
    tiny_trainer(target="domain_lora", lora={"rank": 3}, seed=2).target.save(tmp_path / "two")
    shutil.copytree(tmp_path / "one", tmp_path / "moved")
    names = ("one", "moved", "two", "one:0.5")
    facts = [tiny_trainer(domain_lora=str(tmp_path / name)).target.domain_lora for name in names]
    assert facts[0] == facts[1] and len(set(facts)) == 3


@pytest.mark.parametrize("target", ["motion_lora", "domain_lora"])
def test_a_lora_can_be_continued_and_corrects_feed_forward_layers_where_asked(
    target: str, tmp_path: Path
) -> None:
    lora = {"rank": 3, "alpha": 6.0, "target_modules": "attention_and_feed_forward"}
    first = tiny_trainer(target=target, lora=lora)
    assert any(".ff.net.0.proj.lora_A." in name for name in first.target.parameters)
    list(first.steps(stop_at=2))
    with first.averaged():
        first.target.save(tmp_path)
        learned = answer(first)
    place = str(tmp_path / target)
    again = tiny_trainer(target=target, lora=lora | {"init": place, "alpha": None})
    torch.testing.assert_close(answer(again), learned, rtol=1e-5, atol=1e-6)
    used = tiny_trainer()
    assert not torch.allclose(answer(used), learned, atol=1e-4)
    with load_loras(used.pipeline.parts, [(place, 1.0)]):
        torch.testing.assert_close(answer(used), learned, rtol=1e-4, atol=1e-5)


def test_a_lora_to_go_on_from_must_fit(tmp_path: Path) -> None:
    first = tiny_trainer(target="motion_lora", lora={"rank": 3})
    first.target.save(tmp_path)
    place = str(tmp_path / "motion_lora")
    for changes, told in (
        ({"lora": {"rank": 4, "init": place}}, f"lora.rank is 4, but lora.init {place} has 3; set that"),
        (
            {"lora": {"rank": 3, "init": place, "target_modules": r".*\.ff\.net\.2"}},
            "which this run does not; set target and lora.target_modules as it was trained",
        ),
        (
            {"lora": {"rank": 3, "target_modules": "atn1"}},
            "matches none of the .* linear layers; the nearest",
        ),
        (
            {"target": "domain_lora", "lora": {"rank": 3, "init": place}},
            "which this run does not; set target and lora.target_modules",
        ),
    ):
        with pytest.raises(ValueError, match=told):
            tiny_trainer(**({"target": "motion_lora"} | changes))
    with pytest.raises(ValueError, match=r"lora.init goes with a target that is a LoRA, not temporal"):
        tiny_trainer(lora={"init": place})
