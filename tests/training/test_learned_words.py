"""A run adds the words of its captions to those its model knew, and `generate` no longer warns of them."""

import json
from pathlib import Path

import pytest
from tiny_models import save_tiny_model
from tiny_run import DEFAULTS, tiny_settings, write_tiny_clips, write_tiny_model

from video_diffusion.jobs import model_facts
from video_diffusion.pipeline import TextToVideoPipeline
from video_diffusion.training.clips import open_sources
from video_diffusion.training.run import record_words


def trained_on_clips(model: Path, tmp_path: Path) -> Path:
    pipeline = TextToVideoPipeline.from_pretrained(str(model), device="cpu")
    settings = tiny_settings(data=str(write_tiny_clips(tmp_path / "clips")))
    record_words(pipeline, open_sources(settings, pipeline.defaults).captions)
    pipeline.parts.motion_adapter.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_words_of_the_captions_are_known_afterwards(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model", **DEFAULTS, vocabulary=["red", "ball"])
    adapter = trained_on_clips(model, tmp_path)
    known = ("red", "ball", "0", "1", "2", "3", "4", "clip")  # the captions are "clip 0", "clip 1", …
    assert TextToVideoPipeline.from_pretrained(str(model), str(adapter), device="cpu").vocabulary == known
    assert tuple(model_facts(str(model), str(adapter)).defaults["vocabulary"]) == known
    assert model_facts(str(model), None).defaults["vocabulary"] == ["red", "ball"]


def test_a_model_that_knows_many_words_is_left_as_it_is(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    adapter = trained_on_clips(model, tmp_path)
    assert json.loads((adapter / "config.json").read_text())["vocabulary"] == []
    assert TextToVideoPipeline.from_pretrained(str(model), str(adapter), device="cpu").vocabulary == ()


@pytest.mark.parametrize("written", [7, "red", [3], {"red": 1}])
def test_a_vocabulary_that_is_no_list_of_words_counts_for_nothing(tmp_path: Path, written: object) -> None:
    model = save_tiny_model(tmp_path / "model", **DEFAULTS, vocabulary=["red", "ball"])
    config = model / "motion_adapter" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"vocabulary": written}))
    assert model_facts(str(model), str(model / "motion_adapter")).defaults["vocabulary"] == ["red", "ball"]
