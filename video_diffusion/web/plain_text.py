"""Values as the text of a page: untrusted texts made visible, numbers short, "—" where there is none."""

import math
import unicodedata
from typing import Any

_JOINERS = "\u200c\u200d"  # letters and emoji of many scripts need them
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def visible(value: Any) -> Any:
    r"""A text in which nothing is hidden: control, direction and invisible characters are written out.

    Escape becomes ␛, a right-to-left override <U+202E>, half a surrogate pair <U+D800>. Line ends, tabs and
    the joiners of scripts and emoji stay. Anything but a plain `str` is returned as it is.
    """
    if type(value) is not str:
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
