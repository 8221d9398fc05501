"""The search itself: Optuna proposes, the runner of jobs makes, and what is there is never made again.

Optuna's pruners know one objective, so poor settings are ended here: successive halving (Jamieson and
Talwalkar 2016), asynchronous as in ASHA (Li et al. 2020), on the non-dominated rank of all objectives. After
each rung of prompts a setting goes on only if fewer than half of the settings that came so far lie on better
fronts than its own.
"""

import math
import os
import socket
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout

from video_diffusion.comparison.alignment import ROW_KEY, PromptMeter
from video_diffusion.comparison.run import CLIPS, make_clips
from video_diffusion.jobs import Job, Pipelines, Results, model_facts
from video_diffusion.jobs.job import make_job
from video_diffusion.jobs.results import cut_torn_line
from video_diffusion.settings import ConfigError, GenerationSettings
from video_diffusion.tuning.declaration import START, TIME, Searched, TuneDesign

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import TPESampler
    from optuna.trial import FrozenTrial, Trial

    from video_diffusion.pipeline import GeneratedVideo

STORAGE, LOCK, WORKERS = "study.log", ".tune.lock", "workers"
STUDY = "video-diffusion tune"
SEARCH = "search · "  # before where a clip of the search was asked for, in its row
LEAST_SHARE = 0.5  # of the clips that must be measured, as in `compare`
FIRST_AT_RANDOM = 8
DIGITS = 4  # of a number in a range without a step


@dataclass(frozen=True)
class Tried:
    """One setting that was tried.

    Attributes:
        number: In the order of trials; 0 is the start.
        label: "start", a preset's name, or "trial 7".
        values: Settings in which it stands apart from the start.
        params: What Optuna knows of them; of the start and of presets, its own values of what is searched.
        num_prompts: That its clips were made for.
        outcome: "all prompts", "ended early", "failed" or "in the making".
        means: Objective → mean over the clips of the last rung it came to.
        first: Likewise, of the first rung, which every trial comes to.
        why: Of a failure.
    """

    number: int
    label: str
    values: Mapping[str, Any]
    params: Mapping[str, Any]
    num_prompts: int
    outcome: str
    means: Mapping[str, float]
    first: Mapping[str, float]
    why: str = ""


@dataclass(frozen=True)
class Step:
    """How far a search is: a clip was made or found, or a trial has ended."""

    label: str
    num_trials: int
    num_clips: int
    ended: Tried | None = None


class TimedMeter(PromptMeter):
    """Prompt alignment, and the seconds that the clip took."""

    def __call__(self, video: "GeneratedVideo") -> Mapping[str, Any]:
        """What `run_jobs` adds to a clip's row."""
        seconds = round(sum(video.run_record.timings.values()), 3)
        timed = {TIME: {"value": seconds, "unit": "s a clip", "status": "ok"}}
        return {ROW_KEY: {**self.measure(video.frames, video.settings), **timed}}


def check_optuna() -> None:
    """Whether Optuna is installed."""
    if find_spec("optuna") is None:
        raise ConfigError("tune: optuna is not installed; pip install 'video-diffusion[tune]'")


def jobs_of(design: TuneDesign, number: int, values: Mapping[str, Any], num_prompts: int) -> list[Job]:
    """The clips of a trial for the first prompts, prompt by prompt."""
    jobs = []
    for prompt in design.prompts[:num_prompts]:
        for seed in design.seeds_of(number, design.seeds):
            asked = {**design.settings_of(values), "prompt": prompt, "seed": seed}
            job = make_job(
                GenerationSettings.from_values(asked), model_facts, f"{SEARCH}trial {number} · {prompt[:60]}"
            )
            jobs.append(replace(job, file=f"{CLIPS}/{job.file}"))
    return jobs


