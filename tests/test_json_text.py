"""JSON that anybody may have written is refused in one line, at once, before it can break what reads it."""

import os
from pathlib import Path

import pytest

from video_diffusion.settings import parse_json, read_json_file


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 51 + "]" * 51, "is nested too deep"),
        ('{"a":' * 900 + "1" + "}" * 900, "is nested too deep"),
        ("[" * 1_000_000, "is nested too deep"),
        ('{"a": {"b": 1, "b": 2}}', "'b' is given twice"),
        ('{"a": NaN}', "NaN is not a number of JSON"),
        ("[1,", "Expecting value"),
        (b"\xff\xfe[1]", "utf-8"),
        ("[" + "9" * 5000 + "]", "Exceeds the limit"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_would_break_its_reader_is_refused(text: str | bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refusal:
        parse_json(text)
    assert "\n" not in str(refusal.value)


def test_what_other_programs_write_is_read() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}
    assert parse_json('{"a": 1, "a": Infinity}', strict=False) == {"a": float("inf")}
    assert parse_json("[" * 50 + "]" * 50) and parse_json("[" + "[1]," * 99 + "2]")[-1] == 2


def test_a_pipe_a_device_and_a_folder_are_no_files_of_json(tmp_path: Path) -> None:
    """Symptom: a pipe in place of a file was waited for, /dev/zero read for ever."""
    os.mkfifo(tmp_path / "pipe.json")
    for place in (tmp_path / "pipe.json", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match="is no regular file"):
            read_json_file(place)
    (tmp_path / "large.json").write_text(" " * 100)
    with pytest.raises(ValueError, match="is larger than 99 bytes"):
        read_json_file(tmp_path / "large.json", max_bytes=99)
