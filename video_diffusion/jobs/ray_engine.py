"""Jobs on a pool of Ray actors with a model each, one per GPU; the same folder, the same rows.

Whatever goes wrong with a job is caught inside the actor and becomes its row. If an actor itself dies, alone
or with its node, another is started and gets those jobs again that it had not finished; a job whose process
died three times becomes a failed row. All of that is counted here, in the process that the user started.
"""

import json
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
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
HEAD_EVERY = 5.0  # seconds between two looks whether the head node answers
HEAD_GONE_AFTER = 30.0  # seconds; after 60 Ray ends the process (gcs_rpc_server_reconnect_timeout_s)
OBJECT_STORE_BYTES = 100_000_000  # texts of jobs and rows hardly need it
# Ray reports usage to its makers and logs to the terminal unless it is told not to.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}


def check_ray() -> None:
    """Whether Ray is installed."""
    if find_spec("ray") is None:
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
        local: dict[str, Any] = {"address": "local", "object_store_memory": OBJECT_STORE_BYTES}
        if os.environ.get("RAY_ADDRESS"):  # else never one that runs, or ran, on this machine
            local = {}
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
    """Hand batches to actors as they get ready; whoever dies is replaced, what it was making goes back."""
    gpus, cpus = (int(ray.cluster_resources().get(kind, 0)) for kind in ("GPU", "CPU"))
    if gpus and (num_actors or 0) > gpus:
        raise ValueError(f"--actors: is {num_actors} but there are {gpus} GPUs; give at most {gpus}")
    before = {job_id: len(rows) for job_id, rows in Results(folder).finished().items()}
    queue = deque(Attempt(batch) for batch in _alike(jobs, batch_size or (AT_MOST if gpus else 1)))
    size = min(num_actors or gpus or 1, len(queue))
    largest = max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=1)
    share = min(max(cpus // size, 1), largest) if cpus >= size else cpus / size
    actor_class = ray.remote(
        num_gpus=1 if gpus else 0,
        num_cpus=1 if gpus else share,
        max_restarts=0,
        scheduling_strategy="SPREAD",
    )(JobActor)
    maker = ClipMaker(folder, Pipelines(), BatchSizes(1), None, encoding)
    waiting: dict[Any, tuple[Any, Attempt | None]] = {}
    deaths_at_start = 0

    def start() -> None:
        actor = actor_class.remote(str(folder.absolute()), batch_size, dict(encoding))
        waiting[actor.ready.remote()] = actor, None

    for _ in range(size):
        start()
    head = _Head(ray.get_runtime_context().gcs_address)
    try:
        while queue or any(batch is not None for _, batch in waiting.values()):
            answer = head.first_of(ray, list(waiting))
            actor, batch = waiting.pop(answer)
            try:
                rows = json.loads(ray.get(answer))
            except ray.exceptions.RayActorError as error:
                ray.kill(actor)  # one that cannot be reached might still be at work
                deaths_at_start += batch is None
                if deaths_at_start > MAX_ATTEMPTS * size:
                    raise RayFailedError(f"Ray's processes end before they begin ({_line(error)})") from None
                if batch is not None:
                    yield from _after_death(batch, maker, before, queue)
                start()
                continue
            for row in rows:
                if "errno" in row:
                    raise OSError(row["errno"], os.strerror(row["errno"]), row["path"])
                assert batch is not None
                yield Outcome(batch.by_id[row["job_id"]], row["status"], row)
            if queue:
                batch = queue.popleft()
                waiting[actor.make.remote(json.dumps([_to_values(job) for job in batch.jobs]))] = actor, batch
    except ray.exceptions.RayError as error:
        raise RayFailedError(f"the Ray cluster is gone ({_line(error)}); the same command goes on") from None
    finally:
        with suppress(Exception):  # with the cluster its actors are gone, too
            for actor, _ in waiting.values() if head.is_there else ():  # else Ray would wait for it
                ray.kill(actor)


class _Head:
    """The head node's own process, without which Ray ends every other one after a minute.

    Args:
        address: "host:port".
    """

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._place = host.strip("[]"), int(port)
        self._looked = self._seen = time.monotonic()
        self.is_there = True

    def first_of(self, ray: Any, answers: list[Any]) -> Any:
        """Wait for the first answer.

        Raises:
            RayFailedError: As `check`.
        """
        while True:
            self.check()
            ready, _ = ray.wait(answers, num_returns=1, timeout=HEAD_EVERY)
            if ready:
                return ready[0]

    def check(self) -> None:
        """Look whether it answers.

        Raises:
            RayFailedError: It has not for so long that Ray is about to end this process.
        """
        now = time.monotonic()
        if now - self._looked < HEAD_EVERY:
            return
        self._looked = now
        try:
            socket.create_connection(self._place, timeout=HEAD_EVERY).close()
            self._seen = now
        except OSError:
            if now - self._seen > HEAD_GONE_AFTER:
                self.is_there = False
                raise RayFailedError(
                    "the Ray cluster is gone (its head node does not answer); the same command goes on"
                ) from None


def _after_death(
    batch: "Attempt", maker: ClipMaker, before: Mapping[str, int], queue: "deque[Attempt]"
) -> Iterator[Outcome]:
    """Tell what a process that died had finished; put the rest back one by one, two times at most."""
    done = Results(maker.folder).finished()
    for job in batch.jobs:
        new = done.get(job.job_id, ())[before.get(job.job_id, 0) :]
        row = finished_row(maker.folder / job.file, new)
        if row is not None:
            yield Outcome(job, "ok", {**row, "flags": row.get("flags", [])})
        elif batch.number < MAX_ATTEMPTS:
            queue.append(Attempt([job], batch.number + 1))
        else:
            reason = f"the process that made it died {MAX_ATTEMPTS} times, perhaps without memory"
            yield maker.failed(job, RuntimeError(reason))


def _line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


class RayFailedError(RuntimeError):
    """Ray itself broke down; what is finished stays."""

    exit_code = 4


@dataclass(frozen=True, eq=False)
class Attempt:
    """Jobs of one kind, and how often they were begun, this time included."""

    jobs: list[Job]
    number: int = 1

    @property
    def by_id(self) -> dict[str, Job]:
        """The jobs by their ids."""
        return {job.job_id: job for job in self.jobs}


def _alike(jobs: list[Job], size: int) -> Iterator[list[Job]]:
    """Jobs of one kind, `size` at a time."""
    for _, group in groupby(sorted(jobs, key=lambda job: job.batch_key), key=lambda job: job.batch_key):
        while batch := list(islice(group, size)):
            yield batch


class JobActor:
    """A process that keeps a model in memory and makes the jobs it is given.

    Args:
        folder: absolute.
        batch_size, encoding: as in `run_jobs`.
    """

    def __init__(self, folder: str, batch_size: int | None, encoding: dict[str, Any]) -> None:
        self._folder = Path(folder)
        self._maker = ClipMaker(self._folder, Pipelines(), BatchSizes(batch_size), None, encoding)

    def ready(self) -> str:
        """Answer without rows, once the process is there."""
        return "[]"

    def make(self, jobs: str) -> str:
        """Rows of jobs, both as JSON; a fault of the machine is a row with "errno" and "path"."""
        asked = [_from_values(values) for values in json.loads(jobs)]
        try:
            rows = [dict(outcome.row) for outcome in finish(self._maker.make_alike(asked))]
        except OSError as error:
            rows = [{"errno": error.errno, "path": str(error.filename or self._folder)}]
        return json.dumps(rows)


def _to_values(job: Job) -> dict[str, Any]:
    settings = job.settings.model_dump(mode="json")
    return {"job_id": job.job_id, "file": job.file, "where": job.where, "settings": settings}


def _from_values(values: dict[str, Any]) -> Job:
    settings = GenerationSettings.from_values(values["settings"])
    return Job(settings, values["job_id"], values["file"], values["where"])
