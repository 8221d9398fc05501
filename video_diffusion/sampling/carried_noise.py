"""Noise that moves with a video: each frame's is that of the frame before, carried along its motion."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def carry_noise(
    own: Float[Tensor, "c f h w"], moves: Sequence[Float[np.ndarray, "h w 2"]], noise_alpha: float = 1.0
) -> Float[Tensor, "c f h w"]:
    """Mix each frame's own noise with what the motion of a video brings from the frame before.

    e_0 = own_0; where a place of frame i comes from a place of frame i-1 that no other place comes from,
    e_i = (a · carried + own_i) / √(1 + a²) with a = `noise_alpha`; elsewhere e_i = own_i. This is progressive
    noise (Ge et al. 2023) along motion instead of in place. Places are whole, and each value is carried to
    one place at most, so every frame stays standard normal with independent values. What is less than half a
    place of a motion is kept for the next frame, so that slow motion counts too.

    Args:
        own: Standard normal noise, independent from frame to frame.
        moves: From each frame but the first back to the one before, to the right and downwards, in latents.
        noise_alpha: Weight of what is carried against the frame's own, at least 0.
    """
    common, alone = noise_alpha / math.hypot(1, noise_alpha), 1 / math.hypot(1, noise_alpha)
    frames, left = [own[:, 0]], np.zeros((*own.shape[2:], 2))
    for each, move in zip(own[:, 1:].unbind(1), moves, strict=True):
        whole = np.rint(move + left)
        left = move + left - whole
        places, sources = (torch.from_numpy(numbers) for numbers in carried_places(whole))
        made, before = each.flatten(1).clone(), frames[-1].flatten(1)
        made[:, places] = common * before[:, sources] + alone * made[:, places]
        frames.append(made.view_as(each))
    return torch.stack(frames, dim=1)


def carried_places(move: Float[np.ndarray, "h w 2"]) -> tuple[np.ndarray, np.ndarray]:
    """List the places that are carried to, and where each comes from, both as numbers in reading order.

    Args:
        move: As in `carry_noise`.
    """
    height, width = move.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    rows = rows + np.rint(move[..., 1]).astype(np.int64)
    columns = columns + np.rint(move[..., 0]).astype(np.int64)
    inside = ((rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)).ravel()
    places = np.flatnonzero(inside)
    # of several places that come from one, the first has it
    sources, first = np.unique((rows * width + columns).ravel()[places], return_index=True)
    return places[first], sources
