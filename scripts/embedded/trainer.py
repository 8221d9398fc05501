"""Training of the embedded model: what one step sees, does and saves.

Every draw is a pure function of (seed, step), so a run that was killed goes on exactly where it stood.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.training_utils import EMAModel
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from embedded.model import (
    build_motion_adapter,
    build_scheduler,
    build_text_encoder,
    build_unet,
    load_weights,
    save_embedded_model,
    word_tokenizer,
)
from embedded.muon import MuonWithAdamW, trapezoid
from embedded.pool import LatentPool
from video_diffusion.models import VideoUNet
from video_diffusion.procedural.scene import Scene, World, caption, vocabulary
from video_diffusion.training.loop import FoldedFrameAttention
from video_diffusion.training.objective import stratified_timesteps, training_target
from video_diffusion.training.state import load_checkpoint, newest_checkpoint, save_checkpoint

CLIP_FRAMES = 16
NUM_TIMESTEPS = 1000
OPPOSITE = {
    "left": "right",
    "right": "left",
    "up": "down",
    "down": "up",
    "up-left": "down-right",
    "down-right": "up-left",
    "up-right": "down-left",
    "down-left": "up-right",
    "growing": "shrinking",
    "shrinking": "growing",
    "rotating": "still",
    "bouncing": "still",
}


@dataclass(frozen=True)
class EmbeddedSettings:
    """How the embedded model is trained; shares are of `num_steps`.

    Attributes:
        num_steps: Length of the whole run, which the curriculum and the learning rate follow.
        batch: Clips per step.
        frames: Independent single frames per step, each from a clip and with a noise level of its own. They
            bypass the temporal layers and teach the image model, which needs many more of them than of clips.
        motions: What the model learns.
        shapes: What the model learns.
        widths: Channels of the U-Net's levels.
        text_width: Width of the text encoder.
        side: Pixels per side of a clip.
        pool: Clips with any start; there are half as many that start near the centre.
        all_frames_from: From here on all 16 frames of a clip are seen, before that every second one.
        prediction_type: What the network answers: "v_prediction", or "sample" (the clean latents).
        start_from: Folder of a model whose weights the run begins with; "" begins from scratch.
        ema: Decay of the averaged weights.
        seed: Of everything.
        muon_lr: Peak rate for matrices.
        adamw_lr: Peak rate for the rest.
        decay_share: Last share of the run, in which the rate falls to zero.
        device: To train on.
    """

    num_steps: int = 6000
    batch: int = 16
    frames: int = 96
    motions: tuple[str, ...] = ("still", *OPPOSITE)
    shapes: tuple[str, ...] = ("circle", "square", "triangle")
    widths: tuple[int, ...] = (64, 128)
    text_width: int = 128
    side: int = 64
    pool: int = 4096
    all_frames_from: float = 0.7
    prediction_type: str = "sample"
    start_from: str = ""
    ema: float = 0.998
    seed: int = 0
    muon_lr: float = 3e-3
    adamw_lr: float = 2e-3
    decay_share: float = 0.6
    device: str = "cpu"


class EmbeddedTrainer:
    """The model under training, in a run folder from which it resumes.

    Args:
        run: Holds checkpoints, pools of latents and, at every checkpoint, the model so far.
        vae: Folder of the trained autoencoder.
        settings: See there. A run may go on with other settings than it began with.
    """

    def __init__(self, run: Path, vae: Path, settings: EmbeddedSettings) -> None:
        torch.manual_seed(settings.seed)
        self.run_folder, self.settings = run, settings
        self.device = torch.device(settings.device)
        self.vae: Any = AutoencoderKL.from_pretrained(vae).eval().requires_grad_(False).to(self.device)
        self.tokenizer = word_tokenizer(vocabulary())
        self.text_encoder: Any = build_text_encoder(self.tokenizer, settings.text_width)
        channels, side = int(self.vae.config.latent_channels), settings.side // 8
        self.unet: Any = build_unet(settings.widths, settings.text_width, channels, side)
        self.attention = FoldedFrameAttention()
        self.unet.set_attn_processor(self.attention)
        self.adapter = build_motion_adapter(self.unet)
        if settings.start_from:
            load_weights(
                Path(settings.start_from), self.tokenizer, self.text_encoder, self.unet, self.adapter
            )
        self.modules: list[nn.Module] = [self.text_encoder, self.unet, self.adapter]
        for module in self.modules:
            nn.Module.to(module, device=self.device)
        self.video_unet = VideoUNet(self.unet, self.adapter)
        self.scheduler = build_scheduler(settings.prediction_type)
        self.optimizer = MuonWithAdamW(self.modules, settings.muon_lr, settings.adamw_lr)
        self.ema = EMAModel(self.optimizer.parameters, decay=settings.ema)
        self.world = World(motions=settings.motions, shapes=settings.shapes)
        self.pools = {
            name: LatentPool(
                run / "pools" / f"{name}.f16",
                world=self.world,
                size=size,
                latent_shape=(CLIP_FRAMES, channels, side, side),
                encode=self._encode,
                side=settings.side,
                seed=seed,
                centre_out=name == "centre",
            )
            for name, size, seed in (
                ("centre", settings.pool // 2, 201),
                ("any", settings.pool, 202),
                ("watch", 192, 203),  # never trained on
            )
        }

    def run(self, stop_at: int | None = None, save_every: int = 250) -> Iterator[dict[str, float]]:
        """Train from the newest checkpoint to the end, or to `stop_at`, saving on the way.

        Yields:
            Step (number done), the losses of its clips and of its frames, the gradients' norm, and seconds of
            training so far, over all sessions of the run.
        """
        settings = self.settings
        start, seconds = self.resume()
        began = time.monotonic() - seconds
        for step in range(start, min(settings.num_steps, stop_at or settings.num_steps)):
            clips = self.clip_loss(step)
            torch.autograd.backward(clips)
            frames = self.frame_loss(step) if settings.frames else torch.zeros(())
            if settings.frames:
                torch.autograd.backward(frames)
            norm = self.optimizer.step(trapezoid(step, settings.num_steps, decay_share=settings.decay_share))
            self.ema.step(self.optimizer.parameters)
            done = step + 1
            if done % save_every == 0 or done in {settings.num_steps, stop_at}:
                self.save(done, time.monotonic() - began)
            yield {
                "step": done,
                "clips": clips.item(),
                "frames": frames.item(),
                "norm": norm,
                "seconds": time.monotonic() - began,
            }

    def clip_loss(self, step: int) -> Tensor:
        """The loss of the step's clips: a pure function of (seed, step) and the weights."""
        settings = self.settings
        rng = np.random.default_rng((settings.seed, step, 1))
        scenes, latents = self._draw(rng, settings.batch, step / settings.num_steps)
        positions = None
        if step < settings.all_frames_from * settings.num_steps:  # every second frame, at its true time
            positions = torch.arange(int(rng.integers(2)), CLIP_FRAMES, 2)
            latents = latents[:, positions]
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        return self._loss(scenes, latents, positions, rng, generator)

    def frame_loss(self, step: int) -> Tensor:
        """The loss of the step's single frames: a pure function of (seed, step) and the weights."""
        settings = self.settings
        rng = np.random.default_rng((settings.seed, step, 2))
        scenes, latents = self._draw(rng, settings.frames, 1.0)
        moments = torch.from_numpy(rng.integers(CLIP_FRAMES, size=settings.frames))
        latents = latents[torch.arange(settings.frames), moments][:, None]
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step + 500_000)
        return self._loss(scenes, latents, None, rng, generator)

    @torch.no_grad()
    def caption_gaps(self, timestep: int, num: int = 12) -> dict[str, float]:
        """How much the loss rises when an attribute is told wrong in the captions (0: ignored), by attribute.

        The early warning of the whole training: it tells in minutes what accuracy tells in an hour.
        """
        wrong: dict[str, dict[str, str]] = {
            "straight": {m: OPPOSITE[m] for m in ("left", "right", "up", "down")},
            "diagonal": {m: OPPOSITE[m] for m in OPPOSITE if "-" in m},
            **{motion: {motion: OPPOSITE[motion]} for motion in ("growing", "shrinking")},
            **{motion: {motion: "still"} for motion in ("rotating", "bouncing")},
        }
        gaps = {
            name: self._gap(timestep, num, "motion", swap)
            for name, swap in wrong.items()
            if set(swap) & set(self.world.motions)
        }
        for attribute, values in (("shape", self.world.shapes), ("colour", self.world.colours)):
            gaps[attribute] = self._gap(
                timestep, num, attribute, dict(zip(values, (*values[1:], values[0]), strict=True))
            )
        gaps["size"] = self._gap(timestep, num, "size", {"small": "large", "large": "small"})
        return gaps

    @torch.no_grad()
    def image_errors(self, timesteps: Sequence[int] = (100, 250, 500, 750)) -> dict[str, float]:
        """Mean squared error of the clean latents of unseen single frames, told from one noise level each.

        The same whatever the network predicts, so that runs of either kind can be held against each other.
        """
        pool = self.pools["watch"]
        numbers = range(96)
        latents = pool.latents(numbers)[torch.arange(96), torch.arange(96) % CLIP_FRAMES][:, None]
        latents = rearrange(latents, "b f c h w -> b c f h w")
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(7))
        captions = [caption(pool.scene(n)) for n in numbers]
        errors = {}
        for timestep in timesteps:
            clean, _, told = self._answer(latents, noise, torch.full((96,), timestep), captions, None)
            errors[f"image_{timestep}"] = float((told - clean).square().mean())
        return errors

    def save(self, step: int, seconds: float) -> None:
        """Write the checkpoint, and the model folder with averaged weights."""
        model = {
            f"{i}.{k}": v for i, module in enumerate(self.modules) for k, v in module.state_dict().items()
        }
        shadow = {f"{i:05d}": tensor for i, tensor in enumerate(self.ema.shadow_params)}
        groups = {"model": model, "ema": shadow, "optimizer": self.optimizer.state_tensors()}
        save_checkpoint(
            self.run_folder, step, groups, {"seconds": seconds, "settings": asdict(self.settings)}
        )
        self.ema.store(self.optimizer.parameters)
        self.ema.copy_to(self.optimizer.parameters)
        parts = (self.tokenizer, self.text_encoder, self.unet, self.adapter, self.vae, self.scheduler)
        save_embedded_model(self.run_folder / "model", *parts, world=self.world)
        self.ema.restore(self.optimizer.parameters)

    def resume(self) -> tuple[int, float]:
        """Load the newest complete checkpoint, if any; returns steps done and seconds spent."""
        checkpoint = newest_checkpoint(self.run_folder)
        if checkpoint is None:
            return 0, 0.0
        step, groups, facts = load_checkpoint(checkpoint)
        for i, module in enumerate(self.modules):
            prefix = f"{i}."
            own = {k[len(prefix) :]: v for k, v in groups["model"].items() if k.startswith(prefix)}
            module.load_state_dict(own)
        self.optimizer.load_state_tensors(groups["optimizer"])
        shadow = [groups["ema"][name].to(self.device) for name in sorted(groups["ema"])]
        self.ema.load_state_dict(
            {**self.ema.state_dict(), "optimization_step": step, "shadow_params": shadow}
        )
        return step, float(facts["seconds"])

    def _draw(
        self, rng: np.random.Generator, num: int, progress: float
    ) -> tuple[list[Scene], Float[Tensor, "b f c h w"]]:
        """Scenes and latents: starts near the centre first, a quarter of them from the middle of the run."""
        centre_share = 1.0 if progress < 0.12 else max(0.25, 1.0 - 0.75 * (progress - 0.12) / 0.38)
        chosen = [self.pools["centre" if rng.random() < centre_share else "any"] for _ in range(num)]
        numbers = [int(rng.integers(pool.size)) for pool in chosen]
        scenes = [pool.scene(number) for pool, number in zip(chosen, numbers, strict=True)]
        latents = torch.cat([pool.latents([number]) for pool, number in zip(chosen, numbers, strict=True)])
        return scenes, latents

    def _loss(
        self,
        scenes: list[Scene],
        latents: Float[Tensor, "b f c h w"],
        positions: Int[Tensor, " f"] | None,
        rng: np.random.Generator,
        generator: torch.Generator,
    ) -> Tensor:
        """Squared error of what the network answers; clean latents count min(1 / sigma², 4), velocities 1."""
        captions = ["" if rng.random() < 0.1 else caption(scene, rng, omit=0.1) for scene in scenes]
        latents = rearrange(latents, "b f c h w -> b c f h w")
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = stratified_timesteps(len(scenes), NUM_TIMESTEPS, generator)
        noisy, target, timesteps = self._noisy(latents, noise, timesteps)
        error = (self._predict(noisy, timesteps, captions, positions) - target).square()
        if self.settings.prediction_type == "sample":
            variance = 1 - self.scheduler.alphas_cumprod.to(self.device)[timesteps]
            error = error * (1 / variance).clamp(max=4.0).view(-1, 1, 1, 1, 1)
        return error.mean()

    def _gap(self, timestep: int, num: int, attribute: str, swap: dict[str, str]) -> float:
        pool = self.pools["watch"]
        numbers = [n for n in range(pool.size) if getattr(pool.scene(n).objects[0], attribute) in swap][:num]
        scenes = [pool.scene(n) for n in numbers]
        positions = torch.arange(0, CLIP_FRAMES, 2)
        latents = rearrange(pool.latents(numbers)[:, positions], "b f c h w -> b c f h w")
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(self.settings.seed))
        timesteps = torch.full((len(scenes),), timestep)
        losses = []
        for told_wrong in (True, False):
            captions = []
            for scene in scenes:
                thing = scene.objects[0]
                told = {attribute: swap[getattr(thing, attribute)]} if told_wrong else {}
                captions.append(caption(replace(scene, objects=(replace(thing, **told),))))
            clean, _, answer = self._answer(latents, noise, timesteps, captions, positions)
            losses.append(float((answer - clean).square().mean()))
        return losses[0] - losses[1]

    def _answer(
        self,
        latents: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        captions: list[str],
        positions: Int[Tensor, " f"] | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Clean latents, noisy ones, and what the network takes for the clean ones."""
        noisy, _, timesteps = self._noisy(latents, noise, timesteps)
        told = self._predict(noisy, timesteps, captions, positions)
        if self.settings.prediction_type == "v_prediction":
            signal = self.scheduler.alphas_cumprod.to(self.device)[timesteps].view(-1, 1, 1, 1, 1)
            told = signal.sqrt() * noisy - (1 - signal).sqrt() * told
        return latents.to(self.device), noisy, told

    def _noisy(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Noisy latents, the target and the timesteps, on the device."""
        latents, noise, timesteps = (t.to(self.device) for t in (latents, noise, timesteps))
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        return noisy, training_target(self.scheduler, latents, noise, timesteps), timesteps

    @torch.no_grad()
    def _encode(self, frames: Float[Tensor, "b f 3 h w"]) -> Float[Tensor, "b f c h2 w2"]:
        """Frames in [0, 1] to latents."""
        folded = rearrange(frames, "b f c h w -> (b f) c h w").to(self.device) * 2 - 1
        with torch.autocast(self.device.type, torch.bfloat16):
            latents: Tensor = self.vae.encode(folded).latent_dist.mode()
        return rearrange(latents.float(), "(b f) c h w -> b f c h w", b=len(frames))

    def _predict(
        self, noisy: Tensor, timesteps: Tensor, captions: list[str], positions: Int[Tensor, " f"] | None
    ) -> Float[Tensor, "b c f h w"]:
        """The network's answer, in bfloat16 autocast; prompts are embedded as the pipeline does."""
        self.attention.num_frames = noisy.shape[2]
        tokens = self.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
        with torch.autocast(self.device.type, torch.bfloat16):
            embeds = self.text_encoder(tokens.input_ids.to(self.device))[0]
            prediction: Tensor = self.video_unet(noisy, timesteps, embeds, frame_positions=positions)
        return prediction.float()
