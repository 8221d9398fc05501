"""The clips of a comparison: made by the runner of jobs, so resumable, sharded, and never made twice."""

import json
import re
import shlex
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from video_diffusion.comparison.alignment import ROW_KEY, PromptMeter, kinds_of
from video_diffusion.comparison.design import DeclaredArm, Design
from video_diffusion.comparison.statistics import GUARDS, HEADLINE, describe_arm
from video_diffusion.comparison.summary import Arm, Change, ClipMeasure, ClipResult
from video_diffusion.comparison.verdict import Findings
from video_diffusion.jobs import Job, ModelFacts, Outcome, Pipelines, Results, run_jobs
from video_diffusion.jobs.job import make_job
from video_diffusion.jobs.runner import finished_row
from video_diffusion.metrics import ALL_METRICS, ConsistencyReport, measure
from video_diffusion.settings import GenerationSettings
from video_diffusion.video import (
    RecordError,
    RunRecord,
    library_versions,
    read_record,
    read_video,
    sidecar_path,
)
from video_diffusion.web import counted

_PLAIN = re.compile(r"[A-Za-z_./][\w./+:-]*")
_WORDS_OF_YAML = {"true", "false", "null"}


def clip_command(settings: Mapping[str, Any]) -> str:
    """One line for a POSIX shell; settings at their defaults are left out."""
    words = ["video-diffusion", "generate"]
    for name, usual in _defaults().items():
        value = settings.get(name)
        if name in {"prompt", "device"} or value is None or value == usual:
            continue
        words += ["--seed", str(value)] if name == "seed" else ["--set", f"{name}={_yaml(value)}"]
    return " ".join(map(shlex.quote, [*words, "-o", "again.mp4", "--", str(settings.get("prompt", ""))]))


@cache
def _defaults() -> dict[str, Any]:
    return GenerationSettings(prompt="any").model_dump(mode="json")


def _yaml(value: object) -> str:
    """A value as `--set` reads it: JSON, without quotes where they are not needed."""
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS_OF_YAML:
        return value
    return json.dumps(value, ensure_ascii=False)


# The clips of a comparison: made by the runner of jobs, so resumable, sharded, and never made twice.


CLIPS = "clips"
SERIES = ("flicker", "raw_flicker", "motion")
"""Metrics whose values along the frames the summary keeps; records hold the others."""
SHARED_FIELDS = tuple(
    name
    for name in GenerationSettings.model_fields
    if name not in {"prompt", "seed", "device", "decode_chunk_size"}
)

Facts = Callable[[str, str | None], ModelFacts]


@dataclass(frozen=True)
class PlannedClip:
    """One place of the comparison, and the job that fills it; arms of equal settings share a job."""

    arm: str
    prompt: str
    seed: int
    job: Job


def plan(design: Design, facts: Facts) -> Iterator[PlannedClip]:
    """Every place of the comparison: prompt by prompt, seed by seed, arm by arm."""
    for prompt in design.prompts:
        for place, seed in enumerate(design.seeds):
            for arm in design.arms:
                yield PlannedClip(arm.label, prompt, seed, _job(design, arm, prompt, place, facts))


def unique_jobs(planned: Sequence[PlannedClip]) -> list[Job]:
    """The jobs, each once."""
    return list({each.job.job_id: each.job for each in planned}.values())


def make_clips(
    jobs: Sequence[Job],
    folder: Path,
    pipelines: Pipelines,
    meter: PromptMeter,
    *,
    batch_size: int | None = 1,
    verify: bool = False,
    overwrite: bool = False,
) -> Generator[Outcome, None, None]:
    """Makes what is not made yet, as `run_jobs`; rows also hold prompt alignment."""
    (folder / CLIPS).mkdir(exist_ok=True)
    yield from run_jobs(
        jobs, folder, pipelines, batch_size=batch_size, verify=verify, overwrite=overwrite, extra=meter
    )


def collect(
    design: Design, planned: Sequence[PlannedClip], folder: Path, meter: PromptMeter, command: str
) -> Findings:
    """What is in the folder for every place of the comparison.

    A finished clip that was made without what the meter measures, or by a version that knew fewer metrics, is
    measured from its file, and its row is written again.
    """
    results = Results(folder)
    written: dict[str, list[Mapping[str, Any]]] = {}
    for each in results.rows():
        written.setdefault(each["job_id"], []).append(each)
    rows: dict[str, Mapping[str, Any]] = {}
    num_again = 0
    for job in unique_jobs(planned):
        row = _row(written.get(job.job_id, []), folder / job.file)
        if row is None:
            continue
        lacking = [name for name in NEEDED[row["status"]] if name not in row]
        if lacking:
            raise ValueError(
                f"{results.path}: the row of {job.job_id} lacks {lacking[0]}; delete that line, and its clip "
                "is made again"
            )
        rows[job.job_id] = row
        if row["status"] != "ok" or (is_measured(row) and not meter.wants(row)):
            continue
        video = read_video(folder / job.file)
        again = dict(row)
        if not is_measured(row):
            again["metrics"] = as_row(measure(video.frames, video.fps or 8, one_shot=True))
            num_again += 1
        if meter.wants(row):
            settings = GenerationSettings.from_values(row["settings"])
            again[ROW_KEY] = {**row.get(ROW_KEY, {}), **meter.measure(video.frames, settings)}
        rows[job.job_id] = again
        results.append(again)
    clips = [clip for each in planned if (clip := _clip(each, rows.get(each.job.job_id), folder)) is not None]
    old = (
        f"{counted(num_again, 'clip')} of an earlier version measured again from the file, after encoding, "
        "which hides some flicker: make all anew (--overwrite) for exact numbers.",
    )
    return Findings(
        title=design.title,
        command=command,
        arms=_arms(design, planned, clips),
        axes=design.axes,
        prompts=design.prompts,
        seeds=design.seeds,
        clips=tuple(clips),
        margins=design.margins,
        alpha=design.alpha,
        notes=(*design.notes, *(old if num_again else ())),
        kinds=kinds_of(list(rows.values())),
        versions=library_versions(),
    )


