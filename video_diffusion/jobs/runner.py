"""Makes jobs one batch at a time; every job ends as a clip with its row, or as a row with its error."""

import errno
import os
import time
import warnings
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import numpy as np
from jaxtyping import UInt8

from video_diffusion.jobs.job import Job, loaded_by
from video_diffusion.jobs.results import Results
from video_diffusion.settings import GenerationSettings
from video_diffusion.settings.errors import one_line
from video_diffusion.video import frames_sha256, read_video
from video_diffusion.video.files import remove_dead_parts

if TYPE_CHECKING:
    from video_diffusion.loading import OnBytes
    from video_diffusion.pipeline import TextToVideoPipeline
    from video_diffusion.pipeline.video import DecodedVideo, GeneratedVideo


AT_MOST = 16
SHARE = 0.8  # of the free memory; the rest is for what varies from batch to batch


class BatchSizes:
    """The batch size of each kind of clip, learnt as they are made.

    On a CPU "auto" is one clip, since more gain nothing: the embedded model (2 cores, 16 frames of 64x64,
    12 steps) takes 1.81 s for each clip alone, and 1.88, 2.08 and 1.87 s for each of two, four and eight at
    once. On a GPU the first clip of a kind is made alone and its memory measured; the size is what then fits.

    Args:
        size: clips at once, or None for "auto".
    """

    def __init__(self, size: int | None = 1) -> None:
        self._size = size
        self._known: dict[Hashable, int] = {}

    @property
    def groups(self) -> bool:
        """Whether more than one clip may be made at once."""
        return self._size != 1

    def get(self, kind: Hashable) -> int:
        """How many clips of this kind to make next."""
        return self._known.get(kind, self._size or 1)

    @contextmanager
    def measured(self, kind: Hashable, device: str) -> Iterator[None]:
        """Measures what one clip, made alone inside the block, takes of a GPU's memory."""
        if self._size is not None or kind in self._known:
            yield
            return
        if not device.startswith("cuda"):
            self._known[kind] = 1
            yield
            return
        import torch  # noqa: PLC0415 - a job file is checked without importing torch

        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield
        one_clip = max(1, torch.cuda.max_memory_allocated(device) - before)
        free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - before
        self._known[kind] = fitting(free, one_clip)

    def ran_out(self, kind: Hashable, tried: int) -> int:
        """Halves the size of a kind that did not fit, gives memory back, and returns the new size."""
        from accelerate.utils.memory import clear_device_cache  # noqa: PLC0415 - imports torch

        clear_device_cache(garbage_collection=True)
        self._known[kind] = max(1, tried // 2)
        return self._known[kind]


def fitting(free_bytes: int, bytes_of_one_clip: int) -> int:
    """How many clips fit into the free memory, with some room: 1 to 16."""
    return max(1, min(AT_MOST, int(SHARE * free_bytes) // bytes_of_one_clip))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch could help: Python's, torch's for any device, and that of the CPU."""
    from accelerate.utils.memory import should_reduce_batch_size  # noqa: PLC0415 - imports torch

    return isinstance(error, MemoryError) or (
        isinstance(error, Exception) and bool(should_reduce_batch_size(error))
    )


# Finishes one batch of clips while the next one is made.


Finished = TypeVar("Finished")


@dataclass(frozen=True)
class Batch(Generic[Finished]):
    """What is left to do of clips that were made together.

    Attributes:
        calls: One for each clip, in order.
        behind: Whether to make the calls while the next batch is made, or at once.
    """

    calls: Sequence[Callable[[], Finished]]
    behind: bool = False


def finish(batches: Iterable[Batch[Finished]]) -> Generator[Finished, None, None]:
    """Makes the calls of each batch, in order.

    Measuring and encoding need no model, and for large frames on a GPU they take as long as denoising: there
    a second thread finishes one batch while the next is made. The one after that waits. What has not begun
    when this ends early is dropped.
    """
    thread = ThreadPoolExecutor(1, "finishing")
    waiting: list[Future[Finished]] = []
    try:
        for batch in batches:
            begun = [thread.submit(call) for call in batch.calls] if batch.behind else []
            yield from (each.result() for each in waiting)
            waiting = begun
            if not batch.behind:
                yield from (call() for call in batch.calls)
        yield from (each.result() for each in waiting)
    finally:
        thread.shutdown(wait=True, cancel_futures=True)


# The loaded model, kept from job to job; another is loaded when a job asks for it.


class Pipelines:
    """One pipeline in memory at a time; a model that could not be loaded is not tried again."""

    def __init__(self) -> None:
        self._key: tuple[str | bool | None, ...] | None = None
        self._pipeline: TextToVideoPipeline | None = None
        self._failed: dict[tuple[str | bool | None, ...], Exception] = {}

    def get(
        self, settings: GenerationSettings, low_memory: bool = False, on_bytes: "OnBytes | None" = None
    ) -> "TextToVideoPipeline":
        """The pipeline for these settings.

        Args:
            settings: name the model.
            low_memory: whether the pipeline spends time to save memory.
            on_bytes: told while weights are read.

        Raises:
            ModelLoadError, DeviceError: it cannot be loaded.
        """
        # imported here: a job file is checked, and skipped when all is done, without importing torch
        from video_diffusion.pipeline import TextToVideoPipeline  # noqa: PLC0415

        key = (*loaded_by(settings), low_memory)
        if key in self._failed:
            raise self._failed[key]
        if self._pipeline is None or key != self._key:
            self._pipeline = None  # frees the memory before the next one is loaded
            try:
                self._pipeline = TextToVideoPipeline.from_pretrained(
                    settings.model,
                    settings.motion_adapter,
                    settings.dtype,
                    own_device(settings.device),
                    vae=settings.vae,
                    text_encoder=settings.text_encoder,
                    low_memory=low_memory,
                    quantize=settings.quantize,
                    on_bytes=on_bytes,
                )
            except Exception as error:
                self._failed[key] = error
                raise
            self._key = key
        return self._pipeline


def check_models(
    jobs: Iterable[Job],
    folder: Path,
    pipelines: Pipelines,
    num_models: int,
    *,
    overwrite: bool = False,
) -> None:
    """Load every model that is still needed, one after the other: before hours of clips, not amid them.

    Args:
        jobs: Read until all models are known.
        folder: What is finished in it needs no model.
        pipelines: The last one stays in it.
        num_models: How many different ones there are, see `loaded_by`.
        overwrite: Whether finished clips count as not there.

    Raises:
        ModelLoadError, DeviceError, ValueError: The first that cannot be used, with the place that names it.
    """
    done = {} if overwrite else Results(folder).finished()
    seen: set[tuple[str | None, ...]] = set()
    for job in jobs:
        key = loaded_by(job.settings)
        if key in seen or finished_row(folder / job.file, done.get(job.job_id, ())) is not None:
            continue
        seen.add(key)
        with told_with(job.loaded_from), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the run tells them
            pipelines.get(job.settings)
        if len(seen) == num_models:
            return


@contextmanager
def told_with(where: str) -> Iterator[None]:
    """Put the place, if there is one, before the message of what goes wrong inside."""
    try:
        yield
    except OSError:
        raise
    except (ValueError, RuntimeError) as error:
        if not where:
            raise
        raise type(error)(f"{where}: {error}") from error


def own_device(name: str) -> str:
    """The device asked for; "auto" is the GPU that a launcher gave this process, if it gave one."""
    rank = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or ""
    if name != "auto" or not rank.isdecimal():
        return name
    import torch  # noqa: PLC0415 - see above

    return f"cuda:{int(rank) % torch.cuda.device_count()}" if torch.cuda.is_available() else name


# Makes jobs one batch at a time; every job ends as a clip with its row, or as a row with its error.


LOOK_AHEAD = 512
MAX_ERROR_CHARACTERS = 2000
# what no other job would fare better with; any other error of a file (one that a job names) is that job's own
MACHINE_FAULTS = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE,
}  # fmt: skip

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
    batch_size: int | None = 1,
    verify: bool = False,
    overwrite: bool = False,
    extra: Extra | None = None,
    encoding: Mapping[str, Any] | None = None,
) -> Generator[Outcome, None, None]:
    """Makes what is not made yet. A clip is complete in the folder before its row is written.

    A job is skipped only if its last row says ok and its clip is there with the recorded size; with `verify`
    its frames must also have the recorded hash.

    Args:
        jobs: read as they are needed.
        folder: of clips, records and results.jsonl; it must exist.
        pipelines: opens the models.
        batch_size: clips made at once where their settings allow it; None is what fits, see `BatchSizes`. A
            clip's noise never depends on it; its last bits can, so 1 is what gives equal hashes whatever was
            done before.
        verify: reads every finished clip again.
        overwrite: makes every clip again.
        extra: further values for the row of a clip.
        encoding: of `GeneratedVideo.save`.

    Raises:
        OSError: the folder cannot be written; what is finished stays.
    """
    remove_dead_parts(folder)
    done = {} if overwrite else Results(folder).finished()
    maker = ClipMaker(folder, pipelines, BatchSizes(batch_size), extra, encoding or {})
    yield from finish(_batches(jobs, maker, done, verify))


def _batches(
    jobs: Iterable[Job], maker: "ClipMaker", done: Mapping[str, Sequence[Mapping[str, Any]]], verify: bool
) -> Iterator[Batch[Outcome]]:
    """Looks for the clip of each job, or makes it but for what needs no model, a batch at a time."""
    waiting = iter(jobs)
    while ahead := list(islice(waiting, LOOK_AHEAD)):
        open_jobs: list[Job] = []
        for job in ahead:
            row = finished_row(maker.folder / job.file, done.get(job.job_id, ()), verify)
            if row is not None:
                yield Batch([partial(Outcome, job, "skipped", row)])
            else:
                open_jobs.append(job)
        if maker.sizes.groups or len({job.batch_key for job in open_jobs}) > 1:
            open_jobs.sort(key=lambda job: job.batch_key)
        for _, alike in groupby(open_jobs, key=lambda job: job.batch_key):
            yield from maker.make_alike(alike)


def finished_row(
    clip: Path, rows: Sequence[Mapping[str, Any]], verify: bool = False
) -> Mapping[str, Any] | None:
    """The row, newest first, that describes the clip as it is there; None if there is no such clip."""
    try:
        size = clip.stat().st_size
    except OSError:
        return None
    row = next((row for row in reversed(rows) if row["bytes"] == size), None)
    if row is None or not verify:
        return row
    try:
        return row if frames_sha256(read_video(clip).frames) == row["file_frames_sha256"] else None
    except ValueError:
        return None


class ClipMaker:
    """Makes batches of jobs in one folder.

    Args:
        folder, pipelines, extra, encoding: as in `run_jobs`.
        sizes: told when memory runs out.
    """

    def __init__(
        self,
        folder: Path,
        pipelines: Pipelines,
        sizes: BatchSizes,
        extra: Extra | None = None,
        encoding: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.pipelines, self.sizes = folder, pipelines, sizes
        self._extra, self._encoding = extra, encoding or {}
        self._results = Results(folder)

    def make_alike(self, jobs: Iterable[Job]) -> Iterator[Batch[Outcome]]:
        """Makes any number of jobs of one `batch_key`, in batches, but for what needs no model."""
        waiting = iter(jobs)
        for first in waiting:
            others = islice(waiting, self.sizes.get(first.batch_key) - 1)
            yield from self.make([first, *others])

    def make(self, batch: Sequence[Job]) -> Iterator[Batch[Outcome]]:
        """Makes jobs together; if that fails, in halves (no memory) or one by one (anything else).

        So one clip that breaks down takes no other with it.
        """
        started, kind = time.perf_counter(), batch[0].batch_key
        try:
            pipeline = self.pipelines.get(batch[0].settings)
            with self.sizes.measured(kind, str(pipeline.device)):
                videos = pipeline.generate_frames([job.settings for job in batch])
        except Exception as error:  # whatever goes wrong with a job is a row; the others go on
            if isinstance(error, OSError) and error.errno in MACHINE_FAULTS:
                raise
            out_of_memory = is_out_of_memory(error)
            if len(batch) == 1:
                yield Batch([partial(self.failed, batch[0], error)])
        else:
            seconds = (time.perf_counter() - started) / len(batch)
            calls = [partial(self._finish, *each, seconds) for each in zip(batch, videos, strict=True)]
            # with a busy CPU nothing is gained, and each outcome would be told a batch late
            yield Batch(calls, behind=pipeline.device.type != "cpu")
            return
        # only here, where the exception with its frames full of tensors is gone, can memory be given back
        size = self.sizes.ran_out(kind, len(batch)) if out_of_memory else 1
        if len(batch) > 1:
            for first in range(0, len(batch), size):
                yield from self.make(batch[first : first + size])

    def _finish(self, job: Job, decoded: "DecodedVideo", seconds: float) -> Outcome:
        """Measures, encodes and writes the row; OSError is the folder's and ends the run."""
        try:
            video = decoded.measured()
            seconds += video.run_record.timings["measure"]
            row = self._save(job, video) | {"seconds": round(seconds, 3)}
        except OSError:
            raise
        except Exception as error:  # an encoder that refuses one clip
            return self.failed(job, error)
        self._results.append(row)
        return Outcome(job, "ok", row)

    def _save(self, job: Job, video: "GeneratedVideo") -> dict[str, Any]:
        clip = self.folder / job.file
        video.save(clip, **self._encoding)
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
            "flags": flags_of(video.frames),
            **(self._extra(video) if self._extra is not None else {}),
        }

    def failed(self, job: Job, error: Exception) -> Outcome:
        """Writes the row of a job that cannot be made."""
        row = {
            "job_id": job.job_id,
            "status": "failed",
            "where": job.where,
            "error": f"{type(error).__name__}: {one_line(error)}"[:MAX_ERROR_CHARACTERS],
            "settings": job.settings.model_dump(mode="json", exclude_none=True),
        }
        self._results.append(row)
        return Outcome(job, "failed", row, error.with_traceback(None))  # it would keep tensors alive


def flags_of(frames: UInt8[np.ndarray, "f h w c"]) -> list[str]:
    """What is odd about a clip: "constant" (one flat colour), "repeated" (every frame the same)."""
    found = []
    if (frames == frames[0, 0, 0]).all():
        found.append("constant")
    if len(frames) > 1 and (frames[1:] == frames[0]).all():
        found.append("repeated")
    return found
