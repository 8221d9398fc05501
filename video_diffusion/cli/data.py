"""`video-diffusion data`: check folders of clips; `make` one of captioned clips whose truth is known."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from video_diffusion.cli.data_check import check
from video_diffusion.cli.data_folder import DatasetSettings, open_folder, write_clips
from video_diffusion.cli.settings_flags import size_of
from video_diffusion.cli.terminal import Progress, say

if TYPE_CHECKING:
    from video_diffusion.procedural import World


@click.group()
def data() -> None:
    """Check folders of captioned clips, or make procedural ones with known truth."""


data.add_command(check)


@data.command()
@click.argument("folder", metavar="FOLDER")
@click.option("--clips", type=click.IntRange(1, 10_000_000), required=True, help="How many.")
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of the folder."
)
@click.option("--frames", type=click.IntRange(1, 4096), default=16, show_default=True, help="Per clip.")
@click.option("--size", default="64x64", show_default=True, metavar="WxH", help="Pixels, even numbers.")
@click.option("--fps", default="8", show_default=True, metavar="RATE", help="Frames per second, exact.")
@click.option("--crf", type=click.IntRange(0, 51), default=18, show_default=True, help="Of H.264; 0 is best.")
@click.option("--motions", metavar="LIST", help="Such as left,right,still; the default is the first world's.")
@click.option("--shapes", metavar="LIST", help="Such as circle,square,triangle.")
@click.option("--colours", metavar="LIST", help="Such as red,blue.")
@click.option("--backgrounds", metavar="LIST", help="Such as white,black.")
@click.option(
    "--two-objects", type=click.FloatRange(0, 1), default=0.0, help="Share of clips with two objects."
)
@click.option(
    "--omit", type=click.FloatRange(0, 1), default=0.0, help="Chance of leaving an attribute unsaid."
)
@click.option("--held-out", is_flag=True, help="Only the combinations that training never sees.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def make(
    folder: str, clips: int, seed: int, frames: int, size: str, fps: str, crf: int, motions: str | None,
    shapes: str | None, colours: str | None, backgrounds: str | None, two_objects: float, omit: float,
    held_out: bool, quiet: bool,
) -> None:  # fmt: skip
    """Make CLIPS clips in FOLDER: 000000.mp4 with its caption 000000.txt, and metadata.jsonl with the truth.

    The same command again goes on where it was stopped; a larger --clips adds to the folder.
    """
    from video_diffusion.generation_settings import parse_fps

    width, height = size_of(size)
    if width % 2 or height % 2 or not 16 <= min(width, height) <= max(width, height) <= 8192:
        raise click.UsageError(f"--size: sides must be even and from 16 to 8192 (given {size})")
    try:
        rate = str(parse_fps(fps))
    except ValueError as error:
        raise click.UsageError(f"--fps: {error} (given {fps!r})") from None
    chosen = {"motions": motions, "shapes": shapes, "colours": colours, "backgrounds": backgrounds}
    tables = {name: text.split(",") for name, text in chosen.items() if text is not None}
    world = chosen_world(tables, two_objects)
    check_drawable(world, held_out)
    settings = DatasetSettings(seed, frames, height, width, rate, crf, omit, held_out, _plain(world))
    target = Path(folder)
    open_folder(target, settings)
    progress, new = Progress(quiet, "clip"), 0
    try:
        for done, made in enumerate(write_clips(target, settings, world, clips), start=1):
            new += made
            progress.step(done, clips)
    except BaseException:
        progress.clear()
        say("the same command goes on where this one stopped")
        raise
    progress.clear()
    click.echo(str(target))
    if not quiet:
        say(f"{clips} clips, {new} of them new")


def chosen_world(chosen: dict[str, list[str]], two_objects: float) -> "World":
    """The world with some of its tables narrowed or widened.

    Raises:
        click.UsageError: a name that no table has.
    """
    from video_diffusion.config import nearest
    from video_diffusion.procedural import World
    from video_diffusion.procedural.scene import BACKGROUNDS, COLOURS, MOTIONS, SHAPES

    tables: dict[str, Sequence[str]] = {
        "motions": MOTIONS, "shapes": SHAPES, "colours": tuple(COLOURS), "backgrounds": tuple(BACKGROUNDS),
    }  # fmt: skip
    for name, words in chosen.items():
        for word in words:
            if word not in tables[name]:
                raise click.UsageError(f"--{name}: no {word!r}{nearest(word, tables[name])}")
    narrowed: dict[str, Any] = {name: tuple(dict.fromkeys(words)) for name, words in chosen.items()}
    return World(**narrowed, two_objects_share=two_objects)


def check_drawable(world: "World", held_out: bool) -> None:
    """Whether such a world has scenes to draw.

    Raises:
        click.UsageError: the chosen words leave no combination.
    """
    from video_diffusion.procedural import SceneObject, is_held_out

    things = [
        SceneObject(colour, shape, world.sizes[0], motion)
        for colour, shape, motion in product(world.colours, world.shapes, world.motions)
        if (shape, motion) != ("circle", "rotating")
    ]
    firsts = [thing for thing in things if is_held_out(thing) == held_out]
    seconds = {thing.colour for thing in things if not is_held_out(thing)}
    alone = "rotating" in world.motions and set(world.shapes) == {"circle"}
    if alone or not firsts:
        kind = "held-out" if held_out else "training"
        raise click.UsageError(
            f"--motions: these words leave no {kind} combination to draw; allow more of them"
        )
    if world.two_objects_share > 0 and any(seconds <= {thing.colour} for thing in firsts):
        raise click.UsageError(
            "--two-objects: needs two colours to tell the objects apart; allow more --colours"
        )


def _plain(world: "World") -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(world).items()}
