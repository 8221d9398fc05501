"""How true the outline of an object is in every frame of a clip, and how steady, in pixels of the clip.

The object is all that is more than half way from the background's colour to its own, told on a grid four
times as fine. Its ideal outline has the shape, the turn and the growth that were asked for, the centroid of
each frame and one radius for the whole clip.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8

from video_diffusion.procedural.render import signed_distance
from video_diffusion.procedural.scene import BACKGROUNDS, GROWTH, Scene
from video_diffusion.procedural.scene_reader import MIN_AREA, follow_objects

FINER = 4  # grid points per pixel along each axis
Masks = Bool[np.ndarray, "f h w"]


@dataclass(frozen=True)
class Rigidity:
    """One clip.

    Attributes:
        iou: Intersection over union of object and ideal, mean over frames.
        outline_error: Pixels in one but not the other, per pixel of the ideal's outline, mean over frames.
        jitter: The same between consecutive frames laid on each other by their centroids; None where the
            object turns or grows.
        area_cv: Standard deviation of the area over its mean; None where the object grows.
        num_seen: Frames with an object.
    """

    iou: float
    outline_error: float
    jitter: float | None
    area_cv: float | None
    num_seen: int


def rigidity(frames: UInt8[np.ndarray, "f h w 3"], asked: Scene) -> Rigidity | None:
    """Measure a clip of one object; None where no object can be followed."""
    masks = object_masks(frames, asked.background)
    if masks is None:
        return None
    seen = np.flatnonzero(masks.mean(axis=(1, 2)) >= MIN_AREA)
    if not seen.size:
        return None
    thing = asked.objects[0]
    time = np.linspace(0.0, 1.0, len(frames))[seen] if len(frames) > 1 else np.zeros(1)
    growth = np.ones(len(seen))
    if thing.motion in {"growing", "shrinking"}:
        growth = (1 + (GROWTH - 1) * time) ** (1 if thing.motion == "growing" else -1)
    areas = masks[seen].sum(axis=(1, 2))
    radii = growth * float(np.mean(np.sqrt(areas / np.pi) / growth))
    centres = [np.argwhere(masks[i]).mean(axis=0)[::-1] for i in seen]
    turns = np.zeros(1)
    if thing.motion == "rotating":
        turns = np.linspace(-0.1, 0.35, 19)
    results = []
    for turn in turns:
        angles = turn + (0.45 * np.pi * time if thing.motion == "rotating" else np.zeros(len(seen)))
        rows = [
            _against_ideal(masks[i], centre, radius, angle, thing.shape)
            for i, centre, radius, angle in zip(seen, centres, radii, angles, strict=True)
        ]
        results.append(np.mean(rows, axis=0))
    iou, outline_error, outline = max(results, key=lambda row: row[0])
    steady = thing.motion not in {"growing", "shrinking", "rotating"} and len(seen) > 1
    jitter = [
        np.logical_xor(masks[a], _shifted(masks[b], p - q)).sum() / FINER**2 / outline
        for (a, p), (b, q) in zip(
            list(zip(seen, centres, strict=True))[:-1], list(zip(seen, centres, strict=True))[1:], strict=True
        )
    ]
    grows = thing.motion in {"growing", "shrinking"}
    return Rigidity(
        float(iou),
        float(outline_error),
        float(np.mean(jitter)) if steady else None,
        None if grows else float(areas.std() / areas.mean()),
        len(seen),
    )


def object_masks(frames: UInt8[np.ndarray, "f h w 3"], background: str) -> Masks | None:
    """In each frame, on the finer grid, the largest patch nearer to the object's colour than the ground's."""
    tracks = follow_objects(frames, background, 1)
    if not tracks:
        return None
    values = frames.astype(np.float32)
    ground = np.asarray(BACKGROUNDS[background], dtype=np.float32)
    far = np.linalg.norm(values - ground, axis=-1)
    inside = cv2.erode((far > 0.5 * np.percentile(far, 99)).astype(np.uint8).max(axis=0), np.ones((3, 3)))
    chosen = (far > 0.5 * np.percentile(far, 99)) & (inside > 0)[None]
    colour = np.median(values[chosen], axis=0) if chosen.any() else np.median(values, axis=(0, 1, 2))
    axis = colour - ground
    cover = (values - ground) @ axis / max(float(axis @ axis), 1.0)
    height, width = FINER * cover.shape[1], FINER * cover.shape[2]
    masks = np.zeros((len(cover), height, width), dtype=bool)
    for i, frame in enumerate(cover.astype(np.float32)):
        finer = cv2.resize(frame, (width, height), interpolation=cv2.INTER_CUBIC)
        mask = (finer > 0.5).astype(np.uint8)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        if len(stats) > 1:
            masks[i] = labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    return masks


def _against_ideal(
    mask: Bool[np.ndarray, "h w"], centre: Float[np.ndarray, "2"], radius: float, angle: float, shape: str
) -> tuple[float, float, float]:
    """Intersection over union, pixels that differ per pixel of the ideal outline, and that outline."""
    rows, columns = np.mgrid[0 : mask.shape[0], 0 : mask.shape[1]]
    x, y = columns - centre[0], rows - centre[1]
    cos, sin = np.cos(angle), np.sin(angle)
    points = np.stack([cos * x + sin * y, cos * y - sin * x], axis=-1).astype(np.float32)
    distance = signed_distance(torch.from_numpy(points), torch.full(mask.shape, float(radius)), shape).numpy()
    ideal = distance < 0
    outline = float((np.abs(distance) < 0.5 * FINER).sum()) / FINER**2
    differing = float(np.logical_xor(mask, ideal).sum()) / FINER**2
    overlap = float((mask & ideal).sum()) / max(1.0, float((mask | ideal).sum()))
    return overlap, differing / max(1.0, outline), max(1.0, outline)


def _shifted(mask: Bool[np.ndarray, "h w"], by: Float[np.ndarray, "2"]) -> Bool[np.ndarray, "h w"]:
    """The mask moved by a fraction of a pixel, cut at one half again."""
    matrix = np.array([[1, 0, by[0]], [0, 1, by[1]]], dtype=np.float64)
    moved: np.ndarray = cv2.warpAffine(mask.astype(np.float32), matrix, mask.shape[::-1])
    return moved > 0.5
