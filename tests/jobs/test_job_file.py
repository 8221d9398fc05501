"""Every way in which a job file can be odd or wrong, and what is said about it."""

import csv
import json
import subprocess
import sys
from fractions import Fraction
from typing import Literal, get_args, get_origin

import numpy as np
import pytest

from video_diffusion.jobs import check_jobs, read_jobs
from video_diffusion.jobs.job import JobFileError, ModelFacts, make_job, parse_seeds
from video_diffusion.settings import ConfigError, GenerationSettings, Layer
from video_diffusion.video import write_video


def facts(model, motion_adapter):
    return ModelFacts(
        {"weights": f"{model} {motion_adapter}"}, {"num_frames": 5, "fps": "8", "scheduler": "ddim"}
    )


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def jobs(tmp_path, name, content, **base):
    return list(read_jobs(written(tmp_path, name, content), base, facts))


def refused(tmp_path, name, content, **base):
    path = written(tmp_path, name, content)
    with pytest.raises(ConfigError) as caught:
        check_jobs(path, base)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


def test_one_job_in_every_format_is_the_same_job(tmp_path):
    contents = {
        "a.txt": "a red circle\n",
        "b.csv": "prompt,seed,guidance_scale\n",
        "c.tsv": "prompt\tguidance_scale\na red circle\t4.5\n",
        "d.jsonl": '{"prompt": "a red circle", "guidance_scale": 4.5}\n',
        "e.yaml": "guidance_scale: 4.5\njobs:\n- prompt: a red circle\n",
    }
    contents["b.csv"] += "a red circle,,4.5\n"
    found = {name: jobs(tmp_path, name, text, guidance_scale=4.5) for name, text in contents.items()}
    assert {len(each) for each in found.values()} == {1}
    assert len({each[0].job_id for each in found.values()}) == 1
    assert found["b.csv"][0].where.endswith("b.csv:2")
    assert found["e.yaml"][0].where.endswith("e.yaml:3")
    assert found["a.txt"][0].file == f"a-red-circle-0-{found['a.txt'][0].job_id}.mp4"


def test_the_byte_order_mark_and_the_semicolons_of_excel_are_read(tmp_path):
    text = "\ufeffprompt;seed\r\nein roter Kreis;7\r\n"
    (job,) = jobs(tmp_path, "a.csv", text)
    assert (job.settings.prompt, job.settings.seed) == ("ein roter Kreis", 7)
    assert jobs(tmp_path, "b.txt", "\ufeffein Kreis\n")[0].settings.prompt == "ein Kreis"


def test_seeds_make_a_job_each_and_the_model_fills_in_the_rest(tmp_path):
    found = jobs(tmp_path, "a.csv", 'prompt,seeds,size\na box,"3,8-9",64x48\n')
    assert [job.settings.seed for job in found] == [3, 8, 9]
    assert {(job.settings.width, job.settings.height, job.settings.num_frames) for job in found} == {
        (64, 48, 5)
    }
    assert len({job.job_id for job in found}) == 3


