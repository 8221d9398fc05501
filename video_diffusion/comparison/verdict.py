"""What can be said of each arm: it wins only if flicker falls and nothing is paid for it elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from video_diffusion.comparison.differences import GUARDS, HEADLINE, excludes_zero, p_reachable
from video_diffusion.comparison.statistics import prompts_to_reach
from video_diffusion.comparison.summary import Difference, MetricSummary, Outcome, Span, Verdict
from video_diffusion.web import counted

GuardState: TypeAlias = Literal["holds", "falls", "unclear", "not comparable", "nothing to lose"]
LEAST_SHARE = 0.5
"""Of the places that must be measured on both sides before anything is said of an arm."""


@dataclass(frozen=True)
class Guard:
    """How one guard stands for one arm; `difference` is None where nothing could be compared."""

    name: str
    state: GuardState
    difference: Difference
    unit: str
    margin: float | None

    @property
    def words(self) -> str:
        """The guard's name as it is said: prompt alignment."""
        return self.name.replace("_", " ")


def judge(
    metrics: Sequence[MetricSummary], alpha: float, unbelievable: Mapping[str, int]
) -> tuple[Verdict, ...]:
    """One verdict for each arm but the baseline; none without a headline.

    Args:
        metrics: as `compare_metrics` gives them.
        alpha: level of the tests.
        unbelievable: arm → places where the arm's motion can be measured and the baseline's cannot.
    """
    headline = next((metric for metric in metrics if metric.name == HEADLINE), None)
    if headline is None:
        return ()
    num_arms = len(headline.differences)
    return tuple(
        _judge_arm(difference, headline, _guards(metrics, difference.arm, unbelievable), alpha, num_arms)
        for difference in headline.differences
    )


def _judge_arm(
    found: Difference, headline: MetricSummary, guards: Sequence[Guard], alpha: float, num_arms: int,
) -> Verdict:  # fmt: skip
    arm, span, p = found.arm, found.span, found.adjusted_p
    places = found.num_pairs + found.num_lost
    if span is None or p is None or found.num_pairs < LEAST_SHARE * places:
        why = f"flicker could be compared in {found.num_pairs} of {places} pairs only"
        return _verdict(arm, "too few to tell", why)
    change = _by(span, found.relative, headline.unit)
    if p <= alpha and excludes_zero(span):
        if span.estimate > 0:
            return _verdict(arm, "flickers more", f"flicker rises by {change}{_also_lost(guards)}")
        return _judge_price(arm, f"flicker falls by {change}", guards)
    if p_reachable(len(found.prompts), num_arms) > alpha:
        arms = "" if num_arms == 1 else f" with {num_arms} settings"
        needed = prompts_to_reach(alpha, num_arms)
        why = f"{counted(len(found.prompts), 'prompt')} cannot reach {alpha:g}{arms}, {needed} can"
        return _verdict(arm, "too few to tell", f"{why}; flicker {told(span, headline.unit)}")
    seen = f"flicker {told(span, headline.unit)}, p {p:.2g}"
    return _verdict(arm, "no difference seen", f"{seen}{_also_lost(guards)}")


def _judge_price(arm: str, falls: str, guards: Sequence[Guard]) -> Verdict:
    """The verdict of an arm whose flicker falls: what it pays for that."""
    lost = [guard for guard in guards if guard.state == "falls"]
    if lost:
        names = _list([guard.words for guard in lost])
        paid = ", ".join(_told_guard(guard) for guard in lost)
        return Verdict(arm, "trades", f"trades {names} for coherence", f"{falls}, and pays for it: {paid}")
    unclear = [guard for guard in guards if guard.state in {"unclear", "not comparable"}]
    if unclear:
        why = ", ".join(_told_guard(guard) for guard in unclear)
        return _verdict(arm, "too few to tell", f"{falls}, but whether it pays for that is open: {why}")
    return _verdict(arm, "wins", f"{falls}; {_told_holding(guards)}")


