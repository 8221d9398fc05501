"""The flags of a run over many clips as numbers: its shard, and how many clips or models at once."""

from typing import TYPE_CHECKING

import click

from video_diffusion.cli.terminal import say

if TYPE_CHECKING:
    from video_diffusion.jobs import Shard

MOST = 1024


def shard_of(text: str | bool | None, *, quiet: bool) -> "Shard":
    """The shard of `--shard`, or that of the launcher, which is told.

    Raises:
        click.UsageError: no such shard.
    """
    from video_diffusion.jobs.shard import parse_shard, shard_of_environment

    try:
        if text is not None:
            return parse_shard(str(text))
        shard = shard_of_environment()
    except ValueError as error:
        raise click.UsageError(f"--shard: {error}") from None
    if shard.count > 1 and not quiet:
        say(f"part {shard.index} of {shard.count}, as the launcher says; --shard 0/1 makes everything")
    return shard


def number_of(flag: str, text: str | bool | None, *, has_auto: bool = False) -> int | None:
    """A number from 1 to 1024; None where the flag is not given, or is "auto".

    Raises:
        click.UsageError: anything else.
    """
    if text is None or (has_auto and text == "auto"):
        return None
    if not str(text).isdecimal() or not 1 <= int(str(text)) <= MOST:
        rule = "auto or a number" if has_auto else "a number"
        raise click.UsageError(f"{flag}: must be {rule} from 1 to {MOST} (given {text!r})")
    return int(str(text))
