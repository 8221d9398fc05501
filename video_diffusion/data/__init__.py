"""Procedural captioned clips with known truth, and the reader that tells the truth back from frames."""

from video_diffusion.data.caption import caption, vocabulary
from video_diffusion.data.render import render_scenes
from video_diffusion.data.scene import Scene, SceneObject, World, is_held_out
from video_diffusion.data.scene_reader import read_scene

__all__ = [
    "Scene",
    "SceneObject",
    "World",
    "caption",
    "is_held_out",
    "read_scene",
    "render_scenes",
    "vocabulary",
]
