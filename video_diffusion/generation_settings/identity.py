"""What makes two clips the same job: everything that changes the pixels, and nothing else."""

import json
from collections.abc import Mapping
from typing import Any

# They change timing, rounding or memory only, not what the pixels are meant to be.
NO_PIXEL_FIELDS = ("fps", "device", "decode_chunk_size", "compile")

# What an id has always held; every later setting counts only where it changes something, so that ids stay.
FIRST_FIELDS = (
    "prompt", "negative_prompt", "seed", "num_frames", "height", "width", "num_inference_steps",
    "guidance_scale", "scheduler", "model", "motion_adapter", "dtype",
)  # fmt: skip

# Where None, the field's default, means what may also be said; all other fields change nothing as they are.
SAID_DEFAULTS: Mapping[str, Any] = {"noise_type": "independent", "noise_alpha": 1.0}


def without_effect(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Values at which settings change no pixel: the defaults of all that came after the first.

    Args:
        defaults: of every setting, as plain JSON values.
    """
    later = {**defaults, **SAID_DEFAULTS}
    return {name: later[name] for name in defaults if name not in (*FIRST_FIELDS, *NO_PIXEL_FIELDS)}


def counted(values: Mapping[str, Any], effectless: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a clip's settings that decide its pixels.

    Args:
        values: of every setting, as plain JSON values.
        effectless: see `without_effect`; None changes nothing either.
    """
    return {
        name: value
        for name, value in values.items()
        if name not in NO_PIXEL_FIELDS and not (name in effectless and value in (None, effectless[name]))
    }


def canonical(values: Mapping[str, Any]) -> str:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
