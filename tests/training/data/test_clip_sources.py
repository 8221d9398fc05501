"""Tables and lists of published data sets: found by their columns, inert, and never matched by position."""

import json
from pathlib import Path

import pytest
from painted_clips import paint_video

from video_diffusion.settings import ConfigError
from video_diffusion.training.data.folder import FolderCheck, find_source


def check(folder: Path, wanted: str = "auto", list_file: Path | None = None) -> FolderCheck:
    done = FolderCheck(folder, find_source(folder, wanted, list_file))
    for _ in done.steps(0):
        pass
    return done


def captions(done: FolderCheck) -> dict[str, str]:
    return {entry.id: entry.caption for entry in done.entries}


def reasons(done: FolderCheck) -> dict[str, str]:
    return {reject.path: reject.reason for reject in done.rejects}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three clips of 24 frames at 24 fps, one of them in a folder."""
    one = paint_video(tmp_path / "one.mp4").read_bytes()
    (tmp_path / "part").mkdir()
    for name in ("two.mp4", "part/three.mp4"):
        (tmp_path / name).write_bytes(one)
    return tmp_path


ROWS = [
    {"file_name": "one.mp4", "text": "the first"},
    {"file_name": "part/three.mp4", "text": "the third"},
    {"file_name": "./two.mp4", "text": "the second"},
]
EXPECTED = {"one": "the first", "part/three": "the third", "two": "the second"}


def write_table(path: Path, rows: list[dict], separator: str = ",") -> None:
    lines = [
        separator.join(rows[0]),
        *(separator.join(f'"{value}"' for value in row.values()) for row in rows),
    ]
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "parquet"])
def test_metadata_of_every_suffix(folder: Path, suffix: str) -> None:
    path = folder / f"metadata.{suffix}"
    if suffix == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    else:
        write_table(path, ROWS, "\t" if suffix == "tsv" else ";")
    done = check(folder)
    assert (captions(done), done.rejects, done.source.format) == (EXPECTED, [], "metadata")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_tables_from_spreadsheets_have_marks(folder: Path, encoding: str) -> None:
    (folder / "metadata.csv").write_text("file_name,text\none.mp4,café\n", encoding=encoding)
    assert captions(check(folder)) == {"one": "café"}


def test_every_bad_row_is_listed_and_moves_no_other(folder: Path) -> None:
    secret = folder.parent / "secret.mp4"
    secret.write_bytes((folder / "one.mp4").read_bytes())
    (folder / "link.mp4").symlink_to(secret)
    rows: list[object] = [
        {"file_name": "https://example.com/a.mp4", "text": "an address"},
        {"file_name": "../secret.mp4", "text": "outside"},
        {"file_name": str(secret), "text": "outside"},
        {"file_name": "part/../../secret.mp4", "text": "outside"},
        {"file_name": "C:\\clips\\a.mp4", "text": "outside"},
        {"file_name": "link.mp4", "text": "outside"},
        {"file_name": "gone.mp4", "text": "missing"},
        {"file_name": "ONE.mp4", "text": "another case"},
        {"file_name": "part", "text": "a folder"},
        {"file_name": "", "text": "no name"},
        {"file_name": 7, "text": "no text"},
        {"file_name": "two.mp4"},
        [1, 2],
    ]
    good = {"file_name": "part/three.mp4", "text": "the third"}
    twice = '{"file_name": "one.mp4", "text": "a", "text": "b"}'
    lines = [*map(json.dumps, rows), "{torn", json.dumps(good), "", "[" * 3000, twice]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    done = check(folder)
    assert captions(done) == {"part/three": "the third"}
    expected = {
        "https://example.com/a.mp4": "is an address; only files in the folder are read",
        "../secret.mp4": "leaves the folder (..)",
        str(secret): "is not a path relative to the folder",
        "part/../../secret.mp4": "leaves the folder (..)",
        "C:\\clips\\a.mp4": "is not a path relative to the folder",
        "link.mp4": "is a link that leaves the folder",
        "gone.mp4": "no such file",
        "ONE.mp4": "no such file; there is 'one.mp4', whose case differs",
        "part": "is not a regular file",
        "": "is not a file name (given '')",
        "metadata.jsonl:11": "file_name is not a text (given 7)",
        "two.mp4": "its caption in metadata.jsonl:12 is missing",
        "metadata.jsonl:13": "not an object",
        "metadata.jsonl:14": "not JSON",
        "metadata.jsonl:17": "not JSON (is nested too deep)",
        "metadata.jsonl:18": "not JSON ('text' is given twice)",
        "one.mp4": "no row of metadata.jsonl names it",
    }
    found = {
        reject.path if not reject.path.startswith("metadata") else reject.where: reject.reason
        for reject in done.rejects
    }
    assert set(found) == set(expected)
    for name, reason in expected.items():
        assert found[name].startswith(reason), (name, found[name])


def test_one_file_with_two_captions_is_not_guessed(folder: Path) -> None:
    rows = [*ROWS, {"file_name": "one.mp4", "text": "else"}, {"file_name": "two.mp4", "text": "the second"}]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = check(folder)
    assert captions(done) == {"part/three": "the third", "two": "the second"}
    assert [(reject.where, reject.reason) for reject in done.rejects] == [
        ("metadata.jsonl:1", "has another caption in metadata.jsonl:4; keep one"),
        ("metadata.jsonl:4", "has another caption in metadata.jsonl:1; keep one"),
        ("metadata.jsonl:5", "is named in metadata.jsonl:3 already, with the same caption"),
    ]


def test_files_of_one_stem_keep_their_suffix_as_id(folder: Path) -> None:
    (folder / "one.mkv").write_bytes((folder / "one.mp4").read_bytes())
    rows = [{"file_name": "one.mp4", "text": "a"}, {"file_name": "one.mkv", "text": "b"}, *ROWS[1:]]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert captions(check(folder)) == {
        "one.mp4": "a", "one.mkv": "b", "part/three": "the third", "two": "the second",
    }  # fmt: skip


def test_webvid(folder: Path) -> None:
    """Videos by id, in folders by page; most of the list is not here."""
    (folder / "two.mp4").rename(folder / "part" / "1066.mp4")
    keys = ("videoid", "contentUrl", "duration", "page_dir", "name")
    rows = [
        ("1066", "https://x/1066.mp4", "PT00H00M01S", "page", "Waves, and wind"),
        ("99", "https://x/99.mp4", "PT00H00M01S", "page", "Not here"),
        ("../one", "file:///etc/passwd", "", "", "Outside"),
    ]
    write_table(folder / "results_2M_val.csv", [dict(zip(keys, row, strict=True)) for row in rows])
    done = check(folder)
    assert (captions(done), done.source.format) == ({"part/1066": "Waves, and wind"}, "webvid")
    assert done.num_absent == 1
    assert reasons(done)["../one"] == "leaves the folder (..)"
    assert reasons(done)["one.mp4"] == "no row of results_2M_val.csv names it"


def test_openvid(folder: Path) -> None:
    header = "video,caption,aesthetic score,motion score,temporal consistency score,camera motion,frame,fps"
    (folder / "OpenVid-1M.csv").write_text(
        f'{header}\nthree.mp4,"A man, walking.",5.1,2.0,0.99,static,24,24.0\n'
        "one.mp4,A dog.,5,2,1,pan,24,60.0\nabsent.mp4,Nothing.,5,2,1,pan,24,60.0\n"
        "two.mp4,,5,2,1,pan,24,60.0\nshort,row\n"
    )
    done = check(folder)
    assert (captions(done), done.num_absent) == ({"part/three": "A man, walking.", "one": "A dog."}, 1)
    assert reasons(done) == {
        "two.mp4": "its caption in OpenVid-1M.csv:5 is empty; write one, or take the clip away",
        "OpenVid-1M.csv:6": "has 2 cells, but the header has 8",
    }
    assert {entry.fps for entry in done.entries} == {24}  # the file's own, not the list's


def test_panda70m_cuts_stretches_out_of_whole_videos(folder: Path) -> None:
    times = "[['0:00:00.250', '0:00:00.500'], ['0:00:00.500', '0:00:01.000'], ['0:00:07.000', '0:00:08.000']]"
    bad = "[['0:00:00.500', '0:00:00.250'], ['0:00:00.000', '0:00:00.030']]"
    (folder / "panda70m_testing.csv").write_text(
        "videoID,url,timestamp,caption,matching_score\n"
        f"""one,https://youtu.be/one,"{times}","['a start', 'an end', 'beyond']","[0.5, 0.4, 0.6]"\n"""
        f"""two,https://youtu.be/two,"{bad}","['backwards', 'one frame only']","[0.5, 0.4]"\n"""
        """three,https://youtu.be/three,"[['0:00:00.000', '0:00:01.000']]","['a', 'b']",[1]\n"""
        """gone,https://youtu.be/gone,"[['0:00:00.000', '0:00:01.000']]","['a']",[1]\n"""
        """one,https://youtu.be/one,"__import__('os').system('false')","['a']",[1]\n"""
    )
    done = check(folder)
    assert (captions(done), done.num_absent) == ({"one#0": "a start", "one#1": "an end"}, 1)
    assert [(entry.num_frames, entry.start, entry.end) for entry in done.entries] == [
        (6, 0.25, 0.5),
        (12, 0.5, 1.0),
    ]
    assert done.num_files == 2 and [(reject.path, reject.reason) for reject in done.rejects] == [
        ("two.mp4", "stretch 0 ends before it starts"),
        ("part/three.mp4", "has 1 timestamps, but 2 captions"),
        ("one.mp4", "timestamp and caption are not two lists"),
        ("one.mp4", "starts at 7.000 s, but the video ends at 1.000 s"),
        ("two.mp4", "holds 1 frames from 0.000 s to 0.030 s; it needs 2"),
    ]


