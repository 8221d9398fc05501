"""Values that belong to frames: how frames are written, where they lie, what lies between them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from video_diffusion.settings import GenerationSettings, along_frames, blends_between, place_keyframes


def place(travel: dict[str, str], num_frames: int, first: str = "first") -> list[tuple[float, str]]:
    return place_keyframes("prompt_travel", tuple(travel.items()), num_frames, first)


def test_frames_are_counted_from_either_end_or_by_share() -> None:
    assert place({"12": "c", "0": "a", "0.5": "b", "-1": "d"}, 16) == [
        (0, "a"),
        (7.5, "b"),
        (12, "c"),
        (15, "d"),
    ]
    assert place({"1.0": "end", ".25": "quarter"}, 5) == [(0, "first"), (1, "quarter"), (4, "end")]
    assert place({}, 16) == [(0, "first")]


@pytest.mark.parametrize(
    ("travel", "message"),
    [
        ({"16": "a"}, "prompt_travel names frame 16, but the clip has 16 frames; name one of 0…15"),
        ({"-17": "a"}, "prompt_travel names frame -17, but the clip has 16 frames"),
        ({"15": "a", "-1": "b"}, "prompt_travel names one of 16 frames twice, as 15 and -1; drop one"),
    ],
)
def test_frames_that_do_not_fit_the_clip_are_refused(travel: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        place(travel, 16)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6, unique=True), st.integers(1, 41), st.booleans())
def test_numbers_go_straight_from_keyframe_to_keyframe(
    frames: list[int], num_frames: int, looped: bool
) -> None:
    """On the line, or on the line of the clip three times over, where a loop has no ends."""
    known = sorted(frame for frame in frames if frame < num_frames) or [0]
    keyframes = [(float(frame), float(frame**2 % 7)) for frame in known]
    found = along_frames(keyframes, num_frames, looped)
    rounds = (-num_frames, 0, num_frames) if looped else (0,)
    line = [(frame + turn, value) for turn in rounds for frame, value in keyframes]
    for frame in range(num_frames):
        before = max((point for point in line if point[0] <= frame), default=line[0])
        after = min((point for point in line if point[0] >= frame), default=line[-1])
        span = after[0] - before[0]
        share = (frame - before[0]) / span if span > 0 else 0
        assert found[frame] == pytest.approx(before[1] + share * (after[1] - before[1]))


def test_blends_name_their_keyframes() -> None:
    assert blends_between([1.0, 3.0], 5) == [(0, 0, 0), (0, 1, 0), (0, 1, 0.5), (1, 1, 0), (1, 1, 0)]
    looped = blends_between([1.0, 3.0], 5, looped=True)
    assert looped == [(1, 0, 2 / 3), (0, 1, 0), (0, 1, 0.5), (1, 0, 0), (1, 0, 1 / 3)]


def test_a_clip_begins_with_its_first_prompt_where_none_is_given() -> None:
    travel = {"-1": "c", "4": "a", "0.5": "b"}
    assert GenerationSettings.from_values({"prompt_travel": travel}).prompt == "a"
    assert GenerationSettings.from_values({"prompt": "p", "prompt_travel": travel}).prompt == "p"


def test_travels_survive_json_and_are_hashable() -> None:
    values = {"prompt_travel": {0: "a", "-1": "b"}, "motion_scale_travel": {0.5: 2}}
    settings = GenerationSettings.from_values(values)
    assert settings.model_dump(mode="json")["prompt_travel"] == {"0": "a", "-1": "b"}
    assert settings.motion_scale_travel == (("0.5", 2.0),)
    again = GenerationSettings.from_values(settings.model_dump(mode="json"))
    assert again == settings
    assert hash(again) == hash(settings)
    assert again.canonical_json() == settings.canonical_json()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompt_travel": {"x": "a"}}, "prompt_travel has the frame 'x'; a frame is a number such as 12,"),
        ({"prompt_travel": {"1.5": "a"}}, "prompt_travel has the frame '1.5'; a frame"),
        ({"prompt_travel": {"3": 5}}, "prompt_travel at frame 3 must be text"),
        ({"prompt_travel": {"3": "a\0"}}, "prompt_travel at frame 3 holds a NUL character at position 1"),
        ({"prompt_travel": "3: a"}, "prompt_travel must be a map from frames to values"),
        ({"prompt_travel": {str(k): "a" for k in range(1001)}}, "prompt_travel must be at most 1000 frames"),
        (
            {"guidance_scale_travel": {3: 51}},
            "guidance_scale_travel at frame 3 must be a number from 0 to 50",
        ),
        ({"guidance_scale_travel": {3: True}}, "guidance_scale_travel at frame 3 must be a number"),
        (
            {"motion_scale_travel": {3: float("nan")}},
            "motion_scale_travel at frame 3 must be a number from 0",
        ),
    ],
)
def test_wrong_travels_are_refused_in_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        GenerationSettings.from_values({"prompt": "a", **values})
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
