"""The command that makes a clip again, from its settings alone."""

import json
import re
import shlex
from collections.abc import Mapping
from functools import cache
from typing import Any

from video_diffusion.generation_settings import GenerationSettings

_PLAIN = re.compile(r"[A-Za-z_./][\w./+:-]*")
_WORDS_OF_YAML = {"true", "false", "null"}


def clip_command(settings: Mapping[str, Any]) -> str:
    """One line for a POSIX shell; settings at their defaults are left out.

    Args:
        settings: plain JSON values of `GenerationSettings`; `device` stays open, since any will do.
    """
    words = ["video-diffusion", "generate"]
    for name, usual in _defaults().items():
        value = settings.get(name)
        if name in {"prompt", "device"} or value is None or value == usual:
            continue
        words += ["--seed", str(value)] if name == "seed" else ["--set", f"{name}={_yaml(value)}"]
    return " ".join(map(shlex.quote, [*words, "-o", "again.mp4", "--", str(settings.get("prompt", ""))]))


@cache
def _defaults() -> dict[str, Any]:
    return GenerationSettings(prompt="any").model_dump(mode="json")


def _yaml(value: object) -> str:
    """A value as `--set` reads it: JSON, without quotes where they are not needed."""
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS_OF_YAML:
        return value
    return json.dumps(value, ensure_ascii=False)
