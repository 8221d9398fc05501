"""From numbers to causes and words; what changes are listed; stages of latents in closed form."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from video_diffusion.comparison.summary import ClipMeasure, ClipResult
from video_diffusion.diagnosis.findings import find
from video_diffusion.diagnosis.parts import Change, changes_of
from video_diffusion.diagnosis.run import AS_IT_IS, Seen, Subject
from video_diffusion.diagnosis.stages import (
    StageLook,
    encoder_of,
    fluctuation,
    nearly_still,
    read_looks,
    smoothed,
    write_looks,
)
from video_diffusion.settings import GenerationSettings
from video_diffusion.video import write_video

SETTINGS = GenerationSettings.from_values(
    {"prompt": "a", "guidance_scale": 8, "num_frames": 12, "num_inference_steps": 10, "scheduler": "ddim"}
)
SUBJECT = Subject(SETTINGS, (0, 1, 2, 3))
HALF = Change("guidance", "guidance 4", {"guidance_scale": 4.0})
STEPS = Change("steps and scheduler", "20 steps", {"num_inference_steps": 20})


def clip(arm: str, seed: int, **values: float) -> ClipResult:
    measures = {name: ClipMeasure(value, "ok") for name, value in values.items()}
    return ClipResult(arm, "a", seed, f"{arm}.mp4", "", "", 8.0, 12, 8, 8, measures, {}, "", "", "")


def clips(arm: str, flicker: list[float], **others: float) -> list[ClipResult]:
    return [clip(arm, seed, flicker=value, **others) for seed, value in enumerate(flicker)]


def seen(*rows: ClipResult, looks: Any = None) -> Seen:
    return Seen(changes=[HALF, STEPS], looks=looks or {}, clips=rows)


def test_the_change_that_takes_most_flicker_away_is_the_cause_and_its_command_is_told() -> None:
    found = find(
        seen(
            *clips(AS_IT_IS, [3.0, 4.0, 2.5, 3.5], motion=4.0),
            *clips("guidance 4", [1.0, 1.5, 0.9, 1.2], motion=4.0),
            *clips("20 steps", [2.9, 4.2, 2.4, 3.5], motion=4.0),
        ),
        SUBJECT,
    )
    assert [cause.part for cause in found.causes] == ["guidance"]
    effect = found.causes[0].effects["flicker"]
    assert effect.difference.estimate == pytest.approx(-2.1)
    assert found.sentences[0].startswith(
        "1. Guidance: guidance_scale 4 instead of 8: flicker −2.10 levels [−"
    )
    assert "motion, sharpness, alignment hold" in found.sentences[0]
    assert "--set guidance_scale=4.0" in found.sentences[0]


def test_what_a_gain_costs_is_told() -> None:
    own = clips(AS_IT_IS, [3.0, 4.0, 2.5, 3.5], motion=4.0)
    found = find(seen(*own, *clips("guidance 4", [1.0, 1.5, 0.9, 1.2], motion=2.0)), SUBJECT)
    assert "it costs motion −50%" in found.sentences[0]


@pytest.mark.parametrize(
    "changed",
    [
        [0.1, 0.1, 0.1, 0.1],  # all of next to nothing
        [0.9, 0.2, 0.8, 0.1],  # not at every seed
    ],
)
def test_what_cannot_be_seen_or_is_not_always_so_does_not_stand_out(changed: list[float]) -> None:
    own = [0.3, 0.35, 0.3, 0.25] if changed[0] < 0.5 else [0.5, 0.9, 0.5, 0.9]
    found = find(seen(*clips(AS_IT_IS, own), *clips("guidance 4", changed)), SUBJECT)
    assert found.causes == ()
    assert found.sentences[0].startswith("Nothing stands out: flicker")


def test_the_denoiser_is_a_cause_only_of_what_nothing_else_explains() -> None:
    looks = {
        seed: [StageLook("denoiser", "mixed", {"flicker": 3.0 + seed / 9}, {"flicker": 1.0})]
        for seed in range(4)
    }
    own = clips(AS_IT_IS, [3.0, 3.1, 3.2, 3.3])
    alone = find(seen(*own, looks=looks), SUBJECT)
    assert [cause.part for cause in alone.causes] == ["denoiser"]
    assert "No setting that was tried makes it better." in alone.sentences
    both = find(seen(*own, *clips("guidance 4", [1.5, 1.6, 1.4, 1.5]), looks=looks), SUBJECT)
    assert [cause.part for cause in both.causes] == ["guidance"]


def labels(**values: Any) -> list[str]:
    own = SETTINGS.model_copy(update=dict(GenerationSettings.from_values({"prompt": "a", **values})))
    return [change.label for change in changes_of(own.model_copy(update={"num_frames": 12}), 24, 25)]


def test_every_part_that_is_at_work_is_changed_and_no_other() -> None:
    plain = labels()
    assert "guidance 4, half of it" not in plain  # no guidance scale is known
    assert not any("window" in label or "LoRA" in label or "travel" in label for label in plain)
    assert {"temporal layers off", "mixed noise", "temporal guidance 1"} <= set(plain)
    windows = labels(context_length=4, context_overlap=0, context_schedule="static")
    assert {"one pass, no windows", "windows that overlap by half"} <= set(windows)
    assert "temporal layers on" in labels(motion_adapter="none")
    assert "speed exact" in labels(speed=2)
    assert "25 steps, as usual" in labels(num_inference_steps=4)
    assert not any("usual" in label for label in labels(num_inference_steps=20))
    assert {"LoRAs off", "without b.safetensors"} <= set(labels(loras=["a/b.safetensors", "c.safetensors"]))
    assert "one prompt for all frames" in labels(prompt_travel={"3": "b"})
    assert "ControlNet off" in labels(controlnet="n", control_video="e.mp4")
    assert "deflicker 1" in plain
    assert {"deflicker off", "deflicker 1"} <= set(labels(deflicker=0.5))


def changed(label: str, **values: Any) -> dict[str, Any]:
    own = GenerationSettings.from_values({"prompt": "a", "num_frames": 12, **values})
    change = next(each for each in changes_of(own, 24, 25) if each.label == label)
    GenerationSettings.from_values({**own.model_dump(mode="json"), **change.values})  # they can be asked for
    return dict(change.values)


def test_other_autoencoders_and_clips_that_are_gone_on_from_are_swapped() -> None:
    assert changed("the model's own autoencoder", vae="v") == {"vae": None}
    twice = changed("extend_overlap 6, twice as long", extend="a.mp4", extend_overlap=3)
    assert twice == {"extend_overlap": 6}
    assert not any("extend_overlap" in label for label in labels(extend="a.mp4", extend_overlap=6))


def test_a_second_pass_is_weakened_and_taken_away_with_what_only_it_needs() -> None:
    second = {"refine": "a.mp4", "refine_upscale": "latents", "strength": 0.3, "enforce_steps": True}
    assert changed("strength 0.15, half of it", **second) == {"strength": 0.15}
    assert changed("frames made larger first", **second) == {"refine_upscale": "frames"}
    assert changed("from noise, without refine", **second) == {
        "refine": None, "refine_upscale": "frames", "strength": None, "enforce_steps": False,
    }  # fmt: skip
    assert changed("strength 0.3, half of it", init_video="a.mp4", num_inference_steps=4) == {"strength": 0.3}
    assert not any("half of it" in label for label in labels(init_video="a.mp4", num_inference_steps=3))


def test_of_several_control_networks_each_is_left_out_with_what_it_reads() -> None:
    two = {
        "controlnet": ["n/a", "n/b"], "control_video": ["e.mp4", "f.mp4"], "controlnet_scale": [0.5, 0.8],
        "control_make": ["canny"],
    }  # fmt: skip
    assert changed("without a, number 1", **two) == {
        "controlnet": ["n/b"], "control_video": ["f.mp4"], "controlnet_scale": [0.8],
        "control_make": "canny", "controlnet_steps": None,
    }  # fmt: skip
    assert changed("ControlNets off", **two) == {
        "controlnet": None, "control_video": None, "controlnet_scale": 1.0, "control_make": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"extend": "a.mp4"}, "The clip begins with the frames of a.mp4, which no change here touches"),
        ({"refine": "a.mp4"}, "What a.mp4 has already comes along as far as the strength leaves it"),
        ({"ip_adapter": "i", "ip_image": "a.png"}, "Without IP-Adapter the clip shows something else, too"),
        ({"loras": ["a.safetensors"]}, "A LoRA changes what the clip shows as well as how it moves"),
        ({"vae": "v", "init_image": "a.png"}, "The other autoencoder also encodes the input"),
    ],
)
def test_what_cannot_be_told_apart_is_said(values: dict[str, Any], words: str) -> None:
    settings = GenerationSettings.from_values({"prompt": "a", **values})
    found = find(seen(*clips(AS_IT_IS, [1.0, 1.0])), Subject(settings, (0, 1)))
    assert any(note.startswith(words) for note in found.notes)
    assert not any(note.startswith(words) for note in find(seen(), SUBJECT).notes)


def test_what_is_made_of_a_calm_input_is_blamed_only_if_nothing_else_is() -> None:
    look = StageLook("input", "the clip before its second pass", {"flicker": 3.0}, {"flicker": 0.5})
    looks = {seed: [look] for seed in range(4)}
    own = clips(AS_IT_IS, [3.0, 3.1, 3.2, 3.3])
    alone = find(seen(*own, looks=looks), SUBJECT)
    assert [cause.part for cause in alone.causes] == ["input"]
    assert "the clip before its second pass has flicker 0.50 levels, the clip 3.00" in alone.sentences[0]
    both = find(seen(*own, *clips("guidance 4", [1.5, 1.6, 1.4, 1.5]), looks=looks), SUBJECT)
    assert [cause.part for cause in both.causes] == ["guidance"]


def test_stages_of_latents_in_closed_form() -> None:
    latents = torch.arange(6.0).reshape(1, 1, 6, 1, 1) ** 2
    assert smoothed(latents)[0, 0, 1:-1, 0, 0].tolist() == [1.5, 4.5, 9.5, 16.5]  # a square and its half
    stills = list(nearly_still(latents))
    assert [len(still[0, 0]) for still in stills] == [8, 8, 8]
    assert stills[0][0, 0, -1, 0, 0] == pytest.approx(0.1)
    frames = np.full((8, 4, 4, 3), 100, np.uint8)
    frames[::2] += 6
    assert fluctuation(frames) == pytest.approx(3)  # ±3 on alternate frames
    assert fluctuation(frames[:2]) == 0


def test_x264_tells_its_crf_and_other_files_nothing(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (4, 16, 24, 3), np.uint8)
    write_video(tmp_path / "a.mp4", frames, Fraction(8), crf=33)
    found = encoder_of(tmp_path / "a.mp4")
    assert found is not None
    assert (found.codec, found.crf, found.pixel_format) == ("libx264", 33, "yuv420p")
    write_video(tmp_path / "a.webm", frames, Fraction(8), crf=33)
    other = encoder_of(tmp_path / "a.webm")
    assert other is not None
    assert (other.codec, other.crf) == ("libvpx-vp9", None)


def test_looks_are_read_again_only_for_the_same_file(tmp_path: Path) -> None:
    looks = [StageLook("encoder", "before", {"flicker": 2.0}, {"flicker": None}, "clips/a.mp4")]
    write_looks(tmp_path / "a.json", "one", looks)
    assert read_looks(tmp_path / "a.json", "one") == looks
    assert read_looks(tmp_path / "a.json", "other") is None
    (tmp_path / "a.json").write_text("{")
    assert read_looks(tmp_path / "a.json", "one") is None
