"""Draw every picture of docs/how-it-works.md and the README from the embedded model, with its figures.

python scripts/make_docs_figures.py
Writes docs/images/*.png and docs/images/figures.json. About two minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from embedded.prompt_following import judge
from synthetic_clips import brightness_flicker, slow_drift, texture_boiling

from video_diffusion import GenerationSettings, TextToVideoPipeline
from video_diffusion.metrics import measure
from video_diffusion.pipeline import GeneratedVideo
from video_diffusion.procedural import Scene, SceneObject, caption, render_scenes
from video_diffusion.sampling import initial_noise, make_scheduler
from video_diffusion.video import write_video
from video_diffusion.video.images import draw_contact_sheet, draw_filmstrip, evenly, save_picture

SCENE = Scene("pink", (SceneObject("blue", "square", "large", "right"),))
PROMPT = caption(SCENE)
COLUMNS = 8
PROMPTS = Path(__file__).parents[1] / "configs" / "compare" / "prompts.txt"


def every_other(frames: np.ndarray) -> np.ndarray:
    """`COLUMNS` frames, first and last among them."""
    return frames[evenly(len(frames), COLUMNS)]


def numbers(video: GeneratedVideo) -> str:
    """Flicker and motion of a clip in a few words."""
    told = []
    for name in ("flicker", "raw_flicker", "motion"):
        measure = video.report.values[name]
        figure = measure.status if measure.value is None else f"{measure.value:.3g} {measure.unit}"
        told.append(f"{name} {figure}")
    return " · ".join(told)


class Figures:
    """Draws each figure and keeps its numbers."""

    def __init__(self, pipeline: TextToVideoPipeline, model: str, folder: Path) -> None:
        self.pipeline, self.model, self.folder = pipeline, model, folder
        self.figures: dict[str, Any] = {}

    def make(self, prompt: str = PROMPT, **settings: Any) -> GeneratedVideo:
        """One clip."""
        return self.pipeline.generate([GenerationSettings(prompt=prompt, **settings)])[0]

    def strip(self, name: str, rows: Sequence[np.ndarray], labels: Sequence[str], title: str) -> None:
        """Save rows of frames as one picture."""
        picture = draw_filmstrip([every_other(row) for row in rows], labels, title, "")
        save_picture(self.folder / f"{name}.png", picture)
        self.figures[name] = list(labels)

    def sheet(self) -> None:
        """The contact sheet of the README's clip."""
        video = self.make()
        flicker = video.report.values["flicker"]
        picture = draw_contact_sheet(
            video.frames, PROMPT, f"seed 0 · {numbers(video)}", curve=flicker.series,
            curve_label="flicker along the motion, levels of 255", full_scale=1.0,
        )  # fmt: skip
        save_picture(self.folder / "sheet.png", picture)
        self.figures["sheet"] = {
            name: video.report.values[name].value
            for name in ("flicker", "raw_flicker", "motion", "sharpness")
        }

    def wall(self) -> None:
        """The comparisons' prompts side by side, moving."""
        clips = [np.asarray(self.make(prompt).frames) for prompt in PROMPTS.read_text().splitlines()]
        rows = rearrange(np.stack(clips), "(r c) f h w k -> f (r h) (c w) k", c=4)
        larger = rows.repeat(2, axis=1).repeat(2, axis=2)
        write_video(self.folder / "clips.webp", larger, Fraction(8), None)
        self.figures["wall"] = len(clips)

    def noise_to_picture(self) -> None:
        """The clean clip as predicted at each step."""
        rows, labels = [], []

        def keep(step: Any) -> None:
            rows.append(self.pipeline.decode(step.clean_latents))
            labels.append(f"step {step.index} of {step.num_steps}")

        self.pipeline.generate([GenerationSettings(prompt=PROMPT)], on_step=keep)
        some = evenly(len(rows), 6)
        self.strip("noise-to-picture", [rows[i] for i in some], [labels[i] for i in some], PROMPT)

    def forward_noising(self) -> None:
        """A training clip with more and more noise, as the network sees it."""
        frames = render_scenes([SCENE], [4])[0]
        with torch.no_grad():
            latents = self.pipeline.parts.vae.encode(frames * 2 - 1).latent_dist.mode()
        clean = rearrange(latents, "f c h w -> 1 c f h w")
        noise = initial_noise(0, *[latents.shape[i] for i in (0, 1, 2, 3)])[None]
        rows, labels = [], []
        alphas = make_scheduler("ddim", self.pipeline.parts.scheduler_config).alphas_cumprod
        for timestep in (0, 200, 400, 600, 800, 999):
            signal = float(alphas[timestep]) if timestep else 1.0
            mixed = signal**0.5 * clean + (1 - signal) ** 0.5 * noise
            rows.append(self.pipeline.decode(mixed))
            labels.append(f"timestep {timestep}: {100 * signal:.1f} % of the power is picture")
        self.strip("forward-noising", rows, labels, f"A training clip: {PROMPT}")

    def seeds(self) -> None:
        """One prompt, other noise."""
        videos = [self.make(seed=seed) for seed in range(4)]
        self.strip("seeds", [v.frames for v in videos], [f"seed {s}" for s in range(4)], PROMPT)

    def guidance(self) -> None:
        """One prompt, one seed, more guidance; how many of eight clips are right in everything."""
        rows, labels = [], []
        scenes = [
            Scene(background, (SceneObject(colour, shape, "large", motion),))
            for background, colour, shape, motion in (
                ("white", "red", "circle", "left"), ("black", "yellow", "square", "up"),
                ("gray", "green", "triangle", "right"), ("pink", "blue", "circle", "down"),
                ("white", "purple", "square", "right"), ("black", "cyan", "triangle", "still"),
                ("gray", "red", "square", "down"), ("pink", "green", "circle", "up"),
            )
        ]  # fmt: skip
        for scale in (0.0, 1.0, 2.5, 6.0, 12.0):
            jobs = [GenerationSettings(prompt=caption(s), seed=3, guidance_scale=scale) for s in scenes]
            videos = self.pipeline.generate(jobs)
            right = sum(judge(s, v.frames).joint for s, v in zip(scenes, videos, strict=True))
            rows.append(videos[1].frames)
            labels.append(f"guidance {scale:g}: {right} of {len(scenes)} prompts right in everything")
        self.strip("guidance", rows, labels, caption(scenes[1]))

    def temporal_layers(self) -> None:
        """The same noise and words with the temporal layers and without."""
        without = TextToVideoPipeline.from_pretrained(self.model, motion_adapter="none")
        settings = GenerationSettings(prompt=PROMPT)
        videos = [self.make(), without.generate([settings])[0]]
        labels = [f"{name}: {numbers(v)}" for name, v in zip(("with", "without"), videos, strict=True)]
        self.strip("temporal-layers", [v.frames for v in videos], labels, PROMPT)

    def failures(self) -> None:
        """A clean clip spoilt in three ways, and what each measure says of it."""
        levels = (render_scenes([SCENE], [4], 16, 96, 96)[0] * 255).round().byte()
        clean = rearrange(levels, "f c h w -> f h w c").numpy()
        spoilt: dict[str, Callable[[], np.ndarray]] = {
            "clean": lambda: clean,
            "flickers": lambda: brightness_flicker(clean, 12.0),
            "morphs": lambda: texture_boiling(clean, 2.0),
            "drifts": lambda: slow_drift(clean, 60.0),
        }
        rows, labels = [], []
        for name, make in spoilt.items():
            frames = make()
            report = measure(frames, Fraction(8), ["raw_flicker", "flicker", "warp_ssim", "drift"])
            told = ", ".join(
                f"{key} {m.value:.3f}" if m.value is not None else f"{key} {m.status}"
                for key, m in report.values.items()
                if key in {"raw_flicker", "flicker", "warp_ssim", "drift"}
            )
            rows.append(frames[:COLUMNS])  # neighbours: every second frame would hide what alternates
            labels.append(f"{name}: {told}")
        self.strip("failures", rows, labels, "What goes wrong, and which measure sees it")


def main() -> None:
    """Draw all figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--teacher", default="teacher", help="temporal layers of pictures of guided steps")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    own = Figures(TextToVideoPipeline.from_pretrained(args.model), args.model, args.out)
    figures = Figures(TextToVideoPipeline.from_pretrained(args.model, args.teacher), args.model, args.out)
    for draw in (
        own.sheet,
        own.wall,
        figures.noise_to_picture,
        figures.forward_noising,
        figures.seeds,
        figures.guidance,
        figures.temporal_layers,
        figures.failures,
    ):
        draw()
    text = json.dumps({**own.figures, **figures.figures}, indent=1)
    (args.out / "figures.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
