"""`video-diffusion compare`: settings held against a baseline by prompt and seed, or clips of any tool."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from video_diffusion.cli.terminal import say

if TYPE_CHECKING:
    from video_diffusion.comparison.design import Design

EXAMPLES = """\b
video-diffusion compare configs/compare/temporal-layers.yaml -o layers
video-diffusion compare --grid scheduler=[ddim,euler] --grid guidance_scale=[3,7.5]
    --prompts prompts.txt --seeds 0-1 --baseline "scheduler=ddim, guidance_scale=3"
video-diffusion compare --clips ours=clips/ours theirs=clips/theirs"""


@dataclass(frozen=True)
class CompareFlags:
    """How a comparison is run, as typed."""

    out: Path
    shard: str | None
    batch_size: str | None
    verify: bool
    fail_fast: bool
    overwrite: bool
    clip_model: str | None
    as_json: bool
    quiet: bool


@click.command(epilog=EXAMPLES)
@click.argument("sources", nargs=-1, metavar="[CONFIG.yaml]")
@click.option(
    "--grid", "grids", multiple=True, metavar="KEY=[A,B]", help="A setting and its values; repeatable."
)
@click.option("--prompts", metavar="FILE", help="A prompt a line (.txt), or a job file of prompts.")
@click.option("--seeds", metavar="SEEDS", help='Such as "0-7" or "1, 5, 9".  [default: 0]')
@click.option(
    "--baseline", metavar="ARM", help='Label or values, such as "scheduler=ddim".  [default: the first]'
)
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="For every arm; or alpha=0.01."
)
@click.option(
    "--clips", multiple=True, metavar="A=DIR B=DIR", help="Compare clips that are there, paired by name."
)
@click.option("--a-a", "against_itself", is_flag=True, help="The baseline against itself with other seeds.")
@click.option("-o", "--out", metavar="FOLDER", help="Where all goes.  [default: the config's name]")
@click.option("--shard", metavar="I/N", help="Make every N-th clip from I (or by torchrun, SLURM).")
@click.option("--batch-size", metavar="N", help="Clips made at once, or auto.  [default: 1]")
@click.option("--verify", is_flag=True, help="Read finished clips again before they are taken as they are.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first failing clip; nothing is compared.")
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
@click.option("--clip-model", metavar="FOLDER", help="Local CLIP weights for prompt alignment.")
@click.option("--dry-run", is_flag=True, help="Show the clips, their time and disk.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def compare(
    sources: tuple[str, ...],
    grids: tuple[str, ...],
    prompts: str | None,
    seeds: str | None,
    baseline: str | None,
    assignments: tuple[str, ...],
    clips: tuple[str, ...],
    against_itself: bool,
    out: str | None,
    shard: str | None,
    batch_size: str | None,
    verify: bool,
    fail_fast: bool,
    overwrite: bool,
    clip_model: str | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compare settings: the same prompts and the same noise under each, held against a baseline.

    A setting wins only if flicker falls while motion, sharpness and prompt alignment hold. The folder gets
    report.html, summary.md, summary.json, metrics.csv, config.yaml and the clips. The same command goes on
    from what is there; a setting or seed more runs only what is new.
    """
    from video_diffusion.cli.batch_plan import check_folder

    folder = Path(out or _default_name(sources, clips))
    if folder.exists() and not folder.is_dir():
        raise click.UsageError(f"--out: {folder} is a file; name a folder")
    check_folder(folder)
    flags = CompareFlags(folder, shard, batch_size, verify, fail_fast, overwrite, clip_model, as_json, quiet)
    if clips:
        _refuse_with_clips(
            {
                "--grid": grids, "--prompts": prompts, "--seeds": seeds, "--baseline": baseline,
                "--a-a": against_itself, "--shard": shard, "--batch-size": batch_size, "--verify": verify,
                "--fail-fast": fail_fast, "--overwrite": overwrite,
            }
        )  # fmt: skip
        from video_diffusion.cli.compare_run import run_clips

        run_clips([*clips, *sources], assignments, flags, dry_run=dry_run)
        return
    design = _design(sources, grids, prompts, seeds, baseline, assignments)
    design = design.against_itself() if against_itself else design
    if not quiet:
        from video_diffusion.web import counted

        say(
            f"{len(design.arms)} arms × {counted(len(design.prompts), 'prompt')} × "
            f"{counted(len(design.seeds), 'seed')} = "
            f"{counted(design.num_clips, 'clip')}; the baseline is {design.arms[0].label}"
        )
    from video_diffusion.cli.compare_run import run_design

    run_design(design, flags, dry_run=dry_run)


def _design(
    sources: Sequence[str],
    grids: Sequence[str],
    prompts: str | None,
    seeds: str | None,
    baseline: str | None,
    assignments: Sequence[str],
) -> "Design":
    """File, then `--set`, then the named flags."""
    from video_diffusion.comparison.design import design_from, read_assignment
    from video_diffusion.settings import Layer, assign, merge, read_config, set_value

    if len(sources) > 1:
        raise click.UsageError(
            f"CONFIG: one file at a time (given {len(sources)}); use extends: in it instead"
        )
    layer = Layer({})
    for name in sources:
        layer = merge(layer, read_config(Path(name)))
    for text in assignments:
        layer = read_assignment(layer, text)
    if grids and "arms" in layer.values:
        values = {name: value for name, value in layer.values.items() if name != "arms"}
        layer = Layer(values, layer.origins)
    for text in grids:
        if "=" not in text:
            raise click.UsageError(
                f"--grid: needs KEY=[A,B] (given {text!r}); for example guidance_scale=[2.5,5]"
            )
        layer = assign(layer, f"grid.{text.strip()}", "--grid")
    for name, value in (("prompts", prompts), ("seeds", seeds), ("baseline", baseline)):
        if value is not None:
            layer = set_value(layer, [name], value, f"--{name}")
    if not layer.values:
        raise click.UsageError("CONFIG: is missing; give a file, or --grid and --prompts")
    return design_from(layer)


def _default_name(sources: Sequence[str], clips: Sequence[str]) -> str:
    return Path(sources[0]).stem if sources and not clips else "comparison"


def _refuse_with_clips(given: Mapping[str, object]) -> None:
    for name, value in given.items():
        if value:
            raise click.UsageError(
                f"{name}: makes clips, but --clips compares those that are there; leave it out"
            )
