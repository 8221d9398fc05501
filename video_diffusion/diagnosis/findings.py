"""What each part contributes, with its interval over seeds; which stand out; and what to do, in words."""

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from video_diffusion.comparison.run import clip_command
from video_diffusion.comparison.statistics import bootstrap_interval
from video_diffusion.comparison.summary import ClipResult, Span
from video_diffusion.diagnosis.marks import Mark
from video_diffusion.diagnosis.parts import STAGES, Part
from video_diffusion.diagnosis.run import AS_IT_IS, Seen, Subject
from video_diffusion.settings import GenerationSettings
from video_diffusion.web import counted, signed

UNITS: Mapping[str, str] = {
    "flicker": "levels", "morph": "px/frame", "drift": "levels/frame", "coding error": "levels",
    "seam_excess": "levels", "motion": "px/frame", "steady_sharpness": "levels/px",
    "prompt_alignment": "share",
}  # fmt: skip
FAULTS: Mapping[str, float] = {
    "flicker": 0.3, "coding error": 2.0, "seam_excess": 1.0, "morph": 0.3, "drift": 0.3,
}  # fmt: skip
"""What a clip can have too much of, and the least gain in it that is worth a word: next to nothing is seen
below."""
RANKS = {"morph": 1, "drift": 2}
LAST: tuple[Part, ...] = ("input", "denoiser")
"""Parts that are named only for what no other explains."""
ENOUGH = 0.8
LEAST_SHARE = 0.2
"""Of a fault that a change must take away to stand out."""
GUARDS: Mapping[str, float] = {"motion": 0.2, "steady_sharpness": 0.1, "prompt_alignment": 0.1}
"""What a gain may cost, as in `compare`: shares of the value as it is."""
SPOKEN = {"steady_sharpness": "sharpness", "prompt_alignment": "alignment", "seam_excess": "seams"}


@dataclass(frozen=True)
class Effect:
    """A measure with a part changed, against the clip as it is.

    Attributes:
        as_it_is, changed: Means over seeds.
        difference: Changed minus as it is, with its interval over seeds.
        relative: The difference as a share of the clip's own value; None where that is 0.
        ratio: Of a fault, the mean over seeds of log((changed + c) / (as it is + c)), with c the least that
            is seen of it: seeds differ by factors, not by amounts, and what cannot be seen counts little.
        num_seeds: With a number on both sides.
        num_fallen: Of them, where a fault falls by what can be seen.
    """

    as_it_is: float
    changed: float
    difference: Span
    relative: float | None
    ratio: Span | None
    num_seeds: int
    num_fallen: int = 0

    @property
    def falls(self) -> bool:
        """Whether the whole interval of the ratio lies below 0."""
        return self.ratio is not None and self.ratio.high is not None and self.ratio.high < 0

    def told(self, unit: str) -> str:
        """The difference with its interval."""
        low, high = self.difference.low, self.difference.high
        interval = "" if low is None or high is None else f" [{signed(low)}, {signed(high)}]"
        return f"{signed(self.difference.estimate)} {unit}{interval}"


@dataclass(frozen=True)
class Contribution:
    """What one change of one part does.

    Attributes:
        part, label: Of the change.
        values: Settings it changes; empty for a stage.
        effects: By measure.
        gains: Faults that it takes away so far that it stands out.
        losses: Guards that it may cost: as words.
        command: That makes the clip with this change; "" for a stage.
        clips: Of the change, by seed, relative to the folder.
        is_remedy: See `Change`.
    """

    part: Part
    label: str
    values: Mapping[str, Any]
    effects: Mapping[str, Effect]
    gains: tuple[str, ...] = ()
    losses: tuple[str, ...] = ()
    command: str = ""
    clips: Mapping[int, str] = field(default_factory=dict)
    is_remedy: bool = False

    @property
    def fault(self) -> str:
        """The fault that it is named for; "" if it does not stand out."""
        return self.gains[0] if self.gains else ""


