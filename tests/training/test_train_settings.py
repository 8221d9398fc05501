"""Settings of a run: short forms, what binds a continuation, what is refused and how."""

from pathlib import Path

import pytest

from video_diffusion.settings import ConfigError, Layer, dump, read_config, validate
from video_diffusion.settings.training import TrainingSettings


def settings(**values: object) -> TrainingSettings:
    return validate(TrainingSettings, Layer({"data": "clips", **values}))


def test_data_may_be_one_folder_a_list_or_sections() -> None:
    assert [(d.path, d.weight) for d in settings().data] == [("clips", 1.0)]
    assert [d.path for d in settings(data=["a", "b"]).data] == ["a", "b"]
    weighted = settings(data=[{"path": "a", "weight": 0.7}, "b"])
    assert [d.weight for d in weighted.data] == [0.7, 1.0]


def test_what_was_dumped_reads_back_the_same(tmp_path: Path) -> None:
    original = settings(
        clips={"fps": "30000/1001", "held_out": 0}, validation={"prompts": ["a", "b"], "seeds": [1, 2]},
        lora={"rank": 4}, loss={"min_snr_gamma": 5},
    )  # fmt: skip
    file = tmp_path / "config.yaml"
    file.write_text(dump(original))
    assert validate(TrainingSettings, read_config(file)) == original


def test_names_and_what_changes_no_weight_do_not_bind() -> None:
    one = settings(num_workers=0, validation={"every": 5}, latent_cache=False, data="here", model="x")
    other = settings(num_workers=4, checkpoint={"every": 7}, log_with="tensorboard", data="there", model="y")
    assert one.binding() == other.binding()
    assert one.binding() != settings(seed=1).binding()
    assert settings().binding()["optimizer.learning_rate"] == 1e-4


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"data": []}, "data"),
        ({"data": [{"path": "a", "wieght": 2.0}]}, "no setting 'data.0.wieght'; did you mean 'weight'?"),
        ({"batch_size": 5, "gradient_accumulation_steps": 2}, "must be a multiple of gradient_acc"),
        ({"target": "motion_lora", "temporal_and": "x"}, "temporal_and goes with target temporal"),
        (
            {"target": "motion_lora", "image_lora": True},
            "not with target motion_lora; leave one of the two out",
        ),
        ({"image_lora": True, "temporal_and": "x"}, "not with temporal_and; leave one of the two out"),
        ({"image_lora": True, "shard_frozen": True}, "shard_frozen splits an image U-Net that is frozen"),
        (
            {"shard_frozen": True, "target": "domain_lora"},
            "shard_frozen splits an image U-Net that is frozen",
        ),
        ({"temporal_and": "(["}, "is no regular expression"),
        ({"loss": {"noise_type": "pink"}}, "one of independent, mixed, progressive, constant"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"validation": {"prompts": [" "]}}, "is empty; say what the clip shows"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(values: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(**values)
    assert said in str(caught.value) and "\n" not in str(caught.value)
