"""Values put in place of a module's own ones, and taken out again."""

from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import nn

_ABSENT = object()


class Swaps:
    """Attributes of module instances that were replaced; `undo` leaves every module as it was found.

    Only instances change, never classes: weights, names, hooks and state dicts stay what they are.
    """

    def __init__(self) -> None:
        self._before: list[tuple[nn.Module, str, Any]] = []

    def __len__(self) -> int:
        return len(self._before)

    def put(self, module: nn.Module, name: str, value: Any) -> None:
        """Set an attribute of one module, which must not be a parameter, buffer or submodule."""
        own = vars(module)
        self._before.append((module, name, own.get(name, _ABSENT)))
        own[name] = value

    def put_forward(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        """Let a module run `forward(module, ...)`; one that runs somebody else's already keeps that."""
        if "forward" not in vars(module):
            self.put(module, "forward", MethodType(forward, module))

    def undo(self) -> None:
        """Put everything back, the last change first."""
        while self._before:
            module, name, value = self._before.pop()
            if value is _ABSENT:
                vars(module).pop(name, None)
            else:
                vars(module)[name] = value
