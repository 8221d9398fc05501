"""Few-step training: a student that makes in few passes, without guidance, what its teacher makes in many.

The teacher is the model as the run begins. It makes clips from captions alone, and its states at the
student's *knots*, the places where the student's steps begin and end, are kept. The student, which starts as
the teacher, learns to answer at each knot so that one DDIM step lands on the next. Relatives: progressive
distillation (Salimans and Ho 2022), guidance folded in (Meng et al. 2023).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from jaxtyping import Float, Int
from torch import Tensor, nn

from video_diffusion.models import MotionAdapter, VideoUNet
from video_diffusion.pipeline import TextToVideoPipeline
from video_diffusion.sampling import Guided, guidance_is_off, initial_noise, temporal_guidance
from video_diffusion.settings import check_regular
from video_diffusion.settings.training import DistilSettings, TrainingSettings
from video_diffusion.shapes import Latents, PromptEmbeds
from video_diffusion.training.clips import Item, Sources, Weighted, clip_size
from video_diffusion.training.data import Draw
from video_diffusion.training.data.cutting import HELD_OUT_SHARE, MAX_HELD_OUT
from video_diffusion.training.data.dataset import LatentCache, module_sha256
from video_diffusion.training.objective import ItemDraws, Stream, chance

KNOTS_FOLDER = "knots"
AT_ONCE = 4  # clips that the teacher makes together

OnClip = Callable[[int, int], None]
"""Told, while the teacher makes clips, how many of how many there are."""


def trailing(scheduler: DDIMScheduler) -> DDIMScheduler:
    """The schedule of teacher and student: the model's own, from its last level on down."""
    changed = {"timestep_spacing": "trailing", "clip_sample": False, "thresholding": False}
    return DDIMScheduler.from_config(scheduler.config, **changed)


def record_schedule(adapter: MotionAdapter, distil: DistilSettings) -> None:
    """Write into an adapter's configuration how it is to be sampled, for the loader to take as defaults."""
    adapter.register_to_config(
        distilled={
            "num_inference_steps": distil.num_inference_steps,
            "guidance_scale": 1.0,
            "scheduler": "ddim",
            "timestep_spacing": "trailing",
        }
    )


def knot_target(
    prediction_type: str,
    state: Float[Tensor, "b c f h w"],
    next_state: Float[Tensor, "b c f h w"],
    alphas: tuple[Float[Tensor, "b 1 1 1 1"], Float[Tensor, "b 1 1 1 1"]],
    sigmas: tuple[Float[Tensor, "b 1 1 1 1"], Float[Tensor, "b 1 1 1 1"]],
) -> tuple[Float[Tensor, "b c f h w"], Float[Tensor, "b 1 1 1 1"]]:
    """What a network must answer at `state` for one DDIM step to land on `next_state`, and an error's weight.

    Args:
        prediction_type: What the network predicts.
        state: Noisy latents.
        next_state: Latents at the next knot.
        alphas: Share of signal at the one and at the other.
        sigmas: Share of noise at the one and at the other.

    Returns:
        The answer; and the weight of its squared error. That is 1, but for noise prediction the square of how
        far an error moves the latents after the step: from almost pure noise, an answer says little of them.
    """
    (alpha, alpha_next), (sigma, sigma_next) = alphas, sigmas
    turn = sigma * alpha_next - alpha * sigma_next  # the sine of the angle between the two
    match prediction_type:
        case "v_prediction":
            cosine = alpha * alpha_next + sigma * sigma_next
            return (cosine * state - next_state) / turn, torch.ones_like(turn)
        case "sample":
            return (sigma * next_state - sigma_next * state) / turn, torch.ones_like(turn)
        case "epsilon":
            return (alpha_next * state - alpha * next_state) / turn, (turn / alpha).square()
        case other:
            raise ValueError(f"prediction_type must be epsilon, v_prediction or sample, got {other!r}")


