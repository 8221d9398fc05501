"""Prompts that change along the frames of a clip; between two of them a frame gets some of both."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from video_diffusion.settings import PromptBlend, blends_between
from video_diffusion.shapes import PromptEmbeds

PromptKeyframes: TypeAlias = Sequence[tuple[float, str]]
"""Frames in order, and what the clip shows there."""


def encode_travel_by(
    encode: Callable[[Sequence[str]], Tensor],
    clips: Sequence[PromptKeyframes],
    num_frames: int,
    blend: PromptBlend,
    looped: bool,
) -> PromptEmbeds:
    """Encode the prompts of each clip: embeddings per frame if a clip has several, else per video.

    Args:
        encode: Prompts to embeddings, one for each.
        clips: For each video its prompts, see `place_keyframes`.
        num_frames: Frames of each video.
        blend: Between two prompts: "lerp" in a straight line, "slerp" on an arc.
        looped: Whether the last prompt of a clip goes over into its first.
    """
    if all(len(keyframes) == 1 for keyframes in clips):
        return encode([keyframes[0][1] for keyframes in clips])
    texts = list(dict.fromkeys(text for keyframes in clips for _, text in keyframes))
    embeds = dict(zip(texts, encode(texts), strict=True))
    return torch.stack(
        [
            travel(
                [frame for frame, _ in keyframes],
                torch.stack([embeds[text] for _, text in keyframes]),
                num_frames,
                blend,
                looped,
            )
            for keyframes in clips
        ]
    )


def travel(
    frames: Sequence[float],
    embeds: Float[Tensor, "keyframes n d"],
    num_frames: int,
    blend: PromptBlend = "lerp",
    looped: bool = False,
) -> Float[Tensor, "f n d"]:
    """Blend embeddings along frames; before the first and after the last keyframe they stay what they are.

    Args:
        frames: Where each of the embeddings holds, in order.
        embeds: One for each of these.
        num_frames: Frames of the clip.
        blend: "lerp" or "slerp"; the arc is taken for each token on its own.
        looped: Whether the last goes over into the first, around the end of the clip.

    >>> travel([0.0, 4.0], torch.tensor([[[0.0]], [[8.0]]]), num_frames=5).flatten().tolist()
    [0.0, 2.0, 4.0, 6.0, 8.0]
    """
    mix = torch.lerp if blend == "lerp" else slerp
    return torch.stack(
        [
            embeds[before] if share == 0 else mix(embeds[before], embeds[after], share)
            for before, after, share in blends_between(frames, num_frames, looped)
        ]
    )


def slerp(start: Float[Tensor, "n d"], end: Float[Tensor, "n d"], share: float) -> Float[Tensor, "n d"]:
    """Go from one vector per token to another on an arc (Shoemake 1985): directions turn evenly.

    (sin((1 - s)·ω)·start + sin(s·ω)·end) / sin ω, with ω the angle between them. Where they hardly differ or
    are opposite, sin ω vanishes and a straight line is taken.

    Args:
        start: At share 0.
        end: At share 1.
        share: 0 to 1.

    >>> halfway = slerp(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 0.5)
    >>> [round(number, 4) for number in halfway[0].tolist()]
    [0.7071, 0.7071]
    """
    exact_start, exact_end = start.cpu().double(), end.cpu().double()  # Apple's GPUs know no float64
    cosine = torch.nn.functional.cosine_similarity(exact_start, exact_end, dim=-1).clamp(-1, 1)
    angle = torch.arccos(cosine)[:, None]
    sine = torch.sin(angle)
    arc = torch.sin((1 - share) * angle) * exact_start + torch.sin(share * angle) * exact_end
    line = torch.lerp(exact_start, exact_end, share)
    return torch.where(sine.abs() < 1e-6, line, arc / sine.clamp_min(1e-6)).to(start.dtype).to(start.device)
