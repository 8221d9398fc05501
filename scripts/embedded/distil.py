"""Distil a few-step student without guidance from a trained embedded model.

python scripts/embedded distil --teacher runs/embedded/model --run runs/student
Stops and resumes at any step: run the same command again. Writes runs/student/model, a folder whose own
settings are the student's steps and guidance 1.

Knot regression: the guided teacher takes many steps, a few of its states (the knots) are kept, and the
student learns to step from each knot to the next with one pass of one DDIM step. Relatives: progressive
distillation (Salimans and Ho 2022), guidance folded in (Meng et al. 2023). No videos are needed, captions
alone. The student begins as the teacher and trains its temporal layers only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.training_utils import EMAModel
from jaxtyping import Float
from torch import Tensor, nn

from embedded.model import load_model, save_embedded_model
from embedded.train import add_flags, settings_of
from embedded.trainer import EmbeddedSettings
from video_diffusion.models import VideoUNet
from video_diffusion.procedural.scene import Scene, World, caption
from video_diffusion.training.loop import FoldedFrameAttention
from video_diffusion.training.optimizer import MuonWithAdamW, trapezoid
from video_diffusion.training.state import load_checkpoint, newest_checkpoint, save_checkpoint

Knots = Float[Tensor, "b k c f h w"]


@dataclass(frozen=True)
class DistilSettings:
    """How the student is trained.

    Attributes:
        student_steps: Denoising steps of the student; knots are the states between them.
        teacher_steps: Denoising steps of the teacher, a multiple of the student's.
        guidance_scale: Of the teacher.
        clips: Teacher's clips that the student learns from.
        num_steps: Length of the training.
        batch: States per step, the same number from every knot.
        num_frames: Of a clip.
        motions: That prompts ask for.
        shapes: That prompts ask for.
        muon_lr: Peak rate for matrices.
        adamw_lr: Peak rate for the rest.
        ema: Decay of the averaged weights.
        seed: Of everything.
        device: To train on.
    """

    student_steps: int = 4
    teacher_steps: int = 12
    guidance_scale: float = 2.5
    clips: int = 512
    num_steps: int = 600
    batch: int = 8
    num_frames: int = 16
    motions: tuple[str, ...] = EmbeddedSettings().motions
    shapes: tuple[str, ...] = EmbeddedSettings().shapes
    muon_lr: float = 1e-3
    adamw_lr: float = 1e-3
    ema: float = 0.98
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Refuse what does not divide evenly among the student's steps."""
        for name in ("teacher_steps", "batch"):
            value = getattr(self, name)
            if value % self.student_steps:
                next_one = self.student_steps * (value // self.student_steps + 1)
                raise ValueError(
                    f"{name} must be a multiple of student_steps ({self.student_steps}), got {value}; "
                    f"choose {next_one}"
                )


def knot_target(
    prediction_type: str,
    state: Float[Tensor, "b c f h w"],
    next_state: Float[Tensor, "b c f h w"],
    alphas: tuple[float, float],
    sigmas: tuple[float, float],
) -> Float[Tensor, "b c f h w"]:
    """What a network must answer at `state` for one DDIM step to land on `next_state`.

    Args:
        prediction_type: What the network predicts.
        state: Noisy latents.
        next_state: Latents at the next knot.
        alphas: Share of signal at the one and at the other.
        sigmas: Share of noise at the one and at the other.
    """
    (alpha, alpha_next), (sigma, sigma_next) = alphas, sigmas
    turn = sigma * alpha_next - alpha * sigma_next  # the sine of the angle between the two
    match prediction_type:
        case "v_prediction":
            return ((alpha * alpha_next + sigma * sigma_next) * state - next_state) / turn
        case "sample":
            return (sigma * next_state - sigma_next * state) / turn
        case "epsilon":
            return (alpha_next * state - alpha * next_state) / turn
        case other:
            raise ValueError(f"prediction_type must be epsilon, v_prediction or sample, got {other!r}")


class KnotPool:
    """The guided teacher's states at the student's knots; clip n is a pure function of (seed, n).

    Args:
        folder: Where they are kept, in a file named after all they depend on (half precision, sparse).
        teacher: Parts of the model (see `load_model`).
        teacher_hash: Names the weights.
        settings: See there.
    """

    def __init__(
        self, folder: Path, teacher: dict[str, Any], teacher_hash: str, settings: DistilSettings
    ) -> None:
        self.settings, self._teacher = settings, teacher
        self.world = World(motions=settings.motions, shapes=settings.shapes)
        self._video_unet = VideoUNet(teacher["unet"], teacher["motion_adapter"])
        side, channels = int(teacher["unet"].config.sample_size), int(teacher["unet"].config.in_channels)
        self._shape = (channels, settings.num_frames, side, side)
        depends = [teacher_hash, asdict(settings)["motions"], settings.shapes, settings.seed, self._shape]
        depends += [settings.teacher_steps, settings.student_steps, settings.guidance_scale, settings.clips]
        name = hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"knots-{name}.f16"
        shape = (settings.clips, settings.student_steps + 1, *self._shape)
        self._knots = np.memmap(
            file, dtype=np.dtype("float16"), mode="r+" if file.exists() else "w+", shape=shape
        )

    def scene(self, number: int) -> Scene:
        """What clip `number` is asked to show."""
        return self.world.sample(np.random.default_rng((self.settings.seed, number)))

    def prompt(self, number: int) -> str:
        """The prompt of clip `number`, half of them in paraphrase."""
        return caption(self.scene(number), np.random.default_rng((self.settings.seed, number, 1)))

    def fill(self, chunk: int = 8) -> Iterator[int]:
        """Let the teacher make every clip that is missing; yields how many there are."""
        for first in range(0, self.settings.clips, chunk):
            numbers = [n for n in range(first, min(first + chunk, self.settings.clips)) if not self._has(n)]
            if numbers:
                self._knots[numbers] = self._trajectories(numbers).to(torch.float16).numpy()
                self._knots.flush()
            yield min(first + chunk, self.settings.clips)

    def knots(self, numbers: Sequence[int]) -> Knots:
        """States of the given clips, from pure noise to clean latents."""
        return torch.from_numpy(self._knots[list(numbers)].astype(np.float32))

    def _has(self, number: int) -> bool:
        return bool(self._knots[number, -1, :, -1].any())

    @torch.no_grad()
    def _trajectories(self, numbers: Sequence[int]) -> Knots:
        settings, scheduler = self.settings, self._teacher["scheduler"]
        prompts = embed(self._teacher, [""] * len(numbers) + [self.prompt(n) for n in numbers])
        generators = [torch.Generator().manual_seed(settings.seed * 1_000_003 + n) for n in numbers]
        state = torch.stack([torch.randn(self._shape, generator=g) for g in generators]).to(settings.device)
        scheduler.set_timesteps(settings.teacher_steps)
        every = settings.teacher_steps // settings.student_steps
        kept = [state]
        for index, timestep in enumerate(scheduler.timesteps):
            twice = torch.cat([state, state])
            # In bfloat16 a clip takes two thirds of the time; its rounding has no bias, so the mean that the
            # student learns is the same.
            with torch.autocast(state.device.type, torch.bfloat16):
                both = self._video_unet(twice, timestep.repeat(len(twice)), prompts).float()
            unguided, guided = both.chunk(2)
            answer = unguided + settings.guidance_scale * (guided - unguided)
            state = scheduler.step(answer, timestep, state).prev_sample
            if (index + 1) % every == 0:
                kept.append(state)
        return torch.stack(kept, dim=1).cpu()


class Distiller:
    """The student under training, in a run folder from which it resumes.

    Args:
        run: Holds the pool, checkpoints and, at every checkpoint, the student so far.
        teacher_folder: The trained model.
        settings: See there.
    """

    def __init__(self, run: Path, teacher_folder: Path, settings: DistilSettings) -> None:
        self.run_folder, self.settings = run, settings
        self.teacher = load_model(teacher_folder, settings.device)
        self.pool = KnotPool(run / "pool", self.teacher, weights_hash(teacher_folder), settings)
        self.student = load_model(teacher_folder, settings.device)
        self.attention = FoldedFrameAttention()
        self.attention.num_frames = settings.num_frames
        self.student["unet"].set_attn_processor(self.attention)
        for name in ("unet", "text_encoder"):
            self.student[name].requires_grad_(False)
        self.adapter: nn.Module = self.student["motion_adapter"].requires_grad_(True)
        self.video_unet = VideoUNet(self.student["unet"], self.adapter)
        self.optimizer = MuonWithAdamW([self.adapter], settings.muon_lr, settings.adamw_lr)
        self.ema = EMAModel(self.optimizer.parameters, decay=settings.ema)
        self.knots = student_knots(self.student["scheduler"], settings.student_steps)
        self.schedule = {"num_inference_steps": settings.student_steps, "guidance_scale": 1.0}
        told = {**self.schedule, "scheduler": "ddim", "timestep_spacing": "trailing"}
        self.student["motion_adapter"].register_to_config(distilled=told)

    def run(self, save_every: int = 100) -> Iterator[dict[str, float]]:
        """Train from the newest checkpoint to the end, saving on the way; the pool must be full.

        Yields:
            Step (number done), the loss at every knot, and seconds of training over all sessions.
        """
        settings = self.settings
        start, seconds = self._resume()
        began = time.monotonic() - seconds
        for step in range(start, settings.num_steps):
            losses = self.losses(step)
            torch.autograd.backward(losses.mean())
            self.optimizer.step(trapezoid(step, settings.num_steps, warmup=10, decay_share=0.5))
            self.ema.step(self.optimizer.parameters)
            done = step + 1
            if done % save_every == 0 or done == settings.num_steps:
                self.save(done, time.monotonic() - began)
            by_knot = {f"knot_{k}": float(loss) for k, loss in enumerate(losses.detach())}
            yield {"step": done, **by_knot, "seconds": time.monotonic() - began}

    def losses(self, step: int) -> Float[Tensor, " k"]:
        """Mean squared error at each knot: a pure function of (seed, step) and the weights."""
        settings, num = self.settings, self.settings.student_steps
        rng = np.random.default_rng((settings.seed, step, 3))
        numbers = rng.integers(settings.clips, size=settings.batch).tolist()
        which = torch.arange(settings.batch) % num
        rows = torch.arange(settings.batch)
        knots = self.pool.knots(numbers).to(settings.device)
        states, nexts = knots[rows, which], knots[rows, which + 1]
        kind = self.student["scheduler"].config.prediction_type
        targets = torch.empty_like(states)
        for k, (_, alphas, sigmas) in enumerate(self.knots):
            targets[which == k] = knot_target(kind, states[which == k], nexts[which == k], alphas, sigmas)
        timesteps = torch.tensor([self.knots[k][0] for k in which.tolist()], device=settings.device)
        with torch.autocast(torch.device(settings.device).type, torch.bfloat16):
            prompts = embed(self.student, [self.pool.prompt(n) for n in numbers])
            answers = self.video_unet(states, timesteps, prompts).float()
        error = (answers - targets).square().mean(dim=(1, 2, 3, 4))
        return torch.stack([error[which == k].mean() for k in range(num)])

    def save(self, step: int, seconds: float) -> None:
        """Write the checkpoint, and the student's folder with averaged weights."""
        shadow = {f"{i:05d}": tensor for i, tensor in enumerate(self.ema.shadow_params)}
        groups = {
            "model": dict(self.adapter.state_dict()),
            "ema": shadow,
            "optimizer": self.optimizer.state_tensors(),
        }
        facts = {"seconds": seconds, "settings": asdict(self.settings)}
        save_checkpoint(self.run_folder, step, groups, facts)
        self.ema.store(self.optimizer.parameters)
        self.ema.copy_to(self.optimizer.parameters)
        save_embedded_model(
            self.run_folder / "model", **self.student, world=self.pool.world, defaults=self.schedule
        )
        self.ema.restore(self.optimizer.parameters)

    def _resume(self) -> tuple[int, float]:
        checkpoint = newest_checkpoint(self.run_folder)
        if checkpoint is None:
            return 0, 0.0
        step, groups, facts = load_checkpoint(checkpoint)
        self.adapter.load_state_dict(groups["model"])
        self.optimizer.load_state_tensors(groups["optimizer"])
        shadow = [groups["ema"][name].to(self.settings.device) for name in sorted(groups["ema"])]
        self.ema.load_state_dict(
            {**self.ema.state_dict(), "optimization_step": step, "shadow_params": shadow}
        )
        return step, float(facts["seconds"])


def student_knots(
    scheduler: DDIMScheduler, num_steps: int
) -> list[tuple[int, tuple[float, float], tuple[float, float]]]:
    """For each of the student's steps its timestep, and signal and noise before and after it."""
    scheduler.set_timesteps(num_steps)
    timesteps = [int(t) for t in scheduler.timesteps]
    signal = [float(scheduler.alphas_cumprod[t]) for t in timesteps] + [float(scheduler.final_alpha_cumprod)]
    alphas, sigmas = [s**0.5 for s in signal], [(1 - s) ** 0.5 for s in signal]
    return [(t, (alphas[k], alphas[k + 1]), (sigmas[k], sigmas[k + 1])) for k, t in enumerate(timesteps)]


def embed(parts: dict[str, Any], prompts: Sequence[str]) -> Float[Tensor, "b n d"]:
    """Prompt embeddings, as the pipeline makes them."""
    tokens = parts["tokenizer"](list(prompts), padding="max_length", truncation=True, return_tensors="pt")
    embeds: Tensor = parts["text_encoder"](tokens.input_ids.to(parts["unet"].device))[0]
    return embeds


def weights_hash(folder: Path) -> str:
    """The sha256 of all weight files of a model folder."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def main() -> None:
    """Fill the pool, then train, printing a line of JSON every so often."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(DistilSettings.__doc__ or "").split("Attributes:")[-1],
    )
    parser.add_argument(
        "--run", type=Path, required=True, help="folder of the pool, checkpoints, the student"
    )
    parser.add_argument("--teacher", type=Path, required=True, help="folder of the trained model")
    parser.add_argument("--log-every", type=int, default=25)
    add_flags(parser, DistilSettings)
    args = parser.parse_args()
    distiller = Distiller(args.run, args.teacher, settings_of(args, DistilSettings))
    for filled in distiller.pool.fill():
        if filled % 64 == 0:
            print(json.dumps({"teacher's clips": filled}), flush=True)
    rows: list[dict[str, float]] = []
    for row in distiller.run():
        rows.append(row)
        if row["step"] % args.log_every == 0:
            means = {k: float(np.mean([r[k] for r in rows])) for k in row if k.startswith("knot")}
            print(json.dumps({k: round(v, 4) for k, v in {**row, **means}.items()}), flush=True)
            rows = []
