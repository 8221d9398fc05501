"""A clip made again with one part changed at a time: by the runner of jobs, cheap changes first."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from video_diffusion.comparison.alignment import PromptMeter
from video_diffusion.comparison.design import Design, design_from
from video_diffusion.comparison.run import CLIPS, PlannedClip, collect, plan
from video_diffusion.comparison.summary import ClipResult
from video_diffusion.diagnosis.parts import Change, changes_of
from video_diffusion.diagnosis.stages import (
    Encoder,
    Given,
    StageLook,
    key_of,
    load_latents,
    look_at_stages,
    read_looks,
    save_latents,
    write_looks,
)
from video_diffusion.jobs import Job, Pipelines, Results, model_facts, run_jobs
from video_diffusion.jobs.runner import finished_row
from video_diffusion.pipeline.deflicker import deflicker
from video_diffusion.pipeline.inputs import read_extended, taken_of_videos
from video_diffusion.settings import ConfigError, GenerationSettings, Layer, ResolvedSettings
from video_diffusion.video import write_bytes
from video_diffusion.video.images import read_input_video

if TYPE_CHECKING:
    from video_diffusion.pipeline import GeneratedVideo, TextToVideoPipeline

AS_IT_IS = "as it is"
LATENTS, LOOKS, CONFIG = "latents", "looks", "compare.yaml"
NOT_OF_ALL = ("prompt", "seed")


@dataclass(frozen=True)
class Subject:
    """What is diagnosed.

    Attributes:
        settings: Of the clip, with the model's defaults; its seed is the clip's own.
        seeds: That it is made with, its own first.
        own_file: The clip's file; None where there is only a record or a prompt.
        encoder: That the file went through, or that `generate` would use; None leaves the encoder out.
        frames_sha256: Of the clip's frames before encoding, as its record says.
    """

    settings: GenerationSettings
    seeds: tuple[int, ...]
    own_file: Path | None = None
    encoder: Encoder | None = None
    frames_sha256: str = ""


@dataclass(frozen=True)
class Progress:
    """How far a diagnosis is.

    Attributes:
        label: What is made or looked at.
        done, total: Clips.
        seconds_left: Of the work that the budget holds.
    """

    label: str
    done: int
    total: int
    seconds_left: float


@dataclass
class Seen:
    """What a diagnosis has seen so far.

    Attributes:
        changes: Made at every seed, in the order of the design.
        left_out: Of changes, those that the budget had no room for.
        looks: At the stages of the clip, by seed.
        clips: Of the clip as it is and of every change; of one arm, one for each seed.
        notes: What else a reader must know.
        design: As a comparison that `compare` runs again; None before anything was planned.
    """

    changes: list[Change] = field(default_factory=list)
    left_out: list[Change] = field(default_factory=list)
    looks: dict[int, list[StageLook]] = field(default_factory=dict)
    clips: tuple[ClipResult, ...] = ()
    notes: list[str] = field(default_factory=list)
    design: Design | None = None


def given_to(settings: ResolvedSettings) -> Given | None:
    """The frames that a clip was made of; None for noise alone, or one image."""
    extended, size = read_extended(settings), (settings.num_frames, settings.height, settings.width)
    if extended is not None:
        return Given("the frames it goes on from, alone", extended.frames, extended.joined)
    if settings.refine is not None:
        frames = read_input_video(settings.refine, *size, "refine")
        return Given("the clip before its second pass", frames)
    if settings.init_video is not None:
        frames = read_input_video(settings.init_video, *size, taken=taken_of_videos(settings))
        return Given("the video it starts from", frames)
    return None


class Diagnosis:
    """Makes clips and looks at them, a change at a time; whoever iterates shows progress, and may stop.

    Args:
        subject: What is diagnosed.
        folder: Of the clips and of everything that is kept, so that nothing is made twice; it must exist.
        pipelines: Opens the models.
        meter: Of prompt alignment.
        budget: Seconds; once they are not enough for a change at every seed, it is left out.

    Attributes:
        seen: What came of it; `clips` are there at the end.
    """

    def __init__(
        self, subject: Subject, folder: Path, pipelines: Pipelines, meter: PromptMeter, budget: float
    ) -> None:
        self.subject, self.folder = subject, folder
        self.pipelines, self.meter = pipelines, meter
        self.seen = Seen()
        self._started = time.monotonic()
        self._budget = budget
        self._seconds: list[float] = []  # of each clip as it is
        self._done = 0

    def steps(self) -> Iterator[Progress]:
        """Do all of it."""
        pipeline = self._pipeline()
        adapter = pipeline.parts.motion_adapter
        longest = None if self.subject.settings.motion_adapter == "none" else adapter.max_num_frames
        usual_steps = pipeline.defaults["num_inference_steps"]
        changes = self._plan(changes_of(self.subject.settings, longest, usual_steps))
        planned = list(plan(self._design(), model_facts))
        by_arm = {label: [each.job for each in planned if each.arm == label] for label in self._labels()}
        total = len({job.job_id for jobs in by_arm.values() for job in jobs})
        for job in self._make(by_arm[AS_IT_IS], keep_latents=True):
            yield Progress(AS_IT_IS, self._count(job), total, self._left(changes))
        for job in by_arm[AS_IT_IS]:
            self._look(job)
            yield Progress("denoiser, decoder, encoder", self._done, total, self._left(changes))
        for index, change in enumerate(changes):
            open_jobs = [job for job in by_arm[change.label] if not self._is_made(job)]
            needed = self._of_one_clip() * change.cost * len(open_jobs)
            if open_jobs and self._spent() + needed > self._budget:
                self.seen.left_out.append(change)
                continue
            failed = 0
            for job in self._make(by_arm[change.label]):
                failed += job is None
                yield Progress(change.label, self._count(job), total, self._left(changes[index:]))
            if not failed:
                self.seen.changes.append(change)
        self._collect(planned)

    # What is made.

    def _plan(self, changes: Sequence[Change]) -> list[Change]:
        """Declare the changes as arms; one that does not go with the clip's other settings is noted."""
        settings = self.subject.settings
        own = settings.model_dump(mode="json")
        usual = GenerationSettings(prompt="-").model_dump(mode="json")
        base = {name: own[name] for name in own if name not in NOT_OF_ALL and own[name] != usual[name]}
        possible = []
        for change in changes:
            try:
                GenerationSettings.from_values({**own, **change.values})
            except ConfigError as error:
                self.seen.notes.append(f"{change.label} could not be tried: {error}")
            else:
                possible.append(change)
        arms = {AS_IT_IS: {}, **{change.label: dict(change.values) for change in possible}}
        if len(arms) == 1:
            arms["the same again"] = {}
        values = {"arms": arms, "settings": base, "prompts": [settings.prompt]}
        self.seen.design = design_from(Layer({**values, "seeds": list(self.subject.seeds)}))
        write_bytes(self.folder / CONFIG, self.seen.design.to_yaml().encode())
        return possible

    def _make(self, jobs: Sequence[Job], keep_latents: bool = False) -> Iterator[Job | None]:
        """Make what is not made yet; yields the job, or None for one that failed."""
        ids = {job.settings.seed: job.job_id for job in jobs}

        def extra(video: "GeneratedVideo") -> Mapping[str, Any]:
            if keep_latents and video.latents is not None:
                save_latents(self.folder / LATENTS, ids[video.settings.seed], video.latents)
            return self.meter(video)

        (self.folder / CLIPS).mkdir(exist_ok=True)
        for job in jobs:
            lost = keep_latents and load_latents(self.folder / LATENTS, job.job_id) is None
            (outcome,) = run_jobs([job], self.folder, self.pipelines, extra=extra, overwrite=lost)
            if outcome.status == "failed":
                self.seen.notes.append(f"{job.where.split(' · ')[0]} failed: {outcome.row['error']}")
                if keep_latents and outcome.error is not None:
                    raise outcome.error  # without the clip as it is there is nothing to hold others against
                yield None
                return
            if keep_latents:
                self._seconds.append(float(outcome.row.get("seconds", 0.0)))
            yield job

    def _look(self, job: Job) -> None:
        """Look at the stages of one clip, or read what was seen before."""
        subject, seed = self.subject, job.settings.seed
        own_file = subject.own_file if seed == subject.settings.seed else None
        path, key = self.folder / LOOKS / f"{job.job_id}.json", key_of(subject.encoder, own_file)
        path.parent.mkdir(exist_ok=True)
        looks = read_looks(path, key)
        if looks is None:
            latents = load_latents(self.folder / LATENTS, job.job_id)
            assert latents is not None  # it was made, or made again
            pipeline = self._pipeline()
            settings = pipeline.resolve(job.settings)
            looks = list(
                look_at_stages(
                    latents.to(pipeline.device),
                    lambda part: deflicker(pipeline.decode(part), settings.deflicker),
                    settings.fps,
                    self.folder / CLIPS / Path(job.file).stem,
                    own_file,
                    subject.encoder,
                    given_to(settings),
                )
            )
            write_looks(path, key, looks)
        self.seen.looks[seed] = looks

    def _collect(self, planned: Sequence[PlannedClip]) -> None:
        design = self._design()
        labels = {AS_IT_IS, *(change.label for change in self.seen.changes)}
        arms = tuple(arm for arm in design.arms if arm.label in labels)
        own = [each for each in planned if each.arm in labels]
        found = collect(replace(design, arms=arms), own, self.folder, self.meter, "")
        self.seen.clips = found.clips
        mine = next(
            (c for c in found.clips if c.arm == AS_IT_IS and c.seed == self.subject.settings.seed), None
        )
        recorded = self.subject.frames_sha256
        if recorded and mine is not None and mine.frames_sha256 not in {"", recorded}:
            self.seen.notes.append(
                "The clip made again is not the recorded one to the last bit (another machine, version or "
                "number of threads); `video-diffusion rerun` tells more."
            )

    # Time and what is there.

    def _is_made(self, job: Job) -> bool:
        rows = Results(self.folder).finished().get(job.job_id, ())
        return finished_row(self.folder / job.file, rows) is not None

    def _of_one_clip(self) -> float:
        known = [seconds for seconds in self._seconds if seconds > 0]
        return sum(known) / len(known) if known else 0.0

    def _spent(self) -> float:
        return time.monotonic() - self._started

    def _left(self, changes: Sequence[Change]) -> float:
        needed = sum(change.cost for change in changes) * len(self.subject.seeds) * self._of_one_clip()
        return min(max(0.0, self._budget - self._spent()), needed)

    def _count(self, job: Job | None) -> int:
        self._done += job is not None
        return self._done

    def _labels(self) -> list[str]:
        return [arm.label for arm in self._design().arms]

    def _design(self) -> Design:
        assert self.seen.design is not None  # planned first
        return self.seen.design

    def _pipeline(self) -> "TextToVideoPipeline":
        return self.pipelines.get(self.subject.settings)
