"""How well clips follow their prompts: what the scene reader saw, held against what was asked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from video_diffusion.procedural.scene import Scene
from video_diffusion.procedural.scene_reader import read_scene

ATTRIBUTES = ("motion", "colour", "background", "shape", "size")


@dataclass(frozen=True)
class Verdict:
    """One clip: for each attribute whether it is as asked; all False when no object could be followed."""

    asked: Scene
    seen: Scene | None
    right: dict[str, bool]

    @property
    def joint(self) -> bool:
        """Whether everything is as asked."""
        return all(self.right.values())


def judge(asked: Scene, frames: UInt8[np.ndarray, "f h w 3"]) -> Verdict:
    """Read a clip and compare; the objects of a two-object scene are matched by colour."""
    seen = read_scene(frames, len(asked.objects))
    if seen is None:
        return Verdict(asked, None, dict.fromkeys(ATTRIBUTES, False))
    by_colour = {thing.colour: thing for thing in seen.objects}
    pairs = [(thing, by_colour.get(thing.colour)) for thing in asked.objects]
    if len(asked.objects) == 1:
        pairs = [(asked.objects[0], seen.objects[0])]
    right = {"background": asked.background == seen.background}
    for name in ("motion", "colour", "shape", "size"):
        right[name] = all(b is not None and getattr(a, name) == getattr(b, name) for a, b in pairs)
    return Verdict(asked, seen, right)


def accuracy(verdicts: Iterable[Verdict]) -> dict[str, float]:
    """Share of clips right in each attribute, and `joint`, in [0, 1]."""
    rows = list(verdicts)
    shares = {name: float(np.mean([row.right[name] for row in rows])) for name in ATTRIBUTES}
    return {**shares, "joint": float(np.mean([row.joint for row in rows]))}