@pytest.mark.parametrize("name", ["prompts.txt", "prompt.txt"])
def test_cogvideo_lines_belong_together(folder: Path, name: str) -> None:
    (folder / "videos.txt").write_text("one.mp4\nhttp://x/a.mp4\npart/three.mp4\ntwo.mp4\n")
    (folder / name).write_bytes(b"\xef\xbb\xbfthe first\r\nan address\r\nthe third\r\n\r\n")
    done = check(folder)
    assert captions(done) == {"one": "the first", "part/three": "the third"}
    assert reasons(done) == {
        "http://x/a.mp4": "is an address; only files in the folder are read, download it first",
        "two.mp4": f"its caption in {name}:4 is empty; write one, or take the clip away",
    }


def test_cogvideo_with_a_line_missing_matches_nothing(folder: Path) -> None:
    (folder / "videos.txt").write_text("one.mp4\ntwo.mp4\n")
    (folder / "prompts.txt").write_text("the second\n")
    with pytest.raises(ConfigError, match=r"prompts\.txt: has 1 lines, but videos\.txt has 2"):
        check(folder)


def test_cogvideo_folders(tmp_path: Path) -> None:
    for name in ("videos/sub", "labels/sub"):
        (tmp_path / name).mkdir(parents=True)
    paint_video(tmp_path / "videos/sub/a.mp4")
    paint_video(tmp_path / "videos/b.mp4")
    (tmp_path / "labels/sub/a.txt").write_text("of a")
    (tmp_path / "labels/c.txt").write_text("of nothing")
    done = check(tmp_path)
    assert (captions(done), done.source.format) == ({"videos/sub/a": "of a"}, "cogvideo")
    assert reasons(done) == {
        "videos/b.mp4": "has no caption: no labels/b.txt; --captionless takes it without",
        "labels/c.txt": "is a caption without a clip in videos/",
    }


