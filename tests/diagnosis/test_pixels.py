"""What pixels alone tell, on clips whose cause is known: a texture that pans, with one thing wrong."""

from fractions import Fraction
from typing import Any

import cv2
import numpy as np
import pytest

from video_diffusion.diagnosis.pixels import find_period, summary, tell


def panning(num_frames: int = 32, **wrong: float) -> Any:
    rng = np.random.default_rng(0)
    base = np.kron(rng.integers(40, 215, (14, 28, 3)), np.ones((8, 8, 1))).astype(np.float32)
    base = cv2.GaussianBlur(base, (0, 0), 3)
    frames = []
    for shown in range(num_frames):
        frame = shown // int(wrong.get("held", 1))
        pixels = base[20:84, 2 * frame : 2 * frame + 96].copy()
        pixels += wrong.get("whole", 0) * (1 if frame % 2 else -1)
        if "period" in wrong and (frame // int(wrong["period"])) % 2:
            pixels += 6
        pixels += rng.normal(0, wrong.get("noise", 0), pixels.shape)
        frames.append(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
    return np.stack(frames)


@pytest.mark.parametrize(
    ("wrong", "causes"),
    [
        ({}, []),
        ({"held": 2.0}, ["held frames"]),
        ({"whole": 3.0}, ["global against local"]),
        ({"noise": 4.0}, []),
    ],
)
def test_what_is_wrong_is_named(wrong: dict[str, float], causes: list[str]) -> None:
    signs, _, measures = tell(panning(**wrong), Fraction(8))
    assert [sign.name for sign in signs if sign.is_cause] == causes
    lines = summary(signs, measures)
    assert lines[0].startswith("From pixels alone: flicker ")
    assert ("Nothing stands out." in lines) == (not wrong)
    assert any("single pixels: noise" in line for line in lines) == ("noise" in wrong)


def test_seams_are_found_with_their_distance() -> None:
    signs, _, _ = tell(panning(period=6.0), Fraction(8))
    seams = next(sign for sign in signs if sign.name == "seams at a regular distance")
    assert (seams.value, seams.is_cause) == (6.0, True)


def test_a_palette_and_a_coarse_encoder_are_told_by_the_file() -> None:
    signs, _, _ = tell(panning(12), Fraction(8), ["256 colours at most: where a palette is dithered, …"], 40)
    assert [sign.name for sign in signs if sign.is_cause] == ["palette", "encoder"]


def test_no_period_is_found_in_noise_but_at_the_stated_rate() -> None:
    rng = np.random.default_rng(1)
    found = [find_period(rng.gamma(2, 1, 24)) for _ in range(20)]
    assert sum(each is not None for each in found) <= 2
    assert find_period(np.ones(24)) is None
    assert find_period(np.full(24, np.nan)) is None
