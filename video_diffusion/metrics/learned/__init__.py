"""Metrics that need trained weights: lines like those of `ALL_METRICS`, to give to `measure(metrics=…)`.

Importing this imports torch; `video_diffusion.metrics` does not.
"""

from functools import partial
from pathlib import Path

from video_diffusion.metrics.learned.along_flow import PerceptualDistance, WarpedLpips
from video_diffusion.metrics.learned.encoders import (
    ClipAdjacent,
    ClipAllPairs,
    ImageEncoder,
    PromptAlignment,
    VbenchConsistency,
    load_clip,
    load_dino,
)
from video_diffusion.metrics.measurement import Metric

COSINE, HUNDRED = (-1.0, 1.0), (-100.0, 100.0)


def clip_metrics(clip: Path | str | ImageEncoder, prompt: str | None = None) -> tuple[Metric, ...]:
    """CLIP consistency of neighbours, of all pairs and by VBench, and with a prompt its alignment.

    Args:
        clip: a local folder, or what `load_clip` made of it.
        prompt: what the frames should show; None leaves alignment out.

    Raises:
        MetricWeightsError: the folder does not hold a whole, trained CLIP model.
    """
    encoder = clip if isinstance(clip, ImageEncoder) else load_clip(clip)
    adjacent, all_pairs = partial(ClipAdjacent, encoder), partial(ClipAllPairs, encoder)
    lines = [
        Metric("clip_adjacent", "cosine", COSINE, "higher", "semantics", "CLIP, neighbours", adjacent),
        Metric("clip_all_pairs", "cosine", COSINE, "higher", "semantics", "CLIP, all pairs", all_pairs),
        Metric(
            "background_consistency",
            "cosine",
            (0.0, 1.0),
            "higher",
            "semantics",
            "VBench, CLIP",
            partial(VbenchConsistency, encoder),
        ),
    ]
    if prompt is not None:
        start = partial(PromptAlignment, encoder, encoder.embed_text(prompt))
        name, unit = "prompt_alignment", "100 × cosine"
        lines.append(Metric(name, unit, HUNDRED, "higher", "semantics", "CLIPScore without w", start))
    return tuple(lines)


def dino_metrics(folder: Path | str) -> tuple[Metric, ...]:
    """DINO subject consistency.

    Raises:
        MetricWeightsError: the folder does not hold a whole, trained DINO model.
    """
    encoder = load_dino(folder)
    start = partial(VbenchConsistency, encoder)
    return (
        Metric("subject_consistency", "cosine", (0.0, 1.0), "higher", "semantics", "VBench, DINO", start),
    )


def lpips_metrics(alexnet: Path | str) -> tuple[Metric, ...]:
    """LPIPS along the flow.

    Raises:
        MetricWeightsError: no `lpips` package, or not AlexNet's weights.
    """
    distance = PerceptualDistance(alexnet)
    start = partial(WarpedLpips, distance)
    return (
        Metric("warped_lpips", "LPIPS", (0.0, 1.0), "lower", "morph", "Zhang 2018, along the flow", start),
    )
