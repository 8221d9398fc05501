"""One HTML file that asks nobody for anything: styles and scripts inside, allowed by their hashes alone."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from video_diffusion.io import write_bytes
from video_diffusion.web.plain_text import counted, number, signed, visible

TEMPLATES = Path(__file__).parent / "templates"
OWN_STYLES = ("page.css", "charts.css", "player.css")
OWN_SCRIPTS = ("player.js",)


def render_page(
    folder: Path,
    template: str,
    values: Mapping[str, Any],
    *,
    styles: Sequence[str] = (),
    scripts: Sequence[str] = (),
) -> str:
    """A page from a template that extends `page.html`.

    Args:
        folder: of the template, its styles and its scripts; the templates of this room are found too.
        template: name of the file.
        values: what the template shows; escaped, made visible (`visible`), never part of a script.
        styles: names of files that come after this room's own.
        scripts: likewise.

    Raises:
        jinja2.TemplateError: ours: a template that names what it was not given.
    """
    environment = Environment(
        loader=FileSystemLoader([folder, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"counted": counted, "number": number, "signed": signed}
    style = _joined(environment, (*OWN_STYLES, *styles))
    script = _joined(environment, (*OWN_SCRIPTS, *scripts))
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "media-src 'self' file:; base-uri 'none'; form-action 'none'"
    )
    inlined = {"policy": policy, "style": Markup(style), "script": Markup(script)}
    return environment.get_template(template).render(**inlined, **values)


def write_page(path: Path, page: str) -> None:
    """Writes a page, whole or not at all.

    Raises:
        OSError: no space, no permission.
    """
    write_bytes(path, page.encode(errors="backslashreplace"))


def _joined(environment: Environment, names: Sequence[str]) -> str:
    """Files as they are: they hold no value of any page, so their hash says all that may run."""
    assert environment.loader is not None
    text = "\n".join(environment.loader.get_source(environment, name)[0] for name in names)
    assert "</s" not in text.lower()  # it would end the element that it stands in
    return text


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
