"""`video-diffusion data`: check folders of clips; `make` one of captioned clips whose truth is known."""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from video_diffusion.cli.outputs import check_place, existing_folder, size_of
from video_diffusion.cli.terminal import Progress, printable, say, warn

if TYPE_CHECKING:
    from video_diffusion.procedural import Scene, World
    from video_diffusion.training.data.cutting import ClipPlan, TooShort, Windows
    from video_diffusion.training.data.folder import FolderCheck


SETTINGS_FILE, ROWS_FILE = "dataset.json", "metadata.jsonl"
BATCH = 8  # clips painted at once; a clip does not depend on it


@dataclass(frozen=True)
class DatasetSettings:
    """What decides every clip of a folder; clip i depends on these and on i alone."""

    seed: int
    num_frames: int
    height: int
    width: int
    fps: str
    crf: int
    caption_omit: float
    held_out: bool
    world: dict[str, Any]


def open_folder(folder: Path, settings: DatasetSettings) -> None:
    """Makes the folder, or checks that it was begun with the same settings."""
    from video_diffusion.settings import read_json_file
    from video_diffusion.video import write_bytes

    check_place(existing_folder(folder) / folder.name, "FOLDER", overwrite=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise click.UsageError(f"FOLDER: {folder}, or a folder above it, is a file; name another") from None
    file, own = folder / SETTINGS_FILE, asdict(settings)
    own |= own.pop("world")
    if not file.exists():
        if any(not path.name.startswith(".") for path in folder.iterdir()):
            raise click.UsageError(f"FOLDER: {folder} holds other files; name a new or empty folder")
        write_bytes(file, (json.dumps(own, indent=2) + "\n").encode())
        return
    try:
        there = read_json_file(file)
        differing = [name for name in own if json.loads(json.dumps(own[name])) != there[name]]
    except (ValueError, KeyError, TypeError):
        raise click.UsageError(f"FOLDER: {file} is damaged; name a new folder") from None
    if differing:
        name = differing[0]
        raise click.UsageError(
            f"FOLDER: {folder} was begun with {name} {there[name]}, now it is {own[name]}; name a new folder"
        )


def write_clips(folder: Path, settings: DatasetSettings, world: "World", num_clips: int) -> Iterator[bool]:
    """Writes what is missing, then the rows of all; yields for each clip whether it was new."""
    from fractions import Fraction

    from video_diffusion.procedural import render_scenes
    from video_diffusion.shapes import to_uint8
    from video_diffusion.video import atomic_path, write_bytes, write_video

    for start in range(0, num_clips, BATCH):
        indices = range(start, min(start + BATCH, num_clips))
        missing = [index for index in indices if not _is_whole(folder, index)]
        truths = [clip_truth(settings, world, index) for index in missing]
        if missing:
            clips = render_scenes(
                [scene for scene, _, _ in truths],
                [seed for _, _, seed in truths],
                settings.num_frames,
                settings.height,
                settings.width,
            )
            for index, frames, (_, text, _) in zip(missing, clips, truths, strict=True):
                stem = folder / f"{index:06d}"
                write_bytes(stem.with_suffix(".txt"), f"{text}\n".encode())
                write_video(
                    stem.with_suffix(".mp4"), to_uint8(frames), Fraction(settings.fps), crf=settings.crf
                )
        yield from (index in missing for index in indices)
    with atomic_path(folder / ROWS_FILE) as part, part.open("w", encoding="utf-8") as rows:
        for index in range(num_clips):
            scene, text, seed = clip_truth(settings, world, index)
            row = {"file_name": f"{index:06d}.mp4", "caption": text, "seed": seed, **asdict(scene)}
            rows.write(json.dumps(row) + "\n")


def clip_truth(settings: DatasetSettings, world: "World", index: int) -> tuple["Scene", str, int]:
    """Scene, caption and seed of clip `index`, whatever was made before it."""
    import numpy as np

    from video_diffusion.procedural import caption

    rng = np.random.default_rng([settings.seed, index])
    scene = world.sample(rng, settings.held_out)
    return scene, caption(scene, rng, omit=settings.caption_omit), int(rng.integers(2**63))


def _is_whole(folder: Path, index: int) -> bool:
    """The clip comes last, so where it stands its caption does too."""
    return (folder / f"{index:06d}.mp4").is_file()


# What a check of a folder found, as numbers, as lines with small histograms, and as a contact sheet.


CONTACT_SHEET = "contact-sheet.png"
MOST_CLIPS, CELL_SIDE = 48, 192
LENGTHS = (0, 1, 2, 4, 8, 16, 32, 64)  # seconds
MOST_ROWS, BAR = 8, 30


def summarise(
    done: "FolderCheck", plan: "ClipPlan", num_frames: int, fps: Fraction, held_out: Collection[str]
) -> dict[str, Any]:
    """Counts, histograms and what training would get, as JSON values."""
    training = [clip for clip in plan.clips if clip.entry.id not in held_out]
    videos = [entry for entry in done.entries if not entry.is_picture]
    contents = Counter((entry.sha256, entry.start) for entry in done.entries)
    lengths = Counter(_length_bin(entry.end - entry.start) for entry in videos)
    ordered = [_length_bin(float(low)) for low in LENGTHS]
    sizes = Counter(f"{entry.width}x{entry.height}" for entry in done.entries)
    rates = Counter(f"{float(entry.fps):.5g}" for entry in videos if entry.fps is not None)
    buckets = Counter(f"{clip.size[0]}x{clip.size[1]}" for clip in training)
    return {
        "folder": str(done.root),
        "format": done.source.format,
        "clips": len(done.entries),
        "videos": len(videos),
        "pictures": len(done.entries) - len(videos),
        "seconds": round(sum(entry.end - entry.start for entry in videos), 3),
        "files": done.num_files,
        "decoded_now": done.num_decoded,
        "rejected": len(done.rejects),
        "absent": done.num_absent,
        "pictures_without_caption": done.num_pictures,
        "copies": sum(count - 1 for count in contents.values()),
        "notes": dict(done.notes.most_common()),
        "lengths": {name: lengths[name] for name in ordered if lengths[name]},
        "sizes": dict(sizes.most_common()),
        "fps": dict(rates.most_common()),
        "training": {
            "num_frames": num_frames,
            "fps": str(fps),
            "clips_per_epoch": len(training),
            "held_out": len(held_out),
            "not_used": len(plan.unusable),
            "reasons": {one.entry.id: one.reason for one in plan.unusable},
            "sizes": dict(buckets.most_common()),
        },
    }


def summary_lines(summary: dict[str, Any]) -> Iterator[str]:
    """The summary for a terminal; names from files are escaped."""
    training = summary["training"]
    folder = printable(summary["folder"])
    yield f"{folder}/manifest.jsonl: {summary['clips']} clips, {summary['seconds']:.1f} s of video"
    yield f"{folder}/rejects.jsonl: {summary['rejected']} rejected"
    yield (
        f"read as {summary['format']}: {summary['files']} files, {summary['decoded_now']} of them decoded now"
    )
    for count, text in (
        (summary["pictures"], "are single pictures"),
        (summary["absent"], "rows of the list have no video here"),
        (summary["pictures_without_caption"], "pictures without a caption are left alone"),
        (summary["copies"], "clips are copies of another, byte for byte"),
        *((count, printable(text)) for text, count in summary["notes"].items()),
    ):
        if count:
            yield f"  {count} × {text}"
    for name, title in (("lengths", "length"), ("sizes", "size"), ("fps", "fps")):
        yield from _histogram(title, summary[name])
    yield (
        f"training clips per epoch: {training['clips_per_epoch']} "
        f"of {training['num_frames']} frames at {training['fps']} fps"
    )
    if training["held_out"]:
        yield f"  {training['held_out']} clips are held out, to measure the loss on"
    if training["not_used"]:
        yield f"  {training['not_used']} clips cannot be used so"
    if len(training["sizes"]) > 1:
        yield from _histogram("bucket", training["sizes"])


def save_contact_sheet(done: "FolderCheck") -> None:
    """Draw the middle frame of at most 48 clips, evenly chosen, into the folder, each whole on grey."""
    import numpy as np
    from PIL import Image, ImageOps

    from video_diffusion.training.data.cutting import frames_at
    from video_diffusion.video.images import draw_contact_sheet, evenly, save_picture

    if not done.entries:
        (done.root / CONTACT_SHEET).unlink(missing_ok=True)
        return
    chosen = [done.entries[index] for index in evenly(len(done.entries), MOST_CLIPS)]
    sizes = Counter((entry.width, entry.height) for entry in chosen)
    width, height = sizes.most_common(1)[0][0]
    cell = (max(1, CELL_SIDE * width // max(width, height)), max(1, CELL_SIDE * height // max(width, height)))
    cells = []
    for entry in chosen:
        middle = 0.0 if entry.is_picture else (entry.start + entry.end) / 2
        frame = Image.fromarray(frames_at(done.root / entry.path, [middle])[0])
        cells.append(np.asarray(ImageOps.pad(frame, cell, color="#e4e7ec")))
    title = f"{len(chosen)} of {len(done.entries)} clips"
    facts = f"middle frames, from {chosen[0].id} to {chosen[-1].id}"
    save_picture(done.root / CONTACT_SHEET, draw_contact_sheet(np.stack(cells), title, facts))


def _length_bin(seconds: float) -> str:
    low = max(bound for bound in LENGTHS if bound <= seconds)
    after = [bound for bound in LENGTHS if bound > low]
    return f"{low} to {after[0]} s" if after else f"from {low} s"


def _histogram(title: str, counts: dict[str, int]) -> Iterable[str]:
    rows = list(counts.items())
    if len(rows) > MOST_ROWS:
        rest = sum(count for _, count in rows[MOST_ROWS - 1 :])
        rows = [*rows[: MOST_ROWS - 1], ("others", rest)]
    if not rows:
        return
    most = max(count for _, count in rows)
    width = max(len(name) for name, _ in rows)
    yield title
    for name, count in rows:
        yield f"  {name:<{width}}  {'#' * max(1, BAR * count // most)} {count}"


# `video-diffusion data check`: every clip of a folder decoded once, then a manifest to train on.


FORMATS = ("auto", "pairs", "metadata", "webvid", "openvid", "panda70m", "cogvideo", "webdataset", "parquet")
MOST_SHOWN = 20  # reasons on the terminal; the files have all


@click.command()
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option(
    "--format", "wanted", type=click.Choice(FORMATS), default="auto", show_default=True,
    help="Where captions are: name.txt beside name.mp4, metadata.jsonl|csv|parquet with file_name and text, "
    "the list of a published data set, or shards: webdataset's tar files, or Parquet with videos in it.",
)  # fmt: skip
@click.option(
    "--list", "list_file", type=click.Path(path_type=Path), metavar="FILE", help="The list, if not in FOLDER."
)
@click.option(
    "--num-frames", "--frames", type=click.IntRange(1, 4096), default=16, show_default=True,
    help="Of a training clip, for the count.",
)  # fmt: skip
@click.option("--fps", default="8", show_default=True, metavar="RATE", help="Of a training clip, likewise.")
@click.option("--size", "sizes", multiple=True, metavar="WxH", help="Of training clips; several are buckets.")
@click.option(
    "--windows", type=click.Choice(["one", "all"]), default="one", show_default=True,
    help="Training clips from a clip: one, or all that fit side by side.",
)  # fmt: skip
@click.option(
    "--too-short", type=click.Choice(["reject", "loop", "shorten"]), default="reject", show_default=True,
    help="What training does with clips shorter than it needs.",
)  # fmt: skip
@click.option("--repeat-frames", is_flag=True, help="Training takes clips of a lower rate too.")
@click.option("--allow-upscaling", is_flag=True, help="Training takes clips smaller than --size too.")
@click.option(
    "--held-out", type=click.IntRange(0), metavar="N",
    help="Clips kept from training, to measure its loss on.  [default: a sixteenth, at most 16]",
)  # fmt: skip
@click.option("--workers", type=click.IntRange(0, 512), help="Processes; the default is one per processor.")
@click.option("--allow-truncated", is_flag=True, help="Take videos that are cut off, as far as they go.")
@click.option("--captionless", is_flag=True, help="Take videos without a caption too.")
@click.option(
    "--strict",
    is_flag=True,
    help="Exit with 1 if anything was rejected, or is of no use for training clips as asked for.",
)
@click.option("--json", "as_json", is_flag=True, help="The summary as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, no list of rejects.")
def check(
    folder: Path, wanted: str, list_file: Path | None, num_frames: int, fps: str, sizes: tuple[str, ...],
    windows: "Windows", too_short: "TooShort", repeat_frames: bool, allow_upscaling: bool,
    held_out: int | None, workers: int | None, allow_truncated: bool, captionless: bool, strict: bool,
    as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Decode every clip in FOLDER once and write the manifest that training reads.

    FOLDER/manifest.jsonl lists the good clips with their true length, rate and size, FOLDER/rejects.jsonl the
    others with the reason, FOLDER/contact-sheet.png shows some of the good. Again, it decodes only what is
    new or changed. Nothing outside FOLDER is opened, and no address in a list.
    """
    from video_diffusion.settings import parse_fps
    from video_diffusion.training.data.cutting import held_out_ids, plan_clips
    from video_diffusion.training.data.folder import FolderCheck, find_source
    from video_diffusion.training.data.probe import default_workers

    try:
        rate = parse_fps(fps)
    except ValueError as error:
        raise click.UsageError(f"--fps: {error} (given {fps!r})") from None
    assert rate is not None, "None comes of None"
    buckets = [size_of(size) for size in sizes] or None
    done = FolderCheck(folder, find_source(folder, wanted, list_file))
    workers = default_workers() if workers is None else workers
    _decode(done, done.steps(workers, allow_truncated, captionless), quiet)
    plan = plan_clips(
        done.entries,
        num_frames=num_frames,
        fps=rate,
        sizes=buckets,
        windows=windows,
        too_short=too_short,
        repeat_frames=repeat_frames,
        allow_upscaling=allow_upscaling,
    )
    summary = summarise(done, plan, num_frames, rate, held_out_ids(plan, held_out))
    if as_json:
        click.echo(json.dumps(summary, indent=2))
    else:
        for line in summary_lines(summary):
            click.echo(line)
    if not quiet:
        _say_why([(reject.path, reject.reason) for reject in done.rejects], "rejected", "rejects.jsonl")
        _say_why(
            [(one.entry.id, one.reason) for one in plan.unusable], "not trained on", "the summary's counts"
        )
    if not done.entries:
        why = (
            "the reasons are in rejects.jsonl"
            if done.rejects
            else "put name.mp4 and its caption name.txt into it"
        )
        raise click.ClickException(f"{folder}: no clip can be used; {why}")
    if not plan.clips:
        warn(f"no clip gives {num_frames} frames at {fps} fps; choose other --num-frames or --fps")
    if strict and (done.rejects or plan.unusable):
        counts = f"{len(done.rejects)} rejected, {len(plan.unusable)} of no use for such training clips"
        raise click.ClickException(f"{folder}: {counts}; --strict allows none")


def _decode(done: "FolderCheck", steps: Iterable[tuple[int, int]], quiet: bool) -> None:
    progress = Progress(quiet, "file")
    try:
        for number, total in steps:
            progress.step(number, total)
        progress.clear()
        save_contact_sheet(done)
    except BaseException:
        progress.clear()
        say("the same command goes on where this one stopped")
        raise


def _say_why(reasons: list[tuple[str, str]], what: str, rest: str) -> None:
    for name, reason in reasons[:MOST_SHOWN]:
        say(f"{name}: {reason}", what, "yellow")
    if len(reasons) > MOST_SHOWN:
        say(f"{len(reasons) - MOST_SHOWN} more; see {rest}", what, "yellow")


# `video-diffusion data`: check folders of clips; `make` one of captioned clips whose truth is known.


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
    from video_diffusion.settings import parse_fps

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
    """The world with some of its tables narrowed or widened."""
    from video_diffusion.procedural import World
    from video_diffusion.procedural.scene import BACKGROUNDS, COLOURS, MOTIONS, SHAPES
    from video_diffusion.settings import nearest

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
    """Whether such a world has scenes to draw."""
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


@data.command()
@click.argument("config", metavar="CONFIG")
@click.option("-o", "--output", metavar="RUN", help="Folder of the run; its cache is filled.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="One setting; repeatable.")
@click.option("--device", metavar="NAME", help="auto, cpu, cuda, ...")
@click.option("--workers", type=click.IntRange(0, 512), default=0, help="Processes that read clips ahead.")
@click.option("--shard", default="0/1", show_default=True, metavar="I/N", help="Of N machines or GPUs.")
@click.option("--dry-run", is_flag=True, help="Say what there is to do.")
@click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but warnings and errors.")
def encode(
    config: str, output: str | None, assignments: tuple[str, ...], device: str | None, workers: int,
    shard: str, dry_run: bool, quiet: bool,
) -> None:  # fmt: skip
    """Encode the clips of a training before it begins, into the cache that it will read.

    CONFIG, --output and --set as for `train`. Again, it encodes only what is missing.
    """
    from video_diffusion.cli.train import settings_from
    from video_diffusion.jobs.job import parse_shard
    from video_diffusion.training.clips import encode_ahead, open_sources, plan_cache
    from video_diffusion.training.run import latent_shape, load_pipeline, make_accelerator, open_caches

    try:
        part = parse_shard(shard)
    except ValueError as error:
        raise click.UsageError(f"--shard: {error}") from None
    settings, folder = settings_from(config, (), output, assignments, {"device": device}, resume=False)
    if not settings.latent_cache:
        raise click.UsageError("CONFIG: latent_cache is false, so nothing is kept; set true or a folder")
    pipeline = load_pipeline(settings, make_accelerator(settings))
    caches = open_caches(settings, folder, pipeline.parts)
    sources = open_sources(settings, pipeline.defaults)
    plan = plan_cache(sources, caches.latents, latent_shape(settings, pipeline))
    if plan is None:
        raise click.UsageError(
            "CONFIG: windows may start at any frame, so no cache holds all of them; set clips.starts to a "
            "number of places, or clips.random_start to false"
        )
    bound = settings.latent_cache_gb
    if bound is not None and plan.num_bytes > bound * 1e9:
        raise click.UsageError(
            f"CONFIG: latent_cache_gb is {bound:g}, but all clips take {plan.num_bytes / 1e9:.2g} GB; raise "
            "it"
        )
    if not quiet:
        missing = len(plan) - plan.num_there(most=len(plan))
        say(f"{missing} of {len(plan)} clips to encode, {plan.num_bytes / 1e9:.2g} GB in all")
    if dry_run:
        return
    progress, problems = Progress(quiet, "clip"), 0
    for done, total, problem in encode_ahead(plan, pipeline.parts, caches, workers, (part.index, part.count)):
        progress.step(done, total)
        if problem:
            problems += 1
            warn(problem)
    progress.clear()
    click.echo(str(caches.latents.folder.parent))
    if problems:
        raise click.ClickException(
            f"{problems} clips cannot be read; `video-diffusion data check` says which"
        )
