"""Everything that decides what a clip looks like, as one frozen value; checked before any model is loaded."""

from video_diffusion.generation_settings.field_rules import (
    ContextFuse,
    ContextSchedule,
    DtypeName,
    Fps,
    FrequencyFilter,
    NoiseType,
    PromptBlend,
    QuantizeName,
    SchedulerName,
    Size,
    check_prompt,
    check_text,
    parse_fps,
    parse_size,
)
from video_diffusion.generation_settings.ignored import ignored_settings
from video_diffusion.generation_settings.image_ranges import check_image_prompt, place_images
from video_diffusion.generation_settings.input_files import content_sha256, network_sha256
from video_diffusion.generation_settings.keyframes import (
    TextKeyframes,
    along_frames,
    blends_between,
    place_keyframes,
    whole_frames,
)
from video_diffusion.generation_settings.settings import (
    COMMON_DEFAULTS,
    PIXEL_FIELDS,
    WITHOUT_EFFECT,
    GenerationSettings,
)

__all__ = [
    "COMMON_DEFAULTS",
    "PIXEL_FIELDS",
    "WITHOUT_EFFECT",
    "ContextFuse",
    "ContextSchedule",
    "DtypeName",
    "Fps",
    "FrequencyFilter",
    "GenerationSettings",
    "NoiseType",
    "PromptBlend",
    "QuantizeName",
    "SchedulerName",
    "Size",
    "TextKeyframes",
    "along_frames",
    "blends_between",
    "check_image_prompt",
    "check_prompt",
    "check_text",
    "content_sha256",
    "ignored_settings",
    "network_sha256",
    "parse_fps",
    "parse_size",
    "place_images",
    "place_keyframes",
    "whole_frames",
]
