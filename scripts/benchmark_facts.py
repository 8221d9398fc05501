"""Counted facts for `benchmark.py`: the same on every machine; and seconds until the program is ready."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from statistics import mean, median
from typing import Any

import torch
from benchmark_models import SHAPES, Shape, build, outline
from counting import count_flops, count_operations, peak_bytes
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from video_diffusion.acceleration import FeatureReuse, accelerate_unet
from video_diffusion.models import VideoUNet, decode_latents, usual_chunk_size
from video_diffusion.models.temporal import TemporalTransformer
from video_diffusion.sampling import ContextWindows, Windowed
from video_diffusion.settings import ContextSchedule

START_UP = {
    "--help": [sys.executable, "-m", "video_diffusion", "--help"],
    "import video_diffusion": [sys.executable, "-c", "import video_diffusion"],
    "import torch": [sys.executable, "-c", "import torch"],
    "import of the libraries' classes": [
        sys.executable, "-c",
        "from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL\n"
        "from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel\n"
        "from transformers.models.clip.modeling_clip import CLIPTextModel\n"
        "from transformers.models.clip.tokenization_clip import CLIPTokenizer",
    ],
    "first embedded pipeline": [
        sys.executable, "-c",
        "from video_diffusion import TextToVideoPipeline as P; P.from_pretrained('embedded', device='cpu')",
    ],
}  # fmt: skip

LONG_CLIPS: tuple[tuple[int, int, ContextSchedule], ...] = (
    (128, 4, "uniform"),
    (128, 4, "static"),
    (128, 4, "even"),
    (1024, 4, "uniform"),
    (1024, 4, "even"),
    (128, 0, "batched"),
)
"""Frames, overlap and schedule of the clips in windows of 16 whose cost is counted."""


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
            facts["plain_divisions"] = plain["aten.div by 1"]
            reuse = FeatureReuse(model)
            with reuse.full_step(500.0):
                step()
            with reuse.shallow_step(460.0):
                shallow = count_flops(lambda: model(latents[:1], 460, prompts[:1])) / 1e12
            facts["shallow_step_share"] = shallow / facts["step_tflop"]
            reuse.detach()
            facts["peak_gb"] = _accelerated(model, lambda: peak_bytes(step)) / 1e9
            counts = _accelerated(model, lambda: count_operations(step))
            facts["divisions"] = counts["aten.div by 1"]
            one_pass = _accelerated(model, lambda: peak_bytes(lambda: model(latents[:1], 500, prompts[:1])))
            facts["peak_two_passes_gb"] = one_pass / 1e9
            vae = AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
            ).eval()

            def decode(chunk: int) -> int:
                return sum(len(frames) for frames in decode_latents(vae, latents[:1], chunk))

            for chunk in (16, 4, 2, 1):
                facts[f"decode_{chunk}_peak_gb"] = peak_bytes(partial(decode, chunk)) / 1e9
            usual = usual_chunk_size(8 * shape.side, 8 * shape.side, 2)
            whole = _accelerated(model, lambda: peak_bytes(lambda: (step(), decode(usual))))
            facts["run_peak_gb"] = whole / 1e9
            facts["long_peak_ratio"] = _peak_of_long_clip(model, prompts, shape) / (1e9 * facts["peak_gb"])
            model.one_by_one = True
            with accelerate_unet(model, reuse_prompts=False):  # they cannot be told apart, see below
                facts["low_memory_run_peak_gb"] = peak_bytes(lambda: (step(), decode(1))) / 1e9
    finally:
        torch.set_default_dtype(before)
    return facts | _copies_of_a_temporal_layer() | _projections_of_prompts() | _costs_of_long_clips()


def _peak_of_long_clip(model: VideoUNet, prompts: Tensor, shape: Shape) -> int:
    """Bytes of a guided step of 128 frames in windows of 16; latents are part of it."""
    windowed: Any = Windowed(model, ContextWindows(num_frames=128, length=16, overlap=4, schedule="static"))
    latents = torch.empty(2, 4, 128, shape.side, shape.side)
    # Prompts cannot be told apart here, where tensors have no values; they are projected for each window.
    with accelerate_unet(model, reuse_prompts=False):
        return peak_bytes(lambda: windowed(latents, 500, prompts))


def _costs_of_long_clips() -> dict[str, float]:
    """Frames that pass through the model for each frame of a clip in windows of 16, the mean of 25 steps.

    A window of 16 costs what a clip of 16 frames costs.
    """
    found = {}
    for num_frames, overlap, schedule in LONG_CLIPS:
        windows = ContextWindows(num_frames, 16, overlap, schedule=schedule)
        passed = [sum(len(window) for window in windows.at(step)) for step in range(25)]
        found[f"long_{num_frames}_{overlap}_{schedule}_cost"] = mean(passed) / num_frames
    return found


@torch.no_grad()
def _projections_of_prompts() -> dict[str, float]:
    """Prompts that go through one layer's keys in 25 guided steps of 16 frames, on a small model."""
    shape = replace(SHAPES["tiny"], num_frames=16)
    ours, theirs = build(shape, torch.float32, "cpu")
    latents, prompts = shape.inputs(torch.float32)
    found: dict[str, float] = {}
    for name, model in (("diffusers_projections", theirs), ("projections", ours)):
        layer = next(each for key, each in model.named_modules() if key.endswith("attn2.to_k"))
        rows: list[int] = []
        handle = layer.register_forward_pre_hook(lambda _, given, to=rows: to.append(len(given[0])))
        with accelerate_unet(ours):
            for step in range(25):
                if model is ours:
                    ours(latents, 40 * step, prompts)
                else:
                    theirs(latents, 40 * step, prompts.repeat_interleave(16, 0))
        handle.remove()
        found[name] = sum(rows)
    return found


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
