"""`video-diffusion rerun`: the clip of a record made again, and whether every pixel is the same."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from video_diffusion.cli.outputs import EncodingFlags, check_clip_path
from video_diffusion.cli.terminal import CLIP_FAILED, describe, say

if TYPE_CHECKING:
    from video_diffusion.pipeline import GeneratedVideo
    from video_diffusion.settings import GenerationSettings
    from video_diffusion.video import RunRecord


@click.command()
@click.argument("clips", metavar="CLIP...", nargs=-1, required=True)
@click.option("-o", "--out", metavar="NEW", help="Save the new clip too; with one CLIP only.")
@click.option("--model", metavar="MODEL", help="Where the model is now; needed to fetch one from the hub.")
@click.option("--motion-adapter", metavar="PATH", help="Where the motion adapter is now.")
@click.option("--vae", metavar="PATH", help="Where the autoencoder is now.")
@click.option("--text-encoder", metavar="PATH", help="Where the text encoder's model is now.")
@click.option("--ip-adapter", metavar="PATH", help="Where the IP-Adapter is now.")
@click.option(
    "--controlnet",
    metavar="PATH",
    multiple=True,
    help="Where the ControlNet is now; of several each in order.",
)
@click.option("--sparsectrl", metavar="PATH", help="Where the SparseCtrl encoder is now.")
@click.option("--device", metavar="NAME", help="Other than the recorded one.")
@click.option("--overwrite", is_flag=True, help="Replace what is at NEW.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per clip on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def rerun(
    clips: tuple[str, ...],
    out: str | None,
    model: str | None,
    motion_adapter: str | None,
    vae: str | None,
    text_encoder: str | None,
    ip_adapter: str | None,
    controlnet: tuple[str, ...],
    sparsectrl: str | None,
    device: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make each CLIP (or its record clip.json) again and compare the frames before encoding, byte by byte.

    Every record is read before a model is loaded. Exits with 0 if all clips are identical, with 1 if one is
    not, or cannot be made again; stderr says why.
    """
    from video_diffusion.video import read_record

    if out is not None and len(clips) > 1:
        raise click.UsageError(f"--out: saves one clip, but {len(clips)} are given; rerun them one by one")
    path = None if out is None else check_clip_path(out, EncodingFlags(), overwrite)
    records = [(clip, read_record(Path(clip))) for clip in clips]
    networks: dict[str, str | tuple[str, ...] | None] = {
        "vae": vae, "text_encoder": text_encoder, "ip_adapter": ip_adapter, "controlnet": controlnet,
        "sparsectrl": sparsectrl,
    }  # fmt: skip
    wanted = [settings_to_repeat(record, model, motion_adapter, device, networks) for _, record in records]

    from video_diffusion.cli import clip_run
    from video_diffusion.jobs import Pipelines

    pipelines, num_other = Pipelines(), 0
    for (clip, record), settings in zip(records, wanted, strict=True):
        clip_run.use_threads(record.num_threads)
        try:
            made = clip_run.make_clip(
                settings,
                show_progress=not (quiet or as_json),
                pipelines=pipelines,
                accelerated=record.accelerated,
                low_memory=record.low_memory,
            )
        except Exception as error:
            if len(clips) == 1 or describe(error)[1] is None:
                raise  # its own exit code, or a traceback in a file
            row = {"path": clip, "identical": False, "error": describe(error)[1]}
        else:
            row = compare(clip, record, made.video)
            if path is not None:
                clip_run.save_clip(made.video, path, EncodingFlags(), embed=True, overwrite=overwrite)
        num_other += not row["identical"]
        show(row, as_json=as_json, several=len(clips) > 1)
    if num_other:
        raise click.exceptions.Exit(CLIP_FAILED)


def compare(clip: str, record: "RunRecord", video: "GeneratedVideo") -> dict[str, Any]:
    """The row of --json: whether the frames are the recorded ones, and if not, why."""
    identical = video.frames_sha256 == record.frames_sha256
    return {
        "path": clip,
        "identical": identical,
        "recorded_sha256": record.frames_sha256,
        "frames_sha256": video.frames_sha256,
        "differences": [] if identical else what_differs(record, video),
    }


