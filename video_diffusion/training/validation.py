"""Validation on the way: the same clips and the same held-out loss, again and again, training untouched."""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from video_diffusion.comparison.statistics import bootstrap_interval
from video_diffusion.metrics import MOTION_FEATURES, features_of, measure, set_distance
from video_diffusion.settings import GenerationSettings
from video_diffusion.settings.training import ValidationSettings
from video_diffusion.training.clips import Clips, Item
from video_diffusion.training.data import Draw
from video_diffusion.training.data.manifest import ClipChangedError
from video_diffusion.training.loop import Trainer
from video_diffusion.training.objective import ItemDraws, Stream, chance
from video_diffusion.video import VideoReadError
from video_diffusion.video.files import slug

NUM_QUARTILES = 4
NUM_OWN_PROMPTS = 4
FEWEST_FOR_INTERVAL = 3
MAX_ERROR = 300  # characters
FEWEST_OF_A_SET, MOST_OF_A_SET = 4, 64
"""Clips for a distance of sets; of more held-out clips the first are enough."""


@dataclass(frozen=True)
class Validation:
    """What a validation found.

    Attributes:
        step: After how many steps.
        held_out_loss: Mean over the held-out clips; None if there are none.
        quartiles: The same by quarter of the noise schedule, least noise first.
        measures: Means over the clips, by name of the metric; None where none could be measured.
        clips: File (relative to the run), prompt, seed and measures of each clip.
        losses: Of each held-out clip, by its id.
        error: Why nothing was found; empty if something was.
        motion_distance: How far the set of clips is from the held-out clips in how they move
            (`metrics.set_distance`, its interval and p); None with fewer than 4 clips on a side.
    """

    step: int
    held_out_loss: float | None
    quartiles: tuple[float, ...]
    measures: Mapping[str, float | None]
    clips: tuple[Mapping[str, Any], ...]
    losses: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    motion_distance: Mapping[str, float] | None = None

    def to_row(self) -> dict[str, Any]:
        """As a row of metrics.jsonl."""
        found = {name: value for name, value in vars(self).items() if name != "step"}
        if not self.error:
            del found["error"]
        if self.motion_distance is None:
            del found["motion_distance"]
        return {"step": self.step, "validation": found}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Validation":
        """Read back what `to_row` gave."""
        values = row["validation"]
        return cls(
            row["step"],
            values["held_out_loss"],
            tuple(values["quartiles"]),
            values["measures"],
            tuple(values["clips"]),
            values.get("losses", {}),
            values.get("error", ""),
            values.get("motion_distance"),
        )


def validations_of(rows: Iterable[Mapping[str, Any]]) -> list[Validation]:
    """All validations among the rows of metrics.jsonl that found something, the first one first."""
    found = [Validation.from_row(row) for row in rows if "validation" in row]
    return [each for each in found if not each.error]


class ValidationStopped(Exception):  # noqa: N818  no error: somebody wants to stop
    """Somebody wants to stop, so a validation is left unfinished."""


