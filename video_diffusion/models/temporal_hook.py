"""The forward hook by which a temporal layer sits in the image U-Net."""

from collections.abc import Callable
from typing import Any

from torch import nn

from video_diffusion.models.frame_layout import FrameLayout
from video_diffusion.models.temporal_places import TemporalPlace


class TemporalHook:
    """Sends what a spatial module returns through the temporal layer that belongs there.

    Args:
        layout: Tells what the running pass is; None is a pass of pictures.
        place: The layer, and the block that it sits in.
    """

    def __init__(self, layout: Callable[[], FrameLayout | None], place: TemporalPlace) -> None:
        self.layout = layout
        self.block = place.block
        self.temporal = place.temporal

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        """Stand in for the module's output, or leave it (None) in an image pass."""
        layout = self.layout()
        if layout is None or layout.num_frames == 1:
            return None
        how = layout.of_block(self.block)
        if isinstance(output, tuple):
            return (self.temporal(output[0], *how), *output[1:])
        return self.temporal(output, *how)
