"""The manifest gives back what was written; a row that is none is refused with its line."""

import json
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from painted_clips import entry_of

from video_diffusion.training.data import (
    ClipEntry,
    ManifestError,
    manifest_sha256,
    read_manifest,
    write_manifest,
)

ENTRY = entry_of(Path("a.mp4"), 24, Fraction(30000, 1001))


def test_rows_come_back_exactly(tmp_path: Path) -> None:
    picture = replace(ENTRY, id="b", path="sub/ü 100%.png", fps=None, num_frames=1, caption='a "red"\ncircle')
    assert write_manifest(tmp_path, [ENTRY, picture]) == tmp_path / "manifest.jsonl"
    assert read_manifest(tmp_path) == read_manifest(tmp_path / "manifest.jsonl") == [ENTRY, picture]
    assert picture.is_picture and not ENTRY.is_picture
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.jsonl"]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@settings(max_examples=30, deadline=None)
@given(TEXT, TEXT, st.fractions("1/100", 1000, max_denominator=100_000), st.floats(0, 1e6))
def test_any_text_rate_and_time_come_back(
    tmp_path_factory: pytest.TempPathFactory, name: str, caption: str, fps: Fraction, start: float
) -> None:
    folder = tmp_path_factory.mktemp("m", numbered=True)
    entry = replace(ENTRY, id=name, caption=caption, fps=fps, start=start, end=start + 1)
    write_manifest(folder, [entry])
    assert read_manifest(folder) == [entry]


ROW = json.loads(json.dumps({**asdict(ENTRY), "fps": "24"}))


@pytest.mark.parametrize(
    "row, why",
    [
        ("{", "Expecting property name"),
        ("[1]", "no object"),
        ({"id": "a"}, "no 'path'"),
        ({**ROW, "path": "../secret.mp4"}, "path must stay inside its folder (given '../secret.mp4')"),
        ({**ROW, "path": "/etc/passwd"}, "path must stay inside its folder"),
        ({**ROW, "path": "a\\..\\b.mp4"}, "path must stay inside its folder"),
        ({**ROW, "path": "."}, "path must stay inside its folder"),
        ({**ROW, "caption": 3}, "caption must be a text (given 3)"),
        ({**ROW, "sha256": "12"}, "sha256 is not 64 hexadecimal digits"),
        ({**ROW, "num_frames": 0}, "num_frames must be a whole number from 1 (given 0)"),
        ({**ROW, "num_frames": True}, "num_frames must be a whole number"),
        ({**ROW, "fps": "0"}, "fps must be above 0"),
        ({**ROW, "fps": "1/0"}, ""),
        ({**ROW, "end": 0.0}, "end must come after start (given 0.0 and 0.0)"),
        ({**ROW, "end": "1"}, "end must be a number of seconds"),
        ({**ROW, "start": float("nan")}, "NaN is not a number of JSON"),
    ],
)
def test_what_is_not_a_row_is_refused_with_its_line(tmp_path: Path, row: object, why: str) -> None:
    text = row if isinstance(row, str) else json.dumps(row)
    (tmp_path / "manifest.jsonl").write_text(f"{json.dumps({**ROW, 'id': 'first'})}\n{text}\n")
    with pytest.raises(ManifestError) as caught:
        read_manifest(tmp_path)
    line = str(caught.value)
    assert line.startswith(f"{tmp_path}/manifest.jsonl:2: not a row of a manifest ({why}"), line
    assert "\n" not in line and line.endswith("run `data check` again")


def test_missing_empty_and_twice_the_same_id(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no such file; run `video-diffusion data check .*` first"):
        read_manifest(tmp_path)
    write_manifest(tmp_path, [])
    with pytest.raises(ManifestError, match=r"holds no clip; see rejects\.jsonl"):
        read_manifest(tmp_path)
    write_manifest(tmp_path, [ENTRY, ENTRY])
    with pytest.raises(ManifestError, match=r":2: id 'a' stands in line 1 too"):
        read_manifest(tmp_path)


def test_an_unwritable_value_leaves_the_old_manifest(tmp_path: Path) -> None:
    write_manifest(tmp_path, [ENTRY])
    with pytest.raises(ValueError, match="JSON compliant"):
        write_manifest(tmp_path, [replace(ENTRY, end=float("inf"))])
    assert read_manifest(tmp_path) == [ENTRY]


def test_the_hash_sees_what_training_sees() -> None:
    def changed(**changes: object) -> str:
        return manifest_sha256([replace(ENTRY, **changes)])

    same = manifest_sha256([ENTRY])
    assert changed(mtime_ns=7) == same
    for changes in ({"caption": "else"}, {"id": "b"}, {"start": 0.5}, {"sha256": "1" * 64}):
        assert changed(**changes) != same
    other: ClipEntry = replace(ENTRY, id="b")
    assert manifest_sha256([ENTRY, other]) != manifest_sha256([other, ENTRY])