class Validator:
    """Makes the same clips and measures the same losses with whatever weights a trainer has.

    Everything it draws has seeds of its own, so training goes on as if nothing had happened.

    Args:
        trainer: Whose averaged weights are looked at.
        settings: What is made.
        held_out: Clips that training never sees.
        run: Folder in which clips are written under `validation/`.

    Attributes:
        num_failed: How many validations failed so far; each makes the next smaller: first frames are decoded
            and held-out losses computed one by one, then half of the clips are made, and so on.
    """

    def __init__(
        self, trainer: Trainer, settings: ValidationSettings, held_out: Sequence[Clips], run: Path
    ) -> None:
        self.trainer, self.settings, self.run = trainer, settings, run
        self._items: dict[tuple[int, int], Item | None] = {}
        self._motions: list[np.ndarray] = []
        self._held_out_motions: list[np.ndarray] | None = None
        self.num_failed = 0
        self._wants_to_stop: Callable[[], bool] = lambda: False
        self.held_out = [(clips, number) for clips in held_out for number in range(len(clips))]

    def validate(self, wants_to_stop: Callable[[], bool] = lambda: False) -> Validation | None:
        """Measure the model as it stands, and write its clips; only the first process writes.

        A failure is a `Validation` with its error. None if somebody wanted to stop.
        """
        trainer, self._wants_to_stop = self.trainer, wants_to_stop
        try:
            with (
                trainer.averaged(),
                trainer.encoder.awake(),
                torch.no_grad(),
                trainer.accelerator.autocast(),
            ):
                quartiles, losses = self._held_out_losses()
                clips = self._clips()
                motion_distance = self._motion_distance()
        except ValidationStopped:
            return None
        except Exception as error:  # whatever it is, the training is worth more
            self.num_failed += 1
            told = " ".join(str(error).split())[:MAX_ERROR] or type(error).__name__
            return Validation(trainer.step, None, (), {}, (), error=told)
        names = dict.fromkeys(name for clip in clips for name in clip["measures"])
        return Validation(
            step=trainer.step,
            held_out_loss=float(np.mean(quartiles)) if quartiles else None,
            quartiles=quartiles,
            measures={name: _mean([clip["measures"].get(name) for clip in clips]) for name in names},
            clips=clips,
            losses=losses,
            motion_distance=motion_distance,
        )

    def _check_stop(self, _: object = None) -> None:
        if self._wants_to_stop():
            raise ValidationStopped

    def _held_out_losses(self) -> tuple[tuple[float, ...], dict[str, float]]:
        """Held-out loss in each quarter of the noise schedule, and of each clip; levels never change."""
        losses = dict[str, np.ndarray]()
        at_once = 1 if self.num_failed else NUM_QUARTILES
        for place, (clips, number) in enumerate(self.held_out):
            self._check_stop()
            item = self._item(clips, number)
            if item is None:
                continue
            draws = held_out_draws(self.trainer.settings.seed, place)
            latents = self.trainer.encoder.latents([item])
            parts = [
                self.trainer.losses(
                    [item] * at_once,
                    draws[first : first + at_once],
                    self.trainer.objective,
                    latents.repeat(at_once, *[1] * (latents.ndim - 1)),
                )
                for first in range(0, NUM_QUARTILES, at_once)
            ]
            losses[f"{place} {item['id']}"] = torch.cat(parts).double().cpu().numpy()
        if not losses:
            return (), {}
        quartiles = np.mean(list(losses.values()), axis=0)
        means = {name: float(each.mean()) for name, each in losses.items()}
        return tuple(map(float, quartiles)), means

    def _item(self, clips: Clips, number: int) -> Item | None:
        """A held-out clip, read once and kept: its frames are needed again and again; None if it is gone."""
        place = (id(clips), number)
        if place not in self._items:
            try:
                self._items[place] = clips[Draw(0, number)]
            except (ClipChangedError, VideoReadError, OSError) as error:
                warnings.warn(f"{error}; the held-out loss does without this clip from now on", stacklevel=2)
                self._items[place] = None
        return self._items[place]

    def prompts(self) -> tuple[str, ...]:
        """The prompts of the clips: those of the settings, else captions of held-out clips."""
        if self.settings.prompts is not None:
            return self.settings.prompts
        items = [self._item(clips, number) for clips, number in self.held_out]
        captions = [str(item["caption"]) for item in items if item and item["caption"]]
        return tuple(dict.fromkeys(captions))[:NUM_OWN_PROMPTS]

    def _clips(self) -> tuple[Mapping[str, Any], ...]:
        made = []
        self._motions = []
        folder = self.run / "validation" / f"step-{self.trainer.step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        pipeline = self.trainer.pipeline
        parts = pipeline.parts
        here = f"{self.run.name} after {self.trainer.step} steps"
        pipeline.parts = replace(
            parts,
            identity=parts.identity.model_copy(
                update={"motion_adapter": here, "motion_adapter_sha256": None}
            ),
        )
        wanted = [(prompt, seed) for prompt in self.prompts() for seed in self.settings.seeds]
        num_clips = math.ceil(len(wanted) / 2 ** max(0, self.num_failed - 1))
        try:
            for number, (prompt, seed) in enumerate(wanted[:num_clips]):
                self._check_stop()
                [video] = pipeline.generate([self._request(prompt, seed)], self._check_stop)
                path = folder / f"{number:02d}-{slug(prompt)}-{seed}.mp4"
                if self.trainer.accelerator.is_main_process:
                    video.save(path)
                self._motions += motion_of(video.frames, video.report.fps)
                measures = {name: measure.value for name, measure in video.report.values.items()}
                file = path.relative_to(self.run).as_posix()
                num_frames, height, width, _ = video.frames.shape
                size = {"num_frames": num_frames, "height": height, "width": width}
                size["fps"] = float(video.report.fps)
                row = {"file": file, "prompt": prompt, "seed": seed, "size": size, "measures": measures}
                made.append(row)
        finally:
            pipeline.parts = parts
        return tuple(made)

    def _motion_distance(self) -> Mapping[str, float] | None:
        """How the clips of this validation move, against the held-out ones; None where there are too few."""
        if len(self._motions) < FEWEST_OF_A_SET or len(self.held_out) < FEWEST_OF_A_SET:
            return None
        if self._held_out_motions is None:
            items = [self._item(clips, number) for clips, number in self.held_out[:MOST_OF_A_SET]]
            fps = Fraction(self.trainer.settings.clips.fps or 8)
            shown = [item["frames"] for item in items if item is not None and "frames" in item]
            self._held_out_motions = [motion for frames in shown for motion in motion_of(frames, fps)]
        if len(self._held_out_motions) < FEWEST_OF_A_SET:
            return None
        found = set_distance(np.array(self._motions), np.array(self._held_out_motions))
        return {"distance": found.distance, "low": found.low, "high": found.high, "p": found.p}

    def _request(self, prompt: str, seed: int) -> GenerationSettings:
        training = self.trainer.settings.clips
        asked: dict[str, Any] = {
            "num_frames": training.num_frames,
            "height": training.height,
            "width": training.width,
            "fps": training.fps,
            "num_inference_steps": self.settings.num_inference_steps,
            "guidance_scale": self.settings.guidance_scale,
            "decode_chunk_size": 1 if self.num_failed else None,
        }
        if self.trainer.settings.objective == "distil":  # the student's own way to be sampled
            student = {
                "num_inference_steps": self.trainer.settings.distil.num_inference_steps,
                "guidance_scale": 1.0,
            }
            asked |= {name: value for name, value in student.items() if asked[name] is None}
            asked["scheduler"] = "ddim"
        given = {name: value for name, value in asked.items() if value is not None}
        return GenerationSettings.from_values({"prompt": prompt, "seed": seed, **given})


