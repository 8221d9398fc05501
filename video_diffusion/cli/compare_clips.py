"""`compare --clips A=dirA B=dirB`: clips of any tool, measured as they are and held against each other."""

import shlex
from collections.abc import Sequence

import click

from video_diffusion.cli.clip_run import warnings_as_lines
from video_diffusion.cli.compare import CompareFlags
from video_diffusion.cli.compare_run import finish, open_meter
from video_diffusion.cli.failures import CLIP_FAILED
from video_diffusion.cli.terminal import Progress, say, warn


def run_clips(
    texts: Sequence[str], assignments: Sequence[str], flags: CompareFlags, *, dry_run: bool
) -> None:
    """Measures every clip that has a partner, compares, writes the folder; exits with 1 if one fails.

    Raises:
        ConfigError: folders or settings that cannot be used.
        OSError: the folder cannot be written.
    """
    from video_diffusion.comparison.clips import find_clips, findings, measure_clips, parse_folders
    from video_diffusion.comparison.declaration import read_rules
    from video_diffusion.web import counted

    alpha, margins = read_rules(assignments)
    folders = parse_folders(texts)
    clips, notes = find_clips(folders)
    if dry_run:
        for clip in clips:
            click.echo(str(clip.path))
        say(f"{counted(len(clips), 'clip')} to measure; {' '.join(notes)}")
        return
    meter = open_meter(flags.clip_model)
    flags.out.mkdir(parents=True, exist_ok=True)
    progress = Progress(flags.quiet, "clip")
    rows, failed = [], 0
    with warnings_as_lines():
        try:
            for done, (clip, row) in enumerate(measure_clips(clips, flags.out, meter), start=1):
                rows.append((clip, row))
                progress.step(done, len(clips))
                if row["status"] == "failed":
                    failed += 1
                    progress.clear()
                    warn(str(row["error"]))
        finally:
            progress.clear()
        words = [f"{label}={folder}" for label, folder in folders.items()]
        command = shlex.join(["video-diffusion", "compare", "--clips", *words, "-o", str(flags.out)])
        finish(findings(rows, flags.out, notes, margins, alpha, command), flags)
    if failed:
        say(f"{failed} of {len(clips)} clips could not be measured")
        raise click.exceptions.Exit(CLIP_FAILED)
