"""Validation: the same every time, apart from training, told in words."""

import json
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from painted_clips import entry_of
from tiny_run import memory_clips, tiny_trainer

from video_diffusion.settings.training import ValidationSettings
from video_diffusion.training.clips import Weighted
from video_diffusion.training.data import ClipEntry
from video_diffusion.training.data.cutting import held_out_ids, plan_clips
from video_diffusion.training.report import write_report
from video_diffusion.training.run_folder import RunFolder
from video_diffusion.training.validation import Validation, Validator, held_out_draws, what_changed

FOUND = Validation(0, 0.5, (0.1, 0.2, 0.3, 1.4), {"flicker": 2.0, "motion": 1.0}, ())


def validator(run: Path, prompts: tuple[str, ...] | None = ()) -> Validator:
    trainer = tiny_trainer(sources=[Weighted(memory_clips())])
    held_out = memory_clips(2, "held")
    return Validator(trainer, ValidationSettings(prompts=prompts), [held_out], run)


def test_the_same_weights_give_the_same_losses_and_others_do_not(tmp_path: Path) -> None:
    one = validator(tmp_path)
    first = one.validate()
    assert one.validate() == first and len(first.quartiles) == 4
    assert first.held_out_loss == pytest.approx(sum(first.quartiles) / 4)
    list(one.trainer.steps(stop_at=2))
    second = one.validate()
    assert second.step == 2 and second.quartiles != first.quartiles


def test_each_quarter_of_the_schedule_has_its_level_and_no_training_step_its_noise() -> None:
    draws = held_out_draws(3, 5)
    assert [int(4 * draw.level) for draw in draws] == [0, 1, 2, 3]
    assert held_out_draws(3, 5) == draws and held_out_draws(3, 6) != draws
    assert not any(draw.without_caption for draw in draws)


def test_clips_are_those_of_the_prompts_or_else_of_held_out_captions(tmp_path: Path) -> None:
    assert validator(tmp_path, None).prompts() == ("clip held0", "clip held1")
    made = validator(tmp_path, ("clip 1",)).validate()
    assert [(clip["prompt"], clip["seed"]) for clip in made.clips] == [("clip 1", 0)]
    assert (tmp_path / made.clips[0]["file"]).is_file()
    record = json.loads((tmp_path / made.clips[0]["file"]).with_suffix(".json").read_text())
    assert "after 0 steps" in record["model"]["motion_adapter"]
    assert Validation.from_row(json.loads(json.dumps(made.to_row()))).measures == made.measures


def test_four_clips_and_four_held_out_ones_have_a_distance_of_how_they_move(tmp_path: Path) -> None:
    few = validator(tmp_path, ("clip 1", "clip 2", "clip 3", "clip 4"))
    assert few.validate().motion_distance is None  # two clips are held out
    some = Validator(few.trainer, few.settings, [memory_clips(4, "held")], tmp_path)
    found = some.validate()
    assert found.motion_distance is not None and 0 < found.motion_distance["p"] <= 1
    assert some.validate().motion_distance == found.motion_distance


def measured(
    *clips: tuple[float | None, float | None], step: int = 0, loss: float | None = 0.5
) -> Validation:
    """A validation whose clips have these values of flicker and motion."""
    rows = [
        {"prompt": f"clip {number}", "seed": 0, "measures": {"flicker": flicker, "motion": motion}}
        for number, (flicker, motion) in enumerate(clips)
    ]
    return replace(FOUND, step=step, held_out_loss=loss, clips=tuple(rows))


def test_the_change_is_told_in_words() -> None:
    first, later = measured((1.0, 1.0), (3.0, 1.0)), measured((2.0, 1.5), (4.0, 0.5), step=40, loss=0.25)
    assert what_changed(first, later) == (
        "after 40 steps against step 0: held-out loss fell from 0.5 to 0.25 (-50%); "
        "flicker rose from 2 to 3 levels (+50%, 2 prompts, too few for an interval); "
        "motion unchanged at 1 px/frame"
    )
    nothing = measured(loss=None)
    assert what_changed(nothing, nothing).startswith("nothing was measured")


def test_a_clip_that_cannot_be_measured_any_more_moves_no_mean() -> None:
    first, later = measured((1.0, 1.0), (3.0, 5.0)), measured((1.0, None), (1.0, 6.0), step=8)
    told = what_changed(first, later)
    assert "flicker fell from 2 to 1 levels (-50%, 2 prompts, too few for an interval); " in told
    assert told.endswith(
        "motion rose from 5 to 6 px/frame (+20%, 1 prompt, too few for an interval, 1 of 2 clips)"
    )
    none = measured((1.0, None), step=8)
    assert what_changed(measured((None, 2.0)), none).endswith(
        "flicker could be measured in no clip both before and after; "
        "motion could be measured in no clip both before and after"
    )


def test_a_difference_over_several_prompts_has_its_interval() -> None:
    before = [(1.0 + number, 1.0) for number in range(6)]
    after = [(value + 0.5 + 0.01 * number, 1.0) for number, (value, _) in enumerate(before)]
    told = what_changed(measured(*before), measured(*after, step=9))
    estimate, low, high = map(float, re.search(r"by (\S+) \[(\S+), (\S+)\] over 6 prompts", told).groups())
    assert estimate == pytest.approx(0.525) and low < estimate < high
    assert high - low < 0.1  # paired: the prompts' own spread, of 1.9, does not enter
    losses = [replace(FOUND, step=step, losses={"a": 1.0 - step / 9, "b": 0.5 - step / 90, "c": 0.8})
              for step in (0, 9)]  # fmt: skip
    assert "held-out loss fell from 0.7667 to 0.4 (-48%, by -0.367 [" in what_changed(*losses)


def test_held_out_clips_depend_on_their_ids_alone_and_can_be_used() -> None:
    entries = [entry_of(Path(f"{number}.mp4")) for number in range(40)]

    def apart(entries: list[ClipEntry], num_held_out: int | None = None) -> frozenset[str]:
        plan = plan_clips(entries, num_frames=2, fps=Fraction(8), sizes=None)
        return held_out_ids(plan, num_held_out)

    first = apart(entries)
    assert len(first) == 2 and apart(entries[::-1]) == first
    short = [replace(entry, end=entry.start + 0.01) if entry.id in first else entry for entry in entries]
    assert len(apart(short)) == 2 and not apart(short) & first
    with pytest.raises(ValueError, match="held_out is 40, but a folder has 40 clips that can be used"):
        apart(entries, 40)


def test_texts_of_others_are_inert_in_the_report(tmp_path: Path) -> None:
    bad = '</script><script>alert(1)</script>" onmouseover="alert(2)'
    folder = RunFolder(tmp_path)
    clip = {"file": "gone.mp4", "prompt": bad, "seed": 0, "measures": {}}
    for step in (0, 5):
        folder.append(replace(FOUND, step=step, clips=(clip,)).to_row())
    page = write_report(folder, bad, {"base model": bad}).read_text()
    assert "<script>alert" not in page and 'onmouseover="' not in page
    assert "&lt;/script&gt;" in page and "The file is not there" in page