class KnotObjective(nn.Module):
    """The student's loss at its knots; a module, so that accelerate can spread it over processes.

    Args:
        video_unet: The student; whichever of its parameters require a gradient are trained.
        scheduler: Of the teacher, see `trailing`.
        num_inference_steps: Of the student.
    """

    def __init__(self, video_unet: VideoUNet, scheduler: DDIMScheduler, num_inference_steps: int) -> None:
        super().__init__()
        self.video_unet, self.scheduler = video_unet, scheduler
        scheduler.set_timesteps(num_inference_steps)
        self.timesteps = scheduler.timesteps.cpu()
        signal = [*scheduler.alphas_cumprod[self.timesteps].tolist(), float(scheduler.final_alpha_cumprod)]
        self.alphas = torch.tensor(signal, dtype=torch.float64).sqrt()
        self.sigmas = (1 - torch.tensor(signal, dtype=torch.float64)).sqrt()

    def inputs(self, latents: Float[Tensor, "b k c f h w"], draws: Sequence[ItemDraws]) -> dict[str, Tensor]:
        """One knot of each clip, by its draw, as `forward` takes it: the least noise is the last knot."""
        last = len(self.timesteps) - 1
        knots = torch.tensor([last - int(draw.level * len(self.timesteps)) for draw in draws])
        rows = torch.arange(len(draws))
        states, next_states = latents[rows, knots].double(), latents[rows, knots + 1].double()
        alphas, sigmas = (
            tuple(share[knots + after].reshape(-1, 1, 1, 1, 1) for after in (0, 1))
            for share in (self.alphas, self.sigmas)
        )
        kind = str(self.scheduler.config.prediction_type)
        targets, weights = knot_target(
            kind, states, next_states, (alphas[0], alphas[1]), (sigmas[0], sigmas[1])
        )
        return {
            "states": states.float(),
            "targets": targets.float(),
            "weights": weights.flatten().float(),
            "timesteps": self.timesteps[knots],
        }

    def forward(
        self,
        states: Latents,
        targets: Latents,
        weights: Float[Tensor, " b"],
        timesteps: Int[Tensor, " b"],
        prompt_embeds: PromptEmbeds,
        added_cond_kwargs: Mapping[str, Tensor] | None = None,
    ) -> Float[Tensor, " b"]:
        """Ask the student at its knots, and compare; one loss for each clip.

        Args:
            states: Latents at the knots.
            targets: What the student should answer there.
            weights: Of the squared errors.
            timesteps: Noise level of each knot.
            prompt_embeds: What each clip shows.
            added_cond_kwargs: What an SDXL U-Net reads besides.
        """
        answers = self.video_unet(states, timesteps, prompt_embeds, added_cond_kwargs=added_cond_kwargs)
        return weights * (answers.float() - targets).square().mean(dim=(1, 2, 3, 4))