def test_the_id_knows_pixels_and_weights_and_nothing_else(tmp_path):
    path = written(tmp_path, "a.jsonl", '{"prompt": "x"}\n{"prompt": "x", "fps": 12, "device": "cpu"}\n')
    assert [job.where.rpartition(":")[2] for job in read_jobs(path, {}, facts)] == ["1"]
    (job,) = jobs(tmp_path, "b.txt", "x")
    other = make_job(job.settings, lambda *_: ModelFacts({"weights": "retrained"}, {}), "here")
    assert other.job_id != job.job_id
    off = make_job(job.settings.model_copy(update={"motion_adapter": "none"}), facts, "here")
    assert off.job_id != job.job_id


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "prompt\n".encode("utf-16"), "not UTF-8 (byte 0xff at 0); re-save as UTF-8"),
        ("a.txt", "a caf\xe9".encode("latin-1"), "not UTF-8 (byte 0xe9 at 5)"),
        ("a.txt", b"a" * (1 << 20) + b"\xe9x", "not UTF-8 (byte 0xe9 at 1048576)"),
        ("a.txt", b"a\0b", "NUL byte at 1"),
        ("a.txt", "\n \n", "holds no job"),
        ("a.csv", "", "holds no job"),
        ("a.csv", "prompt,seed\n", "holds no job"),
        ("a.csv", "a red circle,3\n", ":1: the first line must name the columns"),
        ("a.csv", "prompt,sead\nx,1\n", ":1: no column 'sead'; did you mean 'seed'?"),
        ("a.csv", "prompt,prompt\nx,y\n", "column prompt stands twice"),
        ("a.csv", "prompt,seed\nx\n", ":2: has 1 cells, but the header has 2"),
        ("a.csv", "prompt,seed\nx,1,2\n", ":2: has 3 cells, but the header has 2"),
        ("a.csv", 'prompt,seed\nok,1\n"x,1\ny,2\n', ":3: opens a quote that is never closed"),
        ("a.csv", 'prompt\nok\n"x' + "\ny" * 80 + '"\n', ":3: one row runs over 81 lines; close the quote"),
        ("a.csv", "prompt\n" + "x" * 140_000 + "\n", ":2: a cell is longer than 131072 characters"),
        ("a.csv", "prompt,seed\nx,1.5\n", ":2: seed must be a whole number"),
        ("a.csv", "prompt,seed\nx,1e3\n", ":2: seed must be a whole number"),
        ("a.csv", "seed\n3\n", ":2: prompt is missing"),
        ("a.jsonl", '{"prompt": "x",}', ":1:1"),
        ("a.jsonl", "{'prompt': 'x'}", ":1:2: not JSON"),
        ("a.jsonl", '[{"prompt": "x"}]', ":1: must be an object"),
        ("a.jsonl", "3", ":1: must be an object"),
        ("a.jsonl", '{"prompt": "x", "seed": NaN}', ":1: NaN is not a number of JSON"),
        ("a.jsonl", '\n{"prompt": "x", "prompt": "y"}', ":2: 'prompt' is given twice"),
        ("a.jsonl", '{"prompt": "x", "seed": ' + "9" * 5000 + "}", ":1: Exceeds the limit"),
        ("a.jsonl", '{"prompt": "\\ud800"}', ":1: prompt is not valid UTF-8"),
        ("a.jsonl", '{"prompt": "x", "seed": 1e3}', ":1: seed must be a whole number"),
        ("a.jsonl", '{"prompt": "x", "seed": true}', ":1: seed must be a whole number"),
        ("a.jsonl", '{"prompt": ' + "[" * 99_999 + "]" * 99_999 + "}", ":1: is nested too deep"),
        ("a.jsonl", '{"prompt": "x", "stesp": 3}', ":1: no setting 'stesp'"),
        ("a.jsonl", '{"prompt": "x", "seed": 1, "seeds": [2]}', ":1: gives both seed and seeds"),
        ("a.jsonl", '{"prompt": "x", "seeds": "5-2"}', "runs backwards"),
        ("a.jsonl", '{"prompt": "x", "size": "64x48", "width": 8}', ":1: gives size together with width"),
        ("a.jsonl", '{"prompt": "x", "seeds": [1, 9223372036854775808]}', "numbers from 0 to 92233720368"),
        ("a.csv", "prompt,loop\nx,maybe\n", ":2: loop must be true or false"),
        ("a.csv", "prompt,prompt_travel\nx,{0: [\n", ":2 prompt_travel"),
        ("a.jsonl", '{"prompt": "x", "size": "64"}', ":1: size must be WIDTHxHEIGHT"),
        ("a.jsonl", '{"prompt": ""}', ":1: prompt is empty"),
        ("a.yaml", "jobs:\n- prompt: x\n- prompt: y\n  seed: -1\n", ":4: seed must be a whole number"),
        ("a.yaml", "jobs:\n- promt: x\n", ":2: no setting 'promt'; did you mean 'prompt'? (and 1 more)"),
        ("a.jsonl", '{"prompt": "x", "inference": 3}', "'inference'; did you mean 'num_inference_steps'?"),
        ("a.yaml", "prompts: [x]\n", "must hold a list under jobs:"),
        ("a.pdf", "x", "a job file must end in .txt, .csv"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(tmp_path, name, content, words):
    assert words in refused(tmp_path, name, content)


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "C:\\x", "a/b", "..", "", "C:x", 3])
def test_a_name_that_is_a_path_is_refused(tmp_path, name):
    line = json.dumps({"prompt": "x", "name": name})
    assert ":1: name must" in refused(tmp_path, "a.jsonl", line)