def _guards(metrics: Sequence[MetricSummary], arm: str, unbelievable: Mapping[str, int]) -> tuple[Guard, ...]:
    """Every guard that was measured at all, in the order of `GUARDS`."""
    known = {metric.name: metric for metric in metrics}
    found: list[Guard] = []
    for name in sorted(known.keys() & GUARDS.keys(), key=list(GUARDS).index):
        metric = known[name]
        difference = next(each for each in metric.differences if each.arm == arm)
        found.append(Guard(name, _state(metric, difference), difference, metric.unit, metric.margin))
    return tuple(_excused(guard, found, unbelievable.get(arm, 0)) for guard in found)


def _state(metric: MetricSummary, difference: Difference) -> GuardState:
    """Non-inferiority: the whole interval lies above minus the margin (below it for what must not rise)."""
    span, places = difference.span, difference.num_pairs + difference.num_lost
    if span is None or metric.margin is None or difference.num_pairs < LEAST_SHARE * places:
        return "not comparable"
    if span.low is None or span.high is None:
        return "unclear"
    low, estimate, high = (span.low, span.estimate, span.high)
    if GUARDS[metric.name] < 0:
        low, estimate, high = -high, -estimate, -low
    if low >= -metric.margin:
        return "holds"
    return "falls" if high < 0 and estimate < -metric.margin else "unclear"


def _excused(guard: Guard, guards: Sequence[Guard], unbelievable: int) -> Guard:
    """A baseline whose frames do not follow one another has no motion to lose.

    That excuses an arm only if the clips still show what was asked for, motion among it: else a frozen clip
    would win against noise.
    """
    asked = next((each for each in guards if each.name == "prompt_alignment"), None)
    most = unbelievable > LEAST_SHARE * (guard.difference.num_pairs + guard.difference.num_lost) - 1e-9
    excused = most and asked is not None and asked.state == "holds"
    if guard.name == "motion" and guard.state == "not comparable" and excused:
        return Guard(guard.name, "nothing to lose", guard.difference, guard.unit, guard.margin)
    return guard


def _told_guard(guard: Guard) -> str:
    if guard.difference.span is None or guard.state == "not comparable":
        places = guard.difference.num_pairs + guard.difference.num_lost
        return f"{guard.words} can be compared in {guard.difference.num_pairs} of {places} pairs only"
    margin = f", margin {guard.margin:.3g}" if guard.margin is not None else ""
    return f"{guard.words} {told(guard.difference.span, guard.unit)}{margin}"


def _also_lost(guards: Sequence[Guard]) -> str:
    """What an arm without less flicker loses on top of that."""
    lost = [_told_guard(guard) for guard in guards if guard.state == "falls"]
    return f"; but {', '.join(lost)}" if lost else ""


def _told_holding(guards: Sequence[Guard]) -> str:
    holding = [guard.words for guard in guards if guard.state == "holds" and guard.name != "cuts"]
    said = (
        f"{_list(holding)} {'holds' if len(holding) == 1 else 'hold'}"
        if holding
        else "nothing else was measured"
    )
    if any(guard.state == "nothing to lose" for guard in guards):
        said += ", and the baseline has no believable motion to lose"
    if not any(guard.name == "prompt_alignment" for guard in guards):
        said += " (prompt alignment was not measured)"
    return said


def told(span: Span, unit: str) -> str:
    """A difference in words: "-2.4 [-3.1, -1.7] levels"."""
    ends = "open" if span.low is None or span.high is None else f"{span.low:+.3g}, {span.high:+.3g}"
    return f"{span.estimate:+.3g} [{ends}] {unit}"


def _by(span: Span, relative: float | None, unit: str) -> str:
    """How much, without a sign: "2.6 levels (93 %, interval 1.4 to 4.1)"."""
    share = "" if relative is None else f"{abs(relative):.0%}, "
    if span.low is None or span.high is None:
        return f"{abs(span.estimate):.3g} {unit} ({share}interval open)"
    low, high = sorted((abs(span.low), abs(span.high)))
    return f"{abs(span.estimate):.3g} {unit} ({share}interval {low:.3g} to {high:.3g})"


def _list(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 2 else words)


def _verdict(arm: str, outcome: Outcome, sentence: str) -> Verdict:
    return Verdict(arm, outcome, outcome, sentence)
