"""RAFT optical flow in place of DIS, and LPIPS along the flow, from local weights."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from video_diffusion.metrics.flow import Flow, Levels, Rgb
from video_diffusion.metrics.learned.weights import MetricWeightsError, fill, load_published, optional_package
from video_diffusion.metrics.report import LEAST_COVERAGE, ClipFacts, Reading, SeriesAccumulator
from video_diffusion.metrics.views import Pair

RAFT_ADVICE = (
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
        models = optional_package("torchvision.models.optical_flow", RAFT_ADVICE)
        path = Path(weights)
        state, sha256 = load_published(path, RAFT_ADVICE)
        first_layer = state.get("feature_encoder.convnormrelu.0.weight")
        is_large = first_layer is None or first_layer.shape[0] == 64
        self._model = (models.raft_large if is_large else models.raft_small)(weights=None)
        fill(self._model, state, path, "RAFT", RAFT_ADVICE)
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


_ALEXNET = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
LPIPS_ADVICE = f"pip install lpips, then download {_ALEXNET} and give that file"


class PerceptualDistance:
    """LPIPS with AlexNet: its linear weights come with the `lpips` package, AlexNet's from a local file.

    Args:
        alexnet: state dict of torchvision's AlexNet.

    Raises:
        MetricWeightsError: no `lpips` package, or not AlexNet's weights.
    """

    def __init__(self, alexnet: Path | str):
        lpips = optional_package("lpips", LPIPS_ADVICE)
        path = Path(alexnet)
        published, self.sha256 = load_published(path, LPIPS_ADVICE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lpips still uses names that torchvision warns of
            self._model = lpips.LPIPS(net="alex", pnet_rand=True, spatial=True, verbose=False).eval()
        # lpips keeps AlexNet's layers in five slices, each under the number that the layer has in torchvision
        state = {}
        for name in self._model.net.state_dict():
            _, number, kind = name.split(".")
            source = f"features.{number}.{kind}"
            if source not in published:
                raise MetricWeightsError(f"{path}: is not AlexNet, it has no {source}; {LPIPS_ADVICE}")
            state[name] = published[source]
        fill(self._model.net, state, path, "AlexNet", LPIPS_ADVICE)

    def map(self, first: Levels, second: Levels) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return the distance at each pixel, `h w`, 0 for equal pictures."""

        def tensor(levels: Levels) -> Tensor:
            return torch.from_numpy(levels.transpose(2, 0, 1).copy())[None] / 127.5 - 1

        with torch.inference_mode():
            distances: np.ndarray[Any, np.dtype[np.float32]] = self._model(tensor(first), tensor(second))[
                0, 0
            ].numpy()
        return distances


class WarpedLpips(SeriesAccumulator):
    """Mean over believable pixels of the LPIPS distance of each frame and the next one fetched onto it."""

    view = Pair

    def __init__(self, distance: PerceptualDistance):
        super().__init__()
        self._distance = distance

    def look(self, view: Pair) -> float:
        """Return the distance of one pair, NaN when no pixel is believable."""
        distances = self._distance.map(view.first.levels, view.second_on_first)
        believable = distances[view.forward_valid]
        return float(believable.mean(dtype=np.float64)) if believable.size else float("nan")

    def add(self, index: int, row: float) -> None:
        """Remember the distance."""
        if np.isfinite(row):
            super().add(index, row)

    def result(self, clip: ClipFacts) -> Reading:
        """Return the mean over pairs, none when too little of the picture has believable flow."""
        if not len(clip.coverage):
            return Reading(None, "too_short", note="needs 2 frames of one shot")
        coverage, note = clip.coverage.mean(), f"AlexNet, weights sha256 {self._distance.sha256}"
        if coverage < LEAST_COVERAGE or not len(self.series):
            return Reading(None, "unmeasurable", self.series, coverage, note=note)
        return Reading(
            self.series.mean(), clip.status(len(self.series), coverage), self.series, coverage, note=note
        )
