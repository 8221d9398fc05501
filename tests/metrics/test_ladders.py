"""Each distortion raises the measure meant for it, above all clean motion; flicker tells what flickers.

The whole grid (three textures × three motions × nine distortions × eight rungs) is marked slow. The default
run takes each distortion on one texture and motion, chosen so that all of them occur, at half of the rungs.
For the grid, with the separation of flicker and of raw flicker printed:
`pytest -n 0 -s -m slow tests/metrics/test_ladders.py`.
"""

from functools import cache
from itertools import pairwise, product

import numpy as np
import pytest
from scipy.stats import spearmanr
from synthetic_clips import DISTORTIONS, TEXTURES, WINDOW_STARTS, clean_clip

from video_diffusion.metrics import measure

pytestmark = pytest.mark.full

SCENES = list(product(TEXTURES, ("pan", "rotation", "zoom")))
CLEAN_SPEEDS = (0.5, 1, 2, 3, 4, 6, 8)
SPEED = 2  # of the camera under the distortions, in px/frame at the fastest point
CHOSEN = {name: SCENES[(4 * index) % 9] for index, name in enumerate(DISTORTIONS)}


def read(report, name):
    meant = DISTORTIONS[name]
    measured = report.values[meant.metric]
    return measured.details[meant.detail] if meant.detail else measured.value


SEPARATED = ("flicker", "raw_flicker")
MEANT = sorted({meant.metric for meant in DISTORTIONS.values()} | {"cuts", *SEPARATED})


@cache
def clean_report(texture, motion, speed):
    return measure(clean_clip(texture, motion, speed).frames, 8, MEANT, window_starts=WINDOW_STARTS)


@cache
def ladder(name, texture, motion, rungs):
    meant = DISTORTIONS[name]
    clean = clean_clip(texture, motion, SPEED, meant.num_frames).frames
    starts = WINDOW_STARTS if name == "seams" else None
    metrics = sorted({meant.metric, "cuts", *SEPARATED})
    return [
        measure(meant.apply(clean, meant.strengths[rung]), 8, metrics, window_starts=starts) for rung in rungs
    ]


def check_ladder(name, texture, motion, rungs, clean_speeds):
    reports = ladder(name, texture, motion, rungs)
    values = [read(report, name) for report in reports]
    assert spearmanr(rungs, values).statistic == pytest.approx(1)
    assert all(higher > lower for lower, higher in pairwise(values))
    highest_clean = max(read(clean_report(texture, motion, speed), name) for speed in clean_speeds)
    assert highest_clean < values[0]
    assert [report.values["cuts"].value for report in reports] == [0] * len(reports)


def separation(measure_name, clean_reports, distorted_reports):
    """Area under the ROC curve: how often a distorted clip measures higher than a clean one."""
    clean = np.array([report.values[measure_name].value for report in clean_reports])
    distorted = np.array([report.values[measure_name].value for report in distorted_reports])[:, np.newaxis]
    return float(np.mean((distorted > clean) + 0.5 * (distorted == clean)))


def check_separation(clean, ladders, rungs):
    """Print how well flicker and raw flicker tell each distortion from clean clips."""
    flickering = []
    for name in DISTORTIONS:
        distorted = [
            report for other, *scene in ladders if other == name for report in ladder(name, *scene, rungs)
        ]
        areas = [separation(measure, clean, distorted) for measure in SEPARATED]
        print(f"{name:20} AUC of flicker {areas[0]:.4f}, of raw flicker {areas[1]:.4f}")
        flickering += distorted if DISTORTIONS[name].is_flicker else []
    flicker, raw = (separation(measure, clean, flickering) for measure in SEPARATED)
    print(f"all that flickers    AUC of flicker {flicker:.4f}, of raw flicker {raw:.4f}")
    assert flicker == 1.0
    assert raw < 0.8


SOME_RUNGS, ALL_RUNGS = (0, 2, 5, 7), tuple(range(8))


@pytest.mark.parametrize("name", DISTORTIONS)
def test_the_measure_meant_for_it_rises_strictly_above_clean_motion(name):
    check_ladder(name, *CHOSEN[name], SOME_RUNGS, clean_speeds=(1, 8))


def test_flicker_separates_clean_from_flickering_clips_and_raw_flicker_does_not():
    scenes = sorted(set(CHOSEN.values()))
    assert {scene[0] for scene in scenes} == set(TEXTURES)
    clean = [clean_report(*scene, speed) for scene in scenes for speed in (1, 8)]
    check_separation(clean, [(name, *CHOSEN[name]) for name in DISTORTIONS], SOME_RUNGS)


@pytest.mark.slow
@pytest.mark.parametrize(("texture", "motion"), SCENES)
@pytest.mark.parametrize("name", DISTORTIONS)
def test_whole_grid_of_ladders(name, texture, motion):
    assert len(DISTORTIONS[name].strengths) == len(ALL_RUNGS)
    check_ladder(name, texture, motion, ALL_RUNGS, CLEAN_SPEEDS)


@pytest.mark.slow
def test_whole_grid_of_separations():
    clean = [clean_report(*scene, speed) for scene in SCENES for speed in CLEAN_SPEEDS]
    check_separation(clean, [(name, *scene) for name in DISTORTIONS for scene in SCENES], ALL_RUNGS)