class Search:
    """Makes trials until there are enough; whoever iterates shows progress, and may stop at any clip.

    Several processes may share a folder and a storage: trials are handed out under a lock, and one whose
    process is gone is taken over by another, with the same settings.

    Args:
        design: What is searched.
        folder: Of the clips and, by default, of the storage; it must exist.
        storage: None for a file in the folder, else a file's path or a database's URL.
        pipelines, meter: Open the models, measure prompt alignment.
        num_workers: That share the budget.

    Raises:
        ConfigError: The storage cannot be opened, or holds a search of another design.
    """

    def __init__(
        self,
        design: TuneDesign,
        folder: Path,
        storage: str | None,
        pipelines: Pipelines,
        meter: PromptMeter,
        num_workers: int = 1,
    ) -> None:
        self.design, self.folder = design, folder
        self._pipelines, self._meter, self._num_workers = pipelines, meter, num_workers
        self._num_clips = 0
        self._lock = FileLock(folder / LOCK)
        with self._lock:
            self.study = open_study(design, storage or str(folder / STORAGE))

    def steps(self) -> Iterator[Step]:
        """Do all of it, or what of it is left."""
        (self.folder / CLIPS).mkdir(exist_ok=True)
        with _worker(self.folder) as worker:
            while (trial := self._next(worker)) is not None:
                yield from self._run(trial)

    def tried(self) -> list[Tried]:
        """Every trial so far, those in the making too."""
        return [
            told(self.design, each)
            for each in self.study.get_trials(deepcopy=False)
            if each.state.name != "WAITING"
        ]

    def confirmed(self) -> list[int]:
        """Trials that were held against the start on the kept-back prompts, in order."""
        return list(self.study.user_attrs.get("confirmed", []))

    def add_confirmed(self, number: int) -> None:
        """Note such a trial: the kept-back prompts count how often they were asked."""
        with self._lock:
            known = self.confirmed()
            if number not in known:
                self.study.set_user_attr("confirmed", [*known, number])

    # Trials.

    def _next(self, worker: str) -> "Trial | None":
        """A trial whose process is gone, else a new one; None where there are enough."""
        import optuna  # noqa: PLC0415 - an extra

        with self._lock:
            trials = self.study.get_trials(deepcopy=False)
            running = [each for each in trials if each.state.name == "RUNNING"]
            left = next((t for t in running if not _is_alive(self.folder, t.user_attrs.get("worker"))), None)
            if left is not None:
                trial = optuna.trial.Trial(self.study, left._trial_id)
            else:
                begun = sum(each.state.name != "WAITING" for each in trials)
                if begun >= self.design.trials or (begun and self._is_spent()):
                    return None
                trial = self.study.ask()
            trial.set_user_attr("worker", worker)
            if "values" not in trial.user_attrs:
                trial.set_user_attr("values", self._propose(trial))
            return trial

    def _propose(self, trial: "Trial") -> dict[str, Any]:
        """The settings of a trial, each parameter told to Optuna."""
        fixed = trial.user_attrs.get("preset")
        values: dict[str, Any] = {}
        for place, each in enumerate(self.design.search):
            self.study.sampler = _sampler(trial.number, place)
            known = fixed if fixed is not None else values
            if fixed is not None and each.name not in fixed:
                continue
            if fixed is not None and not each.holds(fixed[each.name]):
                continue
            if each.counts(known):
                values[each.name] = _suggest(trial, each)
        return dict(trial.user_attrs.get("own", {})) if fixed is not None else values

    def _run(self, trial: "Trial") -> Iterator[Step]:
        from optuna.trial import TrialState  # noqa: PLC0415 - an extra

        design, number = self.design, trial.number
        values, label = trial.user_attrs["values"], label_of(number, trial.user_attrs)
        for place, num_prompts in enumerate(design.rungs):
            try:
                jobs = jobs_of(design, number, values, num_prompts)
            except ConfigError as error:  # settings that do not go together
                self._fail(trial, f"{error}")
                break
            problem = yield from self._make(jobs, label)
            means = self._means(jobs)
            if problem or any(math.isnan(value) for value in means):
                self._fail(trial, problem or "fewer than half of its clips could be measured")
                break
            trial.set_user_attr(f"rung {num_prompts}", means)
            is_last = place == len(design.rungs) - 1
            if not is_last and number and not self._goes_on(number, num_prompts):
                self.study.tell(trial, state=TrialState.PRUNED)
                break
            if is_last:
                self.study.tell(trial, means)
        (frozen,) = [each for each in self.study.get_trials(deepcopy=False) if each.number == number]
        yield Step(label, self._num_ended(), self._num_clips, told(design, frozen))

    def _make(self, jobs: Sequence[Job], label: str) -> Generator[Step, None, str]:
        """Make what is not made yet; returns what went wrong, "" for nothing."""
        for outcome in make_clips(jobs, self.folder, self._pipelines, self._meter):
            if outcome.status == "failed":
                if label == START and outcome.error is not None:
                    raise outcome.error  # without the start there is nothing to hold others against
                return str(outcome.row["error"])
            self._num_clips += outcome.status == "ok"
            yield Step(label, self._num_ended(), self._num_clips)
        return ""

    def _means(self, jobs: Sequence[Job]) -> list[float]:
        """The mean of each objective over clips, NaN where fewer than half have a number; from the rows."""
        latest = Results(self.folder).latest()
        rows = [latest[job.job_id] for job in jobs if job.job_id in latest]
        means = []
        for name in self.design.objectives:
            found = [{**row.get("metrics", {}), **row.get(ROW_KEY, {})}.get(name) for row in rows]
            numbers = [each["value"] for each in found if each is not None and each["value"] is not None]
            enough = len(numbers) >= LEAST_SHARE * len(jobs)
            means.append(float(np.mean(numbers)) if enough and numbers else math.nan)
        return means

    def _goes_on(self, number: int, num_prompts: int) -> bool:
        with self._lock:
            known = {
                each.number: each.user_attrs[f"rung {num_prompts}"]
                for each in self.study.get_trials(deepcopy=False)
                if f"rung {num_prompts}" in each.user_attrs
            }
        fronts = front_of_each(list(known.values()), self.design.directions)
        own = fronts[list(known).index(number)]
        return sum(front < own for front in fronts) < math.ceil(len(fronts) / 2)

    def _fail(self, trial: "Trial", why: str) -> None:
        from optuna.trial import TrialState  # noqa: PLC0415 - an extra

        trial.set_user_attr("why", why)
        self.study.tell(trial, state=TrialState.FAIL)

    def _num_ended(self) -> int:
        return sum(each.state.is_finished() for each in self.study.get_trials(deepcopy=False))

    def _is_spent(self) -> bool:
        """Whether the clips of the search have taken as long as they may."""
        if self.design.budget is None:
            return False
        rows = [row for row in Results(self.folder).rows() if row.get("where", "").startswith(SEARCH)]
        seconds = sum(row.get("seconds", 0.0) for row in rows)
        return seconds / self._num_workers >= self.design.budget


