"""One thread for each test process; what is imported is kept as bytecode and is never garbage.

Two workers with two threads each on two cores would wait for one another most of the time.
"""

import gc
import os
import sys
from collections.abc import Generator

import pytest
from hypothesis import settings

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is first imported, by this process and those it starts

# Where bytecode is switched off, each process that a test starts compiles the package anew: two seconds; and
# each run of the tests rewrites every assertion: ten.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# The same examples in every run, so that a failure is one of the change at hand; others are searched by
# `pytest --hypothesis-profile default`.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Looking for garbage among what importing makes, which stays, took a fifth of collecting."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
