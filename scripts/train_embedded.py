"""Train the embedded model on the procedural world: text encoder, image U-Net, temporal layers, from scratch.

python scripts/train_embedded.py --run runs/embedded --vae runs/codec/vae
Stops and resumes at any step: run the same command again. Every draw is a pure function of (seed, step).
Writes runs/embedded/model (a folder that `video-diffusion generate --model` opens) at every checkpoint.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.training_utils import EMAModel
from einops import rearrange
from torch import Tensor, nn

from video_diffusion.data.caption import caption, vocabulary
from video_diffusion.data.latent_pool import LatentPool
from video_diffusion.data.scene import Scene, World
from video_diffusion.models import VideoUNet
from video_diffusion.training.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from video_diffusion.training.embedded_folder import save_embedded_model
from video_diffusion.training.embedded_model import (
    FoldedFrameAttention,
    build_motion_adapter,
    build_scheduler,
    build_text_encoder,
    build_unet,
    word_tokenizer,
)
from video_diffusion.training.loss import stratified_timesteps, training_target
from video_diffusion.training.optimizer import MuonWithAdamW, trapezoid

CLIP_FRAMES = 16
FIRST_WORLD = World()
WIDER_MOTIONS = ("growing", "shrinking", "bouncing", "circling")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--num-steps", type=int, default=8000)
    parser.add_argument("--stop-at", type=int, help="checkpoint and end there, to go on with other settings")
    parser.add_argument("--batch", type=int, default=24, help="clips per step")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--text-width", type=int, default=128)
    parser.add_argument("--side", type=int, default=64, help="pixels")
    parser.add_argument(
        "--pool",
        type=int,
        default=5120,
        help="clips with any start, and as many times 0.6 centre-out, 0.4 wider",
    )
    parser.add_argument(
        "--all-frames-from",
        type=float,
        default=0.65,
        help="share of the run after which all 16 frames are seen",
    )
    parser.add_argument(
        "--widen-from", type=float, default=0.4, help="share of the run after which the wider motions join"
    )
    parser.add_argument(
        "--widen-share", type=float, default=0.3, help="share of clips with the wider motions then"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--muon-lr", type=float, default=3e-3)
    parser.add_argument("--adamw-lr", type=float, default=2e-3)
    parser.add_argument(
        "--decay-share", type=float, default=0.6, help="last share of the run, with falling rate"
    )
    parser.add_argument(
        "--fill-pools", action="store_true", help="only render and encode the pools (a second process can)"
    )
    parser.add_argument("--save-every", type=int, default=250)
    parser.add_argument("--log-every", type=int, default=50)
    return parser.parse_args()


def draw_clips(
    pools: dict[str, LatentPool], args: argparse.Namespace, step: int
) -> tuple[list[Scene], Tensor]:
    """The step's scenes and latents `b c f h w`: centre-out first, then any start, then wider motions."""
    progress = step / args.num_steps
    centre_out_share = 1.0 if progress < 0.12 else max(0.25, 1.0 - 0.75 * (progress - 0.12) / 0.38)
    rng = np.random.default_rng((args.seed, step, 1))
    scenes, latents = [], []
    for _ in range(args.batch):
        wide = rng.random() < args.widen_share and progress >= args.widen_from
        name = "wide" if wide else "centre" if rng.random() < centre_out_share else "any"
        number = int(rng.integers(pools[name].size))
        scenes.append(pools[name].scene(number))
        latents.append(pools[name].latents([number]))
    return scenes, rearrange(torch.cat(latents), "b f c h w -> b c f h w")


