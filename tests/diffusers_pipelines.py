"""diffusers' adapters and pipelines with the weights of ours: what the parity tests hold ours against."""

from inspect import signature
from typing import Any

from diffusers.models.unets.unet_motion_model import MotionAdapter as DiffusersMotionAdapter

from video_diffusion.models import MotionAdapter
from video_diffusion.pipeline import TextToVideoPipeline
from video_diffusion.sampling import make_scheduler

OUR_ADAPTER_FIELDS = (
    signature(MotionAdapter.__init__).parameters.keys()
    - signature(DiffusersMotionAdapter.__init__).parameters.keys()
)
"""What diffusers' `MotionAdapter` does not know."""


def diffusers_adapter(adapter: MotionAdapter) -> DiffusersMotionAdapter:
    """A copy of `adapter`, in its precision."""
    config = {
        key: value
        for key, value in adapter.config.items()
        if not key.startswith("_") and key not in OUR_ADAPTER_FIELDS
    }
    theirs = DiffusersMotionAdapter(**config).to(adapter.dtype)
    theirs.load_state_dict(adapter.state_dict())
    return theirs


def diffusers_pipeline(
    kind: Any, ours: TextToVideoPipeline, scheduler: str = "ddim", **components: Any
) -> Any:
    """One of diffusers' AnimateDiff pipelines of what `ours` is made of, and of more `components`."""
    parts = ours.parts
    if parts.text_encoder_2 is not None:
        components |= {
            "text_encoder_2": parts.text_encoder_2,
            "tokenizer_2": parts.tokenizer_2,
            "force_zeros_for_empty_prompt": True,
        }
    theirs = kind(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=parts.unet,
        motion_adapter=diffusers_adapter(parts.motion_adapter),
        scheduler=make_scheduler(scheduler, parts.scheduler_config),
        **components,
    )
    if parts.text_encoder_2 is not None:
        # diffusers 0.42.1 forgets these weights when it makes its motion U-Net
        theirs.unet.add_embedding.load_state_dict(parts.unet.add_embedding.state_dict())
        theirs.unet.to(parts.unet.dtype)
    theirs.unet.eval()
    theirs.set_progress_bar_config(disable=True)
    return theirs
