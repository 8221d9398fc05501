"""Write `docs/api.md` from the docstrings of the public names; their examples are run by the tests."""

import argparse
import inspect
import re
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs" / "api.md"
ROOMS = {
    "video_diffusion": (
        "TextToVideoPipeline", "GeneratedVideo", "GenerationSettings",
    ),
    "video_diffusion.settings": ("parse_prompt",),
    "video_diffusion.text": ("encode_prompt", "TextEncoders", "travel", "slerp"),
    "video_diffusion.loading": ("load_model", "find_model", "parse_lora"),
    "video_diffusion.models": ("MotionAdapter", "VideoUNet"),
    "video_diffusion.sampling": ("initial_noise", "make_scheduler", "ContextWindows", "denoise"),
    "video_diffusion.metrics": ("measure", "choose_metrics", "ConsistencyReport"),
    "video_diffusion.video": ("read_video", "write_video", "read_record", "frames_sha256"),
    "video_diffusion.jobs.job": ("parse_seeds",),
}  # fmt: skip
NAMES = [f"{room}.{name}" for room, names in ROOMS.items() for name in names]
METHODS = {
    "TextToVideoPipeline": (
        "from_pretrained", "__call__", "generate", "decode", "to", "use_motion_adapter", "save_pretrained",
    ),
    "GeneratedVideo": ("save",),
    "GenerationSettings": ("from_values", "job_id"),
    "TextEncoders": ("prompt_embeds", "pooled_embeds"),
    "MotionAdapter": ("for_unet",),
}  # fmt: skip
HEAD = """\
# The Python API

Made by `python scripts/make_api_page.py` from the docstrings; every example is run by the tests. What a clip
can be told is on [its own page](settings.md), and a first walk through is [a notebook](notebook.ipynb).
"""
SECTIONS = re.compile(r"^(Args|Attributes|Returns|Raises|Yields):$")


def find(name: str) -> Any:
    """The public thing of a dotted name."""
    module, _, attribute = name.rpartition(".")
    return resolve_name(f"{module}:{attribute}")


def signature_of(thing: Any) -> str:
    """The parameters in one line, without their annotations."""
    try:
        given = inspect.signature(thing)
    except (TypeError, ValueError):
        return ""
    plain = [each.replace(annotation=inspect.Parameter.empty) for each in given.parameters.values()]
    shown = [each for each in plain if each.name not in {"self", "cls"}]
    text = str(given.replace(parameters=shown, return_annotation=inspect.Signature.empty))
    return text if len(text) < 400 else "(…)"


def told(thing: Any) -> list[str]:
    """A docstring as Markdown: sections as lists, examples as code."""
    lines: list[str] = []
    in_section = in_example = False
    for line in (inspect.getdoc(thing) or "").splitlines():
        if SECTIONS.match(line):
            in_section = True
            lines += [f"*{line[:-1]}*", ""]
        elif line.startswith((">>>", "...")) or (in_example and line.strip()):
            if not in_example:
                lines.append("```python")
            in_example = True
            lines.append(line)
        else:
            if in_example:
                lines.append("```")
            in_example = False
            entry = re.match(r"^ {4}(\*{0,2}[\w, ]+): (.*)$", line) if in_section else None
            in_section = in_section and (line.startswith(" ") or not line)
            rest = f"  {line.strip()}".rstrip() if in_section else line
            lines.append(f"- `{entry[1]}`: {entry[2]}" if entry else rest)
    return [*lines, "```"] if in_example else lines


def page() -> str:
    """The whole page."""
    lines = [HEAD]
    for room, names in ROOMS.items():
        lines.append(f"## {room}\n")
        for name in names:
            thing = find(f"{room}.{name}")
            shown = "" if name == "GenerationSettings" else signature_of(thing)
            lines += [f"### `{name}{shown}`\n", *told(thing), ""]
            for method in METHODS.get(name, ()):
                call = getattr(thing, method)
                title = "pipeline" if method == "__call__" else f"{name}.{method}"
                lines += [f"#### `{title}{signature_of(call)}`\n", *told(call), ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 if the page is not the current one")
    if parser.parse_args().check:
        raise SystemExit(0 if PAGE.read_text() == page() else f"{PAGE.name} is not current; write it anew")
    PAGE.write_text(page())