class KnotPool:
    """The guided teacher's states at the student's knots, kept on disk; clip n follows from (seed, n) alone.

    Args:
        pipeline: The teacher: the model before anything was trained.
        settings: Of the run.
        scheduler: See `trailing`.
        folder: Where they are kept, by what they depend on.
    """

    def __init__(
        self,
        pipeline: TextToVideoPipeline,
        settings: TrainingSettings,
        scheduler: DDIMScheduler,
        folder: Path,
    ) -> None:
        self.pipeline, self.settings, self.scheduler = pipeline, settings, scheduler
        parts, distil = pipeline.parts, settings.distil
        num_frames, height, width, _ = clip_size(settings.clips, pipeline.defaults)
        scale, channels = pipeline.latent_scale, int(parts.unet.config.in_channels)
        self.shape = (channels, num_frames, height // scale, width // scale)
        asked = pipeline.defaults.get("guidance_scale", 7.5)
        self.guidance_scale = float(asked) if distil.guidance_scale is None else distil.guidance_scale
        identity = parts.identity
        weights = (
            [identity.weights_sha256, identity.motion_adapter_sha256, settings.domain_lora]
            if identity.weights_sha256 and settings.domain_lora is None
            else [module_sha256(parts.unet), module_sha256(parts.motion_adapter)]
        )
        noise = [settings.loss.noise_type, settings.loss.noise_alpha]
        steps = [distil.num_inference_steps, distil.teacher_steps, self.guidance_scale]
        more = distil.model_dump(include={"temporal_guidance", "motion_effect"}, exclude_defaults=True)
        self.facts = json.dumps(
            [weights, noise, [*steps, more] if more else steps, list(self.shape), dict(scheduler.config)],
            default=str,
        )
        self.cache = LatentCache(folder, hashlib.sha256(self.facts.encode()).hexdigest(), "float16")

    def key(self, number: int, prompt: str) -> str:
        """Under which a clip is kept."""
        return f"{self.settings.seed} {number} {prompt}"

    @torch.no_grad()
    def trajectories(self, numbers: Sequence[int], prompts: Sequence[str]) -> Float[Tensor, "b k c f h w"]:
        """Let the teacher make clips; their states at the knots, from pure noise to clean latents."""
        parts, loss, distil = self.pipeline.parts, self.settings.loss, self.settings.distil
        device, dtype = self.pipeline.device, parts.unet.dtype
        channels, num_frames, height, width = self.shape
        seeds = [
            int(chance(self.settings.seed, number, Stream.TEACHER).integers(2**63)) for number in numbers
        ]
        kind = {} if loss.noise_type == "independent" else {"noise_alpha": loss.noise_alpha}
        noises = [
            initial_noise(seed, num_frames, channels, height, width, noise_type=loss.noise_type, **kind)
            for seed in seeds
        ]
        negatives = [] if guidance_is_off(self.guidance_scale) else [""] * len(prompts)
        texts = [*negatives, *prompts]
        embeds = parts.encode_prompts(texts).to(device, dtype)
        scale = self.pipeline.latent_scale
        guided = Guided(
            self.pipeline.video_unet,
            embeds[len(negatives) :],
            embeds[: len(negatives)] if negatives else None,
            self.guidance_scale,
            [temporal_guidance(distil.temporal_guidance)] if distil.temporal_guidance else [],
            added_cond_kwargs=parts.added_conditions(texts, height * scale, width * scale),
            motion_effect=distil.motion_effect,
        )
        self.scheduler.set_timesteps(distil.teacher_steps)
        every = distil.teacher_steps // distil.num_inference_steps
        state = torch.stack(noises).to(device)
        kept = [state.cpu()]
        for index, timestep in enumerate(self.scheduler.timesteps):
            answer = guided(state, timestep.to(device))
            state = self.scheduler.step(answer, timestep, state).prev_sample
            if (index + 1) % every == 0:
                kept.append(state.cpu())
        return torch.stack(kept, dim=1)


class KnotClips:
    """Clips of the teacher as a source for training: numbers of a pool, each with its prompt.

    Args:
        pool: Where they are.
        first: Number of the first.
        prompts: One for each.
    """

    def __init__(self, pool: KnotPool, first: int, prompts: Sequence[str]) -> None:
        # without the pool itself: processes that read ahead need no teacher
        self.cache, self.size = pool.cache, (pool.shape[-1], pool.shape[-2])
        self.first, self.prompts = first, list(prompts)
        self.keys = [pool.key(first + item, prompt) for item, prompt in enumerate(self.prompts)]

    def __len__(self) -> int:
        """Clips in an epoch."""
        return len(self.prompts)

    def __getitem__(self, draw: Draw) -> Item:
        """One clip: its knots, from pure noise to clean latents."""
        number, prompt = self.first + draw.item, self.prompts[draw.item]
        knots = self.cache.get(self.keys[draw.item])
        if knots is None:
            raise OSError(
                f"{self.cache.folder}: clip {number} of the teacher is gone or damaged; --resume makes it "
                "anew"
            )
        return {"knots": knots.float(), "caption": prompt, "id": f"teacher {number}"}

    def buckets(self, pictures: bool = False) -> Mapping[tuple[int, ...], Sequence[int]]:
        """All items under the one size."""
        return {self.size: range(len(self.prompts))}

    def fill(self, pool: KnotPool, accelerator: Accelerator, on_clip: OnClip) -> None:
        """Let the teacher make what is missing, a share in each process; then all of it is there for all.

        Clips are made in groups that never change, since a group decides the last bits.
        """
        missing = {item for item, key in enumerate(self.keys) if self.cache.get(key) is None}
        own = sorted({item // AT_ONCE for item in missing})[
            accelerator.process_index :: accelerator.num_processes
        ]
        for done, group in enumerate(own, start=1):
            items = range(group * AT_ONCE, min((group + 1) * AT_ONCE, len(self.keys)))
            with accelerator.autocast():
                made = pool.trajectories(
                    [self.first + item for item in items], [self.prompts[item] for item in items]
                )
            for item, knots in zip(items, made, strict=True):
                if item in missing:
                    self.cache.put(self.keys[item], knots.half())
            on_clip(done * AT_ONCE, len(own) * AT_ONCE)
        accelerator.wait_for_everyone()


def teachers_clips(
    settings: TrainingSettings,
    pipeline: TextToVideoPipeline,
    sources: Sources,
    scheduler: DDIMScheduler,
    folder: Path,
) -> tuple[Sources, KnotPool]:
    """The clips of the teacher in place of those of the folders, whose captions are its prompts."""
    distil = settings.distil
    prompts = tuple(dict.fromkeys([*sources.captions, *_lines_of(distil.prompts)]))
    if not prompts:
        raise ValueError(f"distil.prompts must hold a prompt in every line, but {distil.prompts} is empty")
    usual = min(distil.clips // HELD_OUT_SHARE, MAX_HELD_OUT)
    num_held_out = usual if settings.clips.held_out is None else settings.clips.held_out
    order = chance(settings.seed, 0, Stream.TEACHER).permutation(len(prompts))
    asked = [prompts[order[number % len(prompts)]] for number in range(distil.clips + num_held_out)]
    pool = KnotPool(pipeline, settings, trailing(scheduler), folder / KNOTS_FOLDER)
    training = KnotClips(pool, 0, asked[: distil.clips])
    held_out = KnotClips(pool, distil.clips, asked[distil.clips :])
    decides = hashlib.sha256(json.dumps([pool.facts, asked]).encode()).hexdigest()
    found = replace(
        sources,
        training=(Weighted(training),),
        held_out=(held_out,) if num_held_out else (),
        hashes={"teacher": decides},
        num_clips={"the teacher": distil.clips},
        may_miss=(max(1, distil.clips // 100),),
        num_held_out=(num_held_out,),
        unused=(),
        captions=prompts,
    )
    return found, pool


def _lines_of(file: str | None) -> list[str]:
    """The prompts in a text file, one in each line."""
    if file is None:
        return []
    try:
        check_regular(Path(file))
        text = Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"distil.prompts must be a text file in UTF-8, but {file} is none ({error})"
        ) from None
    return [line.strip() for line in text.splitlines() if line.strip()]
