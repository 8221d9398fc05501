"""What a finished run says of itself: its model card, and `report.html`."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from video_diffusion.settings import dump
from video_diffusion.settings.training import TrainingSettings
from video_diffusion.training.clips import Sources
from video_diffusion.training.run_folder import RunFolder
from video_diffusion.training.validation import Validation, validations_of, what_changed
from video_diffusion.video import ModelIdentity
from video_diffusion.web import (
    ClipView,
    Line,
    LineChart,
    draw_line_chart,
    number,
    render_page,
    with_images,
    write_page,
)

CARD_FILE = "README.md"
NO_LICENSE = "not stated, the base model and the clips have their own"
MEASURES = ("flicker", "morph", "motion", "warp_ssim", "sharpness")


def model_card(
    settings: TrainingSettings,
    sources: Sources,
    identity: ModelIdentity,
    validations: Sequence[Validation],
    steps: int,
    changes: Sequence[str] = (),
) -> str:
    """Markdown with the front matter that the Hugging Face hub reads."""
    front = ModelCardData(
        license=settings.license or "other",
        base_model=identity.name,
        library_name="diffusers",
        pipeline_tag="text-to-video",
        tags=["text-to-video", "diffusers", "animatediff", settings.target.replace("_", "-")],
    )
    return "\n".join(
        [
            "---",
            front.to_yaml(),
            "---",
            "",
            f"# {_TITLES[settings.target]}, {steps} steps",
            "",
            f"Fine-tuned by `video-diffusion train` from `{_plain(identity.name)}`, whose weights have the "
            f"sha256 `{identity.weights_sha256 or 'unknown'}`.",
            "",
            f"Licence: {_plain(settings.license or NO_LICENSE)}.",
            "",
            "## Use",
            "",
            f"    {_USES[settings.target]}",
            "",
            *(_WITH_LORA if settings.image_lora else []),
            *(_few_steps(settings) if settings.objective == "distil" else []),
            "## Data",
            "",
            "| clips in training | share | held out | sha256 of the manifest |",
            "|---|---|---|---|",
            *_data_rows(sources),
            "",
            "## What it measured",
            "",
            *_measure_rows(validations),
            "",
            "## Settings",
            "",
            "```yaml",
            dump(settings).strip().replace("```", "'''"),
            "```",
            "",
            *(["Changed while it was training:", ""] if changes else []),
            *(f"- {_plain(line)}" for line in changes),
            *([""] if changes else []),
        ]
    )


_TITLES = {
    "temporal": "Temporal layers",
    "motion_lora": "Motion LoRA",
    "domain_lora": "Domain LoRA",
}
_USES = {
    "temporal": 'video-diffusion generate "PROMPT" --model BASE --motion-adapter RUN',
    "motion_lora": 'video-diffusion generate "PROMPT" --model BASE --lora RUN',
    "domain_lora": "video-diffusion train CONFIG --set domain_lora=RUN",
}


_WITH_LORA = [
    "A LoRA on the image model was trained with the layers; `generate` brings it along. In diffusers:",
    "",
    "    pipe.load_lora_weights('RUN/motion_adapter', weight_name='unet_lora.safetensors')",
    "",
]


def _few_steps(settings: TrainingSettings) -> list[str]:
    """How a student is sampled."""
    steps = settings.distil.num_inference_steps
    return [
        f"Distilled for {steps} steps without guidance, which `generate` takes by itself. In diffusers:",
        "",
        "    config = {**pipe.scheduler.config, 'timestep_spacing': 'trailing', 'clip_sample': False}",
        "    pipe.scheduler = DDIMScheduler.from_config(config)",
        f"    pipe(prompt, num_inference_steps={steps}, guidance_scale=1.0)",
        "",
        "LCMScheduler visits other noise levels and adds noise: it does not fit.",
        "",
    ]


def _data_rows(sources: Sources) -> list[str]:
    total = sum(source.weight for source in sources.training)
    counts = sources.num_clips.values()
    return [
        f"| {count} | {source.weight / total:.0%} | {held} | `{digest.split(',')[0]}` |"
        for source, count, held, digest in zip(
            sources.training, counts, sources.num_held_out, sources.hashes.values(), strict=True
        )
    ]


def _measure_rows(validations: Sequence[Validation]) -> list[str]:
    if not validations:
        return ["Nothing was measured."]
    chosen = [validations[0], validations[-1]] if len(validations) > 1 else [validations[0]]
    rows = [
        "| | " + " | ".join(f"step {each.step}" for each in chosen) + " |",
        "|---" * (len(chosen) + 1) + "|",
        "| held-out loss | " + " | ".join(_number(each.held_out_loss) for each in chosen) + " |",
    ]
    rows += [
        f"| {name} | " + " | ".join(_number(each.measures.get(name)) for each in chosen) + " |"
        for name in MEASURES
        if any(each.measures.get(name) is not None for each in chosen)
    ]
    if any(each.motion_distance for each in chosen):
        distances = [each.motion_distance["distance"] if each.motion_distance else None for each in chosen]
        rows.append("| motion against held-out clips | " + " | ".join(map(_number, distances)) + " |")
    if len(chosen) == 2:
        rows += ["", what_changed(*chosen) + "."]
    return rows


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.4g}"


def _plain(text: str) -> str:
    """A text of the user's on one line, with nothing that Markdown would act on."""
    return "".join(sign if sign.isalnum() or sign in " ./:@_-+(),;" else " " for sign in text)


# `report.html` of a training run: loss curves, and the validation clips over time side by side.


TEMPLATES = Path(__file__).parent / "templates"
REPORT_FILE = "report.html"
MAX_COLUMNS = 6
QUARTERS = ("least noise", "some noise", "much noise", "most noise")


def write_report(run: RunFolder, title: str, facts: Mapping[str, str]) -> Path:
    """Write the page of a run from what its folder holds, and return its path."""
    rows = run.rows()
    validations = validations_of(rows)
    lead = what_changed(validations[0], validations[-1]) if len(validations) > 1 else "still training"
    page = render_page(
        TEMPLATES,
        "training.html",
        {
            "title": title,
            "lead": lead,
            "facts": dict(facts),
            "charts": [
                chart
                for chart in (loss_chart(rows), held_out_chart(validations), motion_chart(validations))
                if chart.lines
            ],
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


def motion_chart(validations: Sequence[Validation]) -> LineChart:
    """How far the clips are from the held-out ones in how they move: about 0 where both move alike."""
    known = [(each.step, each.motion_distance) for each in validations if each.motion_distance]
    lines = [
        Line(name, [(step, found[name]) for step, found in known], faint=name != "distance")
        for name in ("distance", "low", "high")
    ]
    title = "Motion of the clips against held-out ones"
    return draw_line_chart(title, lines if known else [], x_label="step", y_label="distance of sets")


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
                views.append(with_images(_view(each.step, clip), folder))
        rows.append({"prompt": prompt, "seed": seed, "views": views})
    return rows


def _view(step: int, clip: Mapping[str, Any]) -> ClipView:
    shown = {name.replace("_", " "): number(clip["measures"].get(name)) for name in MEASURES}
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
