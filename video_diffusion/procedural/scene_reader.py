"""Frames to words: what a procedural clip shows, read back from its pixels. The measure of prompt following.

It knows the world's tables and nothing of prompts or models: background from the picture's rim, objects from
what differs
from it, colour from the object's inside, shape by overlap with the ideal shape of equal area and orientation,
motion from the track of
centre, area and turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8

from video_diffusion.procedural.render import signed_distance
from video_diffusion.procedural.scene import BACKGROUNDS, COLOURS, SHAPES, SIZES, Scene, SceneObject

Frames = UInt8[np.ndarray, "f h w 3"]
Mask = UInt8[np.ndarray, "h w"]

MIN_AREA = 0.012  # of the squared shorter side; the smallest object of the world covers 0.035 of it
MIN_STRAIGHT = 0.09  # of the shorter side, from first to last frame; straight moves cover 0.3 and more
MIN_LEG = 0.12  # of the shorter side, up or down; a zigzag's three legs cover 0.3 each
MIN_GROWTH = 1.25  # largest over smallest radius; growing objects reach 1.65


@dataclass(frozen=True)
class Track:
    """One object followed through the clip; lengths are shares of the picture's shorter side."""

    colour: str
    centre: Float[np.ndarray, "f 2"]
    radius: Float[np.ndarray, " f"]
    masks: UInt8[np.ndarray, "f h w"]
    share_seen: float


def read_scene(frames: Frames, num_objects: int = 1) -> Scene | None:
    """Tell what a clip shows.

    Args:
        frames: RGB. One frame reads as a motionless clip ("still").
        num_objects: How many objects to look for.

    Returns:
        The scene, its largest object first, or None when no object can be followed through at least three
        quarters of the frames.
    """
    background = read_background(frames)
    tracks = follow_objects(frames, background, num_objects)
    if len(tracks) < num_objects:
        return None
    return Scene(
        background,
        tuple(SceneObject(t.colour, read_shape(t), read_size(t), read_motion(t)) for t in tracks),
    )


def read_background(frames: Frames) -> str:
    """The background whose colour is nearest to the median of the rim, two pixels wide, over all frames."""
    rim = np.concatenate(
        [
            frames[:, :2].reshape(-1, 3),
            frames[:, -2:].reshape(-1, 3),
            frames[:, :, :2].reshape(-1, 3),
            frames[:, :, -2:].reshape(-1, 3),
        ]
    )
    return _nearest(np.median(rim, axis=0), BACKGROUNDS)


def follow_objects(frames: Frames, background: str, num_objects: int) -> list[Track]:
    """Follow the objects of the `num_objects` commonest colours, each as its largest patch per frame."""
    side = min(frames.shape[1:3])
    names = list(COLOURS)
    palette = np.array([BACKGROUNDS[background], *COLOURS.values()], dtype=np.float32)
    distance = np.linalg.norm(frames[..., None, :].astype(np.float32) - palette, axis=-1)
    labels = distance.argmin(axis=-1)
    # Within two pixels of the background an edge pixel is a mixture and may look like a third colour: let
    # only insides vote.
    foreground = (labels > 0).astype(np.uint8)
    inside = np.stack([cv2.erode(mask, np.ones((3, 3), np.uint8)) for mask in foreground])
    votes = np.bincount(labels[inside > 0].ravel(), minlength=len(palette))[1:]
    chosen = [int(i) for i in np.argsort(-votes)[:num_objects] if votes[i] > 0]
    tracks = []
    for index in chosen:
        rivals = [other for other in chosen if other != index]
        masks = foreground.copy()
        for other in rivals:
            masks[distance[..., 1 + other] < distance[..., 1 + index]] = 0
        track = _follow(masks, names[index], side)
        if track is not None:
            tracks.append(track)
    return sorted(tracks, key=lambda track: -float(np.median(track.radius)))


def _follow(masks: UInt8[np.ndarray, "f h w"], colour: str, side: int) -> Track | None:
    centres, radii, kept = [], [], []
    for mask in masks:
        _, labels, stats, centroids = cv2.connectedComponentsWithStats(mask, connectivity=8)
        areas = stats[1:, cv2.CC_STAT_AREA]
        if not areas.size or areas.max() < MIN_AREA * side * side:
            continue
        largest = 1 + int(areas.argmax())
        centres.append(centroids[largest] / side)
        radii.append(np.sqrt(areas.max() / np.pi) / side)
        kept.append((labels == largest).astype(np.uint8))
    share = len(kept) / len(masks)
    if share < 0.75:
        return None
    return Track(colour, np.array(centres), np.array(radii), np.stack(kept), share)


