"""Captions as people save them: UTF-8 with or without a mark, UTF-16 with one; nothing is guessed."""

import codecs
from pathlib import Path

MAX_CAPTION_BYTES = 100_000
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


class CaptionError(ValueError):
    """A caption that cannot be used; the message is one line without the file's name."""


def read_caption(path: Path) -> str:
    """The caption in a text file.

    Raises:
        CaptionError: unreadable, too large, in another encoding, or empty.
    """
    try:
        if not path.is_file():
            raise CaptionError("is not a regular file")
        if path.stat().st_size > MAX_CAPTION_BYTES:
            raise CaptionError(f"has {path.stat().st_size} bytes, above {MAX_CAPTION_BYTES}: no caption")
        data = path.read_bytes()
    except OSError as error:
        raise CaptionError(f"cannot be read ({error.strerror})") from None
    try:
        text = data.decode(encoding_of(data[:3]))
    except UnicodeDecodeError as error:
        byte = f"byte 0x{error.object[error.start]:02x} at {error.start}"
        raise CaptionError(f"is not {error.encoding.upper()} ({byte}); save it as UTF-8") from None
    return checked_caption(text)


def encoding_of(head: bytes) -> str:
    """The encoding that a file's first three bytes name; UTF-8 if none."""
    return next((name for mark, name in _MARKS.items() if head.startswith(mark)), "utf-8")


def checked_caption(value: object) -> str:
    """A caption without the white space around it.

    Raises:
        CaptionError: not a text, empty, too long, or with characters that no text has.
    """
    if not isinstance(value, str):
        raise CaptionError("is missing" if value is None else f"is not a text but {type(value).__name__}")
    text = value.strip().strip("\ufeff").strip()
    if not text:
        raise CaptionError("is empty; write one, or take the clip away")
    if "\0" in text:
        raise CaptionError("holds a NUL character; save it as UTF-8")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise CaptionError("holds half a character (a lone surrogate); save it as UTF-8") from None
    if size > MAX_CAPTION_BYTES:
        raise CaptionError(f"has {size} bytes, above {MAX_CAPTION_BYTES}: no caption")
    return text
