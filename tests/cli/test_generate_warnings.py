"""What `generate` warns of: words the model never learned, prompts too long for it, flat clips."""

import shutil
from pathlib import Path

import pytest
from clip_commands import generate, run
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.usefixtures("empty_folder")


def test_unknown_words_are_named_with_the_known_ones(tiny_model: Path) -> None:
    result = generate(tiny_model, "red dragon, owl", "-o", "c.mp4", "-q")
    (line,) = result.stderr.splitlines()
    assert line.startswith(
        "warning: this model never learned 'dragon', 'owl'; the words it knows: a, circle, red; "
    )
    assert "--model stable-diffusion-v1-5/stable-diffusion-v1-5" in line


def test_warnings_quote_no_more_than_the_beginning_of_a_long_word_or_end(tiny_model: Path) -> None:
    for prompt in ("x" * 5000, "red " * 1000):
        result = generate(tiny_model, prompt, "-o", "c.mp4", "-q", "--overwrite", "--prompt-syntax", "plain")
        assert result.exit_code == 0
        assert 0 < max(len(line) for line in result.stderr.splitlines()) < 400


def test_a_long_prompt_warns_of_what_is_lost(tiny_model: Path) -> None:
    result = generate(tiny_model, "a red circle " * 4, "-o", "c.mp4", "-q", "--prompt-syntax", "plain")
    assert result.exit_code == 0
    assert any(
        "dropped its end" in line and line.startswith("warning: ") for line in result.stderr.splitlines()
    )


def test_a_flat_clip_is_warned_of(tiny_model: Path, empty_folder: Path) -> None:
    """A decoder that paints nothing: its last layer is zero."""
    shutil.copytree(tiny_model, empty_folder / "model")
    (file,) = (empty_folder / "model" / "vae").glob("*.safetensors")
    weights = load_file(file)
    save_file({name: weight * ("decoder.conv_out" not in name) for name, weight in weights.items()}, file)
    result = run("generate", "a red circle", "--model", "model", "-o", "c.mp4", "-q")
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("warning: every frame is the same flat colour; try another seed")
