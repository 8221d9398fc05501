"""A clean clip and a flickering one, and the `measure` command to run on their files."""

from click.testing import CliRunner
from synthetic_clips import DISTORTIONS, clean_clip

from video_diffusion.cli.main import main

CLEAN = clean_clip("pebbles", "pan", 2, 12, 48, 64).frames
FLICKERING = DISTORTIONS["local flicker"].apply(CLEAN, 16)


def run(*words):
    return CliRunner().invoke(main, ["measure", *map(str, words)])
