"""A diagnosis against the truth: clips of the shipped model with one planted cause each."""

from pathlib import Path

import pytest
from planted import PLANTS, Plant, diagnosed

# Small, so that all of it takes minutes: half the frames and steps would be other clips, not other causes.
SMALL = {"num_frames": 12, "num_inference_steps": 8}


def is_first(plant: Plant, folder: Path, seeds: tuple[int, ...]) -> bool:
    found = diagnosed(plant, folder / plant.name, seeds, **SMALL)
    causes = [cause.part for cause in found.causes]
    print(f"{plant.name}: {', '.join(causes) or 'nothing'}; {found.sentences[0]}")
    return bool(causes) and causes[0] in plant.parts


@pytest.mark.slow
def test_the_planted_cause_is_named_first_in_nine_of_ten(tmp_path: Path) -> None:
    right = [is_first(plant, tmp_path, (0, 1, 2, 3)) for plant in PLANTS]
    assert sum(right) >= 9


@pytest.mark.slow
@pytest.mark.parametrize("first_seed", [0, 20])
def test_of_a_clean_clip_nothing_stands_out(tmp_path: Path, first_seed: int) -> None:
    seeds = tuple(range(first_seed, first_seed + 4))
    found = diagnosed(Plant("clean", ()), tmp_path / "clean", seeds)
    assert found.causes == ()
    assert found.sentences[0].startswith("Nothing stands out: flicker 0.")


@pytest.mark.full
def test_guidance_that_is_too_high_is_named_first(tmp_path: Path) -> None:
    assert is_first(PLANTS[2], tmp_path, (0, 1, 2))
