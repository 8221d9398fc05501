"""Write `docs/remedies.md`: every remedy against every measure, compared on the embedded model."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "scripts" / "remedies.yaml"
PAGE = ROOT / "docs" / "remedies.md"
MEASURES = ("flicker", "morph", "drift", "motion", "steady_sharpness", "prompt_alignment")
HEAD = """\
# What helps against flicker, morph and drift

Written by `python scripts/make_remedies_page.py`, which compares the settings in `scripts/remedies.yaml` on
the embedded model: {num_prompts} prompts, one seed, the same noise under each setting. A cell is the mean
difference to the clip as it is, with its 95 % interval over prompts, bold where that excludes 0. With
{num_prompts} prompts nothing here is a verdict. Hold a remedy against your own prompts with
`video-diffusion compare`; which one a clip needs, [`diagnose`](diagnose.md) tells. `time` is that of the
fastest clip, as a multiple of the fastest as it is.

"""
TAIL = """

Not in the table: guidance rescale and adaptive projected guidance, which more than doubled flicker in a trial
at guidance 7.5; a temporal decoder, which a model must have; a flow-guided pass over finished frames, of
which nothing has shown yet that it pays for the sharpness it costs.
"""


def rows(summary: dict[str, Any], seconds: dict[str, list[float]]) -> Iterator[str]:
    """The table, the clip as it is first."""
    metrics = [next(m for m in summary["metrics"] if m["name"] == name) for name in MEASURES]
    names = [name.removeprefix("steady_").removeprefix("prompt_") for name in MEASURES]
    yield "| " + " | ".join(["remedy", *names, "time"]) + " |"
    yield "|---" * (len(MEASURES) + 2) + "|"
    means = [metric["means"][0]["span"]["estimate"] for metric in metrics]
    yield f"| {summary['baseline']} | " + " | ".join(f"{mean:.3g}" for mean in means) + " | 1 |"
    usual = seconds[summary["baseline"]]
    for place, arm in enumerate(summary["arms"][1:]):
        cells = [cell(metric["differences"][place]["span"]) for metric in metrics]
        time = min(seconds[arm["label"]]) / min(usual)
        yield f"| {arm['label']} | " + " | ".join([*cells, f"{time:.2g}"]) + " |"


def cell(span: dict[str, float]) -> str:
    """A difference with its interval; bold where that excludes 0."""
    number, low, high = (f"{span[key]:+.2g}".replace("-", "−") for key in ("estimate", "low", "high"))
    is_seen = span["low"] > 0 or span["high"] < 0
    return f"{f'**{number}**' if is_seen else number} [{low}, {high}]"


def main(folder: Path) -> None:
    """Compare, and write the page."""
    command = [sys.executable, "-m", "video_diffusion", "compare", str(CONFIG), "-o", str(folder)]
    subprocess.run(command, check=True)
    summary = json.loads((folder / "summary.json").read_text())
    seconds: dict[str, list[float]] = {}
    for clip in summary["clips"]:
        record = json.loads((folder / clip["record"]).read_text())
        seconds.setdefault(clip["arm"], []).append(sum(record["timings"].values()))
    head = HEAD.format(num_prompts=len(summary["prompts"]))
    PAGE.write_text(head + "\n".join(rows(summary, seconds)) + TAIL)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "remedies"))
