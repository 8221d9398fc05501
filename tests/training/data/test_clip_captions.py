"""Every way a caption can be wrong ends in the rejects with its reason; every name keeps its caption."""

import os
from pathlib import Path

import pytest
from checked_folder import assert_nothing_moved, check, reasons, taken

CAPTIONS: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, "has no caption: no m.txt"),
    "empty": (b"", "its caption m.txt is empty"),
    "blank": (b" \n\t\xef\xbb\xbf\n", "its caption m.txt is empty"),
    "mark only": (b"\xef\xbb\xbf", "its caption m.txt is empty"),
    "latin-1": (b"caf\xe9 au lait", "its caption m.txt is not UTF-8 (byte 0xe9 at 3); save it as UTF-8"),
    "unmarked utf-16": ("a red circle".encode("utf-16-le"), "its caption m.txt holds a NUL character"),
    "odd utf-16": (b"\xff\xfea\0b", "its caption m.txt is not UTF-16"),
    "10 MB": (b"a " * 5_000_000, "its caption m.txt has 10000000 bytes, above 100000: no caption"),
    "video": (b"\0\0\0\x20ftypisom", "its caption m.txt holds a NUL character"),
}


@pytest.mark.parametrize("kind", CAPTIONS)
def test_a_bad_caption_is_rejected_with_its_reason(folder: Path, good: Path, kind: str) -> None:
    data, reason = CAPTIONS[kind]
    (folder / "m.mp4").write_bytes(good.read_bytes())
    if data is not None:
        (folder / "m.txt").write_bytes(data)
    done = check(folder)
    assert reasons(done)["m.mp4"].startswith(reason), reasons(done)
    assert len(done.rejects) == 1
    assert_nothing_moved(done)


@pytest.mark.parametrize(
    "data",
    ["caption of m".encode(encoding) for encoding in ("utf-8", "utf-8-sig", "utf-16")]
    + [b"\xfe\xff" + "caption of m".encode("utf-16-be"), b"  caption of m\r\n"],
)
def test_captions_with_marks_and_line_ends_are_read(folder: Path, good: Path, data: bytes) -> None:
    (folder / "m.mp4").write_bytes(good.read_bytes())
    (folder / "m.txt").write_bytes(data)
    done = check(folder)
    assert len(done.entries) == 3 and not done.rejects
    assert_nothing_moved(done)


def test_two_clips_never_share_a_caption(folder: Path, good: Path) -> None:
    for name in ("m.mp4", "m.webm"):
        (folder / name).write_bytes(good.read_bytes())
    (folder / "m.txt").write_text("of which?")
    (folder / "lonely.txt").write_text("a clip that was taken away")
    (folder / "README.txt").write_text("about this folder")
    done = check(folder)
    assert reasons(done) == {
        "m.mp4": "shares the caption m.txt with m.webm; one caption belongs to one clip",
        "m.webm": "shares the caption m.txt with m.mp4; one caption belongs to one clip",
        "lonely.txt": "is a caption without a clip beside it",
    }
    assert_nothing_moved(done)


def test_names_that_differ_only_in_case_or_accents_are_refused(folder: Path, good: Path) -> None:
    for name in ("Clip", "clip", "caf\u00e9", "cafe\u0301"):
        (folder / f"{name}.mp4").write_bytes(good.read_bytes())
        (folder / f"{name}.txt").write_text(f"caption of {name}")
    found = reasons(check(folder))
    assert set(found) == {"Clip.mp4", "clip.mp4", "caf\u00e9.mp4", "cafe\u0301.mp4"}
    assert found["clip.mp4"] == "differs from 'Clip.mp4' only in upper and lower case or accents; rename one"


def test_names_with_any_sign_and_folders_work(folder: Path, good: Path) -> None:
    names = ("sub/deep/m", "a#b 100%?", "-i", "two\nlines", "日本語 ✓", "con.cat", "\x1b[2J")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.mp4").write_bytes(good.read_bytes())
        (folder / f"{name}.txt").write_text(f"caption of {name}")
    (folder / ".hidden.mp4").write_bytes(b"not looked at")
    done = check(folder)
    assert done.rejects == [] and set(names) <= set(taken(done))
    assert_nothing_moved(done)
    (folder / os.fsdecode(b"bad\xff.mp4")).write_bytes(good.read_bytes())
    (folder / os.fsdecode(b"bad\xff.txt")).write_text("a caption")
    assert "has a name that is not UTF-8; rename it" in reasons(check(folder)).values()