@dataclass(frozen=True)
class Findings:
    """A whole diagnosis.

    Attributes:
        own: Measures of the clip as it is: means over seeds, with intervals.
        causes: What stands out, the largest first; one change for each part.
        contributions: Everything that was tried, as it was tried.
        sentences: The diagnosis in words.
        notes: What a reader must know.
        subject: That was diagnosed.
        clips: Of the clip as it is, by seed.
        marks: Where the clip is at its worst, once somebody looked.
    """

    own: Mapping[str, Span]
    causes: tuple[Contribution, ...]
    contributions: tuple[Contribution, ...]
    sentences: tuple[str, ...]
    notes: tuple[str, ...]
    subject: Subject
    clips: tuple[ClipResult, ...]
    marks: tuple[Mark, ...] = ()


def find(seen: Seen, subject: Subject) -> Findings:
    """Put what was seen into differences, causes and words."""
    own = {clip.seed: clip for clip in seen.clips if clip.arm == AS_IT_IS}
    means = {name: _span([_value(clip, name) for clip in own.values()], name) for name in UNITS}
    known = {name: span for name, span in means.items() if span is not None}
    contributions = [*_stages(seen, known), *_changes(seen, own, subject, known)]
    causes = _causes(contributions)
    return Findings(
        own=known,
        causes=tuple(causes),
        contributions=tuple(contributions),
        sentences=tuple(_sentences(causes, contributions, known, subject)),
        notes=tuple(_notes(seen, subject)),
        subject=subject,
        clips=seen.clips,
    )


# Differences.


def _changes(
    seen: Seen, own: Mapping[int, ClipResult], subject: Subject, known: Mapping[str, Span]
) -> Iterator[Contribution]:
    for change in seen.changes:
        made = {clip.seed: clip for clip in seen.clips if clip.arm == change.label and not clip.error}
        effects = {}
        for name in UNITS:
            pairs = [
                (_value(own[seed], name), _value(clip, name)) for seed, clip in made.items() if seed in own
            ]
            if name == "seam_excess" and change.part == "window seams":  # one pass has no seams
                pairs = [(before, 0.0 if after is None else after) for before, after in pairs]
            effect = _effect(pairs, name, change.label, known.get(name))
            if effect is not None:
                effects[name] = effect
        settings = {**subject.settings.model_dump(mode="json"), **change.values}
        yield Contribution(
            part=change.part,
            label=change.label,
            values=change.values,
            effects=effects,
            gains=_gains(effects, change.part),
            losses=_losses(effects),
            command=clip_command(settings),
            clips={seed: clip.path for seed, clip in made.items()},
            is_remedy=change.is_remedy,
        )


def _stages(seen: Seen, known: Mapping[str, Span]) -> Iterator[Contribution]:
    for part in STAGES:
        looks = {seed: look for seed, found in seen.looks.items() for look in found if look.part == part}
        if not looks:
            continue
        effects = {}
        for name in UNITS:
            pairs = [(look.as_it_is.get(name), look.without.get(name)) for look in looks.values()]
            effect = _effect(pairs, name, part, known.get(name))
            if effect is not None:
                effects[name] = effect
        label = next(iter(looks.values())).label
        clips = {seed: look.clip for seed, look in looks.items() if look.clip}
        yield Contribution(part, label, {}, effects, _gains(effects, part), clips=clips)


def _effect(
    pairs: Sequence[tuple[float | None, float | None]], name: str, what: str, own: Span | None
) -> Effect | None:
    both = [(before, after) for before, after in pairs if before is not None and after is not None]
    if not both:
        return None
    before, after = (float(np.mean([pair[side] for pair in both])) for side in (0, 1))
    span = _span([pair[1] - pair[0] for pair in both], f"{what} {name}")
    assert span is not None  # there is a pair
    whole = own.estimate if own is not None else before
    relative = span.estimate / abs(whole) if whole else None
    ratio = None
    if name in FAULTS:
        least = FAULTS[name]
        logs = [math.log((max(y, 0.0) + least) / (max(x, 0.0) + least)) for x, y in both]
        ratio = _span(logs, f"{what} {name} ratio")
    fallen = sum(x - y >= FAULTS.get(name, math.inf) for x, y in both)
    return Effect(before, after, span, relative, ratio, len(both), fallen)


def _span(values: Sequence[float | None], what: str) -> Span | None:
    """The mean over seeds, each a draw of its own, with the interval that `compare` gives to prompts."""
    numbers = [np.array([value]) for value in values if value is not None]
    if not numbers:
        return None
    found = bootstrap_interval(numbers, np.random.default_rng(zlib.crc32(what.encode())))
    ends = (end if np.isfinite(end) else None for end in (found.low, found.high))
    return Span(found.estimate, *ends)


