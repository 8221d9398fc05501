"""Clips in tar files and Parquet files are the clips of a folder: the same bytes, any of them at any time."""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from test_resume import assert_equal, state, train
from tiny_run import tiny_settings, write_tiny_clips, write_tiny_model

from video_diffusion.cli.main import main
from video_diffusion.training.clips import ClipMix, open_sources
from video_diffusion.training.data import ClipEntry, read_manifest
from video_diffusion.training.data.shards import tar_samples

DEFAULTS = {"num_frames": 5, "height": 16, "width": 24, "fps": "8"}
CHECK = ["--workers", "0", "--frames", "5", "--held-out", "0"]


def write_tar(path: Path, members: Mapping[str, bytes | str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, value in members.items():
            content = value.encode() if isinstance(value, str) else value
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_parquet(path: Path, videos: list[bytes | None], captions: list[str | None], group: int) -> Path:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = pa.array([{"bytes": video, "path": None} for video in videos], kind)
    parquet.write_table(pa.table({"video": cells, "caption": captions}), path, row_group_size=group)
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = write_tiny_clips(tmp_path_factory.mktemp("shards") / "plain", 7)
    return [(folder / f"{number}.mp4").read_bytes() for number in range(7)]


def shards(root: Path, kind: str, videos: list[bytes]) -> Path:
    """The clips as two shards."""
    for part, numbers in enumerate((range(4), range(4, 7))):
        if kind == "webdataset":
            members: dict[str, bytes | str] = {}
            for number in numbers:
                members[f"./{number:03d}.mp4"] = videos[number]
                members |= (
                    {f"./{number:03d}.txt": f"clip {number}\n"}
                    if number % 2
                    else {f"./{number:03d}.json": json.dumps({"caption": f"clip {number}", "fps": 8})}
                )
            write_tar(root / f"train-{part}.tar", members)
        else:
            captions: list[str | None] = [f"clip {number}" for number in numbers]
            write_parquet(root / "data" / f"train-{part}.parquet", [videos[n] for n in numbers], captions, 2)
    return root


def check(root: Path, *more: str) -> Any:
    return CliRunner().invoke(main, ["data", "check", str(root), *CHECK, *more])


def facts(entry: ClipEntry) -> tuple[object, ...]:
    return entry.sha256, entry.num_frames, entry.fps, entry.caption, entry.num_bytes, entry.end


@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_a_shard_is_checked_and_read_as_a_folder_is(tmp_path: Path, videos: list[bytes], kind: str) -> None:
    plain = write_tiny_clips(tmp_path / "plain", 7)
    root = shards(tmp_path / "shards", kind, videos)
    done = check(root)
    assert done.exit_code == 0 and f"read as {kind}: 7 files, 7 of them decoded now" in done.stdout, (
        done.stderr
    )
    entries = read_manifest(root)
    assert [facts(entry) for entry in entries] == [facts(entry) for entry in read_manifest(plain)]
    assert entries[5].path == ("train-1.tar/005.mp4" if kind == "webdataset" else "data/train-1.parquet/1")
    assert "0 of them decoded now" in check(root).stdout
    frames = {}
    for folder in (root, plain):
        mix = ClipMix(
            open_sources(tiny_settings(data=str(folder), clips={"held_out": 0}), DEFAULTS).training, 4, 0
        )
        items = [item for number in range(6) for item in mix.read(number)]
        frames[folder] = {item["key"]: item["frames"].numpy().tobytes() for item in items}
        assert not any(item["lost"] for item in items) and len(frames[folder]) == 7
    assert frames[root] == frames[plain]


@pytest.mark.parametrize(("kind", "workers"), [("webdataset", 2), ("parquet", 0)])
def test_a_run_on_shards_that_was_dropped_and_resumed_is_the_unbroken_one(
    tmp_path: Path, videos: list[bytes], kind: str, workers: int
) -> None:
    root, model = shards(tmp_path / "shards", kind, videos), write_tiny_model(tmp_path / "model")
    assert check(root).exit_code == 0
    settings = tiny_settings(
        data=str(root), model=str(model), num_steps=5, checkpoint={"every": 2}, latent_cache=False,
        clips={"held_out": 1}, num_workers=workers,
    )  # fmt: skip
    train(settings, tmp_path / "whole")
    train(settings, tmp_path / "broken", stop_after=3)
    train(settings.model_copy(update={"num_workers": 0}), tmp_path / "broken")
    assert_equal(state(tmp_path / "whole"), state(tmp_path / "broken"))


def test_samples_are_those_that_webdataset_finds(tmp_path: Path) -> None:
    reading = pytest.importorskip("webdataset.tariterators")
    shard = write_tar(
        tmp_path / "a.tar",
        {"./x/1.mp4": b"a", "./x/1.txt": "one", "x/2.left.mp4": b"b", "x/2.txt": "two", "y.1/3.MP4": b"c",
         "y.1/3.json": "{}", "x/1.txt": "again"},
    )  # fmt: skip
    with shard.open("rb") as stream:
        theirs = [
            (sample["__key__"], {kind for kind in sample if not kind.startswith("__")})
            for sample in reading.group_by_keys(reading.tar_file_expander([{"url": "a", "stream": stream}]))
        ]
    ours = [(sample.key, set(sample.members)) for sample in tar_samples(shard)]
    assert [(key.removeprefix("./"), kinds) for key, kinds in theirs] == ours


def test_what_is_wrong_with_a_tar_is_told_for_each_clip(tmp_path: Path, videos: list[bytes]) -> None:
    root = tmp_path / "shards"
    write_tar(
        root / "a.tar",
        {"1.mp4": videos[0], "1.txt": "one", "2.mp4": videos[1], "3.mp4": videos[2], "3.webm": videos[3],
         "3.txt": "three", "4.mp4": b"no video", "4.txt": "four", "5.mp4": videos[4], "5.json": "[1]",
         "../6.mp4": videos[5], "../6.txt": "six", "7.txt": "alone", "8.mp4": videos[5], "8.txt": " "},
    )  # fmt: skip
    with tarfile.open(root / "links.tar", "w") as archive:
        link = tarfile.TarInfo("9.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        text = tarfile.TarInfo("9.txt")
        text.size = 4
        archive.addfile(text, io.BytesIO(b"nine"))
    (root / "b.tar").write_bytes(b"no tar at all" * 100)
    (root / "c.tar.gz").write_bytes(b"\x1f\x8b")
    whole = write_tar(
        root / "d.tar", {"1.mp4": videos[0], "1.txt": "one", "2.txt": "two", "2.mp4": videos[1]}
    )
    whole.write_bytes(whole.read_bytes()[: 4 * 512 + 2 * len(videos[0])])
    done = check(root)
    assert done.exit_code == 0, done.stderr
    assert [entry.path for entry in read_manifest(root)] == ["a.tar/1.mp4", "d.tar/1.mp4"]
    rejects = {
        row["path"]: row["reason"]
        for row in map(json.loads, (root / "rejects.jsonl").read_text().splitlines())
    }
    for path, said in {
        "a.tar/2.mp4": "has no caption: no .txt, no .json",
        "a.tar/3": "holds 2 videos (mp4, webm, txt); a sample needs one",
        "a.tar/4.mp4": "not a plain video file",
        "a.tar/5.mp4": "its caption a.tar/5.json is not JSON with a caption",
        "a.tar/../6.mp4": "leaves the",
        "a.tar/7": "holds 0 videos",
        "a.tar/8.mp4": "its caption a.tar/8.txt is empty",
        "links.tar/9.mp4": "is a link or another thing that is no plain file",
        "b.tar": "is no tar file, or damaged",
        "c.tar.gz": "is a compressed shard",
        "d.tar": "damaged (unexpected end of data)",
    }.items():
        assert said in rejects[path], (path, rejects)


def test_what_is_wrong_with_a_row_is_told(tmp_path: Path, videos: list[bytes]) -> None:
    root = tmp_path / "shards"
    write_parquet(root / "a.parquet", [videos[0], None, b"no video", videos[1]], ["a", "b", "c", None], 3)
    done = check(root)
    assert done.exit_code == 0, done.stderr
    assert [entry.path for entry in read_manifest(root)] == ["a.parquet/0"]
    rejects = {
        row["path"]: row["reason"]
        for row in map(json.loads, (root / "rejects.jsonl").read_text().splitlines())
    }
    assert "no video" in rejects["a.parquet/1"] or "cannot be read" in rejects["a.parquet/1"]
    assert "not a plain video file" in rejects["a.parquet/2"] and "is missing" in rejects["a.parquet/3"]
    assert check(root, "--captionless").exit_code == 0 and len(read_manifest(root)) == 2


def test_shards_beside_loose_videos_are_asked_about(tmp_path: Path, videos: list[bytes]) -> None:
    root = shards(tmp_path / "shards", "webdataset", videos)
    (root / "loose.mp4").write_bytes(videos[0])
    refused = check(root)
    assert refused.exit_code == 2 and "choose with --format" in refused.stderr
    assert check(root, "--format", "webdataset").exit_code == 0 and len(read_manifest(root)) == 7
    missing = check(root, "--format", "parquet")
    assert missing.exit_code == 2 and "holds no shards of parquet" in missing.stderr


def test_a_changed_or_missing_shard_is_told_and_the_next_clip_takes_its_place(
    tmp_path: Path, videos: list[bytes]
) -> None:
    root = shards(tmp_path / "shards", "webdataset", videos)
    assert check(root).exit_code == 0
    sources = open_sources(tiny_settings(data=str(root), clips={"held_out": 0}), DEFAULTS)
    write_tar(root / "train-1.tar", {"004.mp4": videos[4], "005.mp4": videos[5] + b"!", "006.mp4": videos[5]})
    lost = {
        line
        for number in range(6)
        for item in ClipMix(sources.training, 4, 0).read(number)
        for line in item["lost"]
    }
    assert len(lost) == 2
    assert any("005.mp4: has" in line and "the manifest says" in line for line in lost)
    assert any(
        "006.mp4: " in line and "it was changed; run `video-diffusion data check" in line for line in lost
    )
    (root / "train-1.tar").unlink()
    sources = open_sources(tiny_settings(data=str(root), clips={"held_out": 0}), DEFAULTS)
    items = [item for number in range(6) for item in ClipMix(sources.training, 4, 0).read(number)]
    assert {line.partition(": ")[0] for item in items for line in item["lost"]} == {
        f"{root}/train-1.tar/00{number}.mp4" for number in (4, 5, 6)
    }
