"""Flags that become settings: switches, values per frame, and what is refused before any model is loaded."""

from contextlib import chdir
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from video_diffusion.cli.flags import Given, settings_from, settings_options
from video_diffusion.settings import GenerationSettings


def parsed(*arguments: str) -> GenerationSettings | str:
    """The settings that the arguments make, or the error's one line."""
    found: list[GenerationSettings] = []

    @click.command()
    @click.argument("prompt", required=False)
    @settings_options
    def command(
        prompt: str | None, configs: tuple[str, ...], assignments: tuple[str, ...], **flags: Given
    ) -> None:
        try:
            found.append(settings_from(prompt, configs, assignments, flags))
        except ValueError as error:
            raise click.UsageError(str(error)) from None

    result = CliRunner().invoke(command, list(arguments))
    return found[0] if found else result.output.strip().splitlines()[-1]


def test_prompts_may_be_given_by_frame() -> None:
    settings = parsed("--prompt", "0: a red circle: big", "--prompt", " 12 : a blue square", "--loop")
    assert isinstance(settings, GenerationSettings)
    assert settings.prompt == "a red circle: big"
    assert settings.prompt_travel == (("0", "a red circle: big"), ("12", "a blue square"))
    assert settings.loop is True


def test_a_prompt_and_later_ones() -> None:
    settings = parsed("a cat", "--prompt", "-1: a dog", "--negative-travel", "0.5: a bird")
    assert isinstance(settings, GenerationSettings)
    assert (settings.prompt, settings.prompt_travel) == ("a cat", (("-1", "a dog"),))
    assert settings.negative_prompt_travel == (("0.5", "a bird"),)


def test_numbers_by_frame() -> None:
    settings = parsed(
        "a", "--guidance-travel", "3: 5", "--motion-travel", "0: 1.5", "--motion-travel", "3: 0"
    )
    assert isinstance(settings, GenerationSettings)
    assert settings.guidance_scale_travel == (("3", 5.0),)
    assert settings.motion_scale_travel == (("0", 1.5), ("3", 0.0))


def test_pictures_are_for_the_whole_clip_or_for_ranges_of_it(tmp_path: Path) -> None:
    one = parsed("a", "--ip-adapter", "x.safetensors", "--ip-image", "a.png", "--ip-scale", "1")
    assert isinstance(one, GenerationSettings)
    assert (one.ip_adapter, one.ip_image, one.ip_scale) == ("x.safetensors", (("0", "a.png"),), 1.0)
    two = parsed("a", "--ip-image", "0-7: a b.png", "--ip-image", "0.5--1 :b:c.png")
    assert isinstance(two, GenerationSettings)
    assert two.ip_image == (("0-7", "a b.png"), ("0.5--1", "b:c.png"))
    odd = tmp_path / "3: odd.png"
    odd.touch()
    with chdir(tmp_path):
        whole = parsed("a", "--ip-image", "3: odd.png")
    assert isinstance(whole, GenerationSettings)
    assert whole.ip_image == (("0", "3: odd.png"),)


def test_numbers_by_step_and_by_block() -> None:
    settings = parsed(
        "a", "--guidance-steps", "-1: 3", "--motion-blocks", "down: 0.5", "--motion-blocks", " up.1 : 2"
    )
    assert isinstance(settings, GenerationSettings)
    assert settings.guidance_scale_steps == (("-1", 3.0),)
    assert settings.motion_scale_blocks == (("down", 0.5), ("up.1", 2.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "a cat"], "Error: --prompt: must be 'FRAME: TEXT', such as '12: …' for frame 12"),
        (["--prompt", "1e3: a"], "Error: --prompt: must be 'FRAME: TEXT'"),
        (["--prompt", "3: a", "--prompt", "3: b"], "Error: --prompt: names frame 3 twice; drop one"),
        (
            ["--ip-image", "a.png", "--ip-image", "1: b.png"],
            "Error: --ip-image: is given 2 times; write which",
        ),
        (["--ip-image", "1: a", "--ip-image", "1: b"], "Error: --ip-image: names frames 1 twice; drop one"),
        (["a", "--ip-image", "..: a"], "Error: --ip-image: ip_image has the frames '..'; write a range"),
        (
            ["a", "--effect-steps", "x: 1"],
            "Error: --effect-steps: must be 'STEP: X', such as '12: …' for step",
        ),
        (["a", "--effect-blocks", "3: 1"], "Error: --effect-blocks: must be 'BLOCK: X', such as 'down: …',"),
        (["a", "--effect-blocks", "mid: x"], "motion_effect_blocks at block mid must be a number from 0 to"),
        (["--prompt", "3: "], "prompt is empty; say what the clip shows"),
        (
            ["a", "--guidance-travel", "3: hot"],
            "--guidance-travel: guidance_scale_travel at frame 3 must be a number from 0 to 50",
        ),
        (
            ["a", "--context-length", "8", "--context-overlap", "9"],
            "--context-overlap: context_overlap must be",
        ),
        (["a", "--loop", "--context-schedule", "static"], "--loop: loop does not go with context_schedule"),
        (["a", "--noise-type", "pink"], "--noise-type: noise_type must be one of independent"),
        ([], "PROMPT: is missing"),
    ],
)
def test_wrong_flags_are_refused_in_one_line(arguments: list[str], message: str) -> None:
    found = parsed(*arguments)
    assert isinstance(found, str)
    assert message in found


def test_loras_and_inputs() -> None:
    settings = parsed(
        "a", "--lora", "zoom.safetensors:0.5", "--lora", "x", "--init-image", "7", "--strength", "1"
    )
    assert isinstance(settings, GenerationSettings)
    assert settings.loras == ("zoom.safetensors:0.5", "x")
    assert (settings.init_image, settings.strength) == ("7", 1.0)
