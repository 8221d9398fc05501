"""YAML 1.2 files, `--set` texts and flags, merged left to right and checked against frozen pydantic settings.

Precedence, low to high: model defaults, `--config` files left to right, `--set` left to right, named flags.
"""

from video_diffusion.config.layers import ConfigError, KeyPath, Layer, merge, nearest, set_value, shown
from video_diffusion.config.validation import validate
from video_diffusion.config.yaml_text import SCHEMA_VERSION, assign, dump, read_config

__all__ = [
    "SCHEMA_VERSION",
    "ConfigError",
    "KeyPath",
    "Layer",
    "assign",
    "dump",
    "merge",
    "nearest",
    "read_config",
    "set_value",
    "shown",
    "validate",
]
