"""Files are whole or absent, whatever happens while they are written."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
from folder_names import names
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from video_diffusion.video.files import atomic_path, remove_dead_parts, reserve, write_bytes


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes; Python ignores the signal, so that writes fail with EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@settings(deadline=None, max_examples=50)
@given(data=st.binary(max_size=300), name=st.text("abc.-é 漢\n#%", min_size=1, max_size=20).filter(str.strip))
def test_any_bytes_arrive_under_any_name(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str
) -> None:
    folder = tmp_path_factory.mktemp("atomic")
    if name in {".", ".."}:
        return
    write_bytes(folder / name, data)
    assert (folder / name).read_bytes() == data
    assert names(folder) == {name}


def test_the_final_name_appears_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "clip.json"
    with atomic_path(target) as part:
        part.write_text("half")
        assert part.name.startswith(".clip.json.") and part.name.endswith(".part")
        assert names(tmp_path) == {part.name, f"{part.name}.lock"}
    assert names(tmp_path) == {"clip.json"}


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(1)])
def test_an_exception_leaves_the_old_file_and_no_part(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "clip.json"
    target.write_text("old")
    with pytest.raises(type(error)), atomic_path(target) as part:
        part.write_text("new")
        raise error
    assert target.read_text() == "old"
    assert names(tmp_path) == {"clip.json"}


def _written_and_interrupted_at(call: int, file: Path) -> bool:
    """Write; Ctrl-C strikes where Python looks for signals the `call`-th time; tell if it had ended."""
    calls = 0

    def strike(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_return")
        if calls == call:
            sys.setprofile(None)
            raise KeyboardInterrupt

    sys.setprofile(strike)
    try:
        write_bytes(file, b"new")
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(None)
    return calls < call


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Ctrl-C in a destructor
def test_ctrl_c_at_any_moment_of_writing_leaves_no_part_and_no_lock(tmp_path: Path) -> None:
    file = tmp_path / "clip.json"
    for call in range(1, 100_000):
        file.write_bytes(b"old")
        has_ended = _written_and_interrupted_at(call, file)
        assert sorted(tmp_path.iterdir()) == [file], call
        assert file.read_bytes() in (b"old", b"new")
        if has_ended:
            return
    raise AssertionError("it never ended")


def test_what_is_not_verified_does_not_get_the_name(tmp_path: Path) -> None:
    def refuse(part: Path) -> None:
        assert part.read_text() == "new"
        raise ValueError("frames are missing")

    with (
        pytest.raises(ValueError, match="frames are missing"),
        atomic_path(tmp_path / "clip.mp4", verify=refuse) as part,
    ):
        part.write_text("new")
    assert names(tmp_path) == set()


def test_an_existing_file_is_refused_before_and_after_the_work(tmp_path: Path) -> None:
    target = tmp_path / "clip.mp4"
    with pytest.raises(FileExistsError, match="exists"), atomic_path(target, overwrite=False) as part:
        part.write_text("ours")
        target.write_text("appeared meanwhile")
    assert target.read_text() == "appeared meanwhile"
    with pytest.raises(FileExistsError, match="exists"), atomic_path(target, overwrite=False):
        pytest.fail("the work must not even begin")
    assert names(tmp_path) == {"clip.mp4"}


def test_a_folder_is_written_whole_and_replaces_a_folder(tmp_path: Path) -> None:
    target = tmp_path / "frames"
    for count in (3, 2):
        with atomic_path(target) as part:
            part.mkdir()
            for index in range(count):
                (part / f"{index}.png").write_bytes(b"x")
    assert names(target) == {"0.png", "1.png"}
    assert names(tmp_path) == {"frames"}


def leave_part(path: Path, lines: str) -> None:
    """What a process killed inside `atomic_path` leaves."""
    program = f"""
import os, sys
from pathlib import Path
from video_diffusion.video.files import atomic_path
with atomic_path(Path(sys.argv[1])) as part:
    {lines}
    os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", program, str(path)], check=False)


def test_parts_of_dead_processes_are_removed_and_nothing_else(tmp_path: Path) -> None:
    dead = set()
    for name, lines in (("a.mp4", "part.write_text('x')"), ("frames", "part.mkdir()")):
        leave_part(tmp_path / name, lines)
        dead |= {path for path in tmp_path.iterdir() if path.name.endswith(".part")}
    assert len(dead) == 2
    holiday = ".holiday.20240101.part"
    (tmp_path / holiday).write_text("the user's own")
    with atomic_path(tmp_path / "b.mp4") as ours:
        ours.write_text("x")
        assert not any(path.exists() for path in dead)  # the next write has removed them
        assert remove_dead_parts(tmp_path) == []
        assert names(tmp_path) == {holiday, ours.name, f"{ours.name}.lock"}
    assert names(tmp_path) == {holiday, "b.mp4"}


def test_two_containers_of_one_name_and_one_pid_do_not_delete_each_others_parts(
    tmp_path: Path,
) -> None:
    """Each as PID 1 of its own: only the lock on a part says whether somebody is at work on it."""
    program = """
import sys, time
from pathlib import Path
from video_diffusion.video.files import atomic_path
with atomic_path(Path(sys.argv[1])) as part:
    part.write_text("x")
    print("writing", flush=True)
    sys.stdin.readline()
"""
    command = ["unshare", "--pid", "--fork", "--user", "--map-root-user", sys.executable, "-c", program]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    writers = [subprocess.Popen([*command, str(tmp_path / f"{name}.mp4")], **pipes) for name in "ab"]
    try:
        if any(writer.stdout.readline() != "writing\n" for writer in writers):
            pytest.skip("no PID namespaces can be made here")
        assert remove_dead_parts(tmp_path) == []
    finally:
        outcomes = [writer.communicate("go\n") and writer.returncode for writer in writers]
    assert outcomes == [0, 0] and names(tmp_path) == {"a.mp4", "b.mp4"}


