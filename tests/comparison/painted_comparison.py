"""A comparison of painted clips whose every frame tells its number by its grey, measured and summarised."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from video_diffusion.comparison.summary import Arm, Axis, Change, ClipMeasure, ClipResult, ComparisonSummary
from video_diffusion.comparison.verdict import Findings, summarise
from video_diffusion.metrics import measure
from video_diffusion.video import write_video

NUM_FRAMES, HEIGHT, WIDTH, FPS = 10, 32, 48, 8
HOSTILE = (
    "</script><script>window.XSS=1</script><img src=x onerror=window.XSS=2>",
    "\" onmouseover=window.XSS=3 x=\"' autofocus onfocus=window.XSS=4",
    "\u202ereversed\u202c \x1b[2J and 🦊\u200d🔥",
    "=HYPERLINK(\"http://example.invalid\",\"x\")",
)  # fmt: skip
MARGINS = {"flicker": 0.1, "motion": 0.5, "sharpness": 0.5}


def grey_of(frame: int) -> int:
    """The level of a frame's right half: at least 18 levels from every other frame's."""
    return 30 + 20 * frame


def painted_frames(seed: int, restless: float) -> np.ndarray:
    """A square that moves right over a left half that is noise, restless from frame to frame."""
    rng = np.random.default_rng(seed)
    still = rng.integers(60, 180, (HEIGHT, WIDTH // 2, 3))
    frames = np.empty((NUM_FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    for index in range(NUM_FRAMES):
        stirred = still + restless * rng.standard_normal(still.shape)
        frames[index, :, : WIDTH // 2] = np.clip(stirred, 0, 255)
        frames[index, :, WIDTH // 2 :] = grey_of(index)
        frames[index, 4:14, 1 + index : 11 + index] = (220, 40, 40)
    return frames


def painted_comparison(
    folder: Path,
    prompts: tuple[str, ...] = HOSTILE,
    arms: dict[str, float] | None = None,
    seeds: tuple[int, ...] = (0, 3),
    axes: tuple[Axis, ...] = (),
) -> ComparisonSummary:
    """Writes the clips into `folder/clips` and returns what COMPARE's own statistics make of them."""
    arms = arms or {"off </script><b>": 25.0, "on": 4.0, 'calm "$x_{$" guidance=7.5': 1.0}
    (folder / "clips").mkdir(parents=True)
    clips = []
    for at, prompt in enumerate(prompts):
        for seed in seeds:
            for place, (label, restless) in enumerate(arms.items()):
                path = f"clips/a#b 100%? {at}-{seed}-{place}.mp4"
                frames = painted_frames(100 * at + seed, restless)
                write_video(folder / path, frames, Fraction(FPS))
                report = measure(frames, FPS, ["flicker"])
                clips.append(
                    ClipResult(
                        arm=label,
                        prompt=prompt,
                        seed=seed,
                        path=path,
                        record="",
                        error="",
                        fps=float(FPS),
                        num_frames=NUM_FRAMES,
                        width=WIDTH,
                        height=HEIGHT,
                        measures={name: ClipMeasure(m.value, m.status) for name, m in report.values.items()},
                        series={"flicker": tuple(report.values["flicker"].series)},
                        noise_sha256="",
                        frames_sha256="",
                        command=f"video-diffusion rerun '{path}'",
                    )
                )
    cells = [
        {down.name: a, across.name: b}
        for down, across in ([axes] if len(axes) == 2 else [])
        for a in down.values
        for b in across.values
    ]
    made = tuple(
        Arm(
            label=label,
            is_baseline=place == 0,
            settings={},
            changes=() if place == 0 else (Change("restless<i>", None, restless),),
            place=cells[place] if cells else {},
            paired=place < 2,
            num_clips=len(prompts) * len(seeds),
            num_failed=0,
        )
        for place, (label, restless) in enumerate(arms.items())
    )
    found = Findings(
        title="Painted <clips> & more",
        command="video-diffusion compare painted.yaml",
        arms=made,
        axes=axes,
        prompts=prompts,
        seeds=seeds,
        clips=tuple(clips),
        margins=MARGINS,
        alpha=0.05,
        warnings=("<img src=x onerror=window.XSS=5>",),
    )
    return replace(summarise(found), created="2026-11-24T00:00:00+00:00")
