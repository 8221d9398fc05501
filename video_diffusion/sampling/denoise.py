"""The denoising loop: from noise to latents, one step at a time."""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from video_diffusion.sampling.denoisers import Denoiser
from video_diffusion.sampling.noise import frame_generators
from video_diffusion.sampling.schedulers import Scheduler, start_run
from video_diffusion.shapes import Latents, fold_frames, unfold_frames


class NonFiniteLatentsError(ArithmeticError):
    """Denoising ran into NaN or infinity; nothing that follows could be a clip.

    Args:
        message: One line for the user.
        clips: Which videos of the batch, counted from 0.
    """

    exit_code = 1

    def __init__(self, message: str, clips: tuple[int, ...]) -> None:
        super().__init__(message)
        self.clips = clips


@dataclass(frozen=True)
class DenoisingStep:
    """The state after one step.

    Attributes:
        index: Which step, counted from 1.
        num_steps: How many there will be; for second-order schedulers more than were asked for.
        timestep: At which the model was asked.
        latents: What the next step starts from; after the last step, the result.
        clean_latents: The model's present guess of the result.
    """

    index: int
    num_steps: int
    timestep: float
    latents: Tensor
    clean_latents: Tensor


def denoise(
    denoiser: Denoiser,
    scheduler: Scheduler,
    latents: Latents,
    num_inference_steps: int,
    seeds: Sequence[int],
    input_latents: Latents | None = None,
    strength: float = 1.0,
    enforce_steps: bool = False,
) -> Iterator[DenoisingStep]:
    """Denoise a batch of videos, yielding after every step; whoever iterates shows, saves or stops.

    Schedulers that add noise get it per frame from (seed, step, frame), so a video does not depend on its
    batch.

    Args:
        denoiser: Predicts what the scheduler asks for.
        scheduler: A diffusers scheduler; only its configuration is used, the run makes itself a fresh one.
        latents: Standard normal noise, see `initial_noise`, in float32 whatever the precision of the model,
            or in float64 for comparisons (noise that schedulers add is then another).
        num_inference_steps: Steps to ask the scheduler for.
        seeds: One for each video.
        input_latents: Clean latents to start from instead of from noise alone; one video serves all.
        strength: How much of the way from noise is gone with them, above 0 to 1: this share of the steps, the
            last ones. 1 starts from almost pure noise.
        enforce_steps: Whether all of `num_inference_steps` are done at any strength, see `start_run`.

    Raises:
        NonFiniteLatentsError: Latents turned NaN or infinite; the message names the step.
        ValueError: Not one seed for each video, latents in half precision, or a strength without a step.

    >>> from video_diffusion.sampling import make_scheduler
    >>> scheduler = make_scheduler("ddim", {"num_train_timesteps": 1000})
    >>> noise = torch.ones(1, 4, 2, 8, 8)
    >>> steps = denoise(lambda latents, timestep: 0 * latents, scheduler, noise, 3, [0])
    >>> [step.index for step in steps]
    [1, 2, 3]
    """
    num_videos, _, num_frames, _, _ = latents.shape
    if len(seeds) != num_videos:
        raise ValueError(
            f"seeds must be {num_videos}, one for each video, but are {len(seeds)}; add or drop some"
        )
    if latents.dtype not in {torch.float32, torch.float64}:
        raise ValueError(
            f"latents must be float32 or float64, not {latents.dtype}: half precision draws other noise; "
            "convert them, the denoiser may still compute in half precision"
        )
    scheduler, timesteps = start_run(
        scheduler,
        num_inference_steps,
        1.0 if input_latents is None else strength,
        enforce_steps and input_latents is not None,
        latents.device,
    )
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters
    if input_latents is None:
        latents = latents * scheduler.init_noise_sigma
    else:
        known = fold_frames(input_latents.to(latents).expand(latents.shape))
        noised = scheduler.add_noise(known, fold_frames(latents), timesteps[:1])
        latents = unfold_frames(noised, num_frames)
    num_steps = len(timesteps)
    for index, timestep in enumerate(timesteps, start=1):
        noise = {}
        if takes_generator:
            noise["generator"] = [g for seed in seeds for g in frame_generators(seed, index, num_frames)]
        # Only around the work: a generator that yields would leave it on for its caller.
        with torch.no_grad():
            noise_pred = denoiser(scheduler.scale_model_input(latents, timestep), timestep)
            # Folded, because then one generator per frame is what schedulers understand as one per item.
            stepped = scheduler.step(fold_frames(noise_pred), timestep, fold_frames(latents), **noise)
        latents = unfold_frames(stepped.prev_sample, num_frames)
        broken = tuple(clip for clip, video in enumerate(latents) if not bool(torch.isfinite(video).all()))
        if broken:
            named = f" in video {', '.join(str(clip + 1) for clip in broken)} of the batch"
            raise NonFiniteLatentsError(
                f"latents must be finite, but are NaN or infinite{named if num_videos > 1 else ''} at step "
                f"{index} of {num_steps}; set dtype to bfloat16 or float32, or lower guidance_scale",
                broken,
            )
        # Most schedulers return the predicted result, multistep ones keep their last predictions of it.
        kept = (getattr(stepped, name, None) for name in ("pred_original_sample", "denoised"))
        clean = next((tensor for tensor in kept if tensor is not None), None)
        clean = scheduler.model_outputs[-1] if clean is None else clean
        yield DenoisingStep(index, num_steps, float(timestep), latents, unfold_frames(clean, num_frames))
