"""Declared comparisons: what a file or flags say, the arms that come of it, every refusal with its place."""

from pathlib import Path

import pytest

from video_diffusion.comparison.design import Design, design_from, read_assignment
from video_diffusion.settings import ConfigError, Layer, read_config


def declared(tmp_path: Path, text: str, name: str = "compare.yaml") -> Design:
    (tmp_path / name).write_text(text)
    return design_from(read_config(tmp_path / name))


PLAIN = "prompts: [a red circle, a blue square]\nseeds: 0-2\n"


def test_a_grid_is_the_product_in_the_declared_order(tmp_path):
    design = declared(tmp_path, PLAIN + "grid:\n  scheduler: [ddim, euler]\n  guidance_scale: [3, 7.5]\n")
    assert [arm.label for arm in design.arms] == [
        "scheduler=ddim, guidance_scale=3",
        "scheduler=ddim, guidance_scale=7.5",
        "scheduler=euler, guidance_scale=3",
        "scheduler=euler, guidance_scale=7.5",
    ]
    assert design.arms[3].values == {"scheduler": "euler", "guidance_scale": 7.5}
    assert design.arms[3].place == {"scheduler": "euler", "guidance_scale": "7.5"}
    assert [(axis.name, axis.values) for axis in design.axes] == [
        ("scheduler", ("ddim", "euler")),
        ("guidance_scale", ("3", "7.5")),
    ]
    assert (design.prompts, design.seeds) == (("a red circle", "a blue square"), (0, 1, 2))
    assert design.num_clips == 24


@pytest.mark.parametrize(
    ("wanted", "label"),
    [
        ("scheduler=euler", "scheduler=euler, guidance_scale=3"),
        ("guidance_scale=7.5", "scheduler=ddim, guidance_scale=7.5"),
        ("scheduler=euler, guidance_scale=7.50", "scheduler=euler, guidance_scale=7.5"),
        ("{scheduler: euler, guidance_scale: 3.0}", "scheduler=euler, guidance_scale=3"),
    ],
)
def test_the_baseline_is_named_by_some_of_its_values_and_comes_first(tmp_path, wanted, label):
    quoted = wanted if wanted.startswith("{") else f"'{wanted}'"
    text = f"grid:\n  scheduler: [ddim, euler]\n  guidance_scale: [3, 7.5]\nbaseline: {quoted}\n"
    design = declared(tmp_path, PLAIN + text)
    assert design.arms[0].label == label
    assert len(design.arms) == 4


def test_named_arms_share_settings_and_may_have_seeds_of_their_own(tmp_path):
    design = declared(
        tmp_path,
        PLAIN + "settings: {size: 48x32, fps: 24}\narms:\n  off: {motion_adapter: none}\n"
        "  on:\n  again: {seeds: [7, 9, 11]}\nbaseline: on\n",
    )
    assert [arm.label for arm in design.arms] == ["on", "off", "again"]
    assert design.base == {"fps": 24, "width": 48, "height": 32}
    assert design.arms[2].seeds == (7, 9, 11)
    assert design.axes == ()


def test_the_resolved_config_is_the_same_comparison(tmp_path):
    (tmp_path / "prompts.txt").write_text("\ufeffa red circle\n\na blue square\na red circle\n")
    for body in (
        "grid: {scheduler: [ddim, euler], size: [48x32, 64x32], motion_adapter: [none, null]}\n"
        "baseline: size=64x32\nsettings: {guidance_scale: 2}\n",
        "settings: {motion_adapter: none}\n"
        "arms: {a: {motion_adapter: null}, b: {seeds: 5-6, fps: 30000/1001}}\n",
    ):
        design = declared(tmp_path, "prompts: prompts.txt\nseeds: 3,1\nmargins: {motion: 0.5}\n" + body)
        assert design.notes == ("1 prompt given a second time; each counts once",)
        again = declared(tmp_path, design.to_yaml(), "config.yaml")
        assert again.to_yaml() == design.to_yaml()
        assert [(a.label, a.seeds) for a in again.arms] == [(a.label, a.seeds) for a in design.arms]
        assert again.axes == design.axes
        for arm, other in zip(design.arms, again.arms, strict=True):
            own = {**design.base, **arm.values}
            theirs = {**again.base, **other.values}
            assert {k: v for k, v in own.items() if v is not None} == {
                k: v for k, v in theirs.items() if v is not None
            }


def test_training_checkpoints_are_found_by_a_pattern(tmp_path):
    for step in (300, 100, 200):
        (tmp_path / f"run/checkpoints/step-{step:08d}").mkdir(parents=True)
    text = f"grid:\n  motion_adapter: [null, '{tmp_path}/run/checkpoints/*']\n"
    design = declared(tmp_path, PLAIN + text)
    assert design.axes[0].values == ("default", "step-00000100", "step-00000200", "step-00000300")
    assert design.arms[2].values == {"motion_adapter": f"{tmp_path}/run/checkpoints/step-00000200"}