@pytest.mark.parametrize(
    "name",
    ["CON", "trailing. ", "猫" * 100, "é" * 150, "-rf", ".hidden", "two\nlines", "Name", "name",
     "a" * 300, "=1+1"],
)  # fmt: skip
def test_odd_names_make_safe_short_file_names(tmp_path, name):
    (job,) = jobs(tmp_path, "a.jsonl", json.dumps({"prompt": "x", "name": name}))
    assert len(job.file.encode()) <= 80 + 21 + 18
    assert job.file[0] not in ".-=" and "\n" not in job.file and job.file.endswith(f"{job.job_id}.mp4")
    assert (tmp_path / job.file).resolve().parent == tmp_path.resolve()


def test_names_that_differ_only_by_case_or_normal_form_do_not_collide(tmp_path):
    lines = [{"prompt": f"p{i}", "name": n} for i, n in enumerate(["Cat", "cat", "caf\u00e9", "cafe\u0301"])]
    found = jobs(tmp_path, "a.jsonl", "\n".join(map(json.dumps, lines)))
    assert len({job.file.lower() for job in found}) == 4


def test_identical_jobs_are_made_once_and_noted(tmp_path):
    path = written(tmp_path, "a.txt", "x\ny\nx\n")
    summary = check_jobs(path, {})
    assert (summary.count, summary.num_repeated, summary.repeated) == (2, 1, [f"{path}:3"])
    assert [job.settings.prompt for job in read_jobs(path, {}, facts)] == ["x", "y"]


@pytest.mark.parametrize(
    ("text", "seeds"), [(3, [3]), ("0-2", [0, 1, 2]), ("5, 1-2", [5, 1, 2]), ([4, "6-7"], [4, 6, 7])]
)
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "1-", True, None, 1.5, [1.5], [True], {}, "0-10000"])
def test_what_is_no_list_of_seeds_is_refused(text):
    with pytest.raises(ValueError, match=r"must be|backwards"):
        parse_seeds(text)


CHECK = """
import sys, time
from pathlib import Path
from video_diffusion.settings import GenerationSettings
from video_diffusion.jobs import check_jobs
started = time.process_time()
count = check_jobs(Path(sys.argv[1]), {}).count
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(count, time.process_time() - started, peak.split()[1])
"""


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory of a process from /proc")
def test_a_hundred_thousand_rows_are_checked_in_constant_memory(tmp_path):
    """Of each row only an id is kept, about 120 bytes."""

    def check(num_rows):
        path = tmp_path / f"{num_rows}.csv"
        with path.open("w") as file:
            file.write("prompt,seed,negative_prompt\n")
            for i in range(num_rows):
                file.write(f"a red circle number {i} moving left on a white ground,{i},{'dull ' * 12}\n")
        done = subprocess.run([sys.executable, "-c", CHECK, path], capture_output=True, check=True, text=True)
        count, seconds, peak = done.stdout.split()
        assert int(count) == num_rows
        return float(seconds), int(peak) * 1024

    (_, small), (seconds, large) = check(1_000), check(100_000)
    print(f"100,000 rows: {seconds:.1f} s, {(large - small) / 1e6:.1f} MB more than 1,000 rows")
    assert large - small < 20_000_000


def sample(name):
    """A value that a setting can have and does not have by default, as JSON; None if its type is unknown."""
    field = GenerationSettings.model_fields[name]
    kinds = [kind for kind in (get_args(field.annotation) or (field.annotation,)) if kind is not type(None)]
    known = {"fps": "30000/1001", "device": "cpu", "height": 40, "width": 56}
    if name in known:
        return known[name]
    if get_origin(kinds[0]) is Literal:
        kinds = list(get_args(kinds[0]))
    if all(isinstance(kind, str) for kind in kinds):
        return next(choice for choice in reversed(kinds) if choice != field.default)
    if "travel" in name:
        return {"0": "a box", "2": "a cat"} if "prompt" in name else {"0": 1.5, "2": 2.5}
    return {bool: not field.default, int: 3, float: 0.75, str: "some text"}.get(kinds[0])


@pytest.mark.parametrize("name", GenerationSettings.model_fields)
def test_every_setting_can_stand_in_a_job_file_of_any_format(tmp_path, name):
    """Also those that come later: nothing here lists the settings."""
    value = sample(name)
    if name in {"extend", "refine"}:  # whose size and rate are read with the row
        value = str(tmp_path / "clip.mp4")
        write_video(value, np.zeros((4, 16, 16, 3), np.uint8), Fraction(8), None)
    if value is None:
        pytest.skip(f"no sample of {GenerationSettings.model_fields[name].annotation}")
    values = {"prompt": "a red circle", name: value}
    try:
        wanted = GenerationSettings.from_values(values)
    except ConfigError as error:
        pytest.skip(f"does not stand alone: {error}")
    cells = {
        key: json.dumps(item) if isinstance(item, (dict, bool)) else item for key, item in values.items()
    }
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(cells))
        writer.writeheader()
        writer.writerow(cells)
    written(tmp_path, "a.jsonl", json.dumps(values))
    written(tmp_path, "a.yaml", "jobs:\n- " + json.dumps(values))
    for file in ("a.csv", "a.jsonl", "a.yaml"):
        (job,) = read_jobs(tmp_path / file, {}, facts)
        assert getattr(job.settings, name) == getattr(wanted, name), file


