"""Verdicts on made-up clips: who wins, who pays, what cannot be told; how rarely nothing makes a winner."""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from video_diffusion.comparison.design import DEFAULT_MARGINS
from video_diffusion.comparison.statistics import Kind, Material, compare_metrics
from video_diffusion.comparison.summary import Arm, ClipMeasure, ClipResult
from video_diffusion.comparison.verdict import KINDS, Findings, judge, summarise

USUAL = {
    "flicker": 3.0, "motion": 5.0, "morph": 0.3, "sharpness": 12.0, "prompt_alignment": 0.8, "cuts": 0.0,
}  # fmt: skip
MORPH = Kind("morph", "px/frame at 256", "lower", "morph")


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
            kinds=(*(kind for kind in KINDS if kind.name != "morph"), MORPH),
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
    assert "motion, shape, sharpness and prompt alignment hold" in found["good"].sentence
    assert "flicker falls by" in found["good"].sentence and "(33%, interval" in found["good"].sentence


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"motion": -2.5}, "trades motion for coherence"),
        ({"sharpness": -4.0}, "trades sharpness for coherence"),
        ({"prompt_alignment": -0.3}, "trades prompt alignment for coherence"),
        ({"cuts": 1.0}, "trades cuts for coherence"),
        ({"morph": 0.4}, "trades shape for coherence"),
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


def test_the_headline_of_several_settings_tells_what_each_loses_and_the_worst_first():
    """Once "no difference seen" stood in bold over flicker that had tripled and alignment that had fallen."""
    study = Study(prompts=6, seeds=1, noise=0.0).add("off").add("good", flicker=-1.0)
    study.add("dim", prompt_alignment=-0.4).add("wild", flicker=6.0, prompt_alignment=-0.4)
    for label in "uvwxyz":
        study.add(label)
    summary = study.summary()
    words = {each.arm: each.words for each in summary.verdicts}
    assert summary.verdict("wild").outcome == "too few to tell"  # of nine settings, six prompts show nothing
    assert words["wild"] == "too few to tell, flicker may be higher, but loses prompt alignment"
    assert words["dim"] == "too few to tell, but loses prompt alignment"
    assert "; but prompt alignment -0.4" in summary.verdict("dim").sentence
    for each in summary.verdicts:
        assert f"{each.words}: " in summary.sentence
    assert summary.sentence.startswith("Against A (off), of 9 settings: too few to tell, ")
    assert summary.sentence.index("loses") < summary.sentence.index("too few to tell: ")
    assert (
        "alignment: D (wild)" in summary.sentence
        and "too few to tell: B (good), E (u), F (v) and 4 more" in (summary.sentence)
    )


def test_baseline_difference_and_result_of_a_row_add_up_over_the_same_pairs():
    """Once a difference over 2 measurable pairs stood beside means over all 16."""
    study = Study().add("base").add("arm", motion=-2.0)
    kept = {("p0", 0), ("p3", 1)}
    study.clips = [
        replace(each, measures={**each.measures, "motion": ClipMeasure(None, "unmeasurable")})
        if each.arm == "arm" and each.key not in kept
        else each
        for each in study.clips
    ]
    found = study.summary().metric("motion")
    difference = found.differences[0]
    assert (difference.num_pairs, difference.num_lost) == (2, 14)
    assert difference.mean - difference.baseline_mean == pytest.approx(difference.span.estimate, abs=1e-12)
    base = [each.measures["motion"].value for each in study.clips if each.arm == "base" and each.key in kept]
    assert difference.baseline_mean == pytest.approx(np.mean(base))
    assert difference.relative == pytest.approx(difference.span.estimate / difference.baseline_mean)