def _value(clip: ClipResult, name: str) -> float | None:
    measured = clip.measures.get(name)
    return measured.value if measured is not None else None


def _gains(effects: Mapping[str, Effect], part: Part) -> tuple[str, ...]:
    """Faults that fall, at every seed as far as the interval tells, by enough to be seen; the largest first.

    Seams are those of windows: what else hides them is not their cause. Each is held against the other frames
    of its own clip, so that half of the seeds are enough. Mixed latents blur, and so hide more than flicker:
    of them nothing else counts.
    """
    found = [
        fault
        for fault, floor in FAULTS.items()
        if (effect := effects.get(fault)) is not None
        and (fault != "seam_excess" or part == "window seams")
        and (fault == "flicker" or part != "denoiser")
        and (2 * effect.num_fallen >= effect.num_seeds if fault == "seam_excess" else effect.falls)
        and -effect.difference.estimate >= floor
        and -(effect.relative or -1.0) >= LEAST_SHARE
    ]
    return tuple(sorted(found, key=lambda fault: _fault_rank(effects[fault], fault)))


def _fault_rank(effect: Effect, fault: str) -> tuple[int, float]:
    """Flicker, seams and what a file loses come first, then morph, then drift; then the larger gain."""
    return RANKS.get(fault, 0), effect.difference.estimate / FAULTS[fault]


def _losses(effects: Mapping[str, Effect]) -> tuple[str, ...]:
    """Guards whose mean falls beyond their margins, and faults that rise by as much as would be a gain."""
    worse = [
        name
        for name, margin in GUARDS.items()
        if (effect := effects.get(name)) is not None and (effect.relative or 0.0) < -margin
    ]
    worse += [
        name
        for name, floor in FAULTS.items()
        if (effect := effects.get(name)) is not None
        and effect.difference.estimate >= floor
        and (effect.relative or 0.0) >= LEAST_SHARE
    ]
    return tuple(f"{SPOKEN.get(name, name)} {_percent(effects[name].relative)}" for name in worse)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:+.0%}".replace("-", "−")


# Causes and words.


def _causes(contributions: Sequence[Contribution]) -> list[Contribution]:
    """What stands out, by the fault that comes first, then by the gain.

    Of each part it is the first of its changes that gains nearly as much as the best. What a clip adds to its
    input, and what its denoiser does, has whatever reason: they are causes only of what no other part
    explains.
    """
    best: dict[Part, Contribution] = {}
    for part in dict.fromkeys(each.part for each in contributions):
        own = [each for each in contributions if each.part == part and _is_cause(each)]
        if own:
            most = min(map(_rank, own))
            enough = (most[0], ENOUGH * most[1])
            best[part] = next(each for each in own if _rank(each) <= enough)
    for last in LAST:
        explained = {fault for part, each in best.items() if part not in LAST for fault in each.gains}
        if last in best and explained & set(best[last].gains):
            del best[last]
    return sorted(best.values(), key=_rank)


def _is_cause(each: Contribution) -> bool:
    """Whether a part is to blame: not for morph or drift that only goes at the price of something else."""
    return bool(each.gains) and not each.is_remedy and not (each.losses and each.fault in RANKS)


def _rank(each: Contribution) -> tuple[int, float]:
    return _fault_rank(each.effects[each.fault], each.fault)


def _sentences(
    causes: Sequence[Contribution],
    contributions: Sequence[Contribution],
    own: Mapping[str, Span],
    subject: Subject,
) -> Iterator[str]:
    """The two largest causes, what helps and how much was measured; or that nothing stands out."""
    told = ", ".join(f"{name} {own[name].estimate:.2f} {UNITS[name]}" for name in FAULTS if name in own)
    tried = len([each for each in contributions if each.values])
    if not causes:
        yield (
            f"Nothing stands out: {told}; none of {counted(tried, 'change')}, and neither the decoder nor "
            "the encoder, takes away what could be seen."
        )
    for place, cause in enumerate(causes[:2], start=1):
        yield f"{place}. {_told(cause, subject)}"
    if len(causes) > 2:
        yield "Also: " + "; ".join(f"{each.part} ({_gain_words(each)})" for each in causes[2:]) + "."
    helpful = [each for each in contributions if each.command and each.gains]
    if causes and not helpful:
        yield "No setting that was tried makes it better."
    for each in helpful:
        if each.is_remedy:
            yield f"Helps here, whatever the cause: {_told(each, subject)}"


