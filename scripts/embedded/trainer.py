"""Training of the embedded model: what one step sees, does and saves.

Every draw is a pure function of (seed, step), so a run that was killed goes on exactly where it stood.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.training_utils import EMAModel
from einops import rearrange
from torch import Tensor, nn

from embedded.model import (
    build_motion_adapter,
    build_scheduler,
    build_text_encoder,
    build_unet,
    save_embedded_model,
    word_tokenizer,
)
from embedded.pool import LatentPool
from video_diffusion.models import VideoUNet
from video_diffusion.procedural.scene import Scene, World, caption, vocabulary
from video_diffusion.training.loop import FoldedFrameAttention
from video_diffusion.training.objective import stratified_timesteps, training_target
from video_diffusion.training.optimizer import MuonWithAdamW, trapezoid
from video_diffusion.training.state import load_checkpoint, newest_checkpoint, save_checkpoint

CLIP_FRAMES = 16
FIRST_WORLD = World()
WIDER_MOTIONS = ("growing", "shrinking", "bouncing", "circling")
OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}


@dataclass(frozen=True)
class EmbeddedSettings:
    """How the embedded model is trained; shares are of `num_steps`.

    Attributes:
        num_steps: Length of the whole run, which the curriculum and the learning rate follow.
        batch: Clips per step.
        widths: Channels of the U-Net's levels.
        text_width: Width of the text encoder.
        side: Pixels per side of a clip.
        pool: Clips with any start; there are 0.6 times as many centre-out and 0.4 times as many wider ones.
        all_frames_from: From here on all 16 frames are seen, before that every second one.
        widen_from: From here on the wider motions join.
        widen_share: Share of the clips that then have one.
        seed: Of everything.
        muon_lr: Peak rate for matrices.
        adamw_lr: Peak rate for the rest.
        decay_share: Last share of the run, in which the rate falls to zero.
        device: To train on.
    """

    num_steps: int = 3300
    batch: int = 24
    widths: tuple[int, ...] = (64, 128)
    text_width: int = 128
    side: int = 64
    pool: int = 5120
    all_frames_from: float = 0.65
    widen_from: float = 0.4
    widen_share: float = 0.3
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
        self.modules: list[nn.Module] = [self.text_encoder, self.unet, self.adapter]
        for module in self.modules:
            nn.Module.to(module, device=self.device)
        self.video_unet = VideoUNet(self.unet, self.adapter)
        self.scheduler = build_scheduler()
        self.optimizer = MuonWithAdamW(self.modules, settings.muon_lr, settings.adamw_lr)
        self.ema = EMAModel(self.optimizer.parameters, decay=0.995)
        wide = replace(FIRST_WORLD, motions=WIDER_MOTIONS)
        self.pools = {
            name: LatentPool(
                run / "pools" / f"{name}.f16",
                world=world,
                size=size,
                latent_shape=(CLIP_FRAMES, channels, side, side),
                encode=self._encode,
                side=settings.side,
                seed=seed,
                centre_out=name == "centre",
            )
            for name, world, size, seed in (
                ("centre", FIRST_WORLD, settings.pool * 3 // 5, 101),
                ("any", FIRST_WORLD, settings.pool, 102),
                ("wide", wide, settings.pool * 2 // 5, 103),
            )
        }

    def run(self, stop_at: int | None = None, save_every: int = 250) -> Iterator[tuple[int, float, float]]:
        """Train from the newest checkpoint to the end, or to `stop_at`, saving on the way.

        Yields:
            Steps done, the step's loss, and seconds of training so far, over all sessions of the run.
        """
        settings = self.settings
        start, seconds = self.resume()
        began = time.monotonic() - seconds
        for step in range(start, min(settings.num_steps, stop_at or settings.num_steps)):
            loss = self.loss(step)
            torch.autograd.backward(loss)
            self.optimizer.step(trapezoid(step, settings.num_steps, decay_share=settings.decay_share))
            self.ema.step(self.optimizer.parameters)
            done = step + 1
            if done % save_every == 0 or done in {settings.num_steps, stop_at}:
                self.save(done, time.monotonic() - began)
            yield done, loss.item(), time.monotonic() - began

    def loss(self, step: int) -> Tensor:
        """The clips' loss, in every fourth step plus that of one frame of each.

        A pure function of (seed, step) and the weights. A single frame bypasses the temporal layers, which
        keeps the image model a text-to-image model.
        """
        settings = self.settings
        scenes, latents = self._draw_clips(step)
        rng = np.random.default_rng((settings.seed, step, 2))
        captions = ["" if rng.random() < 0.1 else caption(scene, rng, omit=0.1) for scene in scenes]
        positions = None
        if step < settings.all_frames_from * settings.num_steps:  # every second frame, at its true time
            positions = torch.arange(int(rng.integers(2)), CLIP_FRAMES, 2)
            latents = latents[:, :, positions]
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = stratified_timesteps(len(scenes), 1000, generator)
        noisy, target, timesteps = self._noisy(latents, noise, timesteps)
        with torch.autocast(self.device.type, torch.bfloat16):
            embeds = self._embed(captions)
            loss = (self._predict(noisy, timesteps, embeds, positions) - target).square().mean()
            if step % 4 == 3:
                moment = int(rng.integers(latents.shape[2]))
                frame = slice(moment, moment + 1)
                still = self._predict(noisy[:, :, frame], timesteps, embeds, None)
                loss = loss + (still - target[:, :, frame]).square().mean()
        return loss

    @torch.no_grad()
    def direction_gap(self, timestep: int) -> float:
        """How much the loss rises when opposite directions trade places in the captions (0: deaf).

        The early warning of the whole training: it tells in minutes what accuracy tells in an hour.
        """
        pool = self.pools["centre"]
        numbers = [n for n in range(pool.size) if pool.scene(n).objects[0].motion in OPPOSITE][:32]
        scenes = [pool.scene(n) for n in numbers]
        wrong = [
            Scene(s.background, (replace(s.objects[0], motion=OPPOSITE[s.objects[0].motion]),))
            for s in scenes
        ]
        positions = torch.arange(0, CLIP_FRAMES, 2)
        latents = rearrange(pool.latents(numbers), "b f c h w -> b c f h w")[:, :, positions]
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(self.settings.seed))
        noisy, target, timesteps = self._noisy(latents, noise, torch.full((len(scenes),), timestep))
        losses = []
        for described in (wrong, scenes):
            with torch.autocast(self.device.type, torch.bfloat16):
                embeds = self._embed([caption(s) for s in described])
                answer = self._predict(noisy, timesteps, embeds, positions)
            losses.append(float((answer - target).square().mean()))
        return losses[0] - losses[1]

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
        folder = self.run_folder / "model"
        parts = (self.tokenizer, self.text_encoder, self.unet, self.adapter, self.vae, self.scheduler)
        save_embedded_model(folder, *parts, world=FIRST_WORLD)
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

    def _draw_clips(self, step: int) -> tuple[list[Scene], Tensor]:
        """The step's scenes and latents `b c f h w`: centre-out first, then any start, then wider motions."""
        settings = self.settings
        progress = step / settings.num_steps
        centre_out_share = 1.0 if progress < 0.12 else max(0.25, 1.0 - 0.75 * (progress - 0.12) / 0.38)
        rng = np.random.default_rng((settings.seed, step, 1))
        scenes, latents = [], []
        for _ in range(settings.batch):
            wide = rng.random() < settings.widen_share and progress >= settings.widen_from
            pool = self.pools["wide" if wide else "centre" if rng.random() < centre_out_share else "any"]
            number = int(rng.integers(pool.size))
            scenes.append(pool.scene(number))
            latents.append(pool.latents([number]))
        return scenes, rearrange(torch.cat(latents), "b f c h w -> b c f h w")

    def _noisy(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Noisy latents, the target and the timesteps, on the device."""
        latents, noise, timesteps = (t.to(self.device) for t in (latents, noise, timesteps))
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        return noisy, training_target(self.scheduler, latents, noise, timesteps), timesteps

    @torch.no_grad()
    def _encode(self, frames: Tensor) -> Tensor:
        """`b f 3 h w` in [0, 1] to latents `b f c h w`."""
        folded = rearrange(frames, "b f c h w -> (b f) c h w").to(self.device) * 2 - 1
        with torch.autocast(self.device.type, torch.bfloat16):
            latents: Tensor = self.vae.encode(folded).latent_dist.mode()
        return rearrange(latents.float(), "(b f) c h w -> b f c h w", b=len(frames))

    def _embed(self, captions: list[str]) -> Tensor:
        """Prompt embeddings `b n d`, as the pipeline makes them."""
        tokens = self.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
        embeds: Tensor = self.text_encoder(tokens.input_ids.to(self.device))[0]
        return embeds

    def _predict(self, noisy: Tensor, timesteps: Tensor, embeds: Tensor, positions: Tensor | None) -> Tensor:
        """The network's answer `b c f h w`."""
        self.attention.num_frames = noisy.shape[2]
        prediction: Tensor = self.video_unet(noisy, timesteps, embeds, frame_positions=positions)
        return prediction.float()
