"""`video-diffusion diagnose`: why a clip flickers, morphs or drifts, and which setting helps."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from video_diffusion.cli.outputs import check_folder
from video_diffusion.cli.rerun import settings_to_repeat
from video_diffusion.cli.terminal import Progress, printable, say

if TYPE_CHECKING:
    from video_diffusion.diagnosis.findings import Findings
    from video_diffusion.diagnosis.run import Diagnosis, Subject
    from video_diffusion.settings import GenerationSettings
    from video_diffusion.video import RunRecord

SECONDS = {"s": 1, "m": 60, "h": 3600}
FIRST_SEEDS = 4
FILE_NAME = re.compile(r"\S+\.(mp4|mov|mkv|webm|avi|gif|webp|json)", re.IGNORECASE)
EXAMPLES = """\b
video-diffusion diagnose clip.mp4
video-diffusion diagnose clip.json --seeds 0-7 --budget 1h
video-diffusion diagnose "a large red circle moving left on a white background" --set guidance_scale=20"""


@click.command(epilog=EXAMPLES)
@click.argument("source", metavar="CLIP|RECORD|PROMPT")
@click.option("--config", "configs", multiple=True, metavar="FILE", help="Settings of a PROMPT; repeatable.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="A setting of a PROMPT.")
@click.option("--seeds", metavar="SEEDS", help="Made with these beside its own.  [default: own and next 3]")
@click.option("--budget", metavar="TIME", default="10m", help="Such as 90s, 10m, 1h.  [default: 10m]")
@click.option(
    "-o", "--output", "--out", "out", metavar="DIR", help="Where all goes.  [default: NAME-diagnosis]"
)
@click.option("--model", metavar="MODEL", help="Where the record's model is now.")
@click.option("--motion-adapter", metavar="PATH", help="Where its motion adapter is now.")
@click.option("--device", metavar="NAME", help="Other than the recorded one.")
@click.option("--clip-model", metavar="FOLDER", help="Local CLIP weights for prompt alignment.")
@click.option("--pixels", "pixels_alone", is_flag=True, help="Tell from pixels alone; nothing is made again.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def diagnose(
    source: str,
    configs: tuple[str, ...],
    assignments: tuple[str, ...],
    seeds: str | None,
    budget: str,
    out: str | None,
    model: str | None,
    motion_adapter: str | None,
    device: str | None,
    clip_model: str | None,
    pixels_alone: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Tell why a clip flickers, morphs or drifts: it is made again with one part changed at a time.

    The same noise each time, several seeds, differences with intervals, cheap changes first. Ends with what
    stands out, the setting that helps, the gain that was measured here, and the command of the better clip.
    DIR gets diagnosis.html, diagnosis.json and the clips; the same command goes on from what is there. A clip
    without a record is told about from its pixels alone.
    """
    seconds = budget_of(budget)
    path = Path(source)
    is_file = path.exists()
    if not is_file and FILE_NAME.fullmatch(source):
        raise click.UsageError(f"CLIP: {source}: no such file; name one that is there, or give a prompt")
    if is_file and (configs or assignments):
        raise click.UsageError("--set: is for a PROMPT; a clip's settings are those of its record")
    folder = Path(out or _default_name(source, is_file))
    check_folder(folder)
    record = _record_of(path) if is_file and not pixels_alone else None
    if is_file and record is None:
        _tell_pixels(path, folder, as_json=as_json)
        return

    subject = _subject(
        source, record, configs, assignments, seeds, places=(model, motion_adapter), device=device
    )
    _run(subject, record, folder, seconds, clip_model, as_json=as_json, quiet=quiet)


def budget_of(text: str) -> float:
    """Seconds of "90s", "10m", "1.5h" or "600"."""
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)\s*([smh]?)", text.strip())
    if found is None or float(found[1]) <= 0:
        raise click.UsageError(f"--budget: must be a time such as 90s, 10m or 1h (given {text!r})")
    return float(found[1]) * SECONDS[found[2] or "s"]


def _default_name(source: str, is_file: bool) -> str:
    from video_diffusion.video.files import slug

    return f"{Path(source).stem if is_file else slug(source)}-diagnosis"


def _record_of(path: Path) -> "RunRecord | None":
    """The record of a file; None for a clip that has none."""
    from video_diffusion.video import RecordError, read_record

    try:
        return read_record(path)
    except RecordError as error:
        if path.suffix.lower() == ".json" or "no record inside it" not in str(error):
            raise
        say(f"{path}: no record of how it was made; told from pixels alone")
        return None


