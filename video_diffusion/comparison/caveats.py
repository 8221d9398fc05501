"""What a reader must know beside the numbers: warnings, the power of the design, and how it was computed."""

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median_low

from video_diffusion.comparison.differences import GUARDS, HEADLINE, p_reachable
from video_diffusion.comparison.statistics import prompts_to_reach
from video_diffusion.comparison.summary import Arm, ClipResult, MetricSummary
from video_diffusion.web import counted

Shape = tuple[int, int, int, float]


def named(labels: Sequence[str]) -> str:
    """Up to three labels, and how many more there are."""
    joint = " and " if any(", " in label for label in labels) else ", "
    return joint.join(labels[:3]) + (f" and {len(labels) - 3} more" if len(labels) > 3 else "")


def warnings(arms: Sequence[Arm], clips: Sequence[ClipResult], num_prompts: int, alpha: float) -> list[str]:
    """Too few prompts, arms without the baseline's noise, failed clips, and clips of another shape.

    Args:
        arms: the baseline first.
        clips: of all arms.
        num_prompts: of the design.
        alpha: level of the tests.
    """
    told = []
    others = len(arms) - 1
    if p_reachable(num_prompts, others) > alpha:
        many = "" if others == 1 else f" with {others} arms against the baseline"
        told.append(
            f"{counted(num_prompts, 'prompt')} cannot reach {alpha:g}{many}, whatever is seen: add prompts "
            f"({prompts_to_reach(alpha, others)} can)"
        )
    shapes = {arm.label: _shapes(clip for clip in clips if clip.arm == arm.label) for arm in arms}
    base = shapes[arms[0].label]
    unpaired = [arm.label for arm in arms if arm.paired is False]
    if unpaired:
        are, their = ("is", "its") if len(unpaired) == 1 else ("are", "their")
        told.append(
            f"{named(unpaired)} {are} unpaired: {their} clips start from other noise than the baseline's, so "
            f"what another seed does counts in {their} differences, too"
        )
    for arm in arms:
        if arm.num_failed:
            told.append(f"{arm.label}: {counted(arm.num_failed, 'clip')} failed, and left out")
        own = shapes[arm.label]
        if base and own and base != own:
            told.append(
                f"{arm.label} has clips of {_told_shapes(own)}, the baseline of {_told_shapes(base)}: "
                "measures depend on length, size and frame rate, so this is another experiment"
            )
    return told


def peeking(looks: Sequence[str], now: str) -> list[str]:
    """The warning that results were seen before the design grew; nothing where they were not."""
    if not looks:
        return []
    return [
        f"this comparison was looked at with {', then '.join(looks)} before it had {now}: p holds only if "
        "the size was fixed beforehand; adding seeds or prompts until something shows finds it by chance"
    ]


def power(metrics: Sequence[MetricSummary], alpha: float) -> str:
    """How many prompts would show the declared difference in flicker; "" where that cannot be told."""
    headline = next((metric for metric in metrics if metric.name == HEADLINE), None)
    if headline is None or not headline.margin:
        return ""
    needed = [each.prompts_needed for each in headline.differences if each.prompts_needed is not None]
    if not needed:
        return ""
    arms = len(headline.differences)
    several = f" over {arms} settings, for the middle one" if arms > 1 else ""
    return (
        f"With this spread between prompts, about {median_low(needed)} prompts show a flicker difference "
        f"of {headline.margin:.3g} {headline.unit} four times in five (at {alpha:g}{several})."
    )


def design_notes(num_others: int, num_prompts: int, num_seeds: int, alpha: float) -> list[str]:
    """The unit, the tests and what they can reach."""
    reachable = p_reachable(num_prompts, num_others)
    notes = [
        f"The unit is the prompt: {counted(num_prompts, 'prompt')} of {counted(num_seeds, 'seed')} each.",
        f"Intervals hold at {1 - alpha:.0%}: two-level bootstrap over prompts and seeds. p: sign-flip test "
        f"over prompts, exact up to 16 of them; adjusted by Holm over {counted(num_others, 'setting')} in "
        "flicker, by Benjamini and Hochberg over everything else.",
        f"The smallest p that {counted(num_prompts, 'prompt')} can reach here is {reachable:.2g}.",
    ]
    if num_seeds > 1:
        notes.append(
            "Noise floor: the baseline against itself, one clip with its neighbouring seed's. A difference "
            "inside it is smaller than what another seed does to a single clip."
        )
    return notes


def metric_notes(metrics: Sequence[MetricSummary], clips: Sequence[ClipResult]) -> list[str]:
    """The margins, and the clips whose flicker is mostly change that nothing explains."""
    guards = [
        f"{metric.name.replace('_', ' ')} {'-' if GUARDS[metric.name] > 0 else '+'}{metric.margin:.3g} "
        f"{metric.unit}"
        for metric in metrics
        if metric.role == "guard" and metric.margin is not None
    ]
    notes = []
    if guards:
        notes.append(
            "An arm wins only if flicker falls and the whole interval of every guard stays within its "
            f"margin: {', '.join(guards)}."
        )
    counts = Counter(clip.arm for clip in clips if _is_unexplained(clip))
    if counts:
        told = ", ".join(f"{arm} {count}" for arm, count in counts.items())
        notes.append(
            "Clips with believable motion in less than half of the picture, whose flicker is mostly change "
            f"that nothing explains (it counts): {told}."
        )
    return notes


def _is_unexplained(clip: ClipResult) -> bool:
    measured = clip.measures.get(HEADLINE)
    return measured is not None and measured.status == "unmeasurable"


def _shapes(clips: Iterable[ClipResult]) -> set[Shape]:
    return {(clip.num_frames, clip.width, clip.height, clip.fps) for clip in clips if not clip.error}


def _told_shapes(shapes: set[Shape]) -> str:
    if len(shapes) > 1:
        return f"{len(shapes)} shapes"
    ((frames, width, height, fps),) = shapes
    return f"{frames} frames of {width}x{height} at {fps:g} fps"
