"""Makes jobs one batch at a time; every job ends as a clip with its row, or as a row with its error."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from video_diffusion.io import frames_sha256, read_video
from video_diffusion.jobs.job import Job
from video_diffusion.jobs.pipelines import Pipelines
from video_diffusion.jobs.results import Results

if TYPE_CHECKING:
    from video_diffusion.generated_video import GeneratedVideo

LOOK_AHEAD = 512
MAX_ERROR_CHARACTERS = 2000

Extra = Callable[["GeneratedVideo"], Mapping[str, Any]]


@dataclass(frozen=True)
class Outcome:
    """How a job ended; `row` is what stands in results.jsonl, `error` what a failure raised."""

    job: Job
    status: Literal["ok", "skipped", "failed"]
    row: Mapping[str, Any]
    error: Exception | None = None


def run_jobs(
    jobs: Iterable[Job],
    folder: Path,
    pipelines: Pipelines,
    *,
    batch_size: int = 1,
    verify: bool = False,
    extra: Extra | None = None,
    encoding: Mapping[str, Any] | None = None,
) -> Iterator[Outcome]:
    """Makes what is not made yet. A clip is complete in the folder before its row is written.

    A job is skipped only if its last row says ok and its clip is there with the recorded size; with `verify`
    its frames must also have the recorded hash.

    Args:
        jobs: read as they are needed.
        folder: of clips, records and results.jsonl; it must exist.
        pipelines: opens the models.
        batch_size: clips made at once where their settings allow it. A clip's noise never depends on it; its
            last bits can, so 1 is what gives equal hashes whatever was done before.
        verify: reads every finished clip again.
        extra: further values for the row of a clip.
        encoding: of `GeneratedVideo.save`.

    Raises:
        OSError: the folder cannot be written; what is finished stays.
    """
    results = Results(folder)
    done = {key: _essentials(row) for key, row in results.latest().items() if row["status"] == "ok"}
    waiting = iter(jobs)
    while ahead := list(islice(waiting, LOOK_AHEAD)):
        open_jobs: list[Job] = []
        for job in ahead:
            row = done.get(job.job_id)
            if row is not None and is_finished(folder / job.file, row, verify):
                yield Outcome(job, "skipped", row)
            else:
                open_jobs.append(job)
        if batch_size > 1 or len({job.batch_key for job in open_jobs}) > 1:
            open_jobs.sort(key=lambda job: job.batch_key)
        for _, alike in groupby(open_jobs, key=lambda job: job.batch_key):
            group = iter(alike)
            while batch := list(islice(group, batch_size)):
                yield from _run_batch(batch, folder, pipelines, results, extra, encoding or {})


def is_finished(clip: Path, row: Mapping[str, Any], verify: bool = False) -> bool:
    """Whether the clip is there as its row tells."""
    try:
        size = clip.stat().st_size
    except OSError:
        return False
    if size != row["bytes"]:
        return False
    if not verify:
        return True
    try:
        return bool(frames_sha256(read_video(clip).frames) == row["file_frames_sha256"])
    except ValueError:
        return False


def _run_batch(
    batch: list[Job],
    folder: Path,
    pipelines: Pipelines,
    results: Results,
    extra: Extra | None,
    encoding: Mapping[str, Any],
) -> Iterator[Outcome]:
    started = time.perf_counter()
    try:
        pipeline = pipelines.get(batch[0].settings)
        videos = pipeline.generate([job.settings for job in batch])
    except OSError:
        raise  # the machine's fault, not the job's
    except Exception as error:  # whatever goes wrong with a job is a row; the others go on
        if len(batch) > 1:
            for job in batch:
                yield from _run_batch([job], folder, pipelines, results, extra, encoding)
            return
        yield _failed(batch[0], error, results)
        return
    seconds = (time.perf_counter() - started) / len(batch)
    for job, video in zip(batch, videos, strict=True):
        try:
            row = _save(job, video, folder, extra, encoding) | {"seconds": round(seconds, 3)}
        except OSError:
            raise
        except Exception as error:
            yield _failed(job, error, results)
            continue
        results.append(row)
        yield Outcome(job, "ok", row)


def _save(
    job: Job, video: "GeneratedVideo", folder: Path, extra: Extra | None, encoding: Mapping[str, Any]
) -> dict[str, Any]:
    clip = folder / job.file
    video.save(clip, **encoding)
    return {
        "job_id": job.job_id,
        "status": "ok",
        "file": job.file,
        "bytes": clip.stat().st_size,
        "frames_sha256": video.frames_sha256,
        "file_frames_sha256": frames_sha256(read_video(clip).frames),
        "where": job.where,
        "settings": video.settings.model_dump(mode="json", exclude_none=True),
        "metrics": {
            name: {"value": measured.value, "status": measured.status, "unit": measured.unit}
            for name, measured in video.report.values.items()
        },
        **(extra(video) if extra is not None else {}),
    }


def _failed(job: Job, error: Exception, results: Results) -> Outcome:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    row = {
        "job_id": job.job_id,
        "status": "failed",
        "where": job.where,
        "error": f"{type(error).__name__}: {reason}"[:MAX_ERROR_CHARACTERS],
        "settings": job.settings.model_dump(mode="json", exclude_none=True),
    }
    results.append(row)
    return Outcome(job, "failed", row, error)


def _essentials(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """What resuming needs of a row, so that a long list of them stays small."""
    keys = ("job_id", "status", "file", "bytes", "frames_sha256", "file_frames_sha256")
    return {key: row[key] for key in keys if key in row}
