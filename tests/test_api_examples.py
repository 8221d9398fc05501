"""Every public name has a runnable example, and docs/api.md is made of their docstrings."""

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from make_api_page import NAMES, find


def examples(name: str) -> list[doctest.DocTest]:
    thing = find(name)
    module = importlib.import_module(thing.__module__)
    found = doctest.DocTestFinder().find(thing, name, module=module, globs=vars(module).copy())
    return [test for test in found if test.examples]


QUICK = (
    "settings.", "travel", "slerp", "parse_", "find_", "initial_noise", "make_scheduler", "ContextWindows",
    "denoise", "choose_metrics", "frames_sha256",
)  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if any(part in name for part in QUICK) else pytest.mark.full)
        for name in NAMES
    ],
)
def test_the_examples_of_a_public_name_run(name: str) -> None:
    tests = examples(name)
    assert tests, f"{name} has no example"
    runner = doctest.DocTestRunner(verbose=False)
    for test in tests:
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


def test_the_page_is_made_of_the_docstrings() -> None:
    script = Path(__file__).parents[1] / "scripts" / "make_api_page.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
