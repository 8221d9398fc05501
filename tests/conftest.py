"""One thread for each test process, and `tiny_models`, the small real components, for every test folder.

Two workers with two threads each on two cores would wait for one another most of the time.
"""

import os

from hypothesis import settings

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is first imported, by this process and those it starts

# The same examples in every run, so that a failure is one of the change at hand; others are searched by
# `pytest --hypothesis-profile default`.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")
