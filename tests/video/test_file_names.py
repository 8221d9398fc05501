"""Names made from prompts are safe file names everywhere."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from video_diffusion.video.files import slug


@pytest.mark.parametrize(
    "text, expected",
    [
        ("A small red circle, moving left!", "a-small-red-circle-moving-left"),
        ("../../x", "x"),
        ("/etc/passwd", "etc-passwd"),
        ("C:\\x", "c-x"),
        ("CON", "clip-con"),
        ("lpt1", "clip-lpt1"),
        ("-rf .hidden", "rf-hidden"),
        ("", "clip"),
        (" . ", "clip"),
        ("\x1b[2J\u202e", "2j"),
        ("caf\u0065\u0301", "caf\u00e9"),
        ("漢" * 100, "漢" * 26),
        ("\udcff", "clip"),
    ],
)
def test_examples(text: str, expected: str) -> None:
    assert slug(text) == expected


def test_canonical_twins_get_one_name() -> None:
    assert slug("\u00e9t\u00e9") == slug("e\u0301te\u0301")


@settings(deadline=None)
@given(st.text(max_size=200), st.integers(8, 120))
def test_every_name_is_safe(text: str, max_bytes: int) -> None:
    name = slug(text, max_bytes)
    assert 0 < len(name.encode()) <= max_bytes
    assert not name.startswith(("-", ".")) and not name.endswith(("-", ".", " "))
    assert all(sign == "-" or unicodedata.category(sign)[0] in "LNM" for sign in name)
    assert unicodedata.category(name[0])[0] != "M"
    assert name not in {"con", "nul", "prn", "aux", "com1", "lpt9"}
