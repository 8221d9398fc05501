"""Verdicts on made-up clips: who wins, who pays, what cannot be told; how rarely nothing makes a winner."""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from video_diffusion.comparison.design import DEFAULT_MARGINS
from video_diffusion.comparison.statistics import Kind, Material, compare_metrics
from video_diffusion.comparison.summary import Arm, ClipMeasure, ClipResult
from video_diffusion.comparison.verdict import KINDS, Findings, judge, summarise

USUAL = {"flicker": 3.0, "motion": 5.0, "sharpness": 12.0, "prompt_alignment": 0.8, "cuts": 0.0}


def clip(arm, prompt, seed, values, error=""):
    measures = {name: ClipMeasure(v, "ok" if v is not None else "unmeasurable") for name, v in values.items()}
    return ClipResult(
        arm, prompt, seed, f"clips/{arm}-{prompt}-{seed}.mp4", "", error, 8.0, 16, 64, 64,
        {} if error else measures, {}, "", "", "",
    )  # fmt: skip


@dataclass
class Study:
    """Arms whose clips differ from the baseline's by given amounts, with noise between prompts and seeds."""

    prompts: int = 8
    seeds: int = 2
    noise: float = 0.02
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(5))
    clips: list = field(default_factory=list)
    arms: list = field(default_factory=list)

    def add(self, label, **changes):
        for prompt in range(self.prompts):
            for seed in range(self.seeds):
                values = dict(USUAL)
                for name, change in changes.items():
                    values[name] = None if change is None else values[name] + change
                for name, value in values.items():
                    if value is not None and name != "cuts":
                        values[name] = value + self.noise * USUAL[name] * self.rng.normal()
                self.clips.append(clip(label, f"p{prompt}", seed, values))
        self.arms.append(Arm(label, not self.arms, {}, (), {}, True, self.prompts * self.seeds, 0))
        return self

    def findings(self):
        return Findings(
            "", "", tuple(self.arms), (), tuple(f"p{n}" for n in range(self.prompts)),
            tuple(range(self.seeds)), tuple(self.clips), DEFAULT_MARGINS, 0.05,
        )  # fmt: skip

    def summary(self):
        return summarise(self.findings())


def verdicts(study):
    return {each.arm: each for each in study.summary().verdicts}


def test_an_arm_wins_only_if_flicker_falls_and_nothing_is_paid():
    study = Study().add("base").add("good", flicker=-1.0).add("worse", flicker=1.0).add("same")
    found = verdicts(study)
    assert [found[arm].outcome for arm in ("good", "worse", "same")] == [
        "wins", "flickers more", "no difference seen",
    ]  # fmt: skip
    assert "motion, sharpness and prompt alignment hold" in found["good"].sentence
    assert "flicker falls by" in found["good"].sentence and "(33%, interval" in found["good"].sentence


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"motion": -2.5}, "trades motion for coherence"),
        ({"sharpness": -4.0}, "trades sharpness for coherence"),
        ({"prompt_alignment": -0.3}, "trades prompt alignment for coherence"),
        ({"cuts": 1.0}, "trades cuts for coherence"),
        ({"motion": -2.5, "sharpness": -4.0}, "trades motion and sharpness for coherence"),
    ],
)
def test_what_is_lost_is_named(change, words):
    found = verdicts(Study().add("base").add("arm", flicker=-1.0, **change))["arm"]
    assert (found.outcome, found.words) == ("trades", words)
    assert "pays for it" in found.sentence


def test_a_loss_without_less_flicker_is_told_too():
    found = verdicts(Study().add("base").add("same", motion=-2.5).add("worse", flicker=1.0, motion=-2.5))
    assert (found["same"].outcome, found["worse"].outcome) == ("no difference seen", "flickers more")
    assert "; but motion -2" in found["same"].sentence and "; but motion -2" in found["worse"].sentence


def test_an_interval_without_zero_and_an_adjusted_p_above_alpha_are_a_maybe():
    study = Study(prompts=6).add("base")
    for arm in range(3):
        study.add(f"arm{arm}", motion=-2.5)
    motion = study.summary().metric("motion").differences[0]
    assert motion.p <= 0.05 < study.summary().metric("flicker").differences[0].adjusted_p
    assert motion.words in {"lower", "maybe lower"} and (motion.words == "lower") == (
        motion.adjusted_p <= 0.05
    )


def test_a_guard_that_may_fall_beyond_its_margin_leaves_it_open():
    study = Study(noise=0.25).add("base").add("arm", flicker=-2.9)
    found = verdicts(study)["arm"]
    assert found.outcome == "too few to tell"
    assert "whether it pays for that is open" in found.sentence


def test_five_prompts_are_too_few_and_six_are_not():
    for prompts, outcome in ((5, "too few to tell"), (6, "wins")):
        study = Study(prompts=prompts).add("base").add("arm", flicker=-1.0)
        assert verdicts(study)["arm"].outcome == outcome
    warning = Study(prompts=5).add("base").add("arm").summary().warnings[0]
    assert "5 prompts cannot reach 0.05" in warning and "add prompts (6 can)" in warning


def test_frozen_clips_do_not_win_against_a_baseline_without_believable_motion():
    """Noise has no motion that could be lost; clips that no longer show what was asked for still lose."""
    for alignment, outcome in ((0.1, "wins"), (-0.3, "trades")):
        study = Study().add("base", motion=None).add("arm", flicker=-2.0, prompt_alignment=alignment)
        found = verdicts(study)["arm"]
        assert found.outcome == outcome
    assert (
        "no believable motion to lose"
        in verdicts(Study().add("base", motion=None).add("arm", flicker=-2.0))["arm"].sentence
    )
    unknown = Study().add("base", motion=None, prompt_alignment=None)
    unknown.add("arm", flicker=-2.0, prompt_alignment=None)
    assert verdicts(unknown)["arm"].outcome == "too few to tell"