def test_ids_of_clips_made_by_earlier_versions_stay():
    """Written down on 2026-11-24, before noise types, context windows and travelling prompts came."""
    first = GenerationSettings.from_values({"prompt": "a red circle"})
    weights = {"weights_sha256": "0" * 64, "motion_adapter_sha256": None}
    assert (first.job_id(), first.job_id(weights)) == ("ea72196912aa", "d1896f0535a1")
    other = GenerationSettings.from_values({
        "prompt": "a red circle", "seed": 7, "num_frames": 5, "height": 32, "width": 48,
        "num_inference_steps": 3, "guidance_scale": 2.5, "scheduler": "euler", "dtype": "float64",
        "negative_prompt": "blue", "motion_adapter": "none",
    })  # fmt: skip
    assert (other.job_id(), other.job_id(weights)) == ("c1133719f3f7", "bf00ed1ae6f6")


def test_a_job_of_a_yaml_file_can_say_otherwise_than_the_file(tmp_path):
    text = "seeds: 0-4\nwidth: 64\nheight: 48\njobs:\n- prompt: a\n  seed: 7\n- prompt: b\n  size: 32x16\n"
    found = [job.settings for job in jobs(tmp_path, "a.yaml", text)]
    assert [(each.prompt, each.seed, each.width) for each in found] == [
        ("a", 7, 64), *(("b", seed, 32) for seed in range(5)),
    ]  # fmt: skip


def test_cells_that_look_like_formulas_are_prompts_as_they_stand(tmp_path):
    lines = ["=HYPERLINK(x)", "+1", "@x", "-3 degrees"]
    found = jobs(tmp_path, "a.csv", "prompt\n" + "\n".join(lines) + "\n")
    assert [job.settings.prompt for job in found] == lines
    assert not [job.file for job in found if job.file[0] in "=+@-"]


def test_a_mistake_in_a_flag_is_not_blamed_on_the_first_row(tmp_path):
    path = written(tmp_path, "jobs.csv", "prompt,seed\na,1\nb,2\n")
    base = Layer({"num_inference_steps": 0}, {("num_inference_steps",): "--steps"})
    with pytest.raises(ConfigError, match=r"^--steps: num_inference_steps must be .* \(given 0\)$"):
        check_jobs(path, base)
    base = Layer({"context_overlap": 9}, {("context_overlap",): "clip.yaml:3"})
    path = written(tmp_path, "windows.csv", "prompt,context_length\na,8\n")
    with pytest.raises(ConfigError, match=r"^clip.yaml:3: context_overlap must be below context_length 8"):
        check_jobs(path, base)


def test_every_wrong_row_is_told_twenty_at_most_and_then_a_count(tmp_path):
    rows = "".join(f"a,{-seed}\n" for seed in range(1, 31))
    with pytest.raises(JobFileError) as caught:
        check_jobs(written(tmp_path, "jobs.csv", f"prompt,seed\nfine,1\n{rows}"), {})
    assert len(caught.value.problems) == 21 and caught.value.problems[-1] == "and 10 more rows"
    assert ":3: seed must be" in caught.value.problems[0] and ":22: seed" in caught.value.problems[19]


def test_arrays_are_read_and_comments_are_no_clips(tmp_path):
    found = jobs(tmp_path, "jobs.json", '["a red circle", {"prompt": "b", "seed": 3}]')
    assert [(job.settings.prompt, job.settings.seed) for job in found] == [("a red circle", 0), ("b", 3)]
    for content in ("{}", "[1]", "[", '[{"prompt": "a", "prompt": "b"}]', "[" * 5000):
        with pytest.raises(ConfigError, match=r"jobs\.json"):
            jobs(tmp_path, "jobs.json", content)
    found = jobs(tmp_path, "jobs.txt", "# mine\na\n  # too\nb #1\n")
    assert [job.settings.prompt for job in found] == ["a", "b #1"]
