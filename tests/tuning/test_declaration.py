"""What a file of a search may say, and one line for what it may not."""

from pathlib import Path
from typing import Any

import pytest
from declared import small

from video_diffusion.settings import ConfigError, Layer, read_config, validate
from video_diffusion.settings.generation import GenerationSettings
from video_diffusion.tuning.declaration import best_yaml, read_tune_assignment, tune_design_from

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "tune").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_shipped_search_is_valid_and_headed(path: Path) -> None:
    heading = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for part in ("Purpose:", "Command:", "Expect:", "Time:"):
        assert any(line.startswith(f"# {part}") for line in heading), part
    design = tune_design_from(read_config(path))
    assert design.title
    assert not set(design.prompts) & set(design.confirm_prompts)
    assert not set(design.seeds) & set(design.confirm_seeds)


def test_a_whole_declaration_is_read() -> None:
    design = small(
        search={
            "noise_alpha": {"range": [0.5, 4], "log": True, "only_if": {"noise_type": ["mixed"]}},
            "noise_type": ["independent", "mixed"],
            "num_inference_steps": {"range": [4, 20], "step": 4},
        },
        presets={"mixed": {"noise_type": "mixed"}},
        settings={"size": "64x48"},
        prompts=["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"],
        confirm={"prompts": 6},
    )
    alpha, steps = design.search[-1], design.search[1]
    assert [each.name for each in design.search] == ["noise_type", "num_inference_steps", "noise_alpha"]
    assert (
        alpha.log
        and alpha.counts({"noise_type": "mixed"})
        and not alpha.counts({"noise_type": "independent"})
    )
    assert steps.is_whole and steps.step == 4 and steps.holds(4) and not steps.holds(None)
    assert design.base == {"width": 64, "height": 48}
    assert (design.prompts, design.confirm_prompts) == (("a", "b", "c", "d"), tuple("efghij"))
    assert design.confirm_seeds == (1_000_000,)
    assert design.directions == (-1, 1)
    assert design.rungs == (1, 2, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search": {"guidance_scale": {"range": [8, 1]}}}, "guidance_scale.range must be [low, high]"),
        ({"search": {"guidance_scale": {"range": [1]}}}, "with low < high (given [1])"),
        ({"search": {"guidance_scale": {"range": [1, 80]}}}, "must be a finite number from 0 to 50"),
        ({"search": {"scheduler": []}}, "search.scheduler has no choice; list two or more values (given [])"),
        ({"search": {"scheduler": ["ddim", "ddim"]}}, "search.scheduler has ddim twice; delete one"),
        ({"search": {"scheduler": ["dim"]}}, "scheduler must be one of"),
        ({"search": {"scheduler": {"range": [1, 2]}}}, "search.scheduler is no number, so it has no range"),
        ({"search": {"scheduler": "ddim"}}, "a list of values, or {range: [low, high]} (given 'ddim')"),
        ({"search": {"guidance": [1, 2]}}, "no setting 'search.guidance'; did you mean 'guidance_scale'"),
        ({"search": {"seed": [1, 2]}}, "search.seed is no matter of taste; list it under seeds"),
        ({"search": {}}, "search must name one or more settings; add one"),
        ({"search": {"guidance_scale": {"rang": [1, 2]}}}, "a list of values, or {range: [low, high]}"),
        ({"search": {"guidance_scale": {"range": [1, 2], "lg": True}}}, "no part 'search.guidance_scale.lg'"),
        ({"search": {"guidance_scale": {"range": [0, 2], "log": True}}}, "goes with a range above 0"),
        ({"search": {"num_inference_steps": {"range": [1, 9], "step": 0.5}}}, "step must be a whole number"),
        (
            {"search": {"guidance_scale": {"range": [1, 2], "only_if": {"scheduler": "ddim"}}}},
            "only_if must name other searched settings, without a circle (given scheduler)",
        ),
        ({"presets": {"x": {"guidnce_scale": 1}}}, "no setting 'presets.x.guidnce_scale'; did you mean"),
        ({"presets": {"start": {}}}, "presets.start: the start is tried anyway"),
        ({"objectives": ["flickr"]}, "objectives has no measure 'flickr'; did you mean 'flicker'"),
        ({"objectives": ["flicker", "flicker"]}, "objectives has flicker twice; delete one"),
        ({"objectives": ["mean_luma"]}, "mean_luma only describes, neither way is better"),
        ({"objectives": ["clip_adjacent"]}, "cannot be measured without CLIP's weights; give"),
        ({"objectives": ["prompt_alignment"]}, "prompt_alignment cannot be measured for the prompt 'a'"),
        ({"confirm": {"prompts": ["e", "f"]}}, "must be 6 or more, since fewer cannot reach 0.05"),
        ({"confirm": {"prompts": [*"efghij", " A"]}}, "none that the search sees (given ' A')"),
        ({"confirm": {"prompts": 9}}, "must leave some of the 4 prompts to the search (given 9)"),
        ({"confirm": {"prompts": [*"efghij"], "seeds": "0-3"}}, "seeds must be none that the search sees"),
        ({"rungs": [3, 2]}, "rungs must be rising numbers of prompts, at most 4 (given [3, 2])"),
        ({"trials": 1}, "trials must be a whole number from 2 to 10000 (given 1)"),
        ({"margins": {"flckr": 1}}, "no margin 'flckr'; did you mean 'flicker'"),
    ],
)  # fmt: skip
def test_what_a_file_may_not_say_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as told:
        small(**changes)
    assert message in str(told.value)
    assert len(str(told.value).splitlines()) == 1


def test_set_reaches_the_clips_and_the_declaration() -> None:
    layer = read_tune_assignment(read_tune_assignment(Layer({}), "trials=9"), "num_frames=4")
    assert layer.values == {"trials": 9, "settings": {"num_frames": 4}}
    with pytest.raises(ConfigError, match="no setting 'trails'; did you mean 'trials'"):
        read_tune_assignment(layer, "trails=9")


def test_best_settings_are_read_back_as_they_were(tmp_path: Path) -> None:
    values = {
        "guidance_scale": 1.5,
        "motion_adapter": None,
        "guidance_interval": [0.1, 0.8],
        "scheduler": "euler",
    }
    file = tmp_path / "best.yaml"
    file.write_text(best_yaml(values, "why\nso"))
    assert file.read_text().startswith("# why\n# so\nschema_version: 1\n")
    read = read_config(file)
    expected = GenerationSettings.from_values({"prompt": "x", **values})
    assert validate(GenerationSettings, Layer({"prompt": "x", **read.values})) == expected
    file.write_text(best_yaml({}, "nothing"))
    assert read_config(file).values == {}


def test_what_must_stay_the_same_over_one_storage_is_told_part_by_part() -> None:
    one, other = small().parts, small(prompts=["a", "b", "c", "x"], trials=99).parts
    assert [name for name in one if one[name] != other[name]] == ["prompts"]