def _subject(
    source: str,
    record: "RunRecord | None",
    configs: tuple[str, ...],
    assignments: tuple[str, ...],
    seeds: str | None,
    *,
    places: tuple[str | None, str | None],
    device: str | None,
) -> "Subject":
    from video_diffusion.cli.flags import settings_from
    from video_diffusion.diagnosis.run import Subject
    from video_diffusion.diagnosis.stages import USUAL_ENCODER, encoder_of
    from video_diffusion.jobs.job import open_settings
    from video_diffusion.video.images import with_sources

    if record is None:
        changes = {"model": places[0], "motion_adapter": places[1], "device": device}
        settings = settings_from(source, configs, assignments, {k: v for k, v in changes.items() if v})
        settings = with_sources(settings).with_defaults(
            open_settings(settings.model, settings.motion_adapter)
        )
        return Subject(settings, _seeds(seeds, settings), encoder=USUAL_ENCODER)
    settings = settings_to_repeat(record, *places, device)
    clip = _clip_beside(Path(source))
    encoder = encoder_of(clip) if clip is not None else USUAL_ENCODER
    return Subject(settings, _seeds(seeds, settings), clip, encoder, record.frames_sha256)


def _seeds(text: str | None, settings: "GenerationSettings") -> tuple[int, ...]:
    """The clip's own seed, then the others, each once."""
    from video_diffusion.jobs.job import parse_seeds

    if text is None:
        return tuple(range(settings.seed, settings.seed + FIRST_SEEDS))
    try:
        others = parse_seeds(text)
    except ValueError as error:
        raise click.UsageError(f"--seeds: {error} (given {text!r})") from None
    return tuple(dict.fromkeys((settings.seed, *others)))


def _clip_beside(path: Path) -> Path | None:
    """The clip of a record; None where it is not there any more."""
    if path.suffix.lower() != ".json":
        return path
    names = [path.with_suffix(suffix) for suffix in (".mp4", ".webm", ".mov", ".mkv")]
    return next((name for name in [path.with_suffix(""), *names] if name.exists()), None)


def _run(
    subject: "Subject",
    record: "RunRecord | None",
    folder: Path,
    seconds: float,
    clip_model: str | None,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    from video_diffusion.cli import clip_run
    from video_diffusion.cli.compare import open_meter
    from video_diffusion.diagnosis.findings import find
    from video_diffusion.diagnosis.report import with_marks, write_folder
    from video_diffusion.diagnosis.run import Diagnosis
    from video_diffusion.jobs import Pipelines

    clip_run.check_inputs(subject.settings)
    meter = open_meter(clip_model)
    folder.mkdir(parents=True, exist_ok=True)
    if record is not None:
        clip_run.use_threads(record.num_threads)
    with clip_run.warnings_as_lines():
        diagnosis = Diagnosis(subject, folder, Pipelines(), meter, seconds)
        _watch(diagnosis, quiet=quiet or as_json)
    found = with_marks(find(diagnosis.seen, subject), folder)
    written = write_folder(found, folder)
    _show(found, written, as_json=as_json)


def _watch(diagnosis: "Diagnosis", *, quiet: bool) -> None:
    progress = Progress(quiet, "clip")
    progress.note("loading the model")
    try:
        for step in diagnosis.steps():
            progress.note(f"{step.label[:34]} · {step.done}/{step.total} · {step.seconds_left:.0f} s left")
    except (KeyboardInterrupt, OSError):
        say("the same command goes on from what is there")
        raise
    finally:
        progress.clear()


def _show(found: "Findings", written: list[Path], *, as_json: bool) -> None:
    from video_diffusion.diagnosis.report import answer

    if as_json:
        click.echo(
            json.dumps({**answer(found), "files": [str(path) for path in written]}, ensure_ascii=False)
        )
        return
    for note in found.notes:
        say(note)
    for sentence in found.sentences:
        click.echo("\n".join(printable(line) for line in sentence.split("\n")))
    click.echo(str(written[0]))


def _tell_pixels(path: Path, folder: Path, *, as_json: bool) -> None:
    """What pixels alone tell of a clip."""
    from video_diffusion.diagnosis.report import write_pixels

    sentences, content, written = write_pixels(path, folder)
    if as_json:
        files = [str(each) for each in written]
        click.echo(json.dumps({**content, "files": files}, ensure_ascii=False))
        return
    for line in [*sentences, str(written[0])]:
        click.echo(printable(line))