def test_the_baseline_against_itself_has_other_seeds_and_nothing_else(tmp_path):
    design = declared(tmp_path, PLAIN + "grid: {scheduler: [ddim, euler]}\nbaseline: scheduler=euler\n")
    itself = design.against_itself()
    assert [arm.values for arm in itself.arms] == [{"scheduler": "euler"}] * 2
    assert itself.arms[1].seeds == (1_000_000, 1_000_001, 1_000_002)
    again = declared(tmp_path, itself.to_yaml(), "config.yaml")
    assert [(arm.label, arm.seeds) for arm in again.arms] == [(arm.label, arm.seeds) for arm in itself.arms]


def test_set_reaches_shared_settings_and_parts_of_the_declaration():
    layer = Layer({"prompts": ["x"]})
    layer = read_assignment(layer, "num_inference_steps=3")
    layer = read_assignment(layer, "grid.guidance_scale=[1, 2.5]")
    layer = read_assignment(layer, "alpha=0.01")
    design = design_from(layer)
    assert (design.base, design.alpha) == ({"num_inference_steps": 3}, 0.01)
    with pytest.raises(ConfigError, match="did you mean 'scheduler'"):
        read_assignment(layer, "schduler=ddim")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "grid: {schedular: [ddim]}",
            r"compare.yaml:3: no setting 'grid.schedular'; did you mean 'scheduler'",
        ),
        ("grid:\n  scheduler: [ddim, eular]", r"compare.yaml:4: scheduler must be one of .*given 'eular'"),
        ("grid: {guidance_scale: 3}", r"guidance_scale must be a list such as \[3, 7.5\] \(given 3\)"),
        ("grid: {guidance_scale: []}", "must be a list"),
        ("grid: {guidance_scale: [3, 3.0]}", "has 3 twice"),
        ("grid: {seed: [3, 4]}", "grid.seed is the same for every arm; list it under seeds"),
        ("grid: {size: [64x48, 64]}", "size must be WIDTHxHEIGHT"),
        ("grid: {motion_adapter: [nowhere/*]}", "no folder fits 'nowhere/"),
        ("arms: {a: {}, b: {stps: 3}}", "no setting 'arms.b.stps'"),
        ("arms: {a: {}, b: {num_frames: 0}}", r"compare.yaml:3: num_frames must be .* from 1 to 4096"),
        ("arms: {a: {}, b: 3}", "arms.b must be settings as key: value lines"),
        ("arms: {a: {}, b: {seeds: 1-2}}", "arms.b.seeds must be 3, one in the place of each"),
        ("arms: {a: {}}", "needs 2 or more arms"),
        ("arms: {a: {}, ' ': {}}", "a name in arms must be 1 to 120 characters"),
        ("arms: {a: {}, b: {}}\nbaseline: c", "baseline is no arm"),
        ("grid: {scheduler: [ddim, euler]}\nbaseline: scheduler=heun", "baseline is no arm"),
        ("arms: {a: {}, b: {}}\ngrid: {scheduler: [ddim]}", "not both"),
        ("title: x", "grid or arms must say what is compared"),
        ("arms: {a: {}, b: {}}\nsettings: {prompt: x}", "prompt is the same for every arm"),
        ("arms: {a: {}, b: {}}\nsettings: {num_frames: x}", "compare.yaml:4: num_frames must be a whole"),
        ("arms: {a: {}, b: {}}\nmargins: {flikcer: 1}", "no margin 'flikcer'; did you mean 'flicker'"),
        ("arms: {a: {}, b: {}}\nmargins: {motion: -1}", "compare.yaml:4: margins.motion"),
        ("arms: {a: {}, b: {}}\nalpha: 2", "alpha must be a finite number from 0.0001 to 0.5"),
        ("arms: {a: {}, b: {}}\nsed: 2", "no setting 'sed'; did you mean 'seeds'"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        declared(tmp_path, f"{PLAIN}{text}\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds: 3", "prompts is missing"),
        ("prompts: []", "compare.yaml:1: prompts must hold one or more"),
        ("prompts: [a, 3]", r"prompts.1: a prompt must be text \(given 3\)"),
        ("prompts: [a, ' ']", "prompts.1: prompt is empty"),
        ("prompts: [a]\nseeds: 1.5", "compare.yaml:2: seeds must be numbers"),
        ("prompts: [a]\nseeds: [1, 1]", "compare.yaml:2: seeds has 1 twice"),
        ("prompts: nowhere.txt", "nowhere.txt: no such file"),
        ("prompts: jobs.csv", "jobs.csv:2: seed is not a prompt"),
    ],
)
def test_prompts_and_seeds_are_checked(tmp_path, text, message):
    (tmp_path / "jobs.csv").write_text("prompt,seed\na,3\n")
    with pytest.raises(ConfigError, match=message):
        declared(tmp_path, f"{text}\narms: {{a: {{}}, b: {{}}}}\n")
