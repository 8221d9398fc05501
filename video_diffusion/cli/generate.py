"""`video-diffusion generate`: settings, checks, one clip, its pictures, its record."""

import json
import time

import click

from video_diffusion.cli.batch import batch_options, refuse_without_jobs, run_batch
from video_diffusion.cli.flags import Given, settings_from, settings_options
from video_diffusion.cli.outputs import (
    EncodingFlags,
    check_clip_path,
    check_distinct,
    check_image_path,
    reserved_name,
)
from video_diffusion.cli.terminal import say, warn


@click.command(epilog="A prompt that starts with - goes after --: video-diffusion generate -- '-3 degrees'")
@click.argument("prompt", required=False)
@click.option("-o", "--out", metavar="CLIP", help="Where to; the suffix chooses the format.")
@settings_options
@batch_options
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
@click.option(
    "--codec",
    metavar="NAME",
    help="libx264, libx264rgb (lossless, false colours in Chromium), libvpx-vp9, png (folder), ...",
)
@click.option(
    "--crf",
    type=int,
    metavar="N",
    help="0 is best, and with yuv444p all but lossless; 18 is the default of H.264.",
)
@click.option("--pixel-format", metavar="NAME", help="yuv420p or yuv444p.")
@click.option("--low-memory", is_flag=True, help="Slower in less memory; on a GPU networks wait outside.")
@click.option("--strip", metavar="IMAGE", help="Filmstrip from noise to picture; rows are steps.")
@click.option("--sheet", metavar="IMAGE", help="Contact sheet of the clip with its flicker curve.")
@click.option("--no-embed-metadata", is_flag=True, help="Keep the record out of the clip; clip.json has it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but warnings and errors.")
def generate(
    prompt: str | None,
    out: str | None,
    configs: tuple[str, ...],
    assignments: tuple[str, ...],
    overwrite: bool,
    codec: str | None,
    crf: int | None,
    pixel_format: str | None,
    low_memory: bool,
    strip: str | None,
    sheet: str | None,
    no_embed_metadata: bool,
    as_json: bool,
    quiet: bool,
    **flags: Given,
) -> None:
    """Make a clip from PROMPT, measure it, and write it with its record.

    Settings come from the model's defaults, then --config files, then --set, then flags. The clip's path goes
    to stdout; its seed, flicker, morph and motion to stderr. Beside clip.mp4 stands clip.json for `rerun`.
    """
    many = next((f"--{name}" for name in ("jobs", "seeds") if flags.get(name) is not None), None)
    if many is not None:
        if low_memory:
            raise click.UsageError(f"--low-memory: is for one clip; leave it out with {many}")
        for flag, given in (("--strip", strip), ("--sheet", sheet)):
            if given is not None:
                raise click.UsageError(f"{flag}: draws one clip; leave it out with {many}")
        encoding = EncodingFlags(codec, crf, pixel_format)
        run_batch(
            prompt, out, configs, assignments, flags, encoding,
            embed=not no_embed_metadata, overwrite=overwrite, as_json=as_json, quiet=quiet,
        )  # fmt: skip
        return
    refuse_without_jobs(flags)
    started = time.monotonic()
    settings = settings_from(prompt, configs, assignments, flags)
    from video_diffusion.video import sidecar_path
    from video_diffusion.video.files import slug

    codec = "png" if codec is None and (out or "").endswith("/") else codec
    encoding = EncodingFlags(codec, crf, pixel_format)
    suffixes = {"png": "", "image": ".png", "libvpx-vp9": ".webm", "gif": ".gif", "webp": ".webp"}
    suffix = suffixes.get(codec or "", ".mp4")
    stem = f"{slug(settings.prompt)}-{settings.seed}"
    with reserved_name(f"{stem}{suffix}" if overwrite and not out else out, stem, suffix) as name:
        path = check_clip_path(name, encoding, overwrite)
        strip_path = check_image_path(strip, "--strip", overwrite)
        sheet_path = check_image_path(sheet, "--sheet", overwrite)
        check_distinct([path, sidecar_path(path), strip_path, sheet_path])

        from video_diffusion.cli import clip_run  # torch is imported only after everything cheap was checked

        for note in clip_run.check_before_loading(settings, path, encoding):
            warn(note)
        if flags["dry_run"]:
            clip_run.show_plan(settings, path, as_json=as_json)
            return
        if flags["check"]:
            say(f"{path}: nothing wrong")
            return
        clip = clip_run.make_clip(
            settings,
            show_progress=not (quiet or as_json),
            keep_steps=strip_path is not None,
            low_memory=low_memory,
        )
        clip_run.save_clip(clip.video, path, encoding, embed=not no_embed_metadata, overwrite=overwrite)
        if sheet_path is not None:
            clip_run.save_sheet(clip.video, sheet_path)
        if strip_path is not None:
            clip_run.save_strip(clip, strip_path)
    seconds = time.monotonic() - started
    click.echo(json.dumps(clip_run.summary(clip.video, path, seconds)) if as_json else str(path))
    if not (quiet or as_json):
        say(f"{clip_run.facts_line(clip.video)} · {seconds:.1f} s")
