"""Muon for weight matrices and AdamW for everything else, with one warm-up and decay for both."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class MuonWithAdamW:
    """Steps a model's matrices by Muon, convolution kernels flattened, and its other parameters by AdamW.

    torch's own Muon takes two-dimensional parameters only, so each kernel is stepped through a flat parameter
    that shares its
    storage. Source: Jordan et al. 2024 (Muon), as shipped in torch.optim.

    Args:
        modules: What to train; parameters without `requires_grad` are left alone.
        muon_lr: Peak rate for matrices.
        adamw_lr: Peak rate for vectors and embeddings.
    """

    def __init__(self, modules: Iterable[nn.Module], muon_lr: float = 3e-3, adamw_lr: float = 2e-3) -> None:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for module in modules:
            embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
            for parameter in module.parameters():
                if parameter.requires_grad:
                    is_matrix = parameter.ndim >= 2 and id(parameter) not in embeddings
                    (matrices if is_matrix else others).append(parameter)
        self.parameters = matrices + others
        self._matrices = matrices
        self._flat = [nn.Parameter(matrix.detach().view(matrix.shape[0], -1)) for matrix in matrices]
        self.muon = torch.optim.Muon(self._flat, lr=muon_lr, weight_decay=0.0)
        self.adamw = torch.optim.AdamW(others, lr=adamw_lr, betas=(0.9, 0.98), weight_decay=0.0)
        self._peaks = (muon_lr, adamw_lr)

    def step(self, lr_factor: float, max_grad_norm: float = 1.0) -> float:
        """Clip, step and clear the gradients; returns their norm before clipping.

        `lr_factor` in [0, 1] scales both peak rates.
        """
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, max_grad_norm)
        for matrix, flat in zip(self._matrices, self._flat, strict=True):
            flat.grad = None if matrix.grad is None else matrix.grad.view_as(flat)
        for optimizer, peak in zip((self.muon, self.adamw), self._peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * lr_factor
            optimizer.step()
        for parameter in self.parameters:
            parameter.grad = None
        return float(norm)

    def state_tensors(self) -> dict[str, Tensor]:
        """The optimizers' state as named tensors, for a safetensors file."""
        tensors = {}
        for name, optimizer in (("muon", self.muon), ("adamw", self.adamw)):
            for index, state in optimizer.state_dict()["state"].items():
                for key, value in state.items():
                    tensors[f"{name}.{index}.{key}"] = torch.as_tensor(value).clone()
        return tensors

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state_tensors` gave."""
        for name, optimizer in (("muon", self.muon), ("adamw", self.adamw)):
            state: dict[int, dict[str, Tensor]] = {}
            for full_name, value in tensors.items():
                owner, index, key = full_name.split(".", 2)
                if owner == name:
                    state.setdefault(int(index), {})[key] = value
            optimizer.load_state_dict(
                {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
            )


def trapezoid(step: int, num_steps: int, warmup: int = 25, decay_share: float = 0.4) -> float:
    """Learning-rate factor: linear warm-up, constant, then linear to zero over the last `decay_share`."""
    decay_start = num_steps * (1 - decay_share)
    rise = min(1.0, (step + 1) / warmup)
    fall = 1.0 if step < decay_start else max(0.0, (num_steps - step) / (num_steps - decay_start))
    return rise * fall
