"""`tuning.html`, `summary.json` and `best.yaml`: what was tried, what was taken, and whether it held."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from video_diffusion.comparison.charts import free_places, paper_figure, paper_style, plane_limits, svg_of
from video_diffusion.comparison.design import shown_values
from video_diffusion.comparison.report import Figure, PairCard, played, view_pairs
from video_diffusion.comparison.run import clip_command
from video_diffusion.comparison.summary import SUMMARY_FILE, ClipResult, ComparisonSummary, Span
from video_diffusion.comparison.tables import IntervalGlyph, MetricCell, number_rows
from video_diffusion.tuning.choice import COUNTED, Importance, Judgement, importances
from video_diffusion.tuning.declaration import START, TuneDesign, best_yaml
from video_diffusion.tuning.search import Tried, front_of_each
from video_diffusion.video import library_versions, write_bytes
from video_diffusion.web import (
    INK,
    SOFT,
    ClipView,
    Hint,
    counted,
    inline_svg,
    number,
    render_page,
    scale_over,
    with_images,
    write_page,
)

PAGE, BEST, CONFIRM = "tuning.html", "best.yaml", "confirm.yaml"
TEMPLATES = Path(__file__).parent / "templates"
MOST_CARDS = 8
MOST_PAIRS = 6
GLYPH = (4.0, 128.0)
SPOKEN = {"steady_sharpness": "sharpness", "prompt_alignment": "alignment"}


@dataclass(frozen=True)
class Tuning:
    """A whole search.

    Attributes:
        tried: Every trial, the start first.
        judgement: What is said at the end.
        search: All settings that were made for all prompts, against the start, on the search's own prompts.
        winner: The setting that was held against the start; None for none.
        confirm: On the kept-back prompts: the start against every setting that was ever held against it.
        command: That goes on, or shows all again.
    """

    design: TuneDesign
    tried: tuple[Tried, ...]
    judgement: Judgement
    search: ComparisonSummary | None
    winner: Tried | None
    confirm: ComparisonSummary | None
    command: str

    @property
    def best(self) -> Mapping[str, Any]:
        """The settings that are worth using: the winner's if it held, else the start's."""
        holds = self.judgement.outcome == "better" and self.winner is not None
        return self.design.settings_of(self.winner.values) if self.winner and holds else self.design.base

    @property
    def front(self) -> tuple[Tried, ...]:
        """Of the settings made for all prompts, those that none beats in every objective."""
        whole = [each for each in self.tried if each.outcome == "all prompts"]
        values = [[each.means[name] for name in self.design.objectives] for each in whole]
        fronts = front_of_each(values, self.design.directions) if whole else []
        return tuple(each for each, front in zip(whole, fronts, strict=True) if front == 0)


@dataclass(frozen=True)
class FrontCard:
    """A setting of the front beside the start, on the first prompt of the search."""

    trial: Tried
    words: str
    views: tuple[ClipView, ...]
    command: str


@dataclass(frozen=True)
class TrialRow:
    """A trial as the table shows it."""

    trial: Tried
    words: str
    values: tuple[str, ...]
    is_on_front: bool
    is_winner: bool
    has_card: bool


def write_folder(found: Tuning, folder: Path) -> list[Path]:
    """Write page, settings and answer; each is whole or absent, the answer comes last."""
    write_page(folder / PAGE, render(found, folder))
    held = found.best is not found.design.base
    head = found.judgement.sentence if held else f"The starting settings. {found.judgement.sentence}"
    write_bytes(folder / BEST, best_yaml(found.best, head).encode())
    text = json.dumps(answer(found), indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(folder / SUMMARY_FILE, (text + "\n").encode())
    return [folder / PAGE, folder / BEST, folder / SUMMARY_FILE]


def answer(found: Tuning) -> dict[str, Any]:
    """The search as plain JSON values."""
    design, winner = found.design, found.winner
    on_front = {each.number for each in found.front}
    return {
        "title": design.title,
        "sentence": found.judgement.sentence,
        "outcome": found.judgement.outcome,
        "best": dict(found.best),
        "start": dict(design.base),
        "winner": None if winner is None else {"trial": winner.number, "settings": dict(winner.values)},
        "confirm": {
            "prompts": list(design.confirm_prompts),
            "seeds": list(design.confirm_seeds),
            "differences": [_plain(*each) for each in _differences(found)],
        },
        "search": {
            "note": "optimistic: these are the clips that the winner was chosen on",
            "objectives": dict(zip(design.objectives, design.directions, strict=True)),
            "prompts": list(design.prompts),
            "seeds": list(design.seeds),
            "trials": [
                {
                    "trial": each.number, "label": each.label, "settings": dict(each.values),
                    "outcome": each.outcome, "num_prompts": each.num_prompts, "means": dict(each.means),
                    "on_front": each.number in on_front, "why": each.why,
                }
                for each in found.tried
            ],
        },
        "importance": [asdict(each) for each in importances(found.tried, design)],
        "a_a": design.a_a,
        "command": found.command,
        "versions": library_versions(),
    }  # fmt: skip


def _differences(found: Tuning) -> list[tuple[str, str, Span, float | None, float | None]]:
    """Of the winner on the kept-back prompts: measure, unit, difference, p, the start's mean."""
    if found.confirm is None or found.winner is None:
        return []
    return [
        (metric.name, metric.unit, each.span, each.p, each.baseline_mean)
        for metric in found.confirm.metrics
        if _is_told(metric.name, found.design)
        for each in metric.differences
        if each.arm == found.winner.label and each.span is not None
    ]


