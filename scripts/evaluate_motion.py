"""Ask fine-tuned temporal layers for a new motion and for those the model knew, and read the clips back.

    python scripts/evaluate_motion.py --motion-adapter runs/zigzag --motion zigzag

The scene reader is the judge: it knows the procedural world and nothing of prompts. The model before the
training gets the same prompts and the same noise. Exit code 1 if the new motion is right in fewer than
--at-least of its prompts, or the known ones lose more than --may-lose. Some six minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from embedded.prompt_following import Verdict, accuracy, judge

from video_diffusion import GenerationSettings, TextToVideoPipeline
from video_diffusion.procedural import Scene, World, caption
from video_diffusion.procedural.scene import MOTIONS

Asked = list[tuple[Scene, int]]
"""Scenes, each with the seed of its clip."""


def sample_scenes(motions: Sequence[str], num: int, first_seed: int) -> Asked:
    """Scenes with the motions in turn, so that each is asked for equally often."""
    rng = np.random.default_rng(first_seed)
    worlds = [World(motions=(motions[number % len(motions)],)) for number in range(num)]
    return [(world.sample(rng), first_seed + number) for number, world in enumerate(worlds)]


def ask(pipeline: TextToVideoPipeline, asked: Asked, batch: int) -> list[Verdict]:
    """Make the clip of every scene from its caption, and judge it."""
    verdicts = []
    for first in range(0, len(asked), batch):
        part = asked[first : first + batch]
        jobs = [GenerationSettings(prompt=caption(scene), seed=seed) for scene, seed in part]
        videos = pipeline.generate(jobs)
        verdicts += [judge(scene, video.frames) for (scene, _), video in zip(part, videos, strict=True)]
    return verdicts


def shares(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Share of clips right in each attribute, and with each motion of those that were asked for it."""
    found = accuracy(verdicts)
    for motion in dict.fromkeys(verdict.asked.objects[0].motion for verdict in verdicts):
        right = [v.right["motion"] for v in verdicts if v.asked.objects[0].motion == motion]
        found[f"motion {motion}"] = float(np.mean(right))
    return found


def table(before: dict[str, float], after: dict[str, float], title: str) -> str:
    """Both shares of each attribute and their difference, in points of a hundred."""
    rows = [f"{title:24}{'before':>8}{'after':>8}{'change':>8}"]
    rows += [
        f"{name:24}{before[name]:8.1%}{after[name]:8.1%}{100 * (after[name] - before[name]):+8.1f}"
        for name in before
    ]
    return "\n".join(rows)


def main() -> int:
    """Print both tables and the verdict, or all of it as JSON; the exit code says whether both gates hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--motion-adapter", type=Path, required=True, help="a run, or an adapter's folder")
    parser.add_argument("--motion", choices=MOTIONS, default="zigzag", help="what it was trained on")
    parser.add_argument("--prompts", type=int, default=32, help="for the new motion")
    parser.add_argument("--known-prompts", type=int, default=60, help="for the known ones, in turn")
    parser.add_argument("--at-least", type=float, default=0.8, metavar="SHARE", help="of the new motion")
    parser.add_argument("--may-lose", type=float, default=0.05, metavar="SHARE", help="of the known motions")
    parser.add_argument("--batch", type=int, default=8, help="clips at once")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args()
    known = [motion for motion in World().motions if motion != args.motion]
    asked = {
        "new": sample_scenes([args.motion], args.prompts, 5_000),
        "known": sample_scenes(known, args.known_prompts, 6_000),
    }
    found: dict[str, dict[str, dict[str, float]]] = {kind: {} for kind in asked}
    for name, adapter in (("before", "teacher"), ("after", str(args.motion_adapter))):
        pipeline = TextToVideoPipeline.from_pretrained("embedded", adapter)
        for kind, scenes in asked.items():
            found[kind][name] = shares(ask(pipeline, scenes, args.batch))
    learned = found["new"]["after"]["motion"]
    lost = found["known"]["before"]["motion"] - found["known"]["after"]["motion"]
    passed = learned >= args.at_least and lost <= args.may_lose
    if args.json:
        print(json.dumps({**found, "learned": learned, "lost": lost, "passed": passed}, indent=1))
    else:
        print(table(**found["new"], title=f"{args.prompts} × {args.motion}"), end="\n\n")
        print(table(**found["known"], title=f"{args.known_prompts} × known motions"), end="\n\n")
        gained = f"{learned:.1%} of {args.prompts} prompts (at least {args.at_least:.0%})"
        dropped = f"{100 * lost:.1f} points (at most {100 * args.may_lose:.0f})"
        verdict = "passed" if passed else "failed"
        print(f"{args.motion} is right in {gained}; known motions lost {dropped}: {verdict}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
