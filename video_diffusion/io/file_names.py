"""File names made from prompts: safe on every system, short, and still readable."""

import unicodedata

MAX_BYTES = 80
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


def slug(text: str, max_bytes: int = MAX_BYTES) -> str:
    """A file name stem from any text.

    Letters and digits of every script stay (NFC, lower case); all else becomes single hyphens. At most
    `max_bytes` of UTF-8, cut between characters; never empty, never with a leading or trailing sign, never a
    device name of Windows.

    Args:
        text: anything, lone surrogates and control characters included.
        max_bytes: 8 or more.
    """
    normal = unicodedata.normalize("NFC", text).lower()
    kept = "".join(sign if _is_word(sign) else " " for sign in normal)
    name = "-".join(kept.split())
    while len(name.encode()) > max_bytes:
        name = name[:-1]
    name = name.strip("-")
    if not name or _starts_with_mark(name):
        name = f"clip-{name}"[:max_bytes].strip("-")
    return f"clip-{name}"[:max_bytes] if name in _RESERVED else name


def _is_word(sign: str) -> bool:
    """Letters, digits and the marks that belong to letters."""
    return unicodedata.category(sign)[0] in "LNM"


def _starts_with_mark(name: str) -> bool:
    """A combining mark alone would attach itself to whatever stands before the name."""
    return unicodedata.category(name[0])[0] == "M"