@pytest.mark.full
@pytest.mark.parametrize("swaps", [True, False], ids=["renameat2", "no renameat2"])
def test_a_folder_killed_while_it_is_replaced_stands_old_or_new(tmp_path: Path, swaps: bool) -> None:
    """Killed after each system call of the replacement in turn; the next write puts back what was aside."""
    program = """
import os, sys
from pathlib import Path
from video_diffusion.video import files
calls = int(sys.argv[2])
if sys.argv[3] == "False":
    files._exchanged = lambda part, path: False
replace = Path.replace
def counted(self, target):
    global calls
    replace(self, target)
    calls -= 1
    if calls == 0:
        os.kill(os.getpid(), 9)
Path.replace = counted
with files.atomic_path(Path(sys.argv[1])) as part:
    part.mkdir()
    (part / "state").write_text("new")
"""
    for kill_after in (1, 2, 9):
        folder = tmp_path / str(kill_after)
        target = folder / "adapter"
        target.mkdir(parents=True)
        (target / "state").write_text("old")
        subprocess.run([sys.executable, "-c", program, str(target), str(kill_after), str(swaps)], check=False)
        write_bytes(folder / "other.json", b"{}")
        assert (target / "state").read_text() in {"old", "new"}
        assert names(folder) == {"adapter", "other.json"}


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EPERM])
def test_a_file_system_without_chmod_and_fsync_is_warned_of_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    monkeypatch.setattr(Path, "chmod", refuse)
    with pytest.warns(UserWarning, match="on this file system"):
        write_bytes(tmp_path / "clip.json", b"{}")
    assert (tmp_path / "clip.json").read_bytes() == b"{}"


def test_a_full_disk_is_reported_with_the_final_path(tmp_path: Path) -> None:
    target = tmp_path / "clip.json"
    target.write_text("old")
    with file_size_limit(10_000), pytest.raises(OSError, match="too large") as caught:
        write_bytes(target, b"x" * 20_000)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(target))
    assert target.read_text() == "old"
    assert names(tmp_path) == {"clip.json"}


def test_a_full_disk_is_reported_alike_by_safetensors_which_raises_no_oserror(tmp_path: Path) -> None:
    target = tmp_path / "weights.safetensors"
    with file_size_limit(1000), pytest.raises(OSError) as caught, atomic_path(target) as part:
        save_file({"weight": np.zeros(1000)}, part)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(target))
    assert names(tmp_path) == set()


def test_weights_can_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    os.umask(mask)
    with atomic_path(tmp_path / "adapter") as part:
        part.mkdir()
        save_file({"weight": np.zeros(3)}, part / "weights.safetensors")
    written = (tmp_path / "adapter" / "weights.safetensors").stat().st_mode & 0o777
    assert written == 0o666 & ~mask


def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_bytes(tmp_path / "nowhere" / "clip.json", b"x")


def test_kill_9_leaves_only_parts_and_the_next_write_removes_them(tmp_path: Path) -> None:
    """A process that rewrites one file for ever is killed at varied moments: the file is always whole."""
    program = """
import itertools, sys
from pathlib import Path
from video_diffusion.video.files import atomic_path
for number in itertools.count():
    with atomic_path(Path(sys.argv[1])) as part, part.open("wb") as file:
        for _ in range(50):
            file.write(b"%08d" % number * 100)
            file.flush()
"""
    target = tmp_path / "state.bin"
    for attempt in range(5):
        process = subprocess.Popen([sys.executable, "-c", program, str(target)])
        began = time.monotonic()
        while not target.exists() and time.monotonic() - began < 20:
            time.sleep(0.01)
        time.sleep(0.02 + 0.013 * attempt)
        process.send_signal(signal.SIGKILL)
        process.wait()
        data = target.read_bytes()
        assert len(data) == 50 * 800
        assert len({data[start : start + 8] for start in range(0, len(data), 8)}) == 1
    write_bytes(tmp_path / "other.json", b"{}")
    assert names(tmp_path) == {"state.bin", "other.json"}


@pytest.mark.parametrize("name", ["x" * 251 + ".mp4", "漢" * 84 + ".a", "x" * 201])
def test_the_longest_name_that_a_file_can_have_is_written(tmp_path: Path, name: str) -> None:
    """Symptom: the part's name is longer, so that a name above 220 bytes was "File name too long"."""
    write_bytes(tmp_path / name, b"whole")
    (tmp_path / "folder").mkdir()
    with atomic_path(tmp_path / "folder" / name) as part:
        part.mkdir()
    write_bytes(tmp_path / name, b"again")
    assert (tmp_path / name).read_bytes() == b"again"
    assert names(tmp_path) == {name, "folder"} and names(tmp_path / "folder") == {name}
    held = reserve(tmp_path / name)
    assert held is not None
    with held:
        assert reserve(tmp_path / name) is None
    assert names(tmp_path) == {name, "folder"}
