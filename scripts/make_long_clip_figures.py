"""Draw the pictures of docs/long-clips.md and docs/inputs.md from the embedded model, with their figures.

python scripts/make_long_clip_figures.py
Writes docs/images/{long,loop,travel,input}-*.png and docs/images/long-clips.json. About six minutes on one
quiet core: eight of the clips have 64 frames.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from PIL import Image

from video_diffusion import TextToVideoPipeline
from video_diffusion.metrics import measure
from video_diffusion.metrics.flicker import excess
from video_diffusion.pipeline import GeneratedVideo
from video_diffusion.video.images import draw_filmstrip, evenly, save_picture

COLUMNS = 12
MOVING = "a red circle moving right on a white background"
STILL = "a large blue square standing still on a gray background"
SEEDS = (3, 5)
LONG: dict[str, dict[str, Any]] = {
    "windows, uniform": {"context_length": 16},
    "windows, static": {"context_length": 16, "context_schedule": "static"},
    "windows side by side": {"context_length": 16, "context_schedule": "batched"},
    "FreeNoise": {"freenoise": True},
}
MEASURES = ("seam_excess", "flicker", "motion", "drift")


def spread(frames: np.ndarray) -> np.ndarray:
    """`COLUMNS` frames, first and last among them."""
    return frames[evenly(len(frames), COLUMNS)]


def figures_of(video: GeneratedVideo) -> dict[str, float | None]:
    """Its measures by name, rounded."""
    values = {name: video.report.values[name].value for name in MEASURES}
    return {name: None if value is None else round(value, 3) for name, value in values.items()}


def closing_jump(frames: np.ndarray) -> float:
    """How much more the step from the last frame to the first leaves of the motion than the others do.

    The clip is turned by half, so that this step is one of its inside, and measured as a seam there.
    """
    half = len(frames) // 2
    report = measure(np.roll(frames, half, axis=0), 8, ["seam_excess"], window_starts=[half])
    left = {
        index: value for index, value in enumerate(report.values["seam_excess"].series) if value is not None
    }
    return round(excess(left, [half]), 3) if half in left else float("nan")


class Figures:
    """Draws each picture and keeps its numbers."""

    def __init__(self, pipeline: TextToVideoPipeline, folder: Path) -> None:
        self.pipeline, self.folder = pipeline, folder
        self.numbers: dict[str, Any] = {}

    def strip(self, name: str, clips: Sequence[np.ndarray], labels: Sequence[str], title: str) -> None:
        """One row for each clip."""
        rows = [spread(clip) for clip in clips]
        picture = draw_filmstrip(rows, labels, title, f"{COLUMNS} of {len(clips[0])} frames")
        flat = Image.fromarray(picture).quantize(160)
        save_picture(self.folder / f"{name}.png", np.asarray(flat.convert("RGB")))
        flat.save(self.folder / f"{name}.png", optimize=True)

    def long_clips(self) -> None:
        """64 frames by each method, for an object that moves and for one that stands still."""
        for prompt, name in ((MOVING, "moving"), (STILL, "still")):
            clips, labels = [], []
            for label, settings in LONG.items():
                video = self.pipeline(prompt, seed=SEEDS[0], num_frames=64, **settings)
                found = figures_of(video)
                found["p"] = round(video.report.values["seam_excess"].details["p"], 3)
                self.numbers[f"long, {name}, {label}"] = found
                clips.append(video.frames)
                labels.append(
                    f"{label}: seam excess {found['seam_excess']} levels, flicker {found['flicker']}"
                )
            self.strip(f"long-{name}", clips, labels, prompt)

    def loops(self) -> None:
        """The same clip with and without its end meeting its beginning."""
        clips, labels = [], []
        kinds: dict[str, dict[str, Any]] = {"not a loop": {}, "--loop": {"loop": True}}
        lengths: dict[int, dict[str, Any]] = {16: {}, 32: {"context_length": 16}}
        for label, settings in kinds.items():
            for frames, more in lengths.items():
                jumps, found = [], []
                for seed in SEEDS:
                    video = self.pipeline(MOVING, seed=seed, num_frames=frames, **settings, **more)
                    jumps.append(closing_jump(video.frames))
                    found.append(figures_of(video))
                    if seed == SEEDS[-1] and frames == 16:
                        clips.append(np.concatenate([video.frames[8:], video.frames[:8]]))
                        labels.append(
                            f"{label}, turned by half: last frame to first leaves {jumps[-1]} levels"
                        )
                key = f"loop, {label}, {frames} frames"
                self.numbers[key] = {"closing_jump": round(fmean(jumps), 3), "jumps": jumps, "clips": found}
        self.strip("loop-turned", clips, labels, MOVING)

    def travels(self) -> None:
        """From one prompt to another, in one pass and over windows."""
        last = "a blue circle moving right on a white background"
        travel: dict[str, Any] = {"prompt_travel": {"0": MOVING, "-1": last}}
        rows: dict[str, dict[str, Any]] = {
            "lerp, 16 frames": {},
            "slerp, 16 frames": {"prompt_blend": "slerp"},
            "lerp, 48 frames in windows": {"num_frames": 48, "context_length": 16},
        }
        clips = []
        for label, settings in rows.items():
            video = self.pipeline(MOVING, seed=SEEDS[0], **travel, **settings)
            self.numbers[f"travel, {label}"] = figures_of(video)
            clips.append(spread(video.frames))
        self.strip("travel-colours", clips, list(rows), f"{MOVING} -> {last}")

    def inputs(self, folder: Path) -> None:
        """A clip made anew from a video, and clips that begin with a picture."""
        source = self.pipeline(MOVING, seed=7)
        source.save(folder / "in.mkv", codec="libx264rgb")
        Image.fromarray(source.frames[0]).save(folder / "in.png")
        prompt, clips, labels = "a blue square moving right on a white background", [source.frames], ["input"]
        for strength in (0.3, 0.6, 0.8, 1.0):
            video = self.pipeline(prompt, seed=7, init_video=str(folder / "in.mkv"), strength=strength)
            far = float(np.abs(video.frames.astype(float) - source.frames).mean())
            self.numbers[f"init_video, strength {strength}"] = {
                **figures_of(video),
                "from_input": round(far, 2),
            }
            clips.append(video.frames)
            labels.append(f"strength {strength} · flicker {video.report.values['flicker'].value:.2f}")
        self.strip("input-video", clips, labels, prompt)
        clips, labels = [], []
        for motion, strength, hold in (
            ("moving up", 1.0, 0.0),
            ("moving up", 0.9, 0.0),
            ("moving up", 0.75, 0.8),
            ("standing still", 0.9, 0.0),
        ):
            video = self.pipeline(
                f"a red circle {motion} on a white background",
                seed=11,
                init_image=str(folder / "in.png"),
                strength=strength,
                image_hold=hold,
            )
            away = np.abs(video.frames.astype(float) - source.frames[0]).mean((1, 2, 3))
            jump = np.abs(np.diff(video.frames.astype(float), axis=0)).mean((1, 2, 3))
            self.numbers[f"init_image, {motion}, strength {strength}, hold {hold}"] = {
                **figures_of(video),
                "first_frame_from_picture": round(float(away[0]), 2),
                "first_step": round(float(jump[0]), 2),
                "other_steps": round(float(jump[1:].mean()), 2),
            }
            clips.append(video.frames)
            labels.append(f"{motion}, strength {strength}, image_hold {hold}")
        self.strip(
            "input-image", clips, labels, "a red circle ... on a white background, from a picture of one"
        )

    def work(self, folder: Path) -> None:
        """A clip that goes on from its last frames, and one that gets larger in a second pass."""
        before = self.pipeline(MOVING, seed=SEEDS[0])
        path = str(folder / "before.mp4")
        before.save(path, codec="libx264rgb")
        for overlap in (4, 8):
            for seed in (4, 5, 6):
                video = self.pipeline(MOVING, seed=seed, extend=path, extend_overlap=overlap)
                self.numbers[f"extend, overlap {overlap}, seed {seed}"] = figures_of(video)
        enlarged = np.stack([np.asarray(Image.fromarray(each).resize((128, 128))) for each in before.frames])
        clips, labels = [spread(enlarged)], ["enlarged"]
        for upscale, strength in (("frames", 0.4), ("frames", 0.6), ("latents", 0.6)):
            video = self.pipeline(MOVING, seed=4, refine=path, refine_upscale=upscale, strength=strength)
            far = float(np.abs(video.frames.astype(float) - enlarged).mean())
            label = f"refined, upscaled {upscale}, strength {strength}"
            self.numbers[label] = {**figures_of(video), "from_enlarged": round(far, 2)}
            clips.append(spread(video.frames))
            labels.append(label)
        self.strip("refined", clips, labels, MOVING)

    def noises(self) -> None:
        """What noise along frames, motion scale and FreeInit do to one clip; numbers only."""
        rows: dict[str, dict[str, Any]] = {
            "plain": {},
            "noise mixed": {"noise_type": "mixed"},
            "noise progressive": {"noise_type": "progressive"},
            "noise constant": {"noise_type": "constant"},
            "motion scale 0.7": {"motion_scale": 0.7},
            "motion scale 1.3": {"motion_scale": 1.3},
            "FreeInit 3": {"freeinit": 3},
            "position stretch 2": {"position_stretch": 2.0},
            "position stretch 0.5": {"position_stretch": 0.5},
            "position stretch 2, 32 frames": {"position_stretch": 2.0, "num_frames": 32},
            "guidance 7.5 to 1 over the steps": {"guidance_scale_steps": {"0": 7.5, "-1": 1.0}},
            "motion scale 2 to 1 over half the steps": {"motion_scale_steps": {"0": 2.0, "0.5": 1.0}},
        }
        for label, settings in rows.items():
            found = [figures_of(self.pipeline(MOVING, seed=seed, **settings)) for seed in SEEDS]
            self.numbers[f"one pass, {label}"] = found
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "moving.mp4"
            self.pipeline(MOVING, seed=SEEDS[0]).save(path, codec="libx264rgb")
            for alpha in (1.0, 3.0):
                settings = {"noise_video": str(path), "noise_alpha": alpha}
                found = [figures_of(self.pipeline(MOVING, seed=seed, **settings)) for seed in SEEDS]
                self.numbers[f"one pass, noise of a moving clip, alpha {alpha:g}"] = found


def main() -> None:
    """Parse, draw, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "images")
    parser.add_argument(
        "--only", nargs="*", default=["long_clips", "loops", "travels", "inputs", "work", "noises"]
    )
    arguments = parser.parse_args()
    figures = Figures(TextToVideoPipeline.from_pretrained("embedded", "teacher", device="cpu"), arguments.out)
    path = arguments.out / "long-clips.json"
    if path.is_file():
        figures.numbers = json.loads(path.read_text())
    for name in arguments.only:
        if name in {"inputs", "work"}:
            with tempfile.TemporaryDirectory() as folder:
                getattr(figures, name)(Path(folder))
        else:
            getattr(figures, name)()
        path.write_text(json.dumps(figures.numbers, indent=2) + "\n")


if __name__ == "__main__":
    main()