def test_what_no_number_of_prompts_could_tell_is_a_verdict_of_its_own_without_advice():
    """Once motion measurable in 2 of 16 pairs was "too few to tell", with the advice to make 206 prompts."""
    study = Study().add("base", motion=None).add("arm", flicker=-1.0, prompt_alignment=None)
    study.clips[0] = clip("base", "p0", 0, USUAL)
    summary = study.summary()
    found = summary.verdict("arm")
    assert found.outcome == "cannot be compared"
    assert found.words == "flickers less; motion and prompt alignment cannot be compared"
    assert "motion can be compared in 1 of 16 pairs only" in found.sentence
    assert summary.power == ""
    assert summary.sentence.startswith("Against base, arm flickers less; motion")


def test_numbers_marked_unmeasurable_do_not_enter_quietly():
    study = Study().add("base").add("arm", flicker=-1.0)
    study.clips = [
        replace(
            each, measures={**each.measures, "flicker": ClipMeasure(each.measures["flicker"].value, status)}
        )
        for at, each in enumerate(study.clips)
        for status in ["unmeasurable" if at in {0, 1, 17} else "ok"]
    ]
    summary = study.summary()
    assert (
        summary.metric("flicker").differences[0].num_doubtful == 2
    )  # places 0 and 1, the latter on both sides
    assert "; in 2 of 16 pairs a flicker is marked unmeasurable" in summary.verdict("arm").sentence


def test_between_methods_sharpness_is_that_of_what_stays():
    """A restless method lost its boiling texture with its flicker, and was said to trade sharpness for it."""
    study = Study().add("boiling").add("calm", flicker=-2.0, sharpness=-4.0)
    for at, each in enumerate(study.clips):
        steady = ClipMeasure(6.0 + 0.01 * (at % 5), "ok")
        study.clips[at] = replace(each, measures={**each.measures, "steady_sharpness": steady})
    summary = study.summary()
    assert summary.verdict("calm").outcome == "wins"
    roles = {metric.name: metric.role for metric in summary.metrics}
    assert (roles["steady_sharpness"], roles["sharpness"]) == ("guard", "other")
    steady = summary.metric("steady_sharpness")
    assert steady.margin == pytest.approx(0.1 * steady.means[0].span.estimate)  # sharpness's own
    for at, each in enumerate(study.clips):
        if each.arm == "calm":
            blurred = {**each.measures, "steady_sharpness": ClipMeasure(4.0, "ok")}
            study.clips[at] = replace(each, measures=blurred)
    assert study.summary().verdict("calm").words == "trades sharpness for coherence"


def test_arms_that_differ_in_palette_images_are_warned_of():
    study = Study().add("base").add("arm")
    study.clips = [replace(each, path="a.gif") if each.arm == "arm" else each for each in study.clips]
    assert any("B (arm): palette images" in text for text in study.summary().warnings)
    study.clips = [replace(each, notes=("256 colours at most: …",)) for each in study.clips]
    assert not any("palette" in text for text in study.summary().warnings)


def test_the_paired_practice_is_cited():
    assert any("arXiv 2603.06672" in note for note in Study().add("base").add("arm").summary().notes)


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
    assert verdicts(unknown)["arm"].outcome == "cannot be compared"


def test_lost_pairs_are_counted_and_too_many_say_nothing():
    study = Study().add("base").add("arm", flicker=-1.0)
    study.clips = [
        replace(each, error="broken", measures={}) if each.arm == "arm" and each.prompt < "p5" else each
        for each in study.clips
    ]
    summary = study.summary()
    difference = summary.metric("flicker").differences[0]
    assert (difference.num_pairs, difference.num_lost) == (6, 10)
    assert summary.verdict("arm").outcome == "cannot be compared"
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
        "flicker", "motion", "morph", "sharpness", "prompt_alignment", "cuts",
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
    assert "If flicker truly differed by 0.293 levels of 255, about" in summary.power
    assert "prompts like these would show it in four comparisons of five" in summary.power
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
    assert {kind.name: kind.role for kind in (*KINDS, MORPH) if kind.role != "other"} == {
        "flicker": "headline", "motion": "guard", "morph": "guard", "sharpness": "guard", "cuts": "guard",
        "prompt_alignment": "guard", "steady_sharpness": "guard",
    }  # fmt: skip
    assert Kind("x", "u", "lower", "g").role == "other"
