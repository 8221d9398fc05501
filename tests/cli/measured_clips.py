"""A clean clip and a flickering one, and the `measure` command to run on their files."""

from click.testing import CliRunner

from video_diffusion.cli.main import main
from video_diffusion.metrics.distortions import DISTORTIONS
from video_diffusion.metrics.synthetic_clips import clean_clip

CLEAN = clean_clip("pebbles", "pan", 2, 12, 48, 64).frames
FLICKERING = DISTORTIONS["local flicker"].apply(CLEAN, 16)


def run(*words):
    return CliRunner().invoke(main, ["measure", *map(str, words)])