def _plain(name: str, unit: str, span: Span, p: float | None, base: float | None) -> dict[str, Any]:
    return {
        "measure": name, "unit": unit, "start": base, "difference": span.estimate, "low": span.low,
        "high": span.high, "p": p,
    }  # fmt: skip


def _is_told(name: str, design: TuneDesign) -> bool:
    return name in design.objectives or (name in COUNTED and name != "sharpness")


def render(found: Tuning, folder: Path) -> str:
    """The page; clips are read for their still images."""
    design = found.design
    cards = list(_cards(found, folder))
    values = {
        "title": design.title or "A search for the best settings",
        "found": found,
        "winner_words": words_of(found.winner.values) if found.winner is not None else "",
        "best_command": clip_command({**found.best, "prompt": "PROMPT"}),
        "spoken": {name: _said(name) for name in design.objectives},
        "units": _units(found),
        "rows": list(_rows(found, {card.trial.number for card in cards})),
        "cells": _cells(found),
        "pairs": _pairs(found, folder),
        "figures": list(_figures(found, {card.trial.number for card in cards})),
        "cards": cards,
        "importance": _importance_rows(found),
        "notes": list(_notes(found)),
        "versions": library_versions(),
    }
    return render_page(TEMPLATES, "tuning.html", values, styles=("findings.css", "tuning.css"))


def _said(name: str) -> str:
    return SPOKEN.get(name, name.replace("_", " "))


def words_of(values: Mapping[str, Any]) -> str:
    """Settings in a few words: "guidance_scale 1.2, scheduler ddim"."""
    return ", ".join(f"{name} {shown_values([value])[0]}" for name, value in values.items()) or "as the start"


def _units(found: Tuning) -> dict[str, str]:
    known = {metric.name: metric.unit for metric in found.search.metrics} if found.search else {}
    return {name: known.get(name, "") for name in found.design.objectives}


# What the kept-back prompts say.


def _cells(found: Tuning) -> list[tuple[str, str, MetricCell]]:
    """The winner's row of every measure that counts: objectives first."""
    if found.confirm is None or found.winner is None:
        return []
    objectives = found.design.objectives
    signs = dict(zip(objectives, found.design.directions, strict=True))
    rows = [
        (_said(metric.name), metric.unit, _toned(cell, signs.get(metric.name)), metric.name)
        for metric, arm, cell in number_rows(found.confirm)
        if arm == found.winner.label and _is_told(metric.name, found.design)
    ]
    rows.sort(key=lambda row: objectives.index(row[3]) if row[3] in objectives else len(objectives))
    return [row[:3] for row in rows]


def _toned(cell: MetricCell, sign: int | None) -> MetricCell:
    """An objective that is seen to gain is good, whatever else it is to `compare`."""
    gains = sign is not None and cell.words == ("higher" if sign > 0 else "lower")
    return replace(cell, tone="good") if gains else cell


