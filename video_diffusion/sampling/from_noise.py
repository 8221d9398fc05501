"""Two of diffusers' schedulers for models trained on pure noise (zero terminal SNR, Lin et al. 2023).

There the first noise level is infinite, for which diffusers writes 4096. What takes that number at its word
goes wrong: Heun's slope over a step of 4096, and Karras' spacing, which spends steps where nothing is seen.
Models with signal left at their last timestep know no level beyond `LARGEST_SIGMA`: both are diffusers' own.
"""

from typing import Any

import numpy as np
import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_heun_discrete import HeunDiscreteScheduler, HeunDiscreteSchedulerOutput
from torch import Tensor

from video_diffusion.sampling.schedulers import LARGEST_SIGMA, is_pure_noise


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
    """DPM-Solver++ with Karras' spacing, which begins at `LARGEST_SIGMA` where the model knows more noise."""

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        """Space the steps as diffusers does; the first is from pure noise, whatever it counts as."""
        super().set_timesteps(*args, **kwargs)
        if is_pure_noise(float(self.alphas_cumprod[-1])):
            self.timesteps[0] = len(self.alphas_cumprod) - 1

    def _convert_to_karras(self, in_sigmas: np.ndarray | Tensor, num_inference_steps: int) -> np.ndarray:
        """Space noise levels, the largest first."""
        in_sigmas = torch.as_tensor(np.asarray(in_sigmas)).clamp(max=LARGEST_SIGMA).numpy()
        spaced: np.ndarray = super()._convert_to_karras(in_sigmas, num_inference_steps)
        return spaced
