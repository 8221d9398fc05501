"""The record of a clip: what it holds, and what reading somebody else's does not let through."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from video_diffusion.settings import GenerationSettings
from video_diffusion.video import (
    MeasuredValue,
    ModelIdentity,
    RecordError,
    RunRecord,
    frames_sha256,
    read_record,
    record_beside,
    sidecar_path,
    weights_sha256,
    write_video,
)

FRAMES = np.arange(3 * 16 * 24 * 3, dtype=np.uint8).reshape(3, 16, 24, 3)


def a_record(**changes: Any) -> RunRecord:
    settings = GenerationSettings.from_values(
        {
            "prompt": "a red circle; é = 漢 # \\ two\nlines", "negative_prompt": "blur", "seed": 7,
            "num_frames": 3, "height": 16, "width": 24, "fps": "30000/1001", "num_inference_steps": 2,
            "guidance_scale": 2.5, "scheduler": "ddim",
        }
        | changes
    )  # fmt: skip
    return RunRecord(
        settings=settings,
        model=ModelIdentity(name="embedded", weights_sha256="ab" * 32),
        job_id=settings.job_id(),
        frames_sha256=frames_sha256(FRAMES),
        measures={
            "flicker": MeasuredValue(value=0.41, unit="levels", status="ok"),
            "motion": MeasuredValue(value=None, unit="px", status="too_short"),
        },
        timings={"denoise": 1.5},
        created="2026-11-24T00:00:00+00:00",
    )


def test_json_holds_everything_and_reads_back_equal() -> None:
    record = a_record()
    plain = json.loads(record.to_json())
    assert plain["ai_generated"] is True
    assert plain["settings"]["fps"] == "30000/1001"
    assert plain["measures"]["flicker"] == {"value": 0.41, "unit": "levels", "status": "ok", "series": None}
    assert {"python", "torch", "diffusers", "numpy", "video-diffusion"} <= set(plain["versions"])
    assert RunRecord.from_json(record.to_json(), "here") == record
    assert record.settings.fps == Fraction(30000, 1001)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mov", "clip.mkv", "clip.webm"])
def test_a_clip_carries_its_record(tmp_path: Path, name: str) -> None:
    record = a_record()
    write_video(tmp_path / name, FRAMES, Fraction(30000, 1001), record.tags())
    assert read_record(tmp_path / name) == record


@pytest.mark.parametrize("name", ["clip.gif", "clip.webp", "frames"])
def test_formats_without_metadata_have_the_sidecar(tmp_path: Path, name: str) -> None:
    record = a_record()
    codec = "png" if name == "frames" else None
    write_video(tmp_path / name, FRAMES, Fraction(8), record.tags(), codec=codec)
    with pytest.raises(
        RecordError, match=f"no record inside it and no {sidecar_path(Path(name)).name} beside"
    ):
        read_record(tmp_path / name)
    with record_beside(tmp_path / name, record) as written:
        pass
    assert read_record(tmp_path / name) == read_record(written) == record


def test_a_large_record_fits_in_the_metadata(tmp_path: Path) -> None:
    series: list[float | None] = [index / 7 for index in range(20_000)]
    measures = {"flicker": MeasuredValue(value=1.0, unit="levels", status="ok", series=series)}
    record = a_record().model_copy(update={"measures": measures})
    assert len(record.tags()["video_diffusion"]) > 300_000
    write_video(tmp_path / "clip.mp4", FRAMES, Fraction(8), record.tags())
    assert read_record(tmp_path / "clip.mp4") == record


@hypothesis_settings(deadline=None, max_examples=50)
@given(
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1).filter(str.strip)
)
def test_any_prompt_survives_json_and_has_a_short_title(prompt: str) -> None:
    record = a_record(prompt=prompt, prompt_syntax="plain")
    assert RunRecord.from_json(record.to_json(), "here").settings.prompt == prompt
    assert RunRecord.from_json(record.tags()["video_diffusion"], "here") == record
    assert len(record.tags()["title"]) <= 200


def test_a_record_from_before_prompts_had_a_syntax_is_read_as_it_was_made() -> None:
    values = a_record(prompt="a (red) dot :)", prompt_syntax="plain").to_dict()
    del values["settings"]["prompt_syntax"]
    assert RunRecord.from_json(json.dumps(values), "here").settings.prompt_syntax == "plain"


def test_sidecars_are_named_after_the_clip() -> None:
    names = {
        "a/clip.mp4": "a/clip.json", "clip.v2.WEBM": "clip.v2.json", "frames.v2": "frames.v2.json",
        "c.webp": "c.webp.json",
    }  # fmt: skip
    assert {name: str(sidecar_path(Path(name))) for name in names} == names


def test_the_comment_is_for_people() -> None:
    assert a_record(prompt="a circle").tags()["comment"].splitlines() == [
        "a circle",
        "Negative prompt: blur",
        "Steps: 2, Sampler: ddim, CFG scale: 2.5, Seed: 7, Size: 24x16, Frames: 3, FPS: 30000/1001, "
        "Model: embedded, Model hash: ababababab, Version: video_diffusion 0.1.0",
    ]


def hostile(**changes: Any) -> str:
    return json.dumps(json.loads(a_record().to_json()) | changes)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("not json", "here: not JSON (Expecting value"),
        ("[" * 100_000, "here: not JSON (is nested too deep)"),
        ("[]", "here: not a clip record (holds [])"),
        ('{"a": NaN}', "here: not JSON (NaN is not a number of JSON)"),
        ('{"a": 1, "a": 2}', "here: not JSON ('a' is given twice)"),
        ('{"a": ' + "9" * 5000 + "}", "here: not JSON (Exceeds the limit"),
        (" " * 4_000_001, "here: larger than 4000000 bytes"),
        (hostile(schema_version=2), "here: made by record schema 2; this program reads 1"),
        (hostile(schema_version="1"), "here: not a clip record: schema_version must be a whole number"),
        (hostile(frames_sha256="../../x"), "here: not a clip record: frames_sha256"),
        (hostile(device="x" * 2001), "here: not a clip record: device"),
        (hostile(evil=1), "here: not a clip record: no setting 'evil'"),
        (hostile(ai_generated=False), "here: not a clip record: ai_generated must be one of True"),
        (hostile(settings={"prompt": "a\0b"}), "here: not a clip record: settings.prompt holds a NUL"),
        (hostile(settings={"prompt": "a", "seed": True}), "here: not a clip record: settings.seed must be"),
        (
            hostile(settings={"prompt": "\ud800"}),
            "here: not a clip record: settings.prompt is not valid UTF-8",
        ),
        ("{}", "here: not a clip record: settings is missing"),
    ],
    ids=lambda value: value[:30],
)
def test_foreign_records_are_refused_in_one_short_line(text: str, expected: str) -> None:
    with pytest.raises(RecordError) as caught:
        RunRecord.from_json(text, "here")
    message = str(caught.value)
    assert message.startswith(expected)
    assert len(message) < 400 and message.isprintable()


def test_a_crafted_tag_is_checked_like_any_record(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", FRAMES, Fraction(8), {"video_diffusion": '{"settings": "\\u001b[2J"}'})
    with pytest.raises(RecordError, match=r"embedded record\): not a clip record: settings") as caught:
        read_record(tmp_path / "clip.mp4")
    assert "\x1b" not in str(caught.value)


def test_the_frames_hash_depends_on_shape_type_and_every_byte() -> None:
    other = FRAMES.copy()
    other[2, 15, 23, 2] ^= 1
    hashes = {frames_sha256(clip) for clip in (FRAMES, other, FRAMES.reshape(3, 24, 16, 3), FRAMES[:2])}
    assert len(hashes) == 4
    assert frames_sha256(np.asfortranarray(FRAMES)) == frames_sha256(FRAMES)


def test_the_weights_hash_covers_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    file = tmp_path / "unet" / "model.safetensors"
    file.write_bytes(b"weights")
    (tmp_path / "config.json").write_text("{}")
    first = weights_sha256(tmp_path)
    (tmp_path / "config.json").write_text("{ }")
    assert weights_sha256(tmp_path) == first is not None
    file.write_bytes(b"Weights")
    changed = weights_sha256(tmp_path)
    file.rename(file.with_name("other.safetensors"))
    assert (
        len(
            {
                first,
                changed,
                weights_sha256(tmp_path),
                weights_sha256(tmp_path / "unet" / "other.safetensors"),
            }
        )
        == 4
    )
    assert weights_sha256(tmp_path / "unet" / "nothing") is None


@pytest.mark.parametrize("name", ["", ".", "/"])
def test_a_folder_without_a_name_holds_no_record(name: str) -> None:
    """Symptom: `rerun .` ended with "has an empty name"."""
    with pytest.raises(ValueError, match=r"record|images"):
        read_record(name)