def test_lost_pairs_are_counted_and_too_many_say_nothing():
    study = Study().add("base").add("arm", flicker=-1.0)
    study.clips = [
        replace(each, error="broken", measures={}) if each.arm == "arm" and each.prompt < "p5" else each
        for each in study.clips
    ]
    summary = study.summary()
    difference = summary.metric("flicker").differences[0]
    assert (difference.num_pairs, difference.num_lost) == (6, 10)
    assert summary.verdict("arm").outcome == "too few to tell"
    assert "6 of 16 pairs only" in summary.verdict("arm").sentence


def test_prompts_are_the_unit_and_missing_clips_are_no_zeros():
    study = Study(noise=0.0).add("base").add("arm", flicker=-1.0)
    study.clips = [each for each in study.clips if (each.arm, each.prompt, each.seed) != ("arm", "p3", 1)]
    difference = study.summary().metric("flicker").differences[0]
    assert [each.num_seeds for each in difference.prompts] == [2, 2, 2, 1, 2, 2, 2, 2]
    assert difference.span.estimate == pytest.approx(-1.0)
    assert difference.p == pytest.approx(2 / 2**8)
    assert difference.share_better == 1.0


def test_holm_over_the_arms_and_benjamini_hochberg_over_the_rest():
    study = Study().add("base").add("a", flicker=-1.0).add("b", flicker=-0.5).add("c")
    summary = study.summary()
    flicker = [each.adjusted_p for each in summary.metric("flicker").differences]
    assert flicker[0] == pytest.approx(3 * 2 / 2**8)
    others = [each for metric in summary.metrics[1:] for each in metric.differences]
    assert all(each.adjusted_p >= each.p for each in others)
    assert [metric.name for metric in summary.metrics] == [
        "flicker", "motion", "sharpness", "prompt_alignment", "cuts",
    ]  # fmt: skip


def test_a_metric_that_nothing_measures_is_left_out():
    summary = Study().add("base", motion=None).add("arm", motion=None).summary()
    assert summary.metric("motion") is None
    assert summary.metric("drift") is None
    assert summary.pareto == ()


def test_the_front_holds_what_nothing_beats():
    study = Study(noise=0.0).add("base").add("calm", flicker=-1.0, motion=-1.0).add("worse", flicker=1.0)
    points = {point.arm: point for point in study.summary().pareto}
    assert {arm: point.on_front for arm, point in points.items()} == {
        "base": True, "calm": True, "worse": False,
    }  # fmt: skip
    assert points["base"].is_baseline and points["calm"].flicker.estimate == pytest.approx(2.0)


def test_power_and_noise_floor_are_told():
    summary = Study(seeds=4, noise=0.2).add("base").add("arm").summary()
    floor = summary.metric("flicker").noise_floor
    assert floor.low < 0 < floor.high
    assert "prompts show a flicker difference of 0.3 levels" in summary.power
    assert Study(seeds=1).add("base").add("arm").summary().metric("flicker").noise_floor is None


def false_winners(repetitions, arms, prompts, seeds):
    """How often any of several settings that change nothing is said to win or to flicker more."""
    kinds = [kind for kind in KINDS if kind.name in {"flicker", "motion"}]
    rng = np.random.default_rng(11)
    places = [(f"p{n}", seed) for n in range(prompts) for seed in range(seeds)]
    hits = 0
    for _ in range(repetitions):
        content = rng.normal(10, 2, prompts).repeat(seeds)
        made = {}
        for arm in ["base", *(f"a{n}" for n in range(arms))]:
            values = zip(
                content + rng.normal(0, 1, len(places)), rng.normal(5, 0.1, len(places)), strict=True
            )
            made[arm] = {
                place: clip(arm, *place, {"flicker": float(f), "motion": float(m)})
                for place, (f, m) in zip(places, values, strict=True)
            }
        metrics = compare_metrics(Material(made, places, DEFAULT_MARGINS), kinds)
        hits += any(v.outcome in {"wins", "flickers more"} for v in judge(metrics, 0.05, {}))
    return hits / repetitions


@pytest.mark.full
def test_ten_settings_that_do_nothing_rarely_make_a_winner():
    assert false_winners(15, 10, 9, 2) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 15)


@pytest.mark.slow
def test_the_rate_of_false_winners_with_ten_settings_is_at_most_alpha():
    assert false_winners(300, 10, 10, 2) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 300)


def test_equal_material_gives_equal_numbers_whatever_stands_beside_it():
    study = Study(noise=0.2).add("base").add("a", flicker=-0.2)
    alone = study.summary().metric("flicker").differences[0]
    beside = study.add("b", flicker=-0.4).summary().metric("flicker").differences[0]
    assert (alone.span, alone.p) == (beside.span, beside.p)


def test_kinds_of_the_table_know_their_roles():
    assert {kind.name: kind.role for kind in KINDS if kind.role != "other"} == {
        "flicker": "headline", "motion": "guard", "sharpness": "guard", "cuts": "guard",
        "prompt_alignment": "guard",
    }  # fmt: skip
    assert Kind("x", "u", "lower", "g").role == "other"
