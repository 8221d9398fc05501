"""How noisy a timestep is, in the schedule a model was trained with."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from video_diffusion.sampling.schedulers import trained_schedule


class NoiseLevels:
    """The share of signal at each timestep, and what the model predicts.

    Args:
        config: The model's own scheduler configuration.

    Attributes:
        prediction_type: "epsilon", "v_prediction" or "sample".
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        schedule = trained_schedule(config)
        self.prediction_type: str = schedule.config.prediction_type
        self._table = schedule.alphas_cumprod.double().numpy()

    def alphas_cumprod(self, timestep: float) -> float:
        """Tell the squared share of signal at a timestep; between two timesteps, in a straight line."""
        return float(np.interp(timestep, np.arange(len(self._table)), self._table))

    @property
    def last_alphas_cumprod(self) -> float:
        """The squared share of signal at the noisiest timestep."""
        return float(self._table[-1])
