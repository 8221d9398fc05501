"""summary.json: what is written is what is read, whatever texts it holds."""

import json
from dataclasses import replace

import pytest

from video_diffusion.comparison import summary as own
from video_diffusion.comparison.report import read_summary
from video_diffusion.settings import ConfigError

NASTY = "</script><script>x=1</script>\u202e =1+1 ☃ \x1b[2J"


def small_summary() -> own.ComparisonSummary:
    span = own.Span(-1.5, None, 0.25)
    difference = own.Difference(
        "b",
        span,
        -1.0,
        None,
        0.75,
        0.5,
        1.0,
        "too few to tell",
        3,
        1,
        (own.PromptDifference(NASTY, -1.5, 2),),
        9,
    )
    metric = own.MetricSummary(
        "flicker",
        "levels",
        "lower",
        "flicker",
        "headline",
        0.1,
        (own.ArmMean("a", span, 2),),
        (difference,),
        None,
    )
    clip = own.ClipResult(
        "a",
        NASTY,
        2**62,
        "clips/a b#1.mp4",
        "",
        "",
        8.0,
        5,
        48,
        32,
        {"flicker": own.ClipMeasure(None, "static")},
        {"flicker": (None, 0.5, 1.0, 0.25, None)},
        "ab",
        "cd",
        "video-diffusion generate",
    )
    arms = (
        own.Arm("a", True, {"guidance_scale": 2.5}, (), {}, True, 2, 0),
        own.Arm(
            NASTY, False, {}, (own.Change("scheduler", "ddim", None),), {"scheduler": "euler"}, None, 0, 2
        ),
    )
    return own.ComparisonSummary(
        NASTY,
        "s",
        "c",
        "a",
        (NASTY,),
        (2**62,),
        arms,
        (own.Axis("scheduler", ("ddim", "euler")),),
        (metric,),
        (own.Verdict("b", "too few to tell", "too few to tell", "s"),),
        (own.ParetoPoint("a", True, span, span, None, True),),
        ("w",),
        "p",
        ("n",),
        (clip,),
        versions={"python": "3"},
    )


def test_what_is_written_is_what_is_read(tmp_path):
    summary = small_summary()
    (tmp_path / own.SUMMARY_FILE).write_text(summary.to_json())
    assert read_summary(tmp_path) == summary
    assert summary.to_json() == read_summary(tmp_path).to_json()


def test_places_are_found_by_name():
    summary = small_summary()
    assert summary.metric("flicker") is summary.metrics[0]
    assert summary.metric("motion") is summary.verdict("a") is summary.clip("a", NASTY, 3) is None
    assert summary.clip("a", NASTY, 2**62) is summary.clips[0]
    assert summary.verdict("b") is summary.verdicts[0]


def test_no_number_of_json_is_nan():
    assert "NaN" not in replace(small_summary(), alpha=0.01).to_json()


@pytest.mark.parametrize(("text", "place"), [("[1]", "summary.json"), ("{}", "title"), ("{", "summary.json")])
def test_what_is_no_summary_is_refused_with_its_place(text, place):
    with pytest.raises(ConfigError, match=place):
        own.ComparisonSummary.from_json(text)


def test_a_field_of_the_wrong_kind_is_named():
    values = json.loads(small_summary().to_json())
    values["clips"][0]["seed"] = "x"
    with pytest.raises(ConfigError, match=r"clips\.0\.seed"):
        own.ComparisonSummary.from_json(json.dumps(values))


def test_a_summary_shows_itself_with_everything_escaped():
    summary = small_summary()
    page = summary._repr_html_()
    assert "<script" not in page and page.count("<tr>") == 1 + len(summary.arms)
    assert repr(summary).startswith("<ComparisonSummary ")