def _pairs(found: Tuning, folder: Path) -> list[PairCard]:
    if found.confirm is None or found.winner is None:
        return []
    kept = {found.confirm.baseline, found.winner.label}
    shown = replace(
        found.confirm,
        arms=tuple(arm for arm in found.confirm.arms if arm.label in kept),
        clips=tuple(clip for clip in found.confirm.clips if clip.arm in kept),
    )
    return view_pairs(shown, folder, 0, MOST_PAIRS)


# The search.


def _rows(found: Tuning, with_cards: set[int]) -> Iterator[TrialRow]:
    on_front = {each.number for each in found.front}
    for each in found.tried:
        yield TrialRow(
            trial=each,
            words=words_of(each.values),
            values=tuple(number(each.means.get(name)) for name in found.design.objectives),
            is_on_front=each.number in on_front,
            is_winner=found.winner is not None and each.number == found.winner.number,
            has_card=each.number in with_cards,
        )


def _cards(found: Tuning, folder: Path) -> Iterator[FrontCard]:
    """The settings of the front, the best in the first objective first, and the winner."""
    if found.search is None:
        return
    first, sign = found.design.objectives[0], found.design.directions[0]
    front = sorted(found.front, key=lambda each: -sign * each.means[first])[:MOST_CARDS]
    winner = found.winner
    if winner is not None:
        front = [winner, *(each for each in front if each.number != winner.number)]
    clips: dict[str, ClipResult] = {}
    for clip in found.search.clips:
        if not clip.error:
            clips.setdefault(clip.arm, clip)
    start = clips.get(START)
    if start is None:
        return
    peak = max(
        [1.0, *(v for clip in clips.values() for v in clip.series.get("flicker", ()) if v is not None)]
    )
    base = with_images(replace(_view(start, START, found, peak), is_reference=True, badge="A"), folder)
    line = base.images.line if base.images is not None else None
    for each in front:
        own = clips.get(each.label)
        if own is None or each.label == START:
            continue
        view = with_images(_view(own, each.label, found, peak), folder, line)
        yield FrontCard(each, words_of(each.values), (base, view), own.command)


def _view(clip: ClipResult, title: str, found: Tuning, peak: float) -> ClipView:
    measured = {name: clip.measures[name] for name in clip.measures if _is_told(name, found.design)}
    return replace(
        played(ClipView(title=title, description=f"{title}: {clip.prompt}, seed {clip.seed}"), clip),
        series=clip.series.get("flicker", ()),
        series_label="flicker in levels",
        series_peak=peak,
        facts={_said(name): number(m.value) for name, m in measured.items()},
    )


def _figures(found: Tuning, with_cards: set[int]) -> Iterator[Figure]:
    """The first objective against each other one; a single objective over the trials."""
    if found.search is None:
        return
    design, first = found.design, found.design.objectives[0]
    means = {
        metric.name: {mean.arm: mean.span for mean in metric.means if mean.span is not None}
        for metric in found.search.metrics
    }
    whole = [each for each in found.tried if each.outcome == "all prompts"]
    for second in design.objectives[1:] or ("",):
        spans = [
            (each, means[first][each.label],
             means[second][each.label] if second else Span(float(each.number), None, None))
            for each in whole
            if each.label in means.get(first, {}) and (not second or each.label in means.get(second, {}))
        ]  # fmt: skip
        if spans:
            yield _plane(found, spans, first, second, with_cards)


