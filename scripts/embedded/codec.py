"""Train the embedded model's autoencoder on still frames of the procedural world.

python scripts/embedded codec --run runs/codec --num-steps 3000
Stops and resumes at any step: run the same command again. Writes runs/codec/vae (diffusers folder) at the
end.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.training_utils import EMAModel
from einops import rearrange
from torch import Tensor

from embedded.muon import MuonWithAdamW, trapezoid
from video_diffusion.procedural.render import paint
from video_diffusion.procedural.scene import MOTIONS, SHAPES, Trajectory, World, sample_trajectory
from video_diffusion.training.state import load_checkpoint, newest_checkpoint, save_checkpoint

WORLD = World(shapes=SHAPES, motions=MOTIONS, two_objects_share=0.3)


def still_frames(num: int, side: int, seed: int, step: int) -> Tensor:
    """One moment of `num` random clips, `num 3 side side` in [-1, 1]: a pure function of (seed, step)."""
    scenes, poses = [], []
    for index in range(num):
        rng = np.random.default_rng((seed, step, index))
        scene = WORLD.sample(rng, held_out=bool(rng.random() < 0.125))
        moment = slice(int(rng.integers(16)), None)
        scenes.append(scene)
        tracks = [sample_trajectory(thing, 16, rng) for thing in scene.objects]
        poses.append(
            [Trajectory(t.centre[moment][:1], t.radius[moment][:1], t.angle[moment][:1]) for t in tracks]
        )
    return rearrange(paint(scenes, poses, side, side), "b 1 c h w -> b c h w") * 2 - 1


def psnr(vae: AutoencoderKL, frames: Tensor) -> float:
    """Decibels of the mean squared error over all frames, peak 1, through the encoder's mean."""
    with torch.no_grad():
        decoded = torch.cat(
            [
                vae.decode(vae.encode(chunk).latent_dist.mode()).sample.clamp(-1, 1)
                for chunk in torch.split(frames, 64)
            ]
        )
    return -10 * math.log10(float(((decoded - frames) / 2).square().mean()))


def normalise_latents(vae: AutoencoderKL, frames: Tensor, power: float) -> list[float]:
    """Fold a rotation and scaling of the latents into the 1×1 convolutions on either side of them.

    The latent channels become uncorrelated with mean 0 and standard deviation proportional to (their own)^(1
    - power), 1 on
    average, so that `scaling_factor` is 1. `power` 1 whitens and 0 only rotates. Decoded frames do not
    change.
    """
    with torch.no_grad():
        latents = torch.cat([vae.encode(chunk).latent_dist.mode() for chunk in torch.split(frames, 64)])
        flat = rearrange(latents, "b c h w -> (b h w) c").double()
        mean = flat.mean(0)
        variance, axes = torch.linalg.eigh((flat - mean).T.cov())
        scale = variance.clamp_min(1e-8).pow(-power / 2)
        scale = scale / (variance * scale.square()).mean().sqrt()
        forward = scale[:, None] * axes.T
        backward = axes / scale[None]
        channels = vae.config.latent_channels
        quant, post = vae.quant_conv, vae.post_quant_conv
        weight, bias = quant.weight.double()[:, :, 0, 0], quant.bias.double()
        new_weight, new_bias = torch.zeros_like(weight), torch.full_like(bias, -20.0)
        new_weight[:channels] = forward @ weight[:channels]
        new_bias[:channels] = forward @ (bias[:channels] - mean)
        quant.weight.copy_(new_weight[:, :, None, None])
        quant.bias.copy_(new_bias)
        weight, bias = post.weight.double()[:, :, 0, 0], post.bias.double()
        post.bias.copy_(bias + weight @ mean)
        post.weight.copy_((weight @ backward)[:, :, None, None])
    return [round(float(v), 4) for v in (variance.sqrt() * scale).flip(0)]


def main() -> None:
    """Train, checkpoint, normalise, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--num-steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--whitening", type=float, default=0.5)
    parser.add_argument("--save-every", type=int, default=500)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 64, 64, 64),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=8,
        sample_size=args.side,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )
    vae.to(args.device)
    optimizer = MuonWithAdamW([vae])
    ema = EMAModel(vae.parameters(), decay=0.998)
    start, seconds = 0, 0.0
    if checkpoint := newest_checkpoint(args.run):
        start, groups, facts = load_checkpoint(checkpoint)
        vae.load_state_dict(groups["model"])
        optimizer.load_state_tensors(groups["optimizer"])
        ema.load_state_dict(
            {
                **ema.state_dict(),
                "optimization_step": start,
                "shadow_params": [t.to(args.device) for t in groups["ema"].values()],
            }
        )
        seconds = facts["seconds"]
        print(f"resumed at step {start} from {checkpoint}")
    held_out = still_frames(256, args.side, args.seed + 1, 0).to(args.device)
    began = time.monotonic() - seconds
    for step in range(start, args.num_steps):
        frames = still_frames(args.batch, args.side, args.seed, step).to(args.device)
        noise = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
        with torch.autocast(args.device, torch.bfloat16):
            posterior = vae.encode(frames).latent_dist
            decoded = vae.decode(posterior.sample(noise)).sample
        error = decoded.float() - frames
        kl = posterior.kl().float().mean()
        loss = error.abs().mean() + error.square().mean() + 1e-7 * kl
        loss.backward()
        norm = optimizer.step(trapezoid(step, args.num_steps))
        ema.step(vae.parameters())
        done = step + 1
        if done % 100 == 0 or done == args.num_steps:
            row = {
                "step": done,
                "loss": round(loss.item(), 5),
                "kl": round(kl.item(), 1),
                "grad": round(norm, 3),
            }
            if done % 500 == 0 or done == args.num_steps:
                ema.store(vae.parameters())
                ema.copy_to(vae.parameters())
                row["psnr"] = round(psnr(vae, held_out), 2)
                ema.restore(vae.parameters())
            print(json.dumps({**row, "seconds": round(time.monotonic() - began)}), flush=True)
        if done % args.save_every == 0 or done == args.num_steps:
            shadow = {f"{i:05d}": tensor for i, tensor in enumerate(ema.shadow_params)}
            groups = {"model": vae.state_dict(), "ema": shadow, "optimizer": optimizer.state_tensors()}
            save_checkpoint(args.run, done, groups, {"seconds": time.monotonic() - began})
    ema.copy_to(vae.parameters())
    vae.eval()
    before = psnr(vae, held_out)
    deviations = normalise_latents(
        vae, still_frames(512, args.side, args.seed + 2, 0).to(args.device), args.whitening
    )
    print(
        json.dumps(
            {"psnr": round(before, 2), "psnr_normalised": round(psnr(vae, held_out), 2), "std": deviations}
        )
    )
    vae.save_pretrained(args.run / "vae")
