"""Searches with a tiny real model: the start first, nothing twice, stopped and gone on, taken over."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from declared import SMALL
from tiny_models import save_tiny_model

from video_diffusion.jobs import Pipelines
from video_diffusion.settings import ConfigError, Layer
from video_diffusion.tuning.declaration import TuneDesign, tune_design_from
from video_diffusion.tuning.search import Search, Step, TimedMeter, Tried

pytest.importorskip("optuna", reason="optuna is not installed")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    defaults: dict[str, Any] = {"num_frames": 4, "height": 16, "width": 24, "fps": "12"}
    return str(
        save_tiny_model(folder, **defaults, scheduler="ddim", num_inference_steps=1, guidance_scale=2.0)
    )


@pytest.fixture(scope="module")
def pipelines() -> Pipelines:
    return Pipelines()


def design_of(model: str, **changes: Any) -> TuneDesign:
    usual = {
        "settings": {"model": model}, "objectives": ["raw_flicker", "sharpness"], "trials": 6,
        "search": {
            "noise_type": ["independent", "mixed"],
            "noise_alpha": {"range": [0.5, 4.0], "only_if": {"noise_type": "mixed"}},
            "guidance_scale": {"range": [1.0, 8.0]},
        },
        "presets": {"hard": {"guidance_scale": 20.0}},
    }  # fmt: skip
    return tune_design_from(Layer({**SMALL, **usual, **changes}))


def opened(folder: Path, design: TuneDesign, pipelines: Pipelines, storage: str | None = None) -> Search:
    folder.mkdir(exist_ok=True)
    return Search(design, folder, storage, pipelines, TimedMeter())


def plain(tried: list[Tried]) -> list[tuple[Any, ...]]:
    return [(each.number, each.label, dict(each.values), each.outcome, dict(each.means)) for each in tried]


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, model: str, pipelines: Pipelines
) -> tuple[Path, list[Tried]]:
    folder = tmp_path_factory.mktemp("search") / "whole"
    search = opened(folder, design_of(model), pipelines)
    assert [step.ended.label for step in search.steps() if step.ended][:2] == ["start", "hard"]
    return folder, search.tried()


def test_the_start_comes_first_then_presets_and_poor_settings_end_early(
    whole: tuple[Path, list[Tried]],
) -> None:
    folder, tried = whole
    assert [each.label for each in tried[:3]] == ["start", "hard", "trial 2"]
    assert tried[0].values == {} and tried[0].params == {"noise_type": "independent", "guidance_scale": 2.0}
    assert tried[1].values == {"guidance_scale": 20.0}
    assert "guidance_scale" not in tried[1].params  # outside the range, so Optuna is not told of it
    assert tried[0].outcome == "all prompts"
    for each in tried[2:]:
        assert ("noise_alpha" in each.values) == (each.values["noise_type"] == "mixed")
    assert {each.outcome for each in tried} == {"all prompts", "ended early"}
    found = rows(folder)
    assert len({row["job_id"] for row in found}) == len(found) == sum(each.num_prompts for each in tried)


def test_the_same_command_makes_nothing_again_and_more_trials_go_on(
    whole: tuple[Path, list[Tried]], model: str, pipelines: Pipelines
) -> None:
    folder, tried = whole
    before = rows(folder)
    search = opened(folder, design_of(model), pipelines)
    assert list(search.steps()) == []
    assert plain(search.tried()) == plain(tried)
    assert rows(folder) == before
    more = opened(folder, design_of(model, trials=7), pipelines)
    assert [step.ended.number for step in more.steps() if step.ended] == [6]
    assert rows(folder)[: len(before)] == before


def stopped_after(steps: Iterator[Step], count: int) -> None:
    for _ in range(count):
        next(steps)
    steps.close()  # type: ignore[attr-defined]  # a generator


@pytest.mark.parametrize("count", [6, *(pytest.param(count, marks=pytest.mark.full) for count in (1, 2, 9))])
def test_a_search_that_was_stopped_goes_on_as_it_would_have(
    tmp_path: Path, model: str, pipelines: Pipelines, whole: tuple[Path, list[Tried]], count: int
) -> None:
    stopped_after(opened(tmp_path / "x", design_of(model), pipelines).steps(), count)
    left = opened(tmp_path / "x", design_of(model), pipelines)
    assert sum(each.outcome == "in the making" for each in left.tried()) <= 1
    list(left.steps())
    assert plain(left.tried()) == plain(whole[1])[:6]
    found = rows(tmp_path / "x")
    assert len({row["job_id"] for row in found}) == len(found)


def test_a_trial_of_a_process_that_lives_is_left_to_it(
    tmp_path: Path, model: str, pipelines: Pipelines
) -> None:
    design = design_of(model, trials=2, presets={}, prompts=["a"])
    first = opened(tmp_path / "x", design, pipelines).steps()
    assert next(first).label == "start"
    other = opened(tmp_path / "x", design, pipelines)
    assert [step.ended.label for step in other.steps() if step.ended] == ["trial 1"]
    assert [each.outcome for each in other.tried()] == ["in the making", "all prompts"]
    assert [step.ended.label for step in first if step.ended] == ["start"]


def test_a_storage_of_another_design_is_refused(
    whole: tuple[Path, list[Tried]], model: str, pipelines: Pipelines, tmp_path: Path
) -> None:
    folder, _ = whole
    with pytest.raises(
        ConfigError, match=r"study.log: holds a search of another design \(objectives changed since\)"
    ):
        opened(folder, design_of(model, objectives=["raw_flicker", "motion"]), pipelines)
    (tmp_path / "notes.log").write_text("not a log\n")
    with pytest.raises(ConfigError, match=r"--storage: .*notes.log: cannot be opened"):
        opened(tmp_path / "x", design_of(model), pipelines, str(tmp_path / "notes.log"))
    with pytest.raises(ConfigError, match="cannot be opened") as told:
        opened(tmp_path / "x", design_of(model), pipelines, "nosuch://me:secret@here/x")
    assert "secret" not in str(told.value)


def test_a_database_holds_a_search_too_and_a_torn_log_is_mended(
    tmp_path: Path, model: str, pipelines: Pipelines
) -> None:
    design = design_of(model, trials=2, presets={}, prompts=["a"], rungs=[1])
    in_database = opened(tmp_path / "x", design, pipelines, f"sqlite:///{tmp_path}/study.db")
    list(in_database.steps())
    in_file = opened(tmp_path / "x", design, pipelines)
    list(in_file.steps())  # the clips are there
    assert plain(in_file.tried()) == plain(in_database.tried())
    assert len(rows(tmp_path / "x")) == 2
    with (tmp_path / "x" / "study.log").open("ab") as log:
        log.write(b'{"op_code": 5, "worker')
    again = opened(tmp_path / "x", design, pipelines)
    again.add_confirmed(1)
    assert opened(tmp_path / "x", design, pipelines).confirmed() == [1]


def test_settings_that_do_not_go_together_fail_alone_and_are_told(
    tmp_path: Path, model: str, pipelines: Pipelines
) -> None:
    by_frame, by_step = [{}, {"2": 5.0}], [{}, {"0": 3.0}]
    search = {"guidance_scale_travel": by_frame, "guidance_scale_steps": by_step}
    design = design_of(model, trials=8, presets={}, prompts=["a"], search=search)
    found = opened(tmp_path / "x", design, pipelines)
    list(found.steps())
    both = [each for each in found.tried() if all(each.values.values()) and each.values]
    assert both
    for each in found.tried():
        assert (each.outcome == "failed") == (each in both)
    assert all("guidance_scale_steps" in each.why for each in both)
