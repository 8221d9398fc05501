"""Print captions of the procedural world, one a line, for the guided teacher that is to be distilled.

python scripts/embedded prompts --motions still left right --num 512 > prompts.txt
"""

from __future__ import annotations

import argparse

import numpy as np

from embedded.trainer import EmbeddedSettings
from video_diffusion.procedural import World, caption
from video_diffusion.procedural.scene import MOTIONS, SHAPES


def main() -> None:
    """Print them; half of the phrases are paraphrases, and no combination that training holds out occurs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--motions", nargs="+", default=EmbeddedSettings().motions, choices=MOTIONS)
    parser.add_argument("--shapes", nargs="+", default=EmbeddedSettings().shapes, choices=SHAPES)
    parser.add_argument("--num", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    world = World(motions=tuple(args.motions), shapes=tuple(args.shapes))
    for number in range(args.num):
        rng = np.random.default_rng((args.seed, number))
        print(caption(world.sample(rng), rng))