class Trainer:
    """The model under training and one step of it."""

    def __init__(self, args: argparse.Namespace) -> None:
        torch.manual_seed(args.seed)
        self.args = args
        self.vae: Any = AutoencoderKL.from_pretrained(args.vae).eval().requires_grad_(False)
        self.tokenizer = word_tokenizer(vocabulary())
        self.text_encoder: Any = build_text_encoder(self.tokenizer, args.text_width)
        channels = int(self.vae.config.latent_channels)
        self.side = args.side // 8
        self.unet: Any = build_unet(args.widths, args.text_width, channels, self.side)
        self.attention = FoldedFrameAttention()
        self.unet.set_attn_processor(self.attention)
        self.adapter = build_motion_adapter(self.unet)
        self.video_unet = VideoUNet(self.unet, self.adapter)
        self.scheduler = build_scheduler()
        self.modules: list[nn.Module] = [self.text_encoder, self.unet, self.adapter]
        self.optimizer = MuonWithAdamW(self.modules, args.muon_lr, args.adamw_lr)
        self.ema = EMAModel(self.optimizer.parameters, decay=0.995)
        shape = (CLIP_FRAMES, channels, self.side, self.side)
        wide = replace(FIRST_WORLD, motions=WIDER_MOTIONS)
        self.pools = {
            name: LatentPool(
                args.run / "pools" / f"{name}.f16",
                world=world,
                size=size,
                latent_shape=shape,
                encode=self.encode,
                side=args.side,
                seed=seed,
                centre_out=centre,
            )
            for name, world, size, seed, centre in (
                ("centre", FIRST_WORLD, args.pool * 3 // 5, 101, True),
                ("any", FIRST_WORLD, args.pool, 102, False),
                ("wide", wide, args.pool * 2 // 5, 103, False),
            )
        }

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """`b f 3 h w` in [0, 1] to latents `b f c h w`."""
        with torch.autocast("cpu", torch.bfloat16):
            posterior = self.vae.encode(rearrange(frames, "b f c h w -> (b f) c h w") * 2 - 1).latent_dist
        latents: Tensor = posterior.mode().float()
        return rearrange(latents, "(b f) c h w -> b f c h w", b=len(frames))

    def embed(self, captions: list[str]) -> Tensor:
        """Prompt embeddings `b n d`, as the pipeline makes them."""
        tokens = self.tokenizer(
            captions, padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        embeds: Tensor = self.text_encoder(tokens)[0]
        return embeds

    def predict(self, noisy: Tensor, timesteps: Tensor, embeds: Tensor, positions: Tensor | None) -> Tensor:
        """The network's answer `b c f h w`."""
        self.attention.num_frames = noisy.shape[2]
        prediction: Tensor = self.video_unet(noisy, timesteps, embeds, frame_positions=positions)
        return prediction.float()

    def loss(self, step: int) -> Tensor:
        """The clips' loss, in every fourth step plus that of one frame of each.

        A pure function of (seed, step) and the weights.

        A single frame bypasses the temporal layers, which keeps the image model a text-to-image model.
        """
        args = self.args
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
        scenes, latents = draw_clips(self.pools, args, step)
        rng = np.random.default_rng((args.seed, step, 2))
        captions = ["" if rng.random() < 0.1 else caption(scene, rng, omit=0.1) for scene in scenes]
        positions = None
        if step < args.all_frames_from * args.num_steps:  # every second frame, at its true time
            positions = torch.arange(int(rng.integers(2)), CLIP_FRAMES, 2)
            latents = latents[:, :, positions]
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = stratified_timesteps(len(scenes), 1000, generator)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        target = training_target(self.scheduler, latents, noise, timesteps)
        with torch.autocast("cpu", torch.bfloat16):
            embeds = self.embed(captions)
            loss = (self.predict(noisy, timesteps, embeds, positions) - target).square().mean()
            if step % 4 == 3:
                moment = int(rng.integers(latents.shape[2]))
                frame = slice(moment, moment + 1)
                still = self.predict(noisy[:, :, frame], timesteps, embeds, None)
                loss = loss + (still - target[:, :, frame]).square().mean()
        return loss

    @torch.no_grad()
    def direction_gap(self, timestep: int) -> float:
        """How much the loss rises when opposite directions trade places in the captions (0: deaf)."""
        opposite = {"left": "right", "right": "left", "up": "down", "down": "up"}
        pool = self.pools["centre"]
        numbers = [n for n in range(200) if pool.scene(n).objects[0].motion in opposite][:32]
        scenes = [pool.scene(n) for n in numbers]
        wrong = [
            Scene(s.background, (replace(s.objects[0], motion=opposite[s.objects[0].motion]),))
            for s in scenes
        ]
        latents = rearrange(pool.latents(numbers), "b f c h w -> b c f h w")
        positions = torch.arange(0, CLIP_FRAMES, 2)
        latents = latents[:, :, positions]
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(self.args.seed))
        timesteps = torch.full((len(scenes),), timestep)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        target = training_target(self.scheduler, latents, noise, timesteps)
        losses = []
        for described in (wrong, scenes):
            with torch.autocast("cpu", torch.bfloat16):
                answer = self.predict(
                    noisy, timesteps, self.embed([caption(s) for s in described]), positions
                )
            losses.append(float((answer - target).square().mean()))
        return losses[0] - losses[1]

    def save(self, step: int, seconds: float) -> None:
        """Write the checkpoint and the model folder with averaged weights."""
        model = {
            f"{i}.{k}": v for i, module in enumerate(self.modules) for k, v in module.state_dict().items()
        }
        shadow = {f"{i:05d}": tensor for i, tensor in enumerate(self.ema.shadow_params)}
        groups = {"model": model, "ema": shadow, "optimizer": self.optimizer.state_tensors()}
        save_checkpoint(
            self.args.run,
            step,
            groups,
            {"seconds": seconds, "argv": {k: str(v) for k, v in vars(self.args).items()}},
        )
        self.ema.store(self.optimizer.parameters)
        self.ema.copy_to(self.optimizer.parameters)
        save_embedded_model(
            self.args.run / "model",
            self.tokenizer,
            self.text_encoder,
            self.unet,
            self.adapter,
            self.vae,
            self.scheduler,
        )
        self.ema.restore(self.optimizer.parameters)

    def resume(self) -> tuple[int, float]:
        """Load the newest complete checkpoint, if any; returns (steps done, seconds spent)."""
        checkpoint = newest_checkpoint(self.args.run)
        if checkpoint is None:
            return 0, 0.0
        step, groups, facts = load_checkpoint(checkpoint)
        for i, module in enumerate(self.modules):
            prefix = f"{i}."
            module.load_state_dict(
                {k[len(prefix) :]: v for k, v in groups["model"].items() if k.startswith(prefix)}
            )
        self.optimizer.load_state_tensors(groups["optimizer"])
        shadow = [groups["ema"][name] for name in sorted(groups["ema"])]
        self.ema.load_state_dict(
            {**self.ema.state_dict(), "optimization_step": step, "shadow_params": shadow}
        )
        print(f"resumed at step {step} from {checkpoint}")
        return step, float(facts["seconds"])


def main() -> None:
    """Train to the end, checkpointing on the way."""
    args = arguments()
    trainer = Trainer(args)
    if args.fill_pools:
        for pool in trainer.pools.values():
            pool.fill()
        return
    start, seconds = trainer.resume()
    began = time.monotonic() - seconds
    losses = []
    for step in range(start, args.num_steps):
        loss = trainer.loss(step)
        torch.autograd.backward(loss)
        norm = trainer.optimizer.step(trapezoid(step, args.num_steps, decay_share=args.decay_share))
        trainer.ema.step(trainer.optimizer.parameters)
        if step % 4 != 3:
            losses.append(loss.item())
        done = step + 1
        if done % args.log_every == 0:
            row = {"step": done, "loss": float(np.mean(losses)), "grad": norm}
            if done % (4 * args.log_every) == 0:
                row |= {f"gap{t}": trainer.direction_gap(t) for t in (999, 800, 600, 400)}
            print(
                json.dumps(
                    {k: round(v, 4) for k, v in row.items()} | {"seconds": round(time.monotonic() - began)}
                ),
                flush=True,
            )
            losses = []
        if done % args.save_every == 0 or done in {args.num_steps, args.stop_at}:
            trainer.save(done, time.monotonic() - began)
        if done == args.stop_at:
            return


if __name__ == "__main__":
    main()
