"""Every place of a JSON value, and the value with another kind of value put there."""

import json
from itertools import product
from typing import Any

import pytest

OF_ANY_KIND = (None, -1, 10**30, "x", [], ["a", []], {})


def places(values: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything inside a JSON value, itself included."""
    inside = (
        values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    )
    return [path, *(place for key, value in inside for place in places(value, (*path, key)))]


A_THIRD_OR_ALL = pytest.mark.parametrize(
    "share",
    [
        pytest.param(3, marks=pytest.mark.full, id="a third"),
        pytest.param(1, marks=pytest.mark.slow, id="all"),
    ],
)


def of_any_kind(values: Any, share: int) -> list[Any]:
    """The value with each kind in each place; or every `share`-th of these: some kinds in each place."""
    return [replaced(values, *pair) for pair in list(product(places(values), OF_ANY_KIND))[::share]]


def replaced(values: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = json.loads(json.dumps(values))
    at = copy
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = new
    return copy
