"""`compare --reference`: clips that move like a set, clips that do not, sets too small, pairs by name."""

import json
from dataclasses import replace
from fractions import Fraction

import pytest
from painted_comparison import painted_comparison
from synthetic_clips import clean_clip

from video_diffusion.comparison.reference import FEATURES_FILE, check_reference, in_words, motion_against
from video_diffusion.comparison.report import render_report
from video_diffusion.comparison.summary import ClipResult, ComparisonSummary
from video_diffusion.comparison.tables import markdown
from video_diffusion.settings import ConfigError
from video_diffusion.video import write_video

SCENES = [(texture, motion) for texture in ("waves", "bricks") for motion in ("pan", "rotation", "zoom")]


def write(folder, speed, count=6):
    folder.mkdir()
    for number, (texture, motion) in enumerate(SCENES[:count]):
        frames = clean_clip(texture, motion, speed + 0.2 * number, 6, 48, 64).frames
        write_video(folder / f"clip{number}.mp4", frames, Fraction(8))


def clip(arm, path):
    return ClipResult(arm, path.rpartition("/")[2][:-4], 0, path, "", "", 8.0, 6, 64, 48, {}, {}, "", "", "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    write(folder / "reference", 2)
    write(folder / "like", 2.1)
    write(folder / "fast", 7)
    write(folder / "few", 2, 3)
    return folder


def sets(folder, *arms):
    clips = [
        clip(arm, path.relative_to(folder).as_posix()) for arm in arms for path in (folder / arm).iterdir()
    ]
    return motion_against(folder / "reference", arms, clips, folder)


def test_clips_that_move_like_the_reference_are_near_it_and_faster_ones_are_not(folder):
    like, fast, few = sets(folder, "like", "fast", "few")
    assert like.low < 0 < like.high and like.p > 0.2
    assert fast.low > 0 and fast.p < 0.05
    assert like.paired < fast.paired
    assert (few.distance, few.num_clips, few.num_reference) == (None, 3, 6)
    assert "at least 4 clips" in in_words(few)
    before = (folder / FEATURES_FILE).read_bytes()
    assert sets(folder, "like", "fast", "few") == (like, fast, few)
    assert (folder / FEATURES_FILE).read_bytes() == before


def test_a_folder_that_cannot_be_a_reference_is_refused_before_anything_is_made(folder):
    check_reference(folder / "reference")
    with pytest.raises(ConfigError, match=r"--reference: .*at least 4 clips \(given 3"):
        check_reference(folder / "few")
    with pytest.raises(ConfigError, match="no such folder"):
        check_reference(folder / "missing")


def test_the_page_and_the_summary_tell_how_far_each_setting_is(folder, tmp_path):
    summary = painted_comparison(tmp_path, ("a", "b"))
    found = sets(folder, "fast")
    summary = replace(
        summary, sets=tuple(replace(found[0], arm=arm.label) for arm in summary.arms), reference="<mine>"
    )
    page, text = render_report(summary, tmp_path), markdown(summary)
    assert "Does it move like <bdi>&lt;mine&gt;</bdi>?" in page
    assert page.count(f"<td>{found[0].distance:.3f}</td>") == len(summary.arms)
    assert f"distance {found[0].distance:.3f}" in text
    assert ComparisonSummary.from_json(summary.to_json()) == summary


@pytest.mark.parametrize("kept", ["[", "5", '{"a": 5}', '{"a": [1, "x"]}', '{"%s": [1.0]}', "[" * 9000])
def test_what_was_kept_of_motion_and_is_damaged_is_measured_again(folder, tmp_path, kept):
    """Symptom: a damaged file of features ended `compare --reference` with a traceback, after all clips."""
    known = sets(folder, "like")
    whole = (folder / FEATURES_FILE).read_bytes()
    (folder / FEATURES_FILE).write_text(kept.replace("%s", next(iter(json.loads(whole)))))
    assert sets(folder, "like") == known
    again = json.loads((folder / FEATURES_FILE).read_bytes())
    assert again and again.items() <= json.loads(whole).items()  # of other tests' clips nothing is known now