def test_the_list_may_lie_elsewhere_but_the_clips_may_not(folder: Path, tmp_path_factory) -> None:
    table = tmp_path_factory.mktemp("lists") / "mine.csv"
    write_table(table, ROWS)
    assert captions(check(folder, list_file=table)) == EXPECTED


def test_two_lists_must_be_chosen_between(folder: Path) -> None:
    write_table(folder / "metadata.csv", ROWS)
    write_table(folder / "metadata.tsv", ROWS, "\t")
    with pytest.raises(
        ConfigError, match=r"holds several lists \(metadata\.csv, metadata\.tsv\); choose one"
    ):
        find_source(folder)
    assert captions(check(folder, list_file=folder / "metadata.csv")) == EXPECTED
    assert find_source(folder, "pairs").format == "pairs"


@pytest.mark.parametrize(
    "text, message",
    [
        ("file;text\na.mp4;b\n", r"its columns are \['file', 'text'\]; a list needs those of one format"),
        ('file_name,text\na.mp4,"never closed\n', r"metadata\.csv:2: not CSV \(unexpected end of data\)"),
        ("", r"its columns are \[\]"),
        ("file_name,text,text\none.mp4,a,b\n", r"metadata\.csv:1: column 'text' stands twice; delete one"),
    ],
)
def test_lists_that_are_none(folder: Path, text: str, message: str) -> None:
    (folder / "metadata.csv").write_text(text)
    with pytest.raises(ConfigError, match=message):
        check(folder)


def test_other_files_are_no_lists(folder: Path) -> None:
    (folder / "notes.csv").write_text("name,size\na,1\n")
    assert find_source(folder).format == "pairs"
    (folder / "metadata.csv").write_bytes(b"file_name,text\none.mp4,caf\xe9\n")
    with pytest.raises(ConfigError, match=r"metadata\.csv: not UTF-8; save it as UTF-8"):
        check(folder)
    with pytest.raises(ConfigError, match="must end in"):
        check(folder, list_file=folder / "list.txt")
    with pytest.raises(ConfigError, match="no list of openvid in it"):
        find_source(folder / "part", "openvid")


def test_an_absolute_path_into_the_folder_is_that_file(folder: Path) -> None:
    names = {"one.mp4": folder / "one.mp4", "part/three.mp4": folder / "part" / "three.mp4"}
    rows = [{"file_name": str(path), "text": name} for name, path in names.items()]
    rows += [{"file_name": f"{folder}/part/../two.mp4", "text": "around a corner"}]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = check(folder)
    assert captions(done) == {"one": "one.mp4", "part/three": "part/three.mp4"}
    assert reasons(done)[f"{folder}/part/../two.mp4"].startswith("is not a path relative to the folder")


def test_a_link_to_a_folder_is_not_followed_and_that_is_said(folder: Path, tmp_path_factory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for place in (folder, elsewhere):
        (place / "one.txt").write_text("a clip")
    (elsewhere / "one.mp4").write_bytes((folder / "one.mp4").read_bytes())
    (folder / "more").symlink_to(elsewhere)
    done = check(folder)
    assert set(captions(done)) == {"one"}
    assert reasons(done)["more"].startswith("is a link to a folder, which is not followed")