def read_shape(track: Track) -> str:
    """The shape whose ideal outline overlaps best (intersection over union) over up to eight frames."""
    picks = np.linspace(0, len(track.masks) - 1, min(8, len(track.masks))).round().astype(int)
    height, width = track.masks.shape[1:]
    side = min(height, width)
    rows, columns = np.mgrid[0:height, 0:width]
    totals = dict.fromkeys(SHAPES, 0.0)
    for pick in picks:
        mask = track.masks[pick].astype(bool)
        x, y = track.centre[pick] * side
        offset = np.stack([columns - x, rows - y], axis=-1).astype(np.float32)
        for shape in SHAPES:
            totals[shape] += max(
                _overlap(mask, offset, track.radius[pick] * side, shape, angle) for angle in _angles(shape)
            )
    return max(totals, key=lambda shape: totals[shape])


def _angles(shape: str) -> np.ndarray:
    symmetry = {"circle": 0.0, "square": np.pi / 2, "triangle": 2 * np.pi / 3, "star": 2 * np.pi / 5}[shape]
    return np.linspace(0, symmetry, 12, endpoint=False) if symmetry else np.zeros(1)


def _overlap(mask: np.ndarray, offset: np.ndarray, radius: float, shape: str, angle: float) -> float:
    cos, sin = np.cos(angle), np.sin(angle)
    turned = np.stack(
        [cos * offset[..., 0] + sin * offset[..., 1], cos * offset[..., 1] - sin * offset[..., 0]], axis=-1
    )
    points = torch.from_numpy(turned.astype(np.float32))
    ideal = (signed_distance(points, torch.full(points.shape[:-1], float(radius)), shape) < 0).numpy()
    return float((mask & ideal).sum() / max(1, (mask | ideal).sum()))


def read_size(track: Track) -> str:
    """The size whose radius is nearest, on a logarithmic scale: the first of what grows, else the median."""
    grows = read_motion(track) in {"growing", "shrinking"}
    radius = float(np.median(track.radius[: max(1, len(track.radius) // 8)] if grows else track.radius))
    return min(SIZES, key=lambda name: abs(np.log(SIZES[name] / radius)))


def read_motion(track: Track) -> str:
    """Zigzags, straight moves by net displacement, loops and hops, growth, turn, or none of these."""
    centre, radius = track.centre, track.radius
    if len(centre) < 2:
        return "still"
    fifth = max(1, len(centre) // 5)
    net = centre[-fifth:].mean(axis=0) - centre[:fifth].mean(axis=0)
    spread = centre.max(axis=0) - centre.min(axis=0)
    if abs(net[0]) >= 2 * MIN_STRAIGHT and _num_legs(centre[:, 1]) >= 3:
        return "zigzag"
    if np.abs(net).max() >= MIN_STRAIGHT and np.abs(net).max() >= 0.5 * spread.max():
        return _direction(net)
    round_trip = spread.min() >= 0.12 and spread.max() < 2.2 * spread.min()
    if round_trip or (spread[1] >= 0.12 and spread[1] > 2 * spread[0]):
        return "circling" if round_trip else "bouncing"
    growth = radius[-fifth:].mean() / radius[:fifth].mean()
    if max(growth, 1 / growth) >= MIN_GROWTH:
        return "growing" if growth > 1 else "shrinking"
    return "rotating" if _turn(track) >= np.pi / 8 else "still"


def _direction(net: Float[np.ndarray, "2"]) -> str:
    across, along = ("left", "right")[int(net[0] > 0)], ("up", "down")[int(net[1] > 0)]
    if np.abs(net).min() >= 0.5 * np.abs(net).max():
        return f"{along}-{across}"
    return (across, along)[int(np.abs(net).argmax())]


def _num_legs(heights: Float[np.ndarray, " f"]) -> int:
    """How many times a track goes up or down by at least `MIN_LEG` before it turns back by as much."""
    legs, direction = 0, 0
    low = high = float(heights[0])  # lowest and highest point since the last turn
    for height in map(float, heights):
        low, high = min(low, height), max(high, height)
        if direction != 1 and height - low >= MIN_LEG:
            legs, direction, high = legs + 1, 1, height
        elif direction != -1 and high - height >= MIN_LEG:
            legs, direction, low = legs + 1, -1, height
    return legs


def _turn(track: Track) -> float:
    """Total turn in radians by the angular moment of the shape's own symmetry, unwrapped along the frames."""
    shape = read_shape(track)
    order = {"circle": 0, "square": 4, "triangle": 3, "star": 5}[shape]
    if order == 0:
        return 0.0
    side = min(track.masks.shape[1:])
    phases = []
    for mask, (x, y) in zip(track.masks, track.centre, strict=True):
        rows, columns = np.nonzero(mask)
        offset = (columns - x * side) + 1j * (rows - y * side)
        moment = (np.abs(offset) ** order * np.exp(1j * order * np.angle(offset))).sum()
        phases.append(np.angle(moment))
    turned = np.unwrap(phases) / order
    fifth = max(1, len(turned) // 5)
    return float(abs(turned[-fifth:].mean() - turned[:fifth].mean()))


def _nearest(colour: np.ndarray, table: Mapping[str, tuple[int, int, int]]) -> str:
    return min(table, key=lambda name: float(np.linalg.norm(colour - np.asarray(table[name]))))
