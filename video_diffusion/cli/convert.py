"""`video-diffusion convert`: temporal weights from one layout to another, pickles to safetensors."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from video_diffusion.cli.terminal import say

PICKLES = {".ckpt", ".pt", ".pth", ".bin"}
PROMPT_FILES = {".yaml", ".yml", ".json"}
_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}")


@click.command()
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@click.option(
    "--to",
    "layout",
    type=click.Choice(["diffusers", "animatediff"]),
    help="Layout to write.  [default: animatediff for a .safetensors file, else diffusers]",
)
@click.option("--dtype", metavar="NAME", help="float32, float16 or bfloat16.  [default: as stored]")
@click.option(
    "--allow-pickle", is_flag=True, help="Read a .ckpt or .pth, through torch's tensors-only reader."
)
@click.option(
    "--allow-extra-weights", is_flag=True, help="Leave surplus tensors out instead of refusing them."
)
@click.option("--card", is_flag=True, help="Write a model card too.")
@click.option("--base-model", metavar="NAME", help="Image model that the card names.")
@click.option("--license", "licence", metavar="NAME", help="Licence that the card names, such as apache-2.0.")
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def convert(
    source: str,
    destination: str,
    layout: str | None,
    dtype: str | None,
    allow_pickle: bool,
    allow_extra_weights: bool,
    card: bool,
    base_model: str | None,
    licence: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write weights, or another program's prompt file, SRC to DST in another layout.

    SRC is a motion adapter, a training run or a motion LoRA: a file, a folder or a hub id. A LoRA on the
    image model (of a run of target domain_lora) keeps its layout. An adapter in diffusers' layout is a
    folder; AnimateDiff's layout, which ComfyUI's nodes and the original read, is a .safetensors file. Every
    number stays what it was.
    A pickle of anything else that can be used here (a LoRA, an IP-Adapter, a SparseCtrl encoder, an image
    model in one file, an embedding) becomes safetensors in the layout that it has.
    A prompt file of AnimateDiff (.yaml) or animatediff-cli-prompt-travel (.json) becomes settings or jobs in
    YAML; stderr says of each of its fields whether it was kept, translated, or is not supported.
    """
    path = Path(destination)
    if Path(source).suffix.lower() in PROMPT_FILES:
        convert_prompt_file(source, path, overwrite=overwrite, as_json=as_json)
        return
    if licence is not None and not _LICENCE.fullmatch(licence):
        raise click.UsageError(f"--license: must be a name such as apache-2.0 (given {licence!r})")
    if not card and (base_model is not None or licence is not None):
        raise click.UsageError("--base-model and --license: only the model card holds them; add --card")
    if path.suffix.lower() in PICKLES:
        raise click.UsageError(f"DST: {destination} would be a pickle; name a .safetensors file, or a folder")
    if path.exists() and not overwrite:
        raise click.UsageError(f"DST: {destination} exists; add --overwrite, or name another")
    chosen = layout or ("animatediff" if path.suffix == ".safetensors" else "diffusers")

    from video_diffusion.cli.clip_run import warnings_as_lines
    from video_diffusion.loading import choose_dtype, weights_facts
    from video_diffusion.loading import convert as conversion

    with warnings_as_lines(), folder_for(path):
        written = conversion.convert(
            source,
            path,
            "animatediff" if chosen == "animatediff" else "diffusers",
            dtype=None if dtype is None else choose_dtype(dtype),
            allow_pickle=allow_pickle,
            allow_extra=allow_extra_weights,
            overwrite=overwrite,
        )
    if card:
        say(f"card: {conversion.write_card(source, written, base_model, licence, overwrite)}")
    shown = written / conversion.LORA_FILE if (written / conversion.LORA_FILE).is_file() else written
    click.echo(json.dumps(weights_facts.describe_weights(shown)) if as_json else str(written))


def convert_prompt_file(source: str, path: Path, *, overwrite: bool, as_json: bool) -> None:
    """Write a prompt file of another program as settings of one clip, or as jobs."""
    from video_diffusion.jobs.published import convert_prompts, written
    from video_diffusion.video import write_bytes

    if path.suffix.lower() not in {".yaml", ".yml"}:
        raise click.UsageError(f"DST: {path} must end with .yaml for a prompt file; name it so")
    if path.exists() and not overwrite:
        raise click.UsageError(f"DST: {path} exists; add --overwrite, or name another")
    converted = convert_prompts(Path(source))
    with folder_for(path):
        write_bytes(path, written(converted, source).encode(), overwrite=overwrite)
    count = len(converted.clips)
    command = f"video-diffusion generate {'--config' if count == 1 else '--jobs'} {path}"
    if as_json:
        fates = {name: {"fate": fate, "about": about} for name, (fate, about) in converted.fates.items()}
        facts = {"path": str(path), "program": converted.program, "num_clips": count, "fields": fates}
        click.echo(json.dumps(facts | {"whole": converted.is_whole, "use": command}))
        return
    for name, (fate, about) in sorted(converted.fates.items(), key=lambda each: each[1][0]):
        say(f"{fate}: {name}{f' ({about})' if about else ''}")
    say(f"{count} {'clip' if count == 1 else 'clips'}; use: {command}")
    click.echo(str(path))


@contextmanager
def folder_for(path: Path) -> Iterator[None]:
    """Make the folders above what is written inside the block; if nothing is written they go again."""
    above = path.absolute().parents
    made = [folder for folder in above if not folder.exists()]
    try:
        above[0].mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise click.UsageError(f"DST: {path.parent}, or a folder above it, is a file; name another") from None
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for folder in made:
                folder.rmdir()
        raise