def motion_of(frames: Any, fps: Fraction) -> list[np.ndarray]:
    """The 80 numbers of how a clip moves, in a list that is empty where it is too short."""
    found = features_of(measure(frames, fps, metrics=[MOTION_FEATURES], one_shot=True))
    return [] if found is None else [found]


def held_out_draws(seed: int, place: int) -> list[ItemDraws]:
    """One noise level in each quarter of the schedule, and noise, for held-out clip number `place`.

    Drawn as if before step 0 of another seed, so that no training step ever shares them.
    """
    rng = chance(seed, 2**62 + place, Stream.NOISE)
    levels = (np.arange(NUM_QUARTILES) + rng.random(NUM_QUARTILES)) / NUM_QUARTILES
    seeds = rng.integers(2**63, size=NUM_QUARTILES)
    return [
        ItemDraws(int(noise), float(level), without_caption=False, frame=0.0)
        for noise, level in zip(seeds, levels, strict=True)
    ]


def what_changed(first: Validation, last: Validation) -> str:
    """Say in words how the last validation differs from the first: held-out loss, flicker, morph, motion.

    Both saw the same clips, prompts and noise, so each is compared with itself, and the mean difference has
    the interval of `comparison.statistics`: over held-out clips, or over prompts and their seeds.
    """
    parts = []
    shared = [(value, last.losses[name]) for name, value in first.losses.items() if name in last.losses]
    if shared:
        parts.append(
            _change("held-out loss", [shared[at : at + 1] for at in range(len(shared))], "", "clips")
        )
    elif first.held_out_loss is not None and last.held_out_loss is not None:  # of an older version
        parts.append(_change("held-out loss", [[(first.held_out_loss, last.held_out_loss)]], "", ""))
    for name, unit in (("flicker", " levels"), ("morph", " px/frame at 256"), ("motion", " px/frame")):
        pairs = _pairs(first, last, name)
        known = [[pair for pair in row if None not in pair] for row in pairs.values()]
        known = [row for row in known if row]
        if known:
            parts.append(_change(name, known, unit, "prompts", sum(map(len, pairs.values()))))
        elif any(value is not None for row in pairs.values() for pair in row for value in pair):
            parts.append(f"{name} could be measured in no clip both before and after")
    if first.motion_distance is not None and last.motion_distance is not None:
        before, after = (each["distance"] for each in (first.motion_distance, last.motion_distance))
        parts.append(f"distance from how held-out clips move {before:.3f} before, {after:.3f} after")
    if not parts:
        return "nothing was measured: there were neither held-out clips nor validation prompts"
    return f"after {last.step} steps against step {first.step}: " + "; ".join(parts)


def _pairs(first: Validation, last: Validation, name: str) -> dict[str, list[tuple[Any, Any]]]:
    """A measure before and after, by prompt, of each clip that both validations made."""
    before, after = (
        {(clip["prompt"], clip["seed"]): clip["measures"].get(name) for clip in each.clips}
        for each in (first, last)
    )
    found: dict[str, list[tuple[Any, Any]]] = {}
    for prompt, seed in before:
        if (prompt, seed) in after:
            found.setdefault(prompt, []).append((before[prompt, seed], after[prompt, seed]))
    return found


def _change(
    name: str,
    rows: Sequence[Sequence[tuple[float, float]]],
    unit: str,
    what: str,
    num_pairs: int | None = None,
) -> str:
    """A mean before and after, the difference with its interval, and over how many it is."""
    flat = np.array([pair for row in rows for pair in row], np.float64)
    before, after = map(float, flat.mean(axis=0))
    if before == after:
        return f"{name} unchanged at {after:.4g}{unit}"
    notes = [f"{(after - before) / abs(before):+.0%}"] if before else []
    if len(rows) >= FEWEST_FOR_INTERVAL:
        differences = [np.array([then - now for now, then in row]) for row in rows]
        found = bootstrap_interval(differences, np.random.default_rng(0))
        notes.append(f"by {found.estimate:.3g} [{found.low:.3g}, {found.high:.3g}] over {len(rows)} {what}")
    elif what:
        notes.append(f"{len(rows)} {what if len(rows) > 1 else what[:-1]}, too few for an interval")
    if num_pairs not in {None, len(flat)}:
        notes.append(f"{len(flat)} of {num_pairs} clips")
    verb = "fell" if after < before else "rose"
    told = f" ({', '.join(notes)})" if notes else ""
    return f"{name} {verb} from {before:.4g} to {after:.4g}{unit}{told}"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
