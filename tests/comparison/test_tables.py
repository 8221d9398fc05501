"""Tables of a comparison: inert in Markdown and spreadsheets, exact in Parquet, and failures are no zeros."""

import csv
import io
from dataclasses import replace

import pytest

from video_diffusion.comparison import summary as own
from video_diffusion.comparison.tables import has_parquet, markdown, table_csv, table_rows, write_parquet

NASTY = ["=HYPERLINK(1)", "+1", "-it", "@x", " =1", "\t=1", "plain", 'a,b\n"c"', "</script>|`x`[y](z)<b>"]


def comparison() -> own.ComparisonSummary:
    clips = [
        own.ClipResult(
            "base", prompt, 3, f"clips/{number}.mp4", "", "", 8.0, 5, 48, 32,
            {"flicker": own.ClipMeasure(0.5, "ok"), "motion": own.ClipMeasure(None, "unmeasurable")},
            {}, "", "", "",
        )
        for number, prompt in enumerate(NASTY)
    ]  # fmt: skip
    clips.append(replace(clips[0], arm="=arm", path="", error="ValueError: no", measures={}))
    span = own.Span(-1.5, -2.0, None)
    difference = own.Difference("=arm", span, None, -0.5, None, 0.5, None, "lower", 3, 1, (), None)
    metrics = tuple(
        own.MetricSummary(
            name,
            "levels",
            "lower",
            "g",
            "headline",
            0.1,
            (own.ArmMean("base", span, 9),),
            (difference,),
            None,
        )
        for name in ("flicker", "motion")
    )
    arms = (own.Arm("base", True, {}, (), {}, True, 9, 0), own.Arm("=arm", False, {}, (), {}, None, 0, 1))
    return own.ComparisonSummary(
        NASTY[-1], "it *wins*", "`rm`", "base", tuple(NASTY), (3,), arms, (), metrics,
        (own.Verdict("=arm", "wins", "wins", "a | b"),), (), ("<b>careful</b>",), "", ("n",), tuple(clips),
    )  # fmt: skip


def test_no_cell_is_a_formula_and_every_value_is_there():
    rows = list(csv.reader(io.StringIO(table_csv(comparison()))))
    assert all(cell[:1] not in "=+-@\t" for row in rows for cell in row if cell)
    assert len(rows) == 1 + 2 * len(NASTY) + 2
    assert {row[1].removeprefix("'") for row in rows[1:]} == set(NASTY)
    failed = [row for row in rows if row[0] == "'=arm"]
    assert [row[4] for row in failed] == ["", ""] and failed[0][6] == "ValueError: no"
    unmeasured = [row for row in rows[1:] if row[0] == "base" and row[3] == "motion"]
    assert {(row[4], row[6]) for row in unmeasured} == {("", "unmeasurable")}


def test_markdown_shows_texts_as_they_are():
    text = markdown(comparison())
    assert "\\</script\\>\\|\\`x\\`\\[y\\](z)\\<b\\>" in text
    assert "| =arm | wins | a \\| b |" in text
    assert "- Warning: \\<b\\>careful" in text
    assert "| -1.5 (-50%) | open | 0.5 | — | 3 (1 lost) | lower |" in text
    rows = [line for line in text.splitlines() if line.startswith("| ") and "\\|" not in line]
    assert {line.count("|") for line in rows} <= {4, 11}


@pytest.mark.skipif(not has_parquet(), reason="pyarrow is optional")
def test_parquet_holds_the_same_rows_exactly(tmp_path):
    import pyarrow.parquet

    write_parquet(comparison(), tmp_path / "metrics.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "metrics.parquet").to_pylist()
    assert [tuple(row.values()) for row in table] == table_rows(comparison())
