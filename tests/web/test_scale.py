"""Scales hold their values, ticks are round."""

import math

from hypothesis import example, given
from hypothesis import strategies as st

from video_diffusion.web import Scale, scale_over

NUMBERS = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(st.lists(NUMBERS | st.none(), max_size=8), st.booleans())
def test_every_value_lies_between_the_ends_in_order(values: list[float | None], zero: bool):
    scale = scale_over([*values, math.nan, math.inf], 10.0, 250.0, zero=zero)
    finite = sorted(value for value in values if value is not None)
    pixels = [scale(value) for value in finite]
    assert pixels == sorted(pixels) and all(10 <= pixel <= 250 for pixel in pixels)
    assert scale.low < scale.high and (not zero or scale.low <= 0 <= scale.high)


@given(NUMBERS, st.floats(1e-3, 1e6), st.integers(2, 9))
@example(1.0, 400401.0, 2)
def test_ticks_are_evenly_spaced_round_and_inside(low: float, size: float, count: int):
    scale = Scale(low, low + size, 0.0, 100.0)  # 1 … 400402 once had none at a count of 2
    ticks = scale.ticks(count)
    assert 1 <= len(ticks) <= 2 * count + 1
    assert all(scale.low - 1e-6 * size <= tick <= scale.high + 1e-6 * size for tick in ticks)
    if len(ticks) > 1:
        step = ticks[1] - ticks[0]
        lead = step / 10 ** math.floor(math.log10(step) + 1e-6)
        assert min(abs(lead - round_one) for round_one in (1, 2, 5)) < 1e-3


def test_an_axis_may_point_up():
    scale = Scale(0.0, 4.0, 300.0, 20.0)
    assert [scale(value) for value in (0.0, 1.0, 4.0, 9.0)] == [300.0, 230.0, 20.0, 20.0]
    assert scale.ticks(4) == (0.0, 1.0, 2.0, 3.0, 4.0)


def test_equal_values_still_have_a_scale():
    scale = scale_over([3.0, 3.0], 0.0, 100.0)
    assert scale(3.0) == 50.0 and scale_over([], 0.0, 1.0).low < 0