def front_of_each(values: Sequence[Sequence[float]], directions: Sequence[int]) -> list[int]:
    """Non-dominated sorting (Deb et al. 2002): 0 where nothing is better in all objectives, and so on."""
    costs = -np.asarray(values, np.float64) * np.asarray(directions, np.float64)
    beats = (costs[:, None] <= costs[None]).all(2) & (costs[:, None] < costs[None]).any(2)
    fronts, left, front = np.full(len(costs), -1), np.ones(len(costs), bool), 0
    while left.any():
        on_front = left & ~(beats & left[:, None]).any(0)
        fronts[on_front], left = front, left & ~on_front
        front += 1
    return [int(each) for each in fronts]


def label_of(number: int, attributes: Mapping[str, Any]) -> str:
    """What a trial is called."""
    return str(attributes.get("label", f"trial {number}"))


def told(design: TuneDesign, trial: "FrozenTrial") -> Tried:
    """A trial as its storage tells it."""
    reached = [count for count in design.rungs if f"rung {count}" in trial.user_attrs]
    words = {"COMPLETE": "all prompts", "PRUNED": "ended early", "FAIL": "failed"}

    def means(num_prompts: int) -> dict[str, float]:
        return dict(zip(design.objectives, trial.user_attrs[f"rung {num_prompts}"], strict=True))

    return Tried(
        number=trial.number,
        label=label_of(trial.number, trial.user_attrs),
        values=trial.user_attrs.get("values", {}),
        params=trial.params,
        num_prompts=reached[-1] if reached else 0,
        outcome=words.get(trial.state.name, "in the making"),
        means=means(reached[-1]) if reached else {},
        first=means(reached[0]) if reached else {},
        why=trial.user_attrs.get("why", ""),
    )


# Optuna: its storage, its sampler, its parameters.


