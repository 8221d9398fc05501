"""Scenes to frames: signed distances, vectorised over clips and frames, anti-aliased over one pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from video_diffusion.procedural.scene import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    Scene,
    Trajectory,
    sample_trajectory,
)


def signed_distance(
    points: Float[Tensor, "*shape 2"], radius: Float[Tensor, "*#shape"], shape: str
) -> Float[Tensor, "*shape"]:
    """Distance from each point to the outline of an upright shape about the origin, negative inside.

    All shapes of one `radius` have the area of the circle of that radius. Outside a corner the distance is to
    the nearer
    side's line, which only rounds nothing and keeps corners sharp.
    """
    x, y = points.unbind(-1)
    if shape == "circle":
        return points.norm(dim=-1) - radius
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - radius * (math.sqrt(math.pi) / 2)
    if (
        shape == "triangle"
    ):  # equilateral, tip up; its inscribed circle has half its circumscribed circle's radius
        inner = radius * math.sqrt(math.pi / (3 * math.sqrt(3)))
        slanted = (math.sqrt(3) * x.abs() - y) / 2
        return torch.maximum(slanted, y) - inner
    if shape == "star":  # five points, tip up; inner corners at 0.5 of the tips
        tip = radius * math.sqrt(math.pi / (5 * 0.5 * math.sin(math.pi / 5)))
        sector = math.pi / 5
        turn = torch.remainder(torch.atan2(x, -y), 2 * sector)
        turn = torch.minimum(turn, 2 * sector - turn)  # 0 at a tip, pi/5 at an inner corner
        distance = points.norm(dim=-1)
        along, across = distance * torch.cos(turn), distance * torch.sin(turn)
        # The side from the tip (tip, 0) to the inner corner, as a line with its normal pointing outward.
        corner_along, corner_across = 0.5 * math.cos(sector), 0.5 * math.sin(sector)
        length = math.hypot(1 - corner_along, corner_across)
        return ((along - tip) * corner_across + across * (1 - corner_along)) / length
    raise ValueError(f"shape must be one of {', '.join(SHAPES)}, got {shape!r}")


def render_scenes(
    scenes: Sequence[Scene],
    seeds: Sequence[int],
    num_frames: int = 16,
    height: int = 64,
    width: int = 64,
    centre_out: Sequence[bool] | None = None,
    device: str = "cpu",
) -> Float[Tensor, "b f 3 h w"]:
    """Paint one clip per scene, RGB in [0, 1]; clip i depends only on its scene, its seed and the sizes."""
    extent = (width / min(height, width), height / min(height, width))
    trajectories = []
    for index, (scene, seed) in enumerate(zip(scenes, seeds, strict=True)):
        rng = np.random.default_rng(seed)
        outward = bool(centre_out[index]) if centre_out is not None else False
        trajectories.append(
            [sample_trajectory(thing, num_frames, rng, extent, outward) for thing in scene.objects]
        )
    return paint(scenes, trajectories, height, width, device)


def paint(
    scenes: Sequence[Scene],
    trajectories: Sequence[Sequence[Trajectory]],
    height: int,
    width: int,
    device: str = "cpu",
) -> Float[Tensor, "b f 3 h w"]:
    """Paint clips whose poses are chosen: `trajectories[i][k]` moves object k of `scenes[i]`.

    Later objects cover earlier ones.
    """
    side = min(height, width)
    num_frames = len(trajectories[0][0].radius)
    rows, columns = torch.meshgrid(
        torch.arange(height, device=device) + 0.5, torch.arange(width, device=device) + 0.5, indexing="ij"
    )
    grid = torch.stack([columns, rows], dim=-1).float()
    background = torch.tensor([BACKGROUNDS[scene.background] for scene in scenes], device=device) / 255.0
    frames = background[:, None, :, None, None].repeat(1, num_frames, 1, height, width)
    for layer in range(max(len(scene.objects) for scene in scenes)):
        for shape in SHAPES:
            clips = [
                i
                for i, scene in enumerate(scenes)
                if layer < len(scene.objects) and scene.objects[layer].shape == shape
            ]
            if not clips:
                continue
            poses = [trajectories[i][layer] for i in clips]
            centre = (
                torch.tensor(np.stack([pose.centre for pose in poses]), dtype=torch.float32, device=device)
                * side
            )
            radius = (
                torch.tensor(np.stack([pose.radius for pose in poses]), dtype=torch.float32, device=device)
                * side
            )
            angle = torch.tensor(np.stack([pose.angle for pose in poses]), dtype=torch.float32, device=device)
            points = grid - rearrange(centre, "b f xy -> b f 1 1 xy")
            cos, sin = angle.cos()[:, :, None, None], angle.sin()[:, :, None, None]
            x, y = points.unbind(-1)
            upright = torch.stack([cos * x + sin * y, cos * y - sin * x], dim=-1)
            distance = signed_distance(upright, radius[:, :, None, None], shape)
            cover = (0.5 - distance).clamp(0, 1)[:, :, None]
            colour = torch.tensor([COLOURS[scenes[i].objects[layer].colour] for i in clips], device=device)
            tint = rearrange(colour / 255.0, "b c -> b 1 c 1 1")
            frames[clips] = torch.lerp(frames[clips], tint.expand_as(frames[clips]), cover)
    return frames
