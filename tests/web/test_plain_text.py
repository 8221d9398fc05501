"""Texts in which nothing hides, numbers that stay short."""

import math
import unicodedata

from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from video_diffusion.web import counted, number, signed, visible


@given(st.text(st.characters(codec=None)))
def test_nothing_invisible_is_left_and_the_rest_is_untouched(text: str):
    shown = visible(text)
    hidden = [sign for sign in shown if unicodedata.category(sign) in {"Cc", "Cf", "Cs", "Zl", "Zp"}]
    assert set(hidden) <= set("\n\t\u200c\u200d")
    shown.encode()
    if all(unicodedata.category(sign)[0] not in "CZ" for sign in text):
        assert shown == text


def test_scripts_of_the_world_stay_as_they_are():
    for text in ("שלום עולם", "مرحبا", "नमस्ते", "می‌خواهم", "👩‍👩‍👧 snow☃", "a\nb\tc"):
        assert visible(text) == text


def test_markup_and_numbers_pass():
    mark = Markup("<b>\x1b</b>")
    assert visible(mark) is mark and visible(3) == 3 and visible(None) is None


def test_numbers():
    assert [number(value) for value in (0.0, 1.0, 2.345, -0.04567, 1234.5, 99.96, -0.0)] == [
        "0", "1.00", "2.35", "−0.0457", "1230", "100", "0",
    ]  # fmt: skip
    assert [number(value) for value in (None, math.nan, math.inf)] == ["—"] * 3
    assert (number(1.5e-7), number(3e9), number(0.016, 2)) == ("1.50e−07", "3.00e+09", "0.016")
    assert [signed(value) for value in (0.5, -0.5, 0.0, None)] == ["+0.500", "−0.500", "0", "—"]


def test_one_of_a_thing_is_not_many():
    assert [counted(many, "clip") for many in (0, 1, 2)] == ["0 clips", "1 clip", "2 clips"]


@given(st.floats(-1e300, 1e300))
def test_a_number_is_read_back_within_its_digits(value: float):
    read = float(number(value).replace("−", "-"))
    assert math.isclose(read, value, rel_tol=6e-3) or abs(value) < 1e-300  # too small for so many digits
