"""How the embedded model follows weighted and divided prompts, read back by the scene reader.

    python scripts/measure_prompt_syntax.py --num 24

The same scenes and noise for every way of writing. The figures of docs/prompts.md; five minutes on two cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from embedded.prompt_following import accuracy, judge
from evaluate_motion import sample_scenes

from video_diffusion import GenerationSettings, TextToVideoPipeline
from video_diffusion.procedural import World, caption

COLOURS = ("red", "green", "blue", "yellow", "cyan", "purple")


def weighted(weight: float) -> Callable[[str], str]:
    """Write a weight round the colour of the object."""

    def write(prompt: str) -> str:
        colour = next(word for word in prompt.split() if word in COLOURS)
        return prompt.replace(colour, f"({colour}:{weight})", 1)

    return write


def divided(prompt: str) -> str:
    """Begin a new chunk at the background."""
    return prompt.replace(" on ", " BREAK on ", 1)


WAYS: dict[str, tuple[Callable[[str], str], str]] = {
    "as it is": (str, "a1111"),
    "colour 0.5": (weighted(0.5), "a1111"),
    "colour 1.3": (weighted(1.3), "a1111"),
    "colour 2": (weighted(2.0), "a1111"),
    "colour 1.3, comfy": (weighted(1.3), "comfy"),
    "colour 2, comfy": (weighted(2.0), "comfy"),
    "two chunks": (divided, "a1111"),
}


def main() -> None:
    """Print a table of shares, one line for each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=24, help="scenes")
    asked = sample_scenes(World().motions, parser.parse_args().num, 500)
    pipeline = TextToVideoPipeline.from_pretrained("embedded", "teacher", device="cpu")
    for name, (write, syntax) in WAYS.items():
        verdicts = []
        for first in range(0, len(asked), 8):
            part = asked[first : first + 8]
            jobs = [
                GenerationSettings.from_values(
                    {"prompt": write(caption(scene)), "seed": seed, "prompt_syntax": syntax}
                )
                for scene, seed in part
            ]
            frames = [video.frames for video in pipeline.generate_frames(jobs)]
            verdicts += [judge(scene, clip) for (scene, _), clip in zip(part, frames, strict=True)]
        shares = accuracy(verdicts)
        print(f"{name:20}" + "  ".join(f"{part} {np.round(share, 3)}" for part, share in shares.items()))


if __name__ == "__main__":
    main()
