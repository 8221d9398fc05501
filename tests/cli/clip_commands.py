"""The commands, and `generate` with its model."""

from pathlib import Path

from click.testing import CliRunner, Result

from video_diffusion.cli.main import main


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def generate(model: Path, prompt: str, *words: object) -> Result:
    return run("generate", prompt, "--model", model, *words)
