"""Measure the embedded model against its gates and print (and optionally write) the figures of its card.

python scripts/embedded evaluate --model embedded --json scores.json
Everything is generated through the same pipeline that users call. About ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from einops import rearrange

from embedded.prompt_following import ATTRIBUTES, Verdict, accuracy, judge
from video_diffusion import GenerationSettings, TextToVideoPipeline
from video_diffusion.procedural import Scene, World, caption, render_scenes
from video_diffusion.procedural.scene import BACKGROUNDS, MOTIONS, SHAPES
from video_diffusion.procedural.scene_reader import follow_objects
from video_diffusion.video import read_video, write_video

WORLD = World()
WIDER = ("growing", "shrinking", "bouncing", "circling")


def sample_scenes(world: World, num: int, seed: int, held_out: bool = False) -> list[Scene]:
    """Scenes with motions in turn, so that every motion is asked for equally often."""
    rng = np.random.default_rng(seed)
    return [
        replace(world, motions=(world.motions[i % len(world.motions)],)).sample(rng, held_out)
        for i in range(num)
    ]


def generate(
    pipeline: TextToVideoPipeline, prompts: Sequence[str], seeds: Sequence[int], batch: int, **settings: Any
) -> list[np.ndarray]:
    """Frames `f h w 3` of every prompt with its seed."""
    jobs = [GenerationSettings(prompt=p, seed=s, **settings) for p, s in zip(prompts, seeds, strict=True)]
    frames = []
    for first in range(0, len(jobs), batch):
        frames += [video.frames for video in pipeline.generate(jobs[first : first + batch])]
    return frames


def prompt_following(
    pipeline: TextToVideoPipeline, scenes: Sequence[Scene], num_seeds: int, batch: int, **settings: Any
) -> tuple[list[Verdict], list[np.ndarray]]:
    """Judge `num_seeds` clips of every scene, half of them asked for in paraphrase."""
    rng = np.random.default_rng(99)
    prompts = [caption(scene, rng) for scene in scenes for _ in range(num_seeds)]
    asked = [scene for scene in scenes for _ in range(num_seeds)]
    seeds = [1000 * k + i for i in range(len(scenes)) for k in range(num_seeds)]
    frames = generate(pipeline, prompts, seeds, batch, **settings)
    return [judge(scene, clip) for scene, clip in zip(asked, frames, strict=True)], frames


def codec_scores(vae: Any, num: int) -> dict[str, float]:
    """PSNR and scene reader accuracy through the autoencoder, on clips of unseen seeds."""
    rng = np.random.default_rng(31)
    world = World(shapes=SHAPES, motions=MOTIONS)
    errors, verdicts = [], []
    for index in range(num):
        scene = world.sample(rng, held_out=index % 4 == 0)
        frames = render_scenes([scene], [7_000_000 + index])[0]
        with torch.no_grad():
            latents = vae.encode(frames * 2 - 1).latent_dist.mode()
            decoded = (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
        errors.append(float((decoded - frames).square().mean()))
        levels = (rearrange(decoded, "f c h w -> f h w c") * 255).round().byte().numpy()
        verdicts.append(judge(scene, levels))
    return {"psnr_db": -10 * math.log10(float(np.mean(errors))), **accuracy(verdicts)}


def reader_scores(num: int) -> dict[str, float]:
    """Accuracy of the scene reader itself on rendered clips, as they are and through an H.264 file."""
    rng = np.random.default_rng(32)
    world = World(shapes=SHAPES, motions=MOTIONS)
    truth, coded = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        for index in range(num):
            scene = world.sample(rng, held_out=index % 4 == 0)
            levels = (render_scenes([scene], [8_000_000 + index])[0] * 255).round().byte()
            frames = rearrange(levels, "f c h w -> f h w c").numpy()
            write_video(path, frames, Fraction(8), overwrite=True)
            truth.append(judge(scene, frames))
            coded.append(judge(scene, read_video(path).frames))
    return {"truth": accuracy(truth)["joint"], "through_h264": accuracy(coded)["joint"]}


def background_flicker(frames: np.ndarray, background: str) -> float:
    """Mean absolute change of the background in 8-bit levels, well away from the object."""
    colour = np.asarray(BACKGROUNDS[background], dtype=np.float32)
    away = np.linalg.norm(frames.astype(np.float32) - colour, axis=-1) < 40
    always = cv2.erode(away.all(axis=0).astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    return float(np.abs(np.diff(frames.astype(np.float32), axis=0))[:, always].mean())


def whole_throughout(frames: np.ndarray, asked: Scene) -> bool:
    """Whether an object can be seen in every single frame."""
    tracks = follow_objects(frames, asked.background, 1)
    return bool(tracks) and tracks[0].share_seen == 1.0


def temporal_scores(with_layers: Any, without: Any, num: int, batch: int) -> dict[str, float]:
    """Headline flicker with and without the temporal layers on the same prompts and noise."""
    scenes = sample_scenes(WORLD, num, 55)
    prompts, seeds = [caption(scene) for scene in scenes], list(range(num))
    jobs = [GenerationSettings(prompt=p, seed=s) for p, s in zip(prompts, seeds, strict=True)]
    found: dict[str, list[float | None]] = {"on": [], "off": []}
    for name, pipeline in (("on", with_layers), ("off", without)):
        for first in range(0, num, batch):
            videos = pipeline.generate(jobs[first : first + batch])
            found[name] += [video.report.values["flicker"].value for video in videos]
    # Where frames have nothing in common there is no flow to follow, and flicker is not measurable.
    pairs = [
        (a, b) for a, b in zip(found["on"], found["off"], strict=True) if a is not None and b is not None
    ]
    on, off = np.mean(pairs, axis=0)
    return {"on": float(on), "off": float(off), "ratio": float(off / on), "measurable": len(pairs) / num}


def main() -> None:
    """Run every gate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    began = time.monotonic()
    pipeline = TextToVideoPipeline.from_pretrained(args.model)
    without = TextToVideoPipeline.from_pretrained(args.model, motion_adapter="none")
    scores: dict[str, Any] = {}

    def report(name: str, values: dict[str, float]) -> None:
        scores[name] = values
        print(name, {key: round(value, 4) for key, value in values.items()}, flush=True)

    report("scene_reader", reader_scores(args.prompts))
    report("codec", codec_scores(pipeline.parts.vae, args.prompts))
    scenes = sample_scenes(WORLD, args.prompts, 11)
    verdicts, clips = prompt_following(pipeline, scenes, args.seeds, args.batch)
    whole = [whole_throughout(clip, verdict.asked) for clip, verdict in zip(clips, verdicts, strict=True)]
    report("first_world", {**accuracy(verdicts), "object_in_every_frame": float(np.mean(whole))})
    still = [
        background_flicker(clip, verdict.asked.background)
        for clip, verdict in zip(clips, verdicts, strict=True)
        if verdict.asked.objects[0].motion == "still"
    ]
    report("still_background", {"flicker_255": float(np.mean(still)), "worst": float(np.max(still))})
    unseen = sample_scenes(WORLD, args.prompts // 2, 12, held_out=True)
    report("held_out", accuracy(prompt_following(pipeline, unseen, args.seeds, args.batch)[0]))
    pictures = prompt_following(pipeline, scenes, 1, 4 * args.batch, num_frames=1)[0]
    one_frame = {name: accuracy(pictures)[name] for name in ATTRIBUTES if name != "motion"}
    one_frame["joint"] = float(
        np.mean([all(v.right[n] for n in ("colour", "background", "shape")) for v in pictures])
    )
    report("one_frame", one_frame)
    report("temporal_layers", temporal_scores(pipeline, without, args.prompts // 4, args.batch))
    for motion in WIDER:
        wide = sample_scenes(replace(WORLD, motions=(motion,)), args.prompts // 4, 21)
        report(motion, accuracy(prompt_following(pipeline, wide, args.seeds, args.batch)[0]))
    for scale in (1.0, 1.5, 2.5, 4.0):
        few = sample_scenes(WORLD, args.prompts // 4, 77)
        found = prompt_following(pipeline, few, 1, args.batch, guidance_scale=scale)[0]
        report(f"guidance_{scale}", accuracy(found))
    scores["seconds"] = time.monotonic() - began
    if args.json:
        args.json.write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