def open_study(design: TuneDesign, storage: str) -> "Study":
    """The study of a storage; a fresh one begins with the start and the presets.

    Raises:
        ConfigError: It cannot be opened, or it is of another design.
    """
    import optuna  # noqa: PLC0415 - an extra that takes half a second to import

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    place = storage.rpartition("@")[2] if "://" in storage else storage  # without a password
    directions = ["maximize" if sign > 0 else "minimize" for sign in design.directions]
    try:
        opened = optuna.storages.get_storage(storage) if "://" in storage else _journal(optuna, Path(storage))
        names = [each.study_name for each in optuna.get_all_study_summaries(opened, include_best_trial=False)]
        if STUDY not in names:
            study = optuna.create_study(storage=opened, study_name=STUDY, directions=directions)
        else:
            study = optuna.load_study(storage=opened, study_name=STUDY)
        if "parts" not in study.user_attrs:
            study.set_user_attr("parts", design.parts)
    except OSError:
        raise
    except Exception as error:  # a database's, a driver's that is missing, a file that is none of Optuna's
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        if "://" in storage:
            reason = reason.replace(storage, place)
        raise ConfigError(f"--storage: {place}: cannot be opened ({reason[:200]}); name another") from None
    known = study.user_attrs["parts"]
    changed = [name for name, value in design.parts.items() if known.get(name) != value]
    if changed:
        raise ConfigError(
            f"{place}: holds a search of another design ({', '.join(changed)} changed since); name another "
            "-o or --storage, or delete it (clips that fit are found again)"
        )
    named = {START: {}, **{preset.label: preset.values for preset in design.presets}}
    queued = {each.user_attrs.get("label") for each in study.get_trials(deepcopy=False)}
    defaults = _defaults(design) if set(named) - queued else {}
    for label, values in named.items():
        if label not in queued:
            _begin_with(study, design, label, values, {**defaults, **values})
    return study


def _journal(optuna: Any, path: Path) -> Any:
    """A file of Optuna's log; the lock ends with its process, and what a crash tore is cut off."""
    if path.is_dir():
        path /= STORAGE
    lock = FileLock(f"{path}.lock")
    with lock:
        if path.exists():
            handle = os.open(path, os.O_RDWR)
            with suppress(OSError):
                cut_torn_line(handle)
            os.close(handle)
    backend = optuna.storages.journal.JournalFileBackend(str(path), lock_obj=lock)
    return optuna.storages.JournalStorage(backend)


def _begin_with(
    study: "Study", design: TuneDesign, label: str, own: Mapping[str, Any], whole: Mapping[str, Any]
) -> None:
    """Queue settings that somebody named: parameters where they lie in the space, values as they are."""
    preset = {each.name: whole.get(each.name) for each in design.search}
    fitting = {
        each.name: _for_optuna(preset[each.name]) for each in design.search if each.holds(preset[each.name])
    }
    study.enqueue_trial(fitting, user_attrs={"label": label, "preset": preset, "own": dict(own)})


def _defaults(design: TuneDesign) -> dict[str, Any]:
    """What the start has in the searched settings, as far as the model tells."""
    settings = GenerationSettings.from_values({"prompt": "any", **design.base})
    facts = model_facts(settings.model, settings.motion_adapter)
    return settings.with_defaults(facts.defaults).model_dump(mode="json")


def _sampler(number: int, place: int) -> "TPESampler":
    """TPE (Watanabe 2023), seeded by trial and parameter: a stopped search goes on as it would have."""
    from optuna.samplers import TPESampler  # noqa: PLC0415 - an extra

    return TPESampler(seed=1000 * number + place, n_startup_trials=FIRST_AT_RANDOM)


def _for_optuna(value: Any) -> Any:
    """A value as Optuna keeps choices: what is no plain value as text."""
    return value if value is None or isinstance(value, str | int | float) else repr(value)


def _suggest(trial: "Trial", each: Searched) -> Any:
    if each.choices is not None:
        texts = [_for_optuna(value) for value in each.choices]
        chosen = trial.suggest_categorical(each.name, texts)
        return each.choices[texts.index(chosen)]
    if each.is_whole:
        step = int(each.step or 1)
        return trial.suggest_int(each.name, int(each.low), int(each.high), step=step, log=each.log)
    value = trial.suggest_float(each.name, each.low, each.high, step=each.step, log=each.log)
    return float(f"{value:.{DIGITS}g}")


# Who is at work: a locked file for each process, free once the process is gone.


@contextmanager
def _worker(folder: Path) -> Iterator[str]:
    name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    place = folder / WORKERS / name
    place.parent.mkdir(exist_ok=True)
    lock = FileLock(place)
    with lock:
        yield name
    with suppress(OSError):
        place.unlink()


def _is_alive(folder: Path, worker: Any) -> bool:
    place = folder / WORKERS / str(worker)
    if not place.exists():
        return False
    try:
        with FileLock(place, timeout=0):
            pass
    except Timeout:
        return True
    with suppress(OSError):
        place.unlink()
    return False
