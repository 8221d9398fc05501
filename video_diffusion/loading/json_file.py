"""Configuration files of models, which anybody may have written; takes no torch."""

import json
from pathlib import Path
from typing import Any

from video_diffusion.loading.errors import ModelLoadError

MAX_JSON_BYTES = 10_000_000


def read_json(file: Path) -> dict[str, Any]:
    """Read a configuration file.

    Raises:
        ModelLoadError: It is missing, too large, not JSON, or not a mapping.
    """
    if not file.is_file():
        raise ModelLoadError(f"{file}: no such file; this is not a whole model folder")
    if file.stat().st_size > MAX_JSON_BYTES:
        raise ModelLoadError(f"{file}: larger than {MAX_JSON_BYTES} bytes, so not a configuration")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelLoadError(f"{file}: not JSON ({error}); download it again") from None
    if not isinstance(values, dict):
        raise ModelLoadError(f"{file}: must hold a mapping, but holds a {type(values).__name__}")
    return values
