"""Linear maps through oneDNN's kernels, where PyTorch would take slower ones.

PyTorch sends float32 linear maps on CPUs to MKL, which reaches two fifths of an AMD core's speed. oneDNN
comes along for PyTorch's compiler and reaches nearly all of it, on the same weights as they lie. Sums are
then split another way, so results differ in the last bits. bfloat16 runs through the same oneDNN kernel
either way, bit for bit, with less around it.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def linear_forward(module: nn.Linear, hidden_states: Tensor) -> Tensor:
    """What `nn.Linear.forward` computes."""
    return linear_map(hidden_states, module.weight, module.bias)


def linear_map(hidden_states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What `torch.nn.functional.linear` computes."""
    if not runs_onednn(weight, hidden_states):
        return functional.linear(hidden_states, weight, bias)
    kernel: Any = torch.ops.mkldnn._linear_pointwise
    return kernel(hidden_states, weight, bias, "none", [], "")


def runs_onednn(weight: Tensor, hidden_states: Tensor) -> bool:
    """Whether this call goes to oneDNN: on a CPU, without a gradient and outside autocast."""
    return (
        # kinds of tensors with rules of their own, such as 8-bit weights, know PyTorch's operators alone
        type(hidden_states) is Tensor
        and type(weight) in (Tensor, nn.Parameter)
        and hidden_states.device.type == "cpu"
        and hidden_states.dtype == weight.dtype
        and uses_onednn(hidden_states.dtype)
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )


@torch.compiler.assume_constant_result  # the compiler cannot read files
def uses_onednn(dtype: torch.dtype) -> bool:
    """Whether linear maps of this precision go to oneDNN on this machine's CPU.

    Decided by the processor's maker, not by a stopwatch: the same machine must always give the same bits.
    """
    return _uses_onednn(dtype)


@cache
def _uses_onednn(dtype: torch.dtype) -> bool:
    onednn: Any = torch.backends.mkldnn
    if not onednn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32 and processor_maker() == "AuthenticAMD"


def processor_maker() -> str:
    """The processor's vendor as Linux tells it, such as "AuthenticAMD"; empty where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")
