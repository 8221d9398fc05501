"""Numbers that change over the steps of a run, found by the timestep at which the model is asked."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from video_diffusion.sampling.denoiser import PromptedModel, Timestep
from video_diffusion.sampling.run_steps import start_run
from video_diffusion.shapes import Latents, PromptEmbeds


class StepNumbers:
    """One number for each step.

    A run may begin again, as FreeInit's does, and a step may ask twice, as Heun's does.

    Args:
        scheduler: A diffusers scheduler; only its configuration is used.
        numbers: Of the steps that are done, the first one first.
        run: `num_inference_steps`, `strength` and `enforce_steps` of `start_run`.
    """

    def __init__(self, scheduler: Any, numbers: Sequence[float], *run: Any) -> None:
        self.numbers = tuple(numbers)
        started, timesteps = start_run(scheduler, *run)
        # Heun's second question of a step is at the timestep where the next step begins.
        steps = [(index + started.order - 1) // started.order for index in range(len(timesteps))]
        self._by_timestep = {
            float(timestep): self.numbers[min(step, len(self.numbers) - 1)]
            for timestep, step in zip(timesteps, steps, strict=True)
        }

    def at(self, timestep: Timestep) -> float:
        """Tell the number of the step that asks at a timestep, or at the one nearest to it."""
        asked = float(timestep)
        return self._by_timestep[min(self._by_timestep, key=lambda known: abs(known - asked))]


class AlongSteps:
    """A model some of whose conditions change from step to step.

    Args:
        model: Takes them.
        conditions: By name.
    """

    def __init__(self, model: PromptedModel, conditions: Mapping[str, StepNumbers]) -> None:
        self.model = model
        self.conditions = conditions

    def __call__(
        self, latents: Latents, timestep: Timestep, prompt_embeds: PromptEmbeds, **conditions: Any
    ) -> Float[Tensor, "b c_out f h w"]:
        """Predict with the numbers of the step."""
        now = {name: numbers.at(timestep) for name, numbers in self.conditions.items()}
        return self.model(latents, timestep, prompt_embeds, **{**conditions, **now})
