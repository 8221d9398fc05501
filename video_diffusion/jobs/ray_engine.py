"""Jobs on a pool of Ray actors with a model each, one per GPU; the same folder, the same rows.

Whatever goes wrong with a job is caught inside the actor and becomes its row. If an actor itself dies, Ray
starts another and gives it those jobs again; a job whose process died three times becomes a failed row.
"""

import json
import logging
import os
from collections.abc import Generator, Iterable, Iterator, Mapping
from importlib.util import find_spec
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from video_diffusion.jobs.job import Job
from video_diffusion.jobs.results import Results
from video_diffusion.jobs.runner import (
    AT_MOST,
    BatchSizes,
    ClipMaker,
    Outcome,
    Pipelines,
    finish,
    finished_row,
)
from video_diffusion.settings import GenerationSettings
from video_diffusion.video.files import remove_dead_parts

MAX_ATTEMPTS = 3
OBJECT_STORE_BYTES = 256_000_000  # it holds the texts of jobs and rows only
# Ray reports usage to its makers, logs to the terminal and draws bars unless it is told not to.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_LOG_LEVEL": "ERROR",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}


def check_ray() -> None:
    """Whether Ray Data is installed."""
    if find_spec("ray") is None or find_spec("pyarrow") is None:
        raise ValueError(
            "--engine: ray is not installed; pip install 'video-diffusion[ray]', or leave it out"
        )


def run_jobs_on_ray(
    jobs: Iterable[Job],
    folder: Path,
    *,
    num_actors: int | None = None,
    batch_size: int | None = 1,
    verify: bool = False,
    overwrite: bool = False,
    encoding: Mapping[str, Any] | None = None,
) -> Generator[Outcome, None, None]:
    """Makes what is not made yet, in the order in which actors finish; see `run_jobs`.

    A cluster is that of RAY_ADDRESS, else one on this machine for as long as the run takes. On several
    machines the folder and the models must have the same paths everywhere.
    """
    remove_dead_parts(folder)
    done = {} if overwrite else Results(folder).finished()
    open_jobs = []
    for job in jobs:
        row = finished_row(folder / job.file, done.get(job.job_id, ()), verify)
        if row is not None:
            yield Outcome(job, "skipped", row)
        else:
            open_jobs.append(job)
    if not open_jobs:
        return
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    import ray  # noqa: PLC0415 - an extra that takes seconds to import

    own_cluster = not ray.is_initialized()
    if own_cluster:
        local: dict[str, Any] = (
            {} if os.environ.get("RAY_ADDRESS") else {"object_store_memory": OBJECT_STORE_BYTES}
        )
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, **local)
    try:
        yield from _spread(ray, open_jobs, folder, num_actors, batch_size, encoding or {})
    finally:
        if own_cluster:
            ray.shutdown()
        remove_dead_parts(folder)


def _spread(
    ray: Any,
    jobs: list[Job],
    folder: Path,
    num_actors: int | None,
    batch_size: int | None,
    encoding: Mapping[str, Any],
) -> Iterator[Outcome]:
    gpus, cpus = (int(ray.cluster_resources().get(kind, 0)) for kind in ("GPU", "CPU"))
    if gpus and (num_actors or 0) > gpus:
        raise ValueError(f"--actors: is {num_actors} but there are {gpus} GPUs; give at most {gpus}")
    size = num_actors or gpus or 1
    together = batch_size or (AT_MOST if gpus else 1)
    texts = [json.dumps([_to_values(job) for job in batch]) for batch in _alike(jobs, together)]
    attempts = ray.remote(num_cpus=0)(Attempts).remote()
    rows = ray.data.from_items(texts, override_num_blocks=len(texts)).map(
        JobActor,
        fn_constructor_args=(str(folder.absolute()), attempts, batch_size, dict(encoding)),
        compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=2),
        num_gpus=1 if gpus else 0,
        num_cpus=1 if gpus else max(cpus // size, 1) if cpus >= size else cpus / size,
    )
    by_id = {job.job_id: job for job in jobs}
    for answer in rows.iter_rows():
        for row in json.loads(answer["rows"]):
            if "errno" in row:
                raise OSError(row["errno"], os.strerror(row["errno"]), row["path"])
            yield Outcome(by_id[row["job_id"]], row["status"], row)


def _alike(jobs: list[Job], size: int) -> Iterator[list[Job]]:
    """Jobs of one kind, `size` at a time."""
    for _, group in groupby(sorted(jobs, key=lambda job: job.batch_key), key=lambda job: job.batch_key):
        while batch := list(islice(group, size)):
            yield batch


class Attempts:
    """Counts, outside the processes that may die, how often each job was begun."""

    def __init__(self) -> None:
        self._begun: dict[str, int] = {}

    def begin(self, job_ids: list[str]) -> int:
        """Counts one more attempt at these jobs, and returns the most that any of them has had."""
        for job_id in job_ids:
            self._begun[job_id] = self._begun.get(job_id, 0) + 1
        return max(self._begun[job_id] for job_id in job_ids)


class JobActor:
    """A process that keeps a model in memory and makes the jobs it is given.

    Args:
        folder: absolute.
        attempts: handle of `Attempts`.
        batch_size, encoding: as in `run_jobs`.
    """

    def __init__(self, folder: str, attempts: Any, batch_size: int | None, encoding: dict[str, Any]) -> None:
        self._attempts = attempts
        self._folder = Path(folder)
        self._maker = ClipMaker(self._folder, Pipelines(), BatchSizes(batch_size), None, encoding)

    def __call__(self, item: dict[str, Any]) -> dict[str, str]:
        """Rows of the jobs in `item`, as JSON; a fault of the machine is a row with "errno" and "path"."""
        import ray  # noqa: PLC0415 - see above

        jobs = [_from_values(values) for values in json.loads(item["item"])]
        attempt = ray.get(self._attempts.begin.remote([job.job_id for job in jobs]))
        try:
            rows = [dict(outcome.row) for outcome in self._outcomes(jobs, attempt)]
        except OSError as error:
            rows = [{"errno": error.errno, "path": str(error.filename or self._folder)}]
        return {"rows": json.dumps(rows)}

    def _outcomes(self, jobs: list[Job], attempt: int) -> Iterator[Outcome]:
        """What comes of jobs; those that an actor had begun and died over are looked at first."""
        if attempt > 1:
            done = Results(self._folder).finished()
            for job in list(jobs):
                row = finished_row(self._folder / job.file, done.get(job.job_id, ()))
                if row is not None:
                    jobs.remove(job)
                    yield Outcome(job, "ok", {**row, "flags": []})
        if attempt > MAX_ATTEMPTS:
            reason = RuntimeError(
                f"the process that made it died {MAX_ATTEMPTS} times, perhaps without memory"
            )
            yield from (self._maker.failed(job, reason) for job in jobs)
        else:
            yield from finish(self._maker.make_alike(jobs))


def _to_values(job: Job) -> dict[str, Any]:
    settings = job.settings.model_dump(mode="json")
    return {"job_id": job.job_id, "file": job.file, "where": job.where, "settings": settings}


def _from_values(values: dict[str, Any]) -> Job:
    settings = GenerationSettings.from_values(values["settings"])
    return Job(settings, values["job_id"], values["file"], values["where"])
