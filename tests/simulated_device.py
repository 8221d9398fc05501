"""A second device where there is none: what a GPU would refuse is refused here too.

Tensors on it say so, are computed on the CPU, and may not meet tensors of the CPU. So every line that forgets
to bring something along to the GPU fails, on any machine. It stands on PyTorch's way to register a device
from Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "simulated"
aten: Any = torch.ops.aten
TAKES_INDICES = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
MAY_BRING_CPU_TENSORS = {aten.copy_.default, aten._to_copy.default, *TAKES_INDICES}
READS = {"item", "tolist", "__float__", "__bool__", "__int__", "__index__"}


class DeviceTensor(Tensor):
    """A tensor of the simulated device; `held` is where its numbers are."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> DeviceTensor:
        make: Any = torch.Tensor._make_wrapper_subclass  # type: ignore[attr-defined]
        where = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        kind = {"dtype": held.dtype, "layout": held.layout, "requires_grad": held.requires_grad}
        return make(cls, held.size(), **where, **kind, device=torch.device(NAME, 0))

    def __init__(self, held: Tensor) -> None:
        if held.dtype == torch.float64 and not _Simulation.knows_float64:
            raise TypeError("Cannot convert a tensor to float64: the simulated device does not know it")
        self.held = held

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in READS and isinstance(args[0], DeviceTensor):
            return getattr(args[0].held, name)()
        if name in {"numpy", "__array__"}:
            raise TypeError("can't convert a tensor of the simulated device to numpy; use .cpu() first")
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def held(value: Any) -> Any:
    """What a tensor of either device holds; anything else as it is."""
    return value.held if isinstance(value, DeviceTensor) else value


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """One operation, on the CPU; its results are where those of a real device would be."""
    here: dict[int, DeviceTensor] = {}
    elsewhere: list[Tensor] = []

    def take(value: Any) -> Any:
        if isinstance(value, DeviceTensor):
            here[id(value.held)] = value
            return value.held
        if isinstance(value, Tensor):
            elsewhere.append(value)
        return value

    plain_args, plain_kwargs = _each(take, args), _each(take, kwargs)
    if here and any(each.ndim for each in elsewhere) and func not in MAY_BRING_CPU_TENSORS:
        raise RuntimeError(
            f"Expected all tensors to be on the same device: {func} was given {NAME}:0 and cpu"
        )
    if here and func in TAKES_INDICES and not isinstance(args[0], DeviceTensor):
        raise RuntimeError(f"indices should be on cpu: {func} was given {NAME}:0")
    if func is aten._fused_sdp_choice.default:
        return 0  # plain arithmetic, which has no kernels of any one device
    wanted = kwargs.get("device")
    onto = bool(here) if wanted is None else torch.device(wanted).type == NAME
    if func is aten.copy_.default:
        onto = isinstance(args[0], DeviceTensor)
    if wanted is not None:
        plain_kwargs["device"] = torch.device("cpu")
    result = func(*plain_args, **plain_kwargs)
    if func is aten._to_copy.default and result.data_ptr() == plain_args[0].data_ptr():
        result = result.clone()  # to another device is always a copy

    def place(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return (
            here[id(value)] if id(value) in here else DeviceTensor(value)
        )  # what was changed in place is what was given

    return _each(place, result) if onto else result


def _each(change: Callable[[Any], Any], value: Any) -> Any:
    """A value of an operation with every leaf changed; lists, tuples and keywords keep their kind."""
    if isinstance(value, (list, tuple)):
        return type(value)([_each(change, each) for each in value])
    if isinstance(value, dict):
        return {name: _each(change, each) for name, each in value.items()}
    return change(value)


class _Simulation(TorchDispatchMode):
    """Runs whatever names the device, tensors made from nothing too."""

    knows_float64 = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _FromLists(TorchFunctionMode):
    """Tensors from lists are made on the CPU first; PyTorch does so below the level that is seen above."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        if (
            func in {torch.tensor, torch.as_tensor}
            and device is not None
            and torch.device(device).type == NAME
        ):
            del kwargs["device"]
            return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


@contextmanager
def simulated_device(knows_float64: bool = True) -> Iterator[torch.device]:
    """The device, for the length of a block.

    Args:
        knows_float64: Apple's GPUs do not.
    """
    _register()
    before, _Simulation.knows_float64 = _Simulation.knows_float64, knows_float64
    try:
        with _FromLists(), _Simulation():
            yield torch.device(NAME, 0)
    finally:
        _Simulation.knows_float64 = before


@cache
def _register() -> torch.library.Library:
    """Tell PyTorch of the device; nobody is to choose it without being asked to."""
    from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

    class Module(_DummyBackendModule):
        def is_available(self) -> bool:
            return False

    hooks: Any = torch._C._acc.PrivateUse1Hooks  # type: ignore[attr-defined]

    class Hook(hooks):  # type: ignore[misc]
        def is_available(self) -> bool:
            return False

        def has_primary_context(self, index: int) -> bool:
            return True

        def is_built(self) -> bool:
            return True

    _setup_privateuseone_for_python_backend(NAME, Module(), Hook())
    library = torch.library.Library("aten", "IMPL")
    library.impl("empty.memory_format", _empty, "PrivateUse1")
    library.impl("empty_strided", _empty_strided, "PrivateUse1")
    library.impl("_copy_from", _copy_from, "PrivateUse1")
    return library


def _empty(size: Any, dtype: Any = None, **_: Any) -> Tensor:
    return DeviceTensor(torch.empty(size, dtype=dtype))


def _empty_strided(size: Any, stride: Any, dtype: Any = None, **_: Any) -> Tensor:
    return DeviceTensor(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    held(target).copy_(held(source))
    return target