NEEDED = {"ok": ("settings", "metrics", "frames_sha256", "file"), "failed": ("settings", "error")}
"""What a comparison reads of a row."""


def is_measured(row: Mapping[str, Any]) -> bool:
    """Whether a row has every metric that verdicts rest on; rows of earlier versions may lack some."""
    return {HEADLINE, *GUARDS} & {metric.name for metric in ALL_METRICS} <= row.get("metrics", {}).keys()


def as_row(report: ConsistencyReport) -> dict[str, dict[str, Any]]:
    """The metrics of a clip as rows hold them."""
    return {
        name: {"value": each.value, "status": each.status, "unit": each.unit}
        for name, each in report.values.items()
    }


def _job(design: Design, arm: DeclaredArm, prompt: str, place: int, facts: Facts) -> Job:
    seed = (arm.seeds or design.seeds)[place]
    settings = GenerationSettings.from_values({**design.base, **arm.values, "prompt": prompt, "seed": seed})
    job = make_job(settings, facts, f"{arm.label} · seed {seed} · {prompt[:60]}")
    return replace(job, file=f"{CLIPS}/{job.file}")


def _row(rows: Sequence[Mapping[str, Any]], clip: Path) -> Mapping[str, Any] | None:
    """The row that describes the clip as it is there, else the last one if that is a failure.

    Two processes that made one clip have left two rows, of which only one need have the file's size.
    """
    finished = finished_row(clip, [row for row in rows if row["status"] == "ok"])
    if finished is not None:
        return finished
    return rows[-1] if rows and rows[-1]["status"] == "failed" else None


def _clip(planned: PlannedClip, row: Mapping[str, Any] | None, folder: Path) -> ClipResult | None:
    if row is None:
        return None
    settings = {**row["settings"], "prompt": planned.prompt}
    common: dict[str, Any] = {"arm": planned.arm, "prompt": planned.prompt, "seed": planned.seed}
    if row["status"] == "failed":
        return ClipResult(
            **common, path="", record="", error=row["error"], fps=0.0, num_frames=0, width=0, height=0,
            measures={}, series={}, noise_sha256="", frames_sha256="", command=clip_command(settings),
        )  # fmt: skip
    record = _record(folder / row["file"])
    own = record.settings if record is not None else GenerationSettings.from_values(row["settings"])
    measured = {**row["metrics"], **row.get(ROW_KEY, {})}
    series = (
        {name: record.measures[name].series for name in SERIES if name in record.measures} if record else {}
    )
    return ClipResult(
        **common,
        path=row["file"],
        record=sidecar_path(Path(row["file"])).as_posix() if record is not None else "",
        error="",
        fps=float(own.fps or 0),
        num_frames=own.num_frames or 0,
        width=own.width or 0,
        height=own.height or 0,
        measures={name: ClipMeasure(each["value"], each["status"]) for name, each in measured.items()},
        series={name: tuple(values) for name, values in series.items() if values is not None},
        noise_sha256=(record.noise_sha256 or "") if record is not None else "",
        frames_sha256=row["frames_sha256"],
        command=clip_command(own.model_dump(mode="json")),
    )


def _record(clip: Path) -> RunRecord | None:
    """The record beside the clip; a clip whose record is gone stays in the comparison."""
    try:
        return read_record(sidecar_path(clip))
    except RecordError as error:
        warnings.warn(f"{error}; the clip is compared without its record", stacklevel=2)
        return None


def _arms(design: Design, planned: Sequence[PlannedClip], clips: Sequence[ClipResult]) -> tuple[Arm, ...]:
    first = {each.arm: each.job.settings.model_dump(mode="json") for each in reversed(planned)}
    shared = {
        label: {name: own[name] for name in SHARED_FIELDS if own[name] is not None}
        for label, own in first.items()
    }
    base = design.arms[0].label
    return tuple(
        describe_arm(
            arm.label, base, clips, shared[arm.label],
            _changes(design, arm, shared[base], shared[arm.label]), arm.place,
        )
        for arm in design.arms
    )  # fmt: skip


def _changes(
    design: Design, arm: DeclaredArm, base: Mapping[str, Any], own: Mapping[str, Any]
) -> tuple[Change, ...]:
    changes = [
        Change(name, base.get(name), own.get(name))
        for name in SHARED_FIELDS
        if base.get(name) != own.get(name)
    ]
    seeds, theirs = arm.seeds or design.seeds, design.arms[0].seeds or design.seeds
    if seeds != theirs:
        changes.append(Change("seeds", list(theirs), list(seeds)))
    return tuple(changes)
