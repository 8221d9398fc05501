"""The published kinds of temporal layers, and what each needs besides its weights.

Noise schedules by diffusers' names: AnimateDiff was trained on "linear", which ComfyUI calls sqrt_linear, on
top of image models that were trained on "scaled_linear". Sampled on the wrong one, clips come out washed out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_COMMON: Mapping[str, Any] = {"beta_start": 0.00085, "steps_offset": 1, "clip_sample": False}
_LINEAR: Mapping[str, Any] = {
    **_COMMON, "beta_end": 0.012, "beta_schedule": "linear", "timestep_spacing": "linspace",
}  # fmt: skip
_SCALED: Mapping[str, Any] = {**_LINEAR, "beta_schedule": "scaled_linear"}
_USUAL: Mapping[str, Any] = {
    "num_frames": 16, "fps": "8", "num_inference_steps": 25, "guidance_scale": 7.5, "scheduler": "ddim",
}  # fmt: skip


@dataclass(frozen=True)
class MotionFamily:
    """One kind of published temporal layers.

    Attributes:
        title: For people.
        base: The image models it was trained with.
        schedule: Scheduler fields that stand in place of the image model's own.
        defaults: Usual generation settings.
        resnet_norm_scope: What the image U-Net's own resnet norms averaged over in training: "frame", or
            "clip" as only AnimateDiff's first version did.
    """

    title: str
    base: str = "Stable Diffusion 1.x"
    schedule: Mapping[str, Any] = field(default_factory=lambda: _LINEAR)
    defaults: Mapping[str, Any] = field(default_factory=lambda: _USUAL)
    resnet_norm_scope: str = "frame"


FAMILIES: Mapping[str, MotionFamily] = {
    "animatediff-v1": MotionFamily("AnimateDiff v1", resnet_norm_scope="clip"),
    "animatediff-v2": MotionFamily("AnimateDiff v2"),
    "animatediff-v3": MotionFamily("AnimateDiff v3"),
    "long-animatediff": MotionFamily("LongAnimateDiff", defaults={**_USUAL, "num_frames": 64}),
    "pia": MotionFamily("PIA (clips that start from an image)"),
    "animatediff-sdxl": MotionFamily(
        "AnimateDiff SDXL-beta", base="Stable Diffusion XL", schedule={**_SCALED, "beta_end": 0.02}
    ),
    "hotshot-xl": MotionFamily(
        "Hotshot-XL",
        base="Stable Diffusion XL",
        schedule={**_SCALED, "timestep_spacing": "leading"},
        defaults={**_USUAL, "num_frames": 8, "num_inference_steps": 30, "scheduler": "euler_a"},
    ),
    "animatelcm": MotionFamily(
        "AnimateLCM",
        schedule={**_LINEAR, "original_inference_steps": 100},
        defaults={**_USUAL, "num_inference_steps": 6, "guidance_scale": 1.5, "scheduler": "lcm"},
    ),
    "animatediff-lightning": MotionFamily(
        "AnimateDiff-Lightning",
        schedule={**_LINEAR, "timestep_spacing": "trailing"},
        defaults={**_USUAL, "num_inference_steps": 4, "guidance_scale": 1.0, "scheduler": "euler"},
    ),
}
