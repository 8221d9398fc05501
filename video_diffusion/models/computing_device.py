"""Where a network computes."""

from typing import Any

import torch


def computing_device(network: Any) -> torch.device:
    """Tell where a network computes, also while it waits elsewhere by accelerate's hooks."""
    hook = getattr(network, "_hf_hook", None)
    device: torch.device = network.device if hook is None else hook.execution_device
    return device
