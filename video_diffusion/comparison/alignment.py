"""Prompt alignment where the truth can be read: what a procedural prompt names, found in the clip."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from video_diffusion.procedural.scene import (
    BACKGROUNDS,
    COLOURS,
    MOTION_WORDS,
    SHAPE_WORDS,
    SIZE_WORDS,
    SceneObject,
    vocabulary,
)
from video_diffusion.procedural.scene_reader import read_scene

MAX_OBJECTS = 2


@dataclass(frozen=True)
class AskedScene:
    """What a prompt names, and nothing that it leaves open.

    Attributes:
        background: a key of `BACKGROUNDS`, None where the prompt is silent.
        objects: one or two mappings of "colour", "shape", "size" and "motion" to keys of the world's tables.
    """

    background: str | None
    objects: tuple[Mapping[str, str], ...]


def read_prompt(prompt: str) -> AskedScene | None:
    """Parses a caption of the procedural world, in any of its paraphrases.

    Returns:
        None when the prompt is not about that world: no shape in it, more than two objects, or a word that
        stands for two things at once.
    """
    background: str | None = None
    objects: list[Mapping[str, str]] = []
    for part in re.split(r"\band\b", prompt.lower()):
        named: dict[str, str] = {}
        for kind, value in _terms(re.findall(r"[a-z]+", part)):
            if kind in named:
                return None
            named[kind] = value
        background = named.pop("background", background)
        if "shape" not in named:
            return None
        objects.append(named)
    return AskedScene(background, tuple(objects)) if len(objects) <= MAX_OBJECTS else None


def alignment(asked: AskedScene, frames: UInt8[np.ndarray, "f h w 3"]) -> float:
    """The share of what the prompt names that the scene reader finds in the clip, 0 to 1.

    0 when no object can be followed. Two objects are matched by colour where both have one.
    """
    seen = read_scene(frames, len(asked.objects))
    if seen is None:
        return 0.0
    found: list[SceneObject | None] = list(seen.objects)
    if len(asked.objects) > 1:
        by_colour = {thing.colour: thing for thing in seen.objects}
        found = [by_colour.get(thing.get("colour", "")) for thing in asked.objects]
    right = [] if asked.background is None else [seen.background == asked.background]
    for named, thing in zip(asked.objects, found, strict=True):
        right += [thing is not None and getattr(thing, kind) == value for kind, value in named.items()]
    return float(np.mean(right))


def is_procedural(words: tuple[str, ...]) -> bool:
    """Whether a model that knows these words draws the procedural world, which the reader can read."""
    filler = {"the", "of", "in"}
    return bool(words) and set(words) <= {*vocabulary(), *filler}


def _terms(words: list[str]) -> list[tuple[str, str]]:
    """Every (attribute, key) that the words name, longest phrases first."""
    found, at = [], 0
    while at < len(words):
        for length in range(min(_LONGEST, len(words) - at), 0, -1):
            term = _PHRASES.get(tuple(words[at : at + length]))
            if term is not None:
                found.append(term)
                at += length
                break
        else:
            at += 1
    return found


def _phrases() -> dict[tuple[str, ...], tuple[str, str]]:
    tables: dict[str, Mapping[str, tuple[str, ...]]] = {
        "size": SIZE_WORDS,
        "shape": SHAPE_WORDS,
        "motion": MOTION_WORDS,
        "colour": {name: (name,) for name in COLOURS},
        "background": {name: (name,) for name in BACKGROUNDS},
    }
    return {
        tuple(phrase.split()): (kind, key)
        for kind, table in tables.items()
        for key, phrases in table.items()
        for phrase in phrases
    }


_PHRASES = _phrases()
_LONGEST = max(map(len, _PHRASES))
