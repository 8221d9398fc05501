"""Two of diffusers' schedulers for models trained on pure noise (zero terminal SNR, Lin et al. 2023).

There the first noise level is infinite, for which diffusers writes 4096. What takes that number at its word
goes wrong: Heun's slope over a step of 4096, and Karras' spacing, which spends steps where nothing is seen.
Models with signal left at their last timestep know no level beyond `LARGEST_SIGMA`: both are diffusers' own.
"""

from typing import Any

import numpy as np
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_heun_discrete import HeunDiscreteScheduler, HeunDiscreteSchedulerOutput
from torch import Tensor

from video_diffusion.sampling.schedulers import LARGEST_SIGMA


class HeunFromNoiseScheduler(HeunDiscreteScheduler):
    """Heun's method, whose steps out of pure noise average the two guesses of the clean latents.

    Heun averages two slopes, (x - guess) / sigma, and goes along them: over a step from 4096 to 7 an error of
    the second guess is multiplied by 290. The same rule for the guesses (in the exponential form of Lu et al.
    2022) multiplies it by one half, and is as exact to second order.
    """

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        return_dict: bool = True,
    ) -> HeunDiscreteSchedulerOutput | tuple[Any, ...]:
        """Step once; arguments and result are diffusers'."""
        begun = None if self.state_in_first_order else (self.sample, self.prev_derivative, self.dt)
        stepped = super().step(model_output, timestep, sample)
        if begun is not None and float(sigma := self.sigmas[self.step_index - 2]) > LARGEST_SIGMA:
            start, slope, change = begun
            guess = (start - sigma * slope + stepped.pred_original_sample) / 2
            stepped.prev_sample = guess + (sigma + change) / sigma * (start - guess)
        return stepped if return_dict else (stepped.prev_sample, stepped.pred_original_sample)


class KarrasFromNoiseScheduler(DPMSolverMultistepScheduler):
    """DPM-Solver++ with Karras' spacing of levels up to `LARGEST_SIGMA`, begun at the model's last level."""

    def _convert_to_karras(self, in_sigmas: np.ndarray | Tensor, num_inference_steps: int) -> np.ndarray:
        """Space noise levels, the largest first."""
        levels = np.asarray(in_sigmas)
        spaced: np.ndarray = super()._convert_to_karras(levels.clip(max=LARGEST_SIGMA), num_inference_steps)
        spaced[0] = levels[0]
        return spaced
