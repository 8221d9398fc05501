"""One HTML file that asks nobody for anything: inert texts, styles and scripts allowed by hash alone."""

import base64
import hashlib
import math
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from video_diffusion.video import write_bytes

_JOINERS = "\u200c\u200d"  # letters and emoji of many scripts need them
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def visible(value: object) -> Any:
    r"""A text in which nothing is hidden: control, direction and invisible characters are written out.

    Escape becomes ␛, a right-to-left override <U+202E>, half a surrogate pair <U+D800>. Line ends, tabs and
    the joiners of scripts and emoji stay. Anything but a plain `str` is returned as it is.
    """
    if type(value) is not str or value.isprintable():
        return value
    return "".join(_shown(sign) for sign in value)


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many digits that count, and a real minus sign; — for None, NaN and infinity."""
    if value is None or not math.isfinite(value):
        return "—"
    text = f"{value:.{digits - 1}e}"
    size = int(text.partition("e")[2])
    if value == 0:
        return "0"
    if -4 <= size <= 6:
        text = f"{float(text):.{max(0, digits - 1 - size)}f}"
    return text.replace("-", "−")


def signed(value: float | None, digits: int = 3) -> str:
    """A difference: like `number`, with a plus sign where it rises."""
    text = number(value, digits)
    return f"+{text}" if value is not None and math.isfinite(value) and value > 0 and text != "0" else text


def counted(number: int, word: str) -> str:
    """A number and its noun: "1 seed", "2 seeds"."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _shown(sign: str) -> str:
    if sign in "\n\t" or sign in _JOINERS or unicodedata.category(sign) not in _HIDDEN:
        return sign
    code = ord(sign)
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"<U+{code:04X}>"


# One HTML file that asks nobody for anything: styles and scripts inside, allowed by their hashes alone.


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
    environment = _environment(folder)
    style = _joined(environment, (*OWN_STYLES, *styles))
    script = _joined(environment, (*OWN_SCRIPTS, *scripts))
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "media-src 'self' file:; base-uri 'none'; form-action 'none'"
    )
    inlined = {"policy": policy, "style": Markup(style), "script": Markup(script)}
    return environment.get_template(template).render(**inlined, **values)


@cache
def _environment(folder: Path) -> Environment:
    """What finds and keeps the templates of a folder and of this room."""
    environment = Environment(
        loader=FileSystemLoader([folder, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"counted": counted, "number": number, "signed": signed}
    return environment


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
