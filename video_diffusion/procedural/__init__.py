"""Procedural captioned clips with known truth, and the reader that tells the truth back from frames."""

from video_diffusion.procedural.render import render_scenes
from video_diffusion.procedural.scene import Scene, SceneObject, World, caption, is_held_out, vocabulary
from video_diffusion.procedural.scene_reader import read_scene

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
