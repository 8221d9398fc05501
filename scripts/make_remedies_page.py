"""Write `docs/remedies.md`: every remedy against every measure, compared on the embedded model."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from video_diffusion import GenerationSettings, TextToVideoPipeline

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "scripts" / "remedies.yaml"
PAGE = ROOT / "docs" / "remedies.md"
MEASURES = ("flicker", "morph", "drift", "motion", "steady_sharpness", "prompt_alignment")
HEAD = """\
# What helps against flicker, morph and drift

Written by `python scripts/make_remedies_page.py`, which compares the settings in `scripts/remedies.yaml` on
the embedded model's `--motion-adapter teacher`: {num_prompts} prompts, one seed, the same noise under each setting. A cell is the mean
difference to the clip as it is, with its 95 % interval over prompts, bold where that excludes 0. With
{num_prompts} prompts nothing here is a verdict. Hold a remedy against your own prompts with
`video-diffusion compare`; which one a clip needs, [`diagnose`](diagnose.md) tells. `time` is what the
processor takes to make a clip, as a multiple, to about a third on a busy machine.

"""
TAIL = """

Not in the table: guidance rescale and adaptive projected guidance, which more than doubled flicker in a trial
at guidance 7.5; a temporal decoder, which a model must have; a flow-guided pass over finished frames, of
which nothing has shown yet that it pays for the sharpness it costs.
"""


def rows(summary: dict[str, Any], seconds: dict[str, float]) -> Iterator[str]:
    """The table, the clip as it is first."""
    metrics = [next(m for m in summary["metrics"] if m["name"] == name) for name in MEASURES]
    names = [name.removeprefix("steady_").removeprefix("prompt_") for name in MEASURES]
    yield "| " + " | ".join(["remedy", *names, "time"]) + " |"
    yield "|---" * (len(MEASURES) + 2) + "|"
    means = [metric["means"][0]["span"]["estimate"] for metric in metrics]
    yield f"| {summary['baseline']} | " + " | ".join(f"{mean:.3g}" for mean in means) + " | 1 |"
    for place, arm in enumerate(summary["arms"][1:]):
        cells = [cell(metric["differences"][place]["span"]) for metric in metrics]
        ratio = seconds[arm["label"]] / seconds[summary["baseline"]]
        yield f"| {arm['label']} | " + " | ".join([*cells, f"{ratio:.2f}"]) + " |"


def cell(span: dict[str, float]) -> str:
    """A difference with its interval; bold where that excludes 0."""
    number, low, high = (f"{span[key]:+.2g}".replace("-", "−") for key in ("estimate", "low", "high"))
    is_seen = span["low"] > 0 or span["high"] < 0
    return f"{f'**{number}**' if is_seen else number} [{low}, {high}]"


def processor_seconds(summary: dict[str, Any]) -> dict[str, float]:
    """How long the processor works on a clip of each arm, whatever else it does; the faster of two."""
    pipeline = TextToVideoPipeline.from_pretrained("embedded", "teacher", device="cpu")
    found = {}
    for arm in summary["arms"]:
        changed = {change["setting"]: change["value"] for change in arm["changes"]}
        settings = GenerationSettings.from_values({"prompt": summary["prompts"][0], **changed})
        times = []
        for _ in range(2):
            started = time.process_time()
            pipeline.generate_frames([settings])
            times.append(time.process_time() - started)
        found[arm["label"]] = min(times)
    return found


def main(folder: Path) -> None:
    """Compare, and write the page."""
    command = [sys.executable, "-m", "video_diffusion", "compare", str(CONFIG), "-o", str(folder)]
    subprocess.run(command, check=True)
    summary = json.loads((folder / "summary.json").read_text())
    head = HEAD.format(num_prompts=len(summary["prompts"]))
    PAGE.write_text(head + "\n".join(rows(summary, processor_seconds(summary))) + TAIL)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "remedies"))
