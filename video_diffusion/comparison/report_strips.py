"""Strip plots as numbers: every pair's difference to the baseline, one row for each setting."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from video_diffusion.comparison.report_axes import Tick, floor_band, round_ticks
from video_diffusion.comparison.report_table import Tone, aim_of, arm_badges, interval_text, tone_of
from video_diffusion.comparison.summary import ComparisonSummary, MetricSummary, Span
from video_diffusion.web import Scale, scale_over, signed

WIDTH, ROW, TOP, BOTTOM = 360.0, 48.0, 6.0, 26.0


@dataclass(frozen=True)
class StripDot:
    """One pair; `anchor` is the card of its clips."""

    at: tuple[float, float]
    anchor: str
    words: str


@dataclass(frozen=True)
class StripRow:
    """One setting of a strip plot; `span` holds low, estimate and high."""

    badge: str
    label: str
    top: float
    dots: tuple[StripDot, ...]
    span: tuple[float, float, float] | None
    tone: Tone
    words: str


@dataclass(frozen=True)
class StripChart:
    """Every pair's difference to the baseline in one metric; `aim`: which way is better, in words."""

    metric: MetricSummary
    aim: str
    rows: tuple[StripRow, ...]
    height: float
    zero: float
    floor: tuple[float, float] | None
    ticks: tuple[Tick, ...]


def pair_differences(summary: ComparisonSummary, metric: str) -> dict[str, dict[tuple[str, int], float]]:
    """Arm → (prompt, seed) → arm minus baseline, where both could be measured; the baseline is left out."""
    values: dict[str, dict[tuple[str, int], float]] = {arm.label: {} for arm in summary.arms}
    for clip in summary.clips:
        measure = clip.measures.get(metric)
        if measure is not None and measure.value is not None and math.isfinite(measure.value):
            values[clip.arm][clip.key] = measure.value
    base = values[summary.baseline]
    return {
        arm: {key: value - base[key] for key, value in own.items() if key in base}
        for arm, own in values.items()
        if arm != summary.baseline
    }


def draw_strip(
    summary: ComparisonSummary, metric: MetricSummary, anchors: Mapping[tuple[str, int], str]
) -> StripChart:
    """Every pair of every setting in one metric, with means, intervals and the ruler."""
    pairs = pair_differences(summary, metric.name)
    badges = arm_badges(summary)
    spans = [entry.span for entry in metric.differences if entry.span]
    floor = metric.noise_floor
    ends = [end for span in [*spans, *([floor] if floor else [])] for end in (span.low, span.high)]
    dots = [value for own in pairs.values() for value in own.values()]
    x = scale_over([*dots, *ends, *(span.estimate for span in spans)], 10.0, WIDTH - 10, zero=True)
    rows = []
    for index, entry in enumerate(metric.differences):
        top = TOP + index * ROW
        rows.append(
            StripRow(
                badge=badges[entry.arm],
                label=entry.arm,
                top=top,
                dots=tuple(
                    StripDot(
                        at=(x(value), round(top + 33 + 13 * (((place * 0.618) % 1) - 0.5), 1)),
                        anchor=anchors.get(key, ""),
                        words=f"{key[0]}, seed {key[1]}: {signed(value)} {metric.unit}",
                    )
                    for place, (key, value) in enumerate(pairs[entry.arm].items())
                ),
                span=_span_marks(x, entry.span),
                tone=tone_of(metric, entry),
                words=f"{signed(entry.span.estimate)} {interval_text(entry.span)}" if entry.span else "—",
            )
        )
    return StripChart(
        metric=metric,
        aim=aim_of(metric),
        rows=tuple(rows),
        height=TOP + len(rows) * ROW + BOTTOM,
        zero=x(0.0),
        floor=floor_band(x, floor, 0.0),
        ticks=round_ticks(x),
    )


def _span_marks(scale: Scale, span: Span | None) -> tuple[float, float, float] | None:
    if span is None or not math.isfinite(span.estimate):
        return None
    low = scale.low if span.low is None else span.low
    high = scale.high if span.high is None else span.high
    return scale(low), scale(span.estimate), scale(high)
