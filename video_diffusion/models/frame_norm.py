"""diffusers' temporal layers with every frame normalised alone, as the published weights were trained."""

from types import MethodType
from typing import Any

from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from jaxtyping import Float
from torch import Tensor, nn

from video_diffusion.shapes import fold_frames, unfold_frames


def normalise_each_frame(network: nn.Module) -> None:
    """Make the first norm of diffusers' temporal layers average over each frame; as they are, over the clip.

    Args:
        network: Holds such layers, as SparseCtrl encoders do; changed for good.
    """
    for module in network.modules():
        if isinstance(module, AnimateDiffTransformer3D):
            vars(module.norm)["forward"] = MethodType(_of_each_frame, module.norm)


def _of_each_frame(norm: Any, hidden_states: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b c f h w"]:
    normalised = nn.GroupNorm.forward(norm, fold_frames(hidden_states))
    return unfold_frames(normalised, hidden_states.shape[2])
