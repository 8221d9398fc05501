"""Write `docs/settings.md` from the declarations: every setting of a clip, its flag, values and meaning."""

import argparse
from pathlib import Path
from typing import Any, get_args

from annotated_types import Ge, Le
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from video_diffusion.settings import SETTINGS, GenerationSettings

PAGE = Path(__file__).resolve().parents[1] / "docs" / "settings.md"
HEAD = """\
# Settings of a clip

Made by `python scripts/make_settings_page.py` from `video_diffusion/settings/generation.py`, where each
setting is declared once. The names are keys of `--config` files, of job files, of `--set key=value`, of
`pipeline(prompt, ...)` and of records. Where no default stands, the model's own holds
(`generation_defaults.json` in its folder).

What is marked † does not change the pixels, so it is no part of a job's id.

| setting | flag | values | default | meaning |
|---|---|---|---|---|
"""


def values_of(field: FieldInfo) -> str:
    """The choices or range of a field, as far as its type says them."""
    choices = [each for kind in (field.annotation, *get_args(field.annotation)) for each in get_args(kind)]
    named = [each for each in choices if isinstance(each, str)]
    if named:
        return ", ".join(f"`{each}`" for each in named)
    low = next((part.ge for part in field.metadata if isinstance(part, Ge)), None)
    high = next((part.le for part in field.metadata if isinstance(part, Le)), None)
    if low is None or high is None:
        return "on or off" if field.annotation is bool else ""
    return f"{low} to {'2^63-1' if high == 2**63 - 1 else high}"


def default_of(value: Any) -> str:
    """A default as it is written in a file; nothing where the model decides or nothing is set."""
    value = value[0] if isinstance(value, tuple) and len(value) == 1 else value
    if value in {None, (), ""} or value is PydanticUndefined:
        return ""
    return f"`{str(value).lower() if value is False else value}`"


def page() -> str:
    """The whole page."""
    rows = []
    for name, field in GenerationSettings.model_fields.items():
        setting = SETTINGS[name]
        flag = setting.flags.partition(" ")[0]
        flag = f"`{flag} {setting.metavar}`" if setting.metavar else f"`{flag}`" if flag else ""
        meaning = f"{field.description}{'' if setting.pixels else ' †'}"
        if setting.needs:
            meaning += f" Needs {' or '.join(f'`{each}`' for each in setting.needs)}."
        rows.append(f"| `{name}` | {flag} | {values_of(field)} | {default_of(field.default)} | {meaning} |")
    return HEAD + "\n".join(sorted(rows, key=lambda row: not row.startswith("| `prompt` "))) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 if the page is not the current one")
    if parser.parse_args().check:
        raise SystemExit(0 if PAGE.read_text() == page() else f"{PAGE.name} is not current; write it anew")
    PAGE.write_text(page())
