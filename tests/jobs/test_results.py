"""results.jsonl: rows whole or absent, whoever writes and whatever crashed."""

import multiprocessing
import os
import resource
import signal

import pytest

from video_diffusion.jobs import Results


def row(number, status="ok"):
    return {"job_id": f"{number:012x}", "status": status, "note": "ü" * number}


def ids(results):
    return [each["job_id"] for each in results.rows()]


def test_the_last_row_of_an_id_counts(tmp_path):
    results = Results(tmp_path)
    assert results.latest() == {}
    for status in ("failed", "ok"):
        results.append(row(1, status))
    results.append(row(2))
    assert [each["status"] for each in results.latest().values()] == ["ok", "ok"]


@pytest.mark.parametrize("tail", [b'{"job_id": "00', b"\0" * 5000, b'{"job_id":"a","status":"ok"}', b"\xff"])
def test_a_torn_last_line_is_left_out_with_a_warning_and_cut_by_the_next_writer(tmp_path, tail):
    results = Results(tmp_path)
    results.append(row(1))
    with results.path.open("ab") as file:
        file.write(tail)
    with pytest.warns(UserWarning, match=r"results\.jsonl:2: the last line is torn"):
        assert ids(results) == [row(1)["job_id"]]
    results.append(row(2))
    assert ids(results) == [row(1)["job_id"], row(2)["job_id"]]


def test_a_broken_line_in_the_middle_is_an_error_with_its_number(tmp_path):
    results = Results(tmp_path)
    results.append(row(1))
    with results.path.open("ab") as file:
        file.write(b"not json\n")
    results.append(row(2))
    with pytest.raises(ValueError, match=r"results\.jsonl:2: not a result row"):
        ids(results)


def _append_many(folder, first):
    for number in range(first, first + 40):
        Results(folder).append(row(number))


def test_two_processes_append_at_once_and_no_row_is_lost(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_append_many, args=(tmp_path, first)) for first in (0, 100)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    expected = [row(n)["job_id"] for first in (0, 100) for n in range(first, first + 40)]
    assert sorted(ids(Results(tmp_path))) == sorted(expected)


def _append_beyond_limit(folder):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    size = Results(folder).path.stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, size + 20))
    try:
        Results(folder).append(row(50))
    except OSError as error:
        os._exit(0 if error.filename == str(Results(folder).path) else 1)
    os._exit(2)


def test_without_space_the_file_stays_as_it_was(tmp_path):
    results = Results(tmp_path)
    results.append(row(1))
    before = results.path.read_bytes()
    worker = multiprocessing.get_context("fork").Process(target=_append_beyond_limit, args=(tmp_path,))
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    assert results.path.read_bytes() == before