def _told(cause: Contribution, subject: Subject) -> str:
    gain = _gain_words(cause)
    if cause.part == "decoder" and not cause.values:
        made = cause.effects[cause.fault].as_it_is
        return (
            f"Decoder: on latents that hardly move it makes {made:.2f} levels of flicker by itself; another "
            "autoencoder, or one with temporal layers, would not."
        )
    if cause.part == "encoder":
        effect = cause.effects[cause.fault]
        return (
            f"Encoder: {cause.fault} {effect.as_it_is:.2f} {UNITS[cause.fault]} in the file, "
            f"{effect.changed:.2f} {'at crf 18' if cause.fault == 'coding error' else 'before it'}; encode "
            "with a lower --crf."
        )
    if cause.part == "input" and not cause.values:
        effect = cause.effects[cause.fault]
        return (
            f"Input: {cause.label} has {cause.fault} {effect.changed:.2f} {UNITS[cause.fault]}, the clip "
            f"{effect.as_it_is:.2f}: what is made of it adds the rest."
        )
    if cause.part == "denoiser" and not cause.values:
        return f"Denoiser: the latents do not agree from frame to frame; mixing neighbours takes away {gain}."
    own = subject.settings.model_dump(mode="json")
    changed = ", ".join(
        f"{name} {_shown(name, value)} instead of {_shown(name, own[name])}"
        for name, value in cause.values.items()
        if own[name] != value
    )
    price = f"it costs {', '.join(cause.losses)}" if cause.losses else "motion, sharpness, alignment hold"
    return f"{cause.part[0].upper()}{cause.part[1:]}: {changed}: {gain}; {price}.\n   {cause.command}"


def _gain_words(cause: Contribution) -> str:
    effect = cause.effects[cause.fault]
    return f"{cause.fault} {effect.told(UNITS[cause.fault])}"


def _shown(name: str, value: object) -> str:
    if name == "motion_adapter" and value is None:
        return "the model's own"
    if value in (None, "", [], {}):
        return "none"
    if isinstance(value, list):
        return "-".join(map(str, value)) if len(value) == 2 else "+".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _notes(seen: Seen, subject: Subject) -> Iterator[str]:
    num_seeds = len(subject.seeds)
    yield (
        f"Differences are means over {counted(num_seeds, 'seed')} of this one prompt, with 95 % intervals; "
        "contributions overlap and need not add up. The best of many changes looks better than it is: "
        "hold it against the clip's settings on other prompts with `video-diffusion compare`."
    )
    if num_seeds < 3:
        yield "With fewer than 3 seeds intervals are wide or open, and little can stand out."
    if subject.encoder is None:
        yield "The encoder was left out: the file's own frames and its encoder cannot be told apart here."
    yield from _not_told_apart(subject.settings)
    for change in seen.left_out:
        yield f"{change.label} was left out: the budget had no room; the same command with more goes on."
    yield from seen.notes


def _not_told_apart(own: GenerationSettings) -> Iterator[str]:
    """What no change can separate, in words."""
    if own.extend is not None:
        yield (
            f"The clip begins with the frames of {own.extend}, which no change here touches: measures are of "
            "the whole, and differences those of what was made behind them. Diagnose that clip by itself."
        )
    if own.refine is not None or own.init_video is not None:
        yield (
            f"What {own.refine or own.init_video} has already comes along as far as the strength leaves it; "
            "its row shows it alone. Diagnose it by itself."
        )
    steering = {"controlnet": "ControlNet", "sparsectrl": "SparseCtrl", "ip_adapter": "IP-Adapter"}
    named = " and ".join(word for name, word in steering.items() if getattr(own, name))
    if named:
        yield (
            f"Without {named} the clip shows something else, too: whether a difference comes from the "
            "network or from what it makes the clip show cannot be told apart."
        )
    if own.loras:
        yield (
            "A LoRA changes what the clip shows as well as how it moves; its row holds both, and of several "
            "LoRAs what they do only together is in none of the rows of one alone."
        )
    if own.vae is not None and (own.refine or own.init_video or own.init_image or own.extend):
        yield "The other autoencoder also encodes the input: its row holds both sides of it."
