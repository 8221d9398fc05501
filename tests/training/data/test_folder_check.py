"""A check goes on where it was, in one process or several, whatever dies under it."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from checked_folder import assert_nothing_moved, check, reasons, taken
from painted_clips import paint_video

from video_diffusion.settings import ConfigError
from video_diffusion.training.data import probe as probe_run
from video_diffusion.training.data import read_manifest
from video_diffusion.training.data.folder import FolderCheck, find_source
from video_diffusion.training.data.probe import Probe, Task, probe


def test_a_second_run_decodes_only_what_is_new_or_changed(folder: Path, good: Path) -> None:
    assert check(folder).num_decoded == 2
    assert check(folder).num_decoded == 0
    os.utime(folder / "a first.mp4", ns=(5, 5))  # another time, the same bytes
    again = check(folder)
    assert again.num_decoded == 0 and taken(again)["a first"].mtime_ns == 5
    (folder / "a first.txt").write_text("another caption")
    (folder / "m.mp4").write_bytes(good.read_bytes())
    (folder / "m.txt").write_text("caption of m")
    done = check(folder)
    assert done.num_decoded == 1 and taken(done)["a first"].caption == "another caption"
    paint_video(folder / "z last.mp4", 12)
    done = check(folder)
    assert done.num_decoded == 1 and taken(done)["z last"].num_frames == 12
    (folder / "m.mp4").unlink()
    assert reasons(check(folder)) == {"m.txt": "is a caption without a clip beside it"}


def test_a_killed_check_goes_on_where_it_was(folder: Path) -> None:
    steps = FolderCheck(folder, find_source(folder)).steps(0)
    next(steps)
    steps.close()
    assert not (folder / "manifest.jsonl").exists()
    with (folder / ".data-check.jsonl").open("a") as file:
        file.write('{"format": 1, "task": {"pa')  # torn by the crash
    done = check(folder)
    assert done.num_decoded == 1 and len(done.entries) == 2


def test_processes_find_the_same(folder: Path, good: Path) -> None:
    (folder / "m.mp4").write_bytes(b"no video")
    (folder / "m.txt").write_text("a caption")
    alone = check(folder)
    (folder / ".data-check.jsonl").unlink()
    done = FolderCheck(folder, find_source(folder))
    assert [total for _, total in done.steps(2)] == [3, 3, 3]
    assert (done.entries, done.rejects, done.num_decoded) == (alone.entries, alone.rejects, 3)


def test_a_folder_without_anything_good_leaves_no_manifest_to_train_on(folder: Path, good: Path) -> None:
    check(folder)
    for name in ("a first", "z last"):
        (folder / f"{name}.txt").unlink()
    done = check(folder)
    assert len(done.rejects) == 2
    with pytest.raises(ValueError, match=r"holds no clip; see rejects\.jsonl"):
        read_manifest(folder)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder; name a folder of clips"):
        find_source(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is not a folder"):
        find_source(tmp_path / "file")


@pytest.mark.slow
def test_a_decoder_that_dies_takes_no_other_file_with_it(folder: Path, good: Path) -> None:
    """Processes are killed from outside, as a crash would end them; every file is still judged rightly."""
    for number in range(30):
        (folder / f"copy {number}.mp4").write_bytes(good.read_bytes())
        (folder / f"copy {number}.txt").write_text(f"caption of copy {number}")
    done = FolderCheck(folder, find_source(folder))
    killed = 0
    for number, _ in done.steps(2):
        if number == 3:
            for child in multiprocessing.active_children():
                os.kill(child.pid or 0, signal.SIGKILL)
                killed += 1
    assert killed and done.rejects == [] and len(done.entries) == 32
    assert_nothing_moved(done)


def test_a_file_that_crashes_the_decoder_is_rejected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No such file is known, so a process that ends at once stands in for one that crashes."""
    monkeypatch.setattr(probe_run, "probe", _dies_on_the_first)
    done = FolderCheck(folder, find_source(folder))
    for _ in done.steps(1):
        pass
    assert reasons(done) == {"a first.mp4": "crashes the decoder; encode it anew"}
    assert list(taken(done)) == ["z last"]


def _dies_on_the_first(root: Path, task: Task) -> Probe:
    if task.path == "a first.mp4":
        os._exit(139)
    return probe(root, task)