def _plane(
    found: Tuning, spans: Sequence[tuple[Tried, Span, Span]], first: str, second: str, with_cards: set[int]
) -> Figure:
    """A mark for each setting that leads to its clips; stars are the front, the ring is the start."""
    units = {metric.name: metric.unit for metric in found.search.metrics} if found.search else {}
    on_front = {each.number for each in found.front}
    hints: dict[str, Sequence[Hint]] = {}
    with paper_style():
        figure, axes = paper_figure(6.0, 4.2)
        figure.subplots_adjust(0.13, 0.14, 0.98, 0.97)
        means = [(Span(x.estimate, None, None), Span(y.estimate, None, None)) for _, x, y in spans]
        axes.set_xlim(*plane_limits([x for x, _ in means]))
        axes.set_ylim(*plane_limits([y for _, y in means]))
        dots = [axes.transData.transform((x.estimate, y.estimate)) * 72 / figure.dpi for x, y in means]
        places = free_places([(float(x), float(y)) for x, y in dots])
        for (each, x, y), place in zip(spans, places, strict=True):
            spot, is_winner = (x.estimate, y.estimate), each == found.winner
            if each.label == START:
                axes.plot(*spot, "o", markersize=13, markerfacecolor="none", color=INK)
            star = each.number in on_front
            axes.plot(
                *spot, "*" if star else "o", markersize=13 if star else 7, markeredgecolor="white",
                color="#1c7a4d" if is_winner else INK if star else SOFT, gid=f"mark-{each.number}", zorder=4,
            )  # fmt: skip
            if star or each.label == START:
                name = "start" if each.label == START else f"{each.number}"
                axes.annotate(name, spot, place, textcoords="figure points", ha="center", va="center",
                              zorder=5, weight="bold" if is_winner else "normal")  # fmt: skip
            told = f"{first} {number(x.estimate)}" + (f", {second} {number(y.estimate)}" if second else "")
            target = f"#trial-{each.number}" if each.number in with_cards else f"#row-{each.number}"
            hints[f"mark-{each.number}"] = [Hint(f"{each.label}: {told} ({words_of(each.values)})", target)]
        label = {name: f"{name.replace('_', ' ')}, {units.get(name, '')}" for name in (first, second)}
        axes.set_xlabel(label[first])
        axes.set_ylabel(label[second] if second else "trial")
        svg = svg_of(figure)
    title = f"{first} against {second}" if second else f"{first} over the trials"
    words = ". ".join(hint.words for marks in hints.values() for hint in marks)
    note = (
        "Each mark is a setting and leads to its clips or its row. Stars: none is better in all objectives. "
        "Ringed: the start."
    )
    name = f"front-{second or first}"
    return Figure(title.replace("_", " ").capitalize(), note, name, inline_svg(svg, name, words, hints))


def _importance_rows(found: Tuning) -> list[tuple[Importance, IntervalGlyph]]:
    every, order = importances(found.tried, found.design), found.design.objectives
    scale = scale_over([0.0, 1.0], *GLYPH, zero=True)
    return [
        (
            each,
            IntervalGlyph(
                scale(0.0), scale(each.share), scale(each.low), scale(each.high),
                (scale(0.0), scale(min(1.0, each.chance))),
            ),
        )
        for each in sorted(every, key=lambda each: (order.index(each.objective), -each.share))
    ]  # fmt: skip


def _notes(found: Tuning) -> Iterator[str]:
    design = found.design
    yield (
        "The numbers of the search are optimistic: the winner was chosen because they are good, and part of "
        "that is luck. Only the test on the kept-back prompts says what to expect."
    )
    yield (
        f"The winner has the largest gain in {design.objectives[0].replace('_', ' ')} among the settings "
        "made for all prompts in which no other objective, and nothing that compare guards, is worse than "
        "the start's by more than a quarter of its margin."
    )
    yield (
        f"Better means: on the kept-back prompts the sign-flip test over prompts reaches {design.alpha:g}, "
        f"the {1 - design.alpha:.0%} interval excludes 0, and the whole interval of everything else stays "
        f"within its margin. Where nothing is better, at most {design.alpha / 2:.1%} of searches say so all "
        "the same."
    )
    if found.confirm is not None and len(found.confirm.arms) > 2:
        yield (
            f"{len(found.confirm.arms) - 1} settings were held against the start on these prompts, one "
            "search after another; p is adjusted for all of them by Holm."
        )
    rungs = ", ".join(map(str, design.rungs[:-1]))
    if rungs:
        yield (
            f"After {rungs} of {counted(len(design.prompts), 'prompt')} a setting goes on only if fewer than "
            "half of those that came so far lie on better fronts (successive halving on non-dominated rank; "
            "Optuna's own pruners know one objective)."
        )
    yield (
        "Importance is the share of the variance between trials that a setting explains by itself (ε²), on "
        "the first prompts, which every trial was made for; the interval is over random halves of the "
        "trials, the grey band is what shuffled trials stay within in 95 of 100 cases."
    )
    if design.a_a:
        yield "An A/A run: every trial is the start with other seeds. There is nothing to find."
    yield from (f"{each.label} failed: {each.why}" for each in found.tried if each.why)
