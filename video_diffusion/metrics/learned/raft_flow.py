"""RAFT optical flow (Teed, Deng, ECCV 2020) from local weights, in place of DIS."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from video_diffusion.metrics.learned.local_weights import fill, load_published, optional_package
from video_diffusion.metrics.optical_flow import Flow, Rgb

ADVICE = (
    "pip install torchvision, then download "
    "https://download.pytorch.org/models/raft_large_C_T_SKHT_V2-ff5fadd5.pth and give that file"
)
SMALLEST_SIDE = 128
"""RAFT correlates at an eighth of the size over four levels: smaller frames are padded up to this."""


class RaftFlow:
    """torchvision's RAFT, large or small as the weights are.

    Args:
        weights: state dict of `raft_large` or `raft_small`.
        num_flow_updates: iterations; torchvision's default.
        device: where it runs.

    Raises:
        MetricWeightsError: no torchvision, or not the weights of a whole, trained RAFT.
    """

    def __init__(self, weights: Path | str, num_flow_updates: int = 12, device: str = "cpu"):
        models = optional_package("torchvision.models.optical_flow", ADVICE)
        path = Path(weights)
        state, sha256 = load_published(path, ADVICE)
        first_layer = state.get("feature_encoder.convnormrelu.0.weight")
        is_large = first_layer is None or first_layer.shape[0] == 64
        self._model = (models.raft_large if is_large else models.raft_small)(weights=None)
        fill(self._model, state, path, "RAFT", ADVICE)
        self._model = self._model.eval().to(device)
        self._device = device
        self._num_flow_updates = num_flow_updates
        self.name = f"RAFT {'large' if is_large else 'small'}, weights sha256 {sha256}"

    def between(self, index: int, first: Rgb, second: Rgb) -> tuple[Flow, Flow] | None:
        """Return both flows of a pair, computed as a batch of two."""
        height, width = first.shape[:2]
        padding = [(0, max(SMALLEST_SIDE, -(-side // 8) * 8) - side) for side in (height, width)]

        def tensor(rgb: Rgb) -> Tensor:
            padded = np.pad(rgb, (*padding, (0, 0)), mode="edge").transpose(2, 0, 1)
            return torch.from_numpy(padded.copy()).to(self._device).float() / 127.5 - 1

        one, two = tensor(first), tensor(second)
        with torch.inference_mode():
            flows = self._model(torch.stack([one, two]), torch.stack([two, one]), self._num_flow_updates)[-1]
        forward, backward = flows[:, :, :height, :width].permute(0, 2, 3, 1).cpu().numpy()
        return np.ascontiguousarray(forward), np.ascontiguousarray(backward)
