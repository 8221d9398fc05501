"""Counted facts about a computation, the same on every machine: operations, arithmetic, memory."""

import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


def count_operations(run: Callable[[], Any]) -> Counter[str]:
    """Run something and count PyTorch's operators by name, such as "aten.clone".

    Divisions by the number 1, which change nothing, count a second time as "aten.div by 1".
    """
    with _Operations() as mode, torch.no_grad():
        run()
    counts: Counter[str] = mode.counts
    return counts


def count_flops(run: Callable[[], Any]) -> int:
    """Run something and count multiplications and additions in matrix products, convolutions and attention.

    oneDNN's own operators are not seen: count models that are not accelerated, on the "meta" device if large.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_ATTENTION)
    with counter, torch.no_grad():
        run()
    return int(counter.get_total_flops())


def peak_bytes(run: Callable[[], Any], gradients: bool = False) -> int:
    """Run something and tell how many bytes of the tensors that it made were alive at once, at most.

    What existed before (weights, inputs) does not count, nor what kernels take for themselves. Tensors may be
    on any device, "meta" and fake ones included, so the answer does not depend on an allocator.

    Args:
        run: What to count.
        gradients: Whether it keeps what a backward pass needs.
    """
    with _LiveBytes() as mode, torch.set_grad_enabled(gradients):
        run()
    peak: int = mode.peak
    return peak


_DispatchMode: Any = TorchDispatchMode  # its methods are not typed


class _Operations(_DispatchMode):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func.overloadpacket)
        self.counts[name] += 1
        if name == "aten.div" and not isinstance(args[1], Tensor) and args[1] == 1:
            self.counts["aten.div by 1"] += 1
        return func(*args, **(kwargs or {}))


class _LiveBytes(_DispatchMode):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.alive = 0
        self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_storage(tensor) for tensor in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            if _storage(tensor) not in given | self._seen:
                self._born(tensor)
        return result

    def _born(self, tensor: Tensor) -> None:
        storage, key = tensor.untyped_storage(), _storage(tensor)
        num_bytes = storage.nbytes()
        self._seen.add(key)
        self.alive += num_bytes
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._died, key, num_bytes)

    def _died(self, key: int, num_bytes: int) -> None:
        self._seen.discard(key)
        self.alive -= num_bytes


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> int:
    place: int = tensor.untyped_storage()._cdata
    return place


def _attention_flops(query: Any, key: Any, value: Any, *args: Any, **more: Any) -> int:
    """Two products for each pair of query and key."""
    *batch, queries, width = query
    return int(2 * torch.Size(batch).numel() * queries * key[-2] * (width + value[-1]))


_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
