"""Settings that change along a clip, over the steps of its run or from block to block of the U-Net."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from video_diffusion.generation_settings.block_factors import BlockFactors
from video_diffusion.generation_settings.field_rules import PromptBlend, check_text
from video_diffusion.generation_settings.keyframes import (
    GuidanceKeyframes,
    GuidanceSteps,
    MotionKeyframes,
    MotionSteps,
    TextKeyframes,
    earliest,
)


class TravelSettings(BaseModel):
    """A part of `GenerationSettings`.

    Attributes:
        prompt_travel: frame to prompt, blended between; `prompt` holds at frame 0 unless this says otherwise,
            and may be left out. Frames as in `TextKeyframes`.
        negative_prompt_travel: likewise, with `negative_prompt`.
        prompt_head: what every prompt begins with; a space goes between.
        prompt_tail: what every prompt ends with.
        prompt_blend: how embeddings go from one prompt to the next, in a straight line or on an arc.
        guidance_scale_travel: frame to guidance scale, in straight lines; `guidance_scale` holds at frame 0.
        motion_scale_travel: frame to motion scale, likewise.
        motion_effect: factor on what temporal layers add, 0 (pictures alone) to 10; 1 is as trained.
        motion_effect_travel: frame to motion effect, likewise.
        guidance_scale_steps: step of the run to guidance scale, in straight lines; `guidance_scale` holds at
            step 0, the noisiest. Not together with `guidance_scale_travel`.
        motion_scale_steps: step to motion scale, likewise.
        motion_effect_steps: step to motion effect, likewise.
        motion_scale_blocks: block of the U-Net to a factor on the motion scale of its temporal layers.
        motion_effect_blocks: likewise, on the motion effect.
        position_stretch: how far apart the rows of the position table are, in frames, 0.1 to 10: at 2 motion
            takes twice as long and the table serves nearly twice the frames; 1 is as trained.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )

    prompt_travel: TextKeyframes = ()
    negative_prompt_travel: TextKeyframes = ()
    prompt_head: Annotated[str, AfterValidator(check_text)] = ""
    prompt_tail: Annotated[str, AfterValidator(check_text)] = ""
    prompt_blend: PromptBlend = "lerp"
    guidance_scale_travel: GuidanceKeyframes = ()
    motion_scale_travel: MotionKeyframes = ()
    motion_effect: Annotated[float, Field(ge=0, le=10)] = 1.0
    motion_effect_travel: MotionKeyframes = ()
    guidance_scale_steps: GuidanceSteps = ()
    motion_scale_steps: MotionSteps = ()
    motion_effect_steps: MotionSteps = ()
    motion_scale_blocks: BlockFactors = ()
    motion_effect_blocks: BlockFactors = ()
    position_stretch: Annotated[float, Field(ge=0.1, le=10)] = 1.0

    @model_validator(mode="before")
    @classmethod
    def _prompt_of_travel(cls, values: Any) -> Any:
        """A clip whose prompts are all given by frame begins with the first of them."""
        if not isinstance(values, Mapping) or "prompt" in values:
            return values
        first = earliest(values.get("prompt_travel"))
        return values if first is None else {**values, "prompt": first}

    @field_validator("guidance_scale_steps", "motion_scale_steps", "motion_effect_steps")
    @classmethod
    def _check_one_axis(cls, steps: Any, info: Any) -> Any:
        travel = info.field_name.replace("_steps", "_travel")
        if steps and info.data.get(travel):
            raise ValueError(f"does not go with {travel}; keep one of them")
        return steps
