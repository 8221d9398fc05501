"""How different neighbouring frames look to people once motion is taken out (LPIPS, Zhang et al. 2018)."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from video_diffusion.metrics.accumulator import LEAST_COVERAGE, ClipFacts, SeriesAccumulator
from video_diffusion.metrics.learned.local_weights import (
    MetricWeightsError,
    fill,
    load_published,
    optional_package,
)
from video_diffusion.metrics.optical_flow import Levels
from video_diffusion.metrics.report import Reading
from video_diffusion.metrics.views import Pair

_ALEXNET = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
ADVICE = f"pip install lpips, then download {_ALEXNET} and give that file"


class PerceptualDistance:
    """LPIPS with AlexNet: its linear weights come with the `lpips` package, AlexNet's from a local file.

    Args:
        alexnet: state dict of torchvision's AlexNet.

    Raises:
        MetricWeightsError: no `lpips` package, or not AlexNet's weights.
    """

    def __init__(self, alexnet: Path | str):
        lpips = optional_package("lpips", ADVICE)
        path = Path(alexnet)
        published, self.sha256 = load_published(path, ADVICE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lpips still uses names that torchvision warns of
            self._model = lpips.LPIPS(net="alex", pnet_rand=True, spatial=True, verbose=False).eval()
        # lpips keeps AlexNet's layers in five slices, each under the number that the layer has in torchvision
        state = {}
        for name in self._model.net.state_dict():
            _, number, kind = name.split(".")
            source = f"features.{number}.{kind}"
            if source not in published:
                raise MetricWeightsError(f"{path}: is not AlexNet, it has no {source}; {ADVICE}")
            state[name] = published[source]
        fill(self._model.net, state, path, "AlexNet", ADVICE)

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
