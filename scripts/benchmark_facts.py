"""Counted facts for `benchmark.py`: the same on every machine; and seconds until the program is ready."""

from __future__ import annotations

import os
import subprocess
import sys
from statistics import median
from typing import Any

import torch
from benchmark_models import SHAPES, outline
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch._subclasses.fake_tensor import FakeTensorMode

from video_diffusion.acceleration import FeatureReuse, accelerate_unet
from video_diffusion.acceleration.counting import count_flops, count_operations, peak_bytes
from video_diffusion.models import VideoUNet, decode_latents
from video_diffusion.models.temporal_transformer import TemporalTransformer

START_UP = {
    "--help": [sys.executable, "-m", "video_diffusion", "--help"],
    "import video_diffusion": [sys.executable, "-c", "import video_diffusion"],
    "import torch": [sys.executable, "-c", "import torch"],
    "first embedded pipeline": [
        sys.executable, "-c",
        "from video_diffusion import TextToVideoPipeline as P; P.from_pretrained('embedded', device='cpu')",
    ],
}  # fmt: skip


def counted_facts() -> dict[str, float]:
    """One guided step of SD 1.5 at 512x512 and 16 frames in bfloat16, and the decoding of its frames.

    Nothing is computed: tensors have shapes alone. Bytes are those of tensors that live at once, weights and
    what kernels take for themselves left out.
    """
    shape, before = SHAPES["D"], torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with FakeTensorMode(), torch.no_grad():
            model = VideoUNet(*outline(shape))
            latents = torch.empty(2, 4, shape.num_frames, shape.side, shape.side)
            prompts = torch.empty(2, 77, shape.cross_attention_dim)

            def step() -> Any:
                return model(latents, 500, prompts)

            facts = {"step_tflop": count_flops(step) / 1e12, "plain_peak_gb": peak_bytes(step) / 1e9}
            plain = count_operations(step)
            facts["plain_divisions"] = plain["aten.div"]
            reuse = FeatureReuse(model)
            with reuse.full_step(500.0):
                step()
            with reuse.shallow_step(460.0):
                shallow = count_flops(lambda: model(latents[:1], 460, prompts[:1])) / 1e12
            facts["shallow_step_share"] = shallow / facts["step_tflop"]
            reuse.detach()
            facts["peak_gb"] = _accelerated(model, lambda: peak_bytes(step)) / 1e9
            counts = _accelerated(model, lambda: count_operations(step))
            facts["divisions"] = counts["aten.div"]
            one_pass = _accelerated(model, lambda: peak_bytes(lambda: model(latents[:1], 500, prompts[:1])))
            facts["peak_two_passes_gb"] = one_pass / 1e9
            vae = AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
            ).eval()
            for chunk in (16, 4, 2, 1):
                decoded = peak_bytes(lambda c=chunk: [None for _ in decode_latents(vae, latents[:1], c)])  # type: ignore[misc]  # mypy knows no default of a lambda
                facts[f"decode_{chunk}_peak_gb"] = decoded / 1e9
    finally:
        torch.set_default_dtype(before)
    return facts | _copies_of_a_temporal_layer()


def _copies_of_a_temporal_layer() -> dict[str, float]:
    """Clones in one temporal layer in float32, as diffusers has it, as ours is written, and accelerated."""
    channels, frames = SHAPES["tiny"].widths[0], 5
    pixels = torch.randn(2 * frames, channels, 6, 4)
    theirs = AnimateDiffTransformer3D(
        num_attention_heads=8, attention_head_dim=channels // 8, in_channels=channels, activation_fn="geglu",
        positional_embeddings="sinusoidal", num_positional_embeddings=32,
    )  # fmt: skip
    unet, adapter = outline(SHAPES["tiny"])
    model = VideoUNet(unet, adapter)
    layer: Any = next(module for module in adapter.modules() if isinstance(module, TemporalTransformer))
    found = {
        "diffusers_clones": count_operations(lambda: theirs(pixels, num_frames=frames))["aten.clone"],
        "plain_clones": count_operations(lambda: layer(pixels, frames))["aten.clone"],
    }
    layer.norm_scope = "frame"  # as published weights have it
    counts = _accelerated(model, lambda: count_operations(lambda: layer(pixels, frames)))
    return {**found, "clones": counts["aten.clone"]}


def _accelerated(model: VideoUNet, count: Any) -> Any:
    with accelerate_unet(model):
        return count()


def start_up_seconds(runs: int = 3) -> dict[str, float]:
    """Median processor seconds of fresh processes: what they used, not what they waited for others."""
    found = {}
    for name, command in START_UP.items():
        spent = []
        for _ in range(runs):
            before = os.times()
            subprocess.run(command, check=True, capture_output=True)
            after = os.times()
            used = after.children_user + after.children_system
            spent.append(used - before.children_user - before.children_system)
        found[name] = median(spent)
    return found
