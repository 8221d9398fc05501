"""`report.html` of a training run: loss curves, and the validation clips over time side by side."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from video_diffusion.training.run_folder import RunFolder
from video_diffusion.training.validation import Validation, what_changed
from video_diffusion.web import (
    ClipView,
    Line,
    LineChart,
    draw_line_chart,
    number,
    render_page,
    with_pictures,
    write_page,
)

TEMPLATES = Path(__file__).parent / "templates"
REPORT_FILE = "report.html"
MAX_COLUMNS = 6
SHOWN = ("flicker", "motion", "warp_ssim", "sharpness")
QUARTERS = ("least noise", "some noise", "much noise", "most noise")


def write_report(run: RunFolder, title: str, facts: Mapping[str, str]) -> Path:
    """Write the page of a run from what its folder holds, and return its path.

    Args:
        run: Its rows and clips.
        title: Of the page.
        facts: Name to text, shown at the top.

    Raises:
        OSError: No space, no permission.
    """
    rows = run.rows()
    validations = [Validation.from_row(row) for row in rows if "validation" in row]
    lead = what_changed(validations[0], validations[-1]) if len(validations) > 1 else "still training"
    page = render_page(
        TEMPLATES,
        "training.html",
        {
            "title": title,
            "lead": lead,
            "facts": dict(facts),
            "charts": [chart for chart in (loss_chart(rows), held_out_chart(validations)) if chart.lines],
            "clips": clip_rows(validations, run.folder),
        },
        styles=("training.css",),
    )
    path = run.folder / REPORT_FILE
    write_page(path, page)
    return path


def loss_chart(rows: Sequence[Mapping[str, Any]]) -> LineChart:
    """Every step's loss, and its running mean."""
    points = [(row["step"], row["loss"]) for row in rows if row.get("loss") is not None]
    means, mean = [], math.nan
    for step, loss in points:
        mean = loss if math.isnan(mean) else 0.95 * mean + 0.05 * loss
        means.append((step, mean))
    lines = [Line("each step", points, faint=True), Line("running mean", means)] if points else []
    return draw_line_chart("Training loss", lines, x_label="step", y_label="loss")


def held_out_chart(validations: Sequence[Validation]) -> LineChart:
    """Loss on clips that training never sees, by quarter of the noise schedule."""
    known = [each for each in validations if each.held_out_loss is not None]
    lines = [
        Line(name, [(each.step, each.quartiles[index]) for each in known if len(each.quartiles) > index])
        for index, name in enumerate(QUARTERS)
    ]
    lines = [line for line in lines if line.points]
    return draw_line_chart("Held-out loss by noise level", lines, x_label="step", y_label="loss")


def clip_rows(validations: Sequence[Validation], folder: Path) -> list[dict[str, Any]]:
    """One row for each prompt and seed, one cell for each validation: the first, the last, some between."""
    chosen = _spread([each for each in validations if each.clips])
    keys = dict.fromkeys((clip["prompt"], clip["seed"]) for each in chosen for clip in each.clips)
    rows = []
    for prompt, seed in keys:
        views = []
        for each in chosen:
            clip = next((c for c in each.clips if (c["prompt"], c["seed"]) == (prompt, seed)), None)
            if clip is not None:
                views.append(with_pictures(_view(each.step, clip), folder))
        rows.append({"prompt": prompt, "seed": seed, "views": views})
    return rows


def _view(step: int, clip: Mapping[str, Any]) -> ClipView:
    shown = {name.replace("_", " "): number(clip["measures"].get(name)) for name in SHOWN}
    size = clip.get("size", {})
    return ClipView(
        title=f"step {step}" if step else "before training",
        description=f"after {step} steps: {clip['prompt']}",
        path=clip["file"],
        record=str(Path(clip["file"]).with_suffix(".json").as_posix()),
        facts=shown,
        **size,
    )


def _spread(values: Sequence[Validation]) -> list[Validation]:
    """At most `MAX_COLUMNS` of them, the first and the last included, evenly spread."""
    if len(values) <= MAX_COLUMNS:
        return list(values)
    places = [round(index * (len(values) - 1) / (MAX_COLUMNS - 1)) for index in range(MAX_COLUMNS)]
    return [values[place] for place in places]
