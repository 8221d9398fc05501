"""What a loaded text-to-video model is made of, and how it reads prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from video_diffusion.io import ModelIdentity
from video_diffusion.models import MotionAdapter
from video_diffusion.text import XlTextEncoders, encode_prompt, size_conditions


@dataclass(frozen=True)
class ModelParts:
    """What a text-to-video model is made of.

    Attributes:
        tokenizer, text_encoder, vae, unet, motion_adapter: In evaluation mode, on the CPU.
        scheduler_config: The noise schedule the model was trained with, and what it predicts.
        defaults: The model's own generation settings, and its `vocabulary` if it is limited; see
            `generation_defaults.json`. Empty if the folder has none and the adapter is of no known family.
        identity: Names and hashes for the run record.
        tokenizer_2, text_encoder_2: Of SDXL models; None for others.
        quantize: How weights are stored in fewer bits, see `quantize_weights`; None as they were read.
        zeros_for_empty_prompt: Whether an empty prompt is all zeros, as SDXL was trained.
    """

    tokenizer: Any
    text_encoder: Any
    vae: Any
    unet: Any
    motion_adapter: MotionAdapter
    scheduler_config: Mapping[str, Any]
    defaults: Mapping[str, Any]
    identity: ModelIdentity
    tokenizer_2: Any = None
    text_encoder_2: Any = None
    zeros_for_empty_prompt: bool = False
    quantize: str | None = None

    @property
    def networks(self) -> list[nn.Module]:
        """All that computes, for moving to a device."""
        parts = (self.text_encoder, self.text_encoder_2, self.vae, self.unet, self.motion_adapter)
        return [part for part in parts if part is not None]

    def encode_prompts(self, prompts: Sequence[str]) -> Float[Tensor, "b n d"]:
        """Encode each prompt as this model's U-Net reads it."""
        if self.text_encoder_2 is None:
            return encode_prompt(prompts, self.tokenizer, self.text_encoder)
        return self._xl_text_encoders.prompt_embeds(prompts)

    def added_conditions(self, prompts: Sequence[str], height: int, width: int) -> dict[str, Tensor] | None:
        """Make what an SDXL U-Net reads besides the prompts' tokens; None for other models.

        Args:
            prompts: One for each video of the batch; of guidance's doubled batch the negative ones first.
            height: Pixels of the clip.
            width: Pixels of the clip.
        """
        if self.text_encoder_2 is None:
            return None
        pooled = self._xl_text_encoders.pooled_embeds(prompts)
        return {"text_embeds": pooled, "time_ids": size_conditions(height, width, len(prompts)).to(pooled)}

    @property
    def _xl_text_encoders(self) -> XlTextEncoders:
        tokenizers = (self.tokenizer, self.tokenizer_2)
        encoders = (self.text_encoder, self.text_encoder_2)
        return XlTextEncoders(tokenizers, encoders, self.zeros_for_empty_prompt)