def show(row: dict[str, Any], *, as_json: bool, several: bool) -> None:
    """The verdict on stdout, with the clip's path if there are several; the reasons on stderr."""
    if as_json:
        click.echo(json.dumps(row))
        return
    verdict = "identical" if row["identical"] else "failed" if "error" in row else "different"
    click.echo(f"{verdict} {row['path']}" if several else verdict)
    for reason in [row["error"]] if "error" in row else row["differences"]:
        say(f"{row['path']}: {reason}" if several else reason)


def settings_to_repeat(
    record: "RunRecord",
    model: str | None,
    motion_adapter: str | None,
    device: str | None,
    networks: Mapping[str, str | tuple[str, ...] | None] = MappingProxyType({}),
) -> "GenerationSettings":
    """The recorded settings, with model, networks and device where they are now.

    A record may come from anybody, so nothing is fetched from the network because of its words alone.
    """
    from video_diffusion.cli.clip_run import HERE
    from video_diffusion.settings import named

    changes: dict[str, Any] = {}
    for name, given, revision in (
        ("model", model, record.model.revision),
        ("motion_adapter", motion_adapter, None),
        *((name, networks.get(name), None) for name in named("network")),
    ):
        recorded = getattr(record.settings, name)
        if given:
            changes[name] = f"{given}@{revision}" if revision and given == recorded else given
            continue
        for place in recorded if isinstance(recorded, tuple) else (recorded,):
            if place not in {*HERE, None} and not Path(place).exists():
                flag = f"--{name.replace('_', '-')}"
                raise click.UsageError(
                    f"{flag}: the record names {place}, which is not here; say where it is, "
                    f"or give {flag} {place} to fetch it"
                )
    embeds = next((name for name in record.inputs if name.endswith("_embeds")), None)
    if embeds is not None:
        raise click.UsageError(f"CLIP: was made from {embeds} given in Python; repeat that call instead")
    for entry in record.settings.all_loras:
        if not any(Path(path).exists() for path in (entry, entry.rpartition(":")[0]) if path):
            raise click.UsageError(f"{entry}: the record names this LoRA, which is not here; put it there")
    if device is not None:
        changes["device"] = device
    repeated = record.settings.from_values(record.settings.model_dump() | changes)
    for name, sha256 in repeated.input_sha256s().items():
        if name in record.inputs and record.inputs[name] != sha256:
            setting, _, word = name.partition(".")
            path = (
                repeated.input_files.get(name)
                or repeated.used_embeddings.get(word)
                or getattr(repeated, setting)
            )
            raise click.UsageError(f"{path}: is not the {name} of the record; put the file back that it was")
    return repeated


def what_differs(record: "RunRecord", video: "GeneratedVideo") -> list[str]:
    """Why the frames are not the same, as far as the two records tell."""
    now = video.run_record
    lines = []
    for name, about in (("weights_sha256", "weights"), ("motion_adapter_sha256", "motion adapter weights")):
        then_hash, now_hash = getattr(record.model, name), getattr(now.model, name)
        if then_hash != now_hash:
            lines.append(f"other {about}: {_short(then_hash)} then, {_short(now_hash)} now")
    then = record.inputs
    lines += [
        f"other {name}: {_short(then[name])} then, {_short(now.inputs[name])} now"
        for name in sorted(then.keys() & now.inputs.keys())
        if then[name] != now.inputs[name]
    ]
    for name in sorted(record.versions.keys() | now.versions.keys()):
        then_version, now_version = record.versions.get(name, "none"), now.versions.get(name, "none")
        if then_version != now_version:
            lines.append(f"other version of {name}: {then_version} then, {now_version} now")
    for name in ("device", "processor", "num_threads", "batch_size", "accelerated", "low_memory", "platform"):
        then_value, now_value = getattr(record, name), getattr(now, name)
        if then_value != now_value:
            lines.append(f"other {name.replace('_', ' ')}: {then_value} then, {now_value} now")
    own, new = record.settings.model_dump(), video.settings.model_dump()
    lines += [
        f"other {name}: {own[name]} then, {new[name]} now"
        for name in own
        if name not in {"model", "motion_adapter", "device"} and own[name] != new[name]
    ]
    if not lines and now.device != "cpu":
        lines.append(f"nothing recorded differs; {now.device} need not compute the same twice")
    return lines or [
        "same weights, versions, processor and device as recorded: the record may have been changed"
    ]


def _short(sha256: str | None) -> str:
    return sha256[:12] if sha256 else "unknown"
