"""A training run in a second: the tiny model, a few small clips, in memory or on disk."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from tiny_models import (
    SCHEDULER_CONFIG,
    save_tiny_model,
    tiny_adapter,
    tiny_text_encoder,
    tiny_tokenizer,
    tiny_unet,
    tiny_vae,
)

from video_diffusion.loading import ModelParts
from video_diffusion.models import MotionAdapter
from video_diffusion.pipeline import TextToVideoPipeline
from video_diffusion.settings.input_files import file_sha256
from video_diffusion.settings.training import TrainingSettings
from video_diffusion.training.clips import MemoryClips, Weighted
from video_diffusion.training.data import ClipEntry, write_manifest
from video_diffusion.training.loop import Trainer
from video_diffusion.video import ModelIdentity, write_video

FRAMES, HEIGHT, WIDTH = 5, 16, 24
DEFAULTS = {"num_frames": FRAMES, "height": HEIGHT, "width": WIDTH, "fps": "8", "num_inference_steps": 2,
            "guidance_scale": 1.0, "scheduler": "ddim"}  # fmt: skip


def tiny_settings(**changes: Any) -> TrainingSettings:
    values: dict[str, Any] = {
        "data": "clips",
        "num_steps": 6,
        "batch_size": 4,
        "device": "cpu",
        "ema_decay": 0.9,
        "optimizer": {"learning_rate": 1e-2, "schedule": "cosine", "warmup_steps": 2},
        "validation": {"every": 0},
    }
    return TrainingSettings.model_validate(values | changes)


def tiny_parts(fresh_adapter: bool = False, **schedule: Any) -> ModelParts:
    unet = tiny_unet()
    fresh = MotionAdapter.for_unet(unet, num_attention_heads=2, max_num_frames=9)
    return ModelParts(
        tokenizer=tiny_tokenizer(),
        text_encoder=tiny_text_encoder(),
        vae=tiny_vae(),
        unet=unet,
        motion_adapter=fresh if fresh_adapter else tiny_adapter(unet),
        scheduler_config=SCHEDULER_CONFIG | schedule,
        defaults=DEFAULTS,
        identity=ModelIdentity(name="tiny", weights_sha256="0" * 64),
    )


def tiny_frames(number: int, frames: int = FRAMES) -> torch.Tensor:
    """A bright square that moves over a plain ground; which, the number says."""
    rng = np.random.default_rng(number)
    clip = np.full((frames, 3, HEIGHT, WIDTH), rng.integers(20, 90), np.uint8)
    for frame in range(frames):
        left = 2 * frame + number
        clip[frame, rng.integers(3), 4:11, left : left + 6] = 230
    return torch.from_numpy(clip)


def memory_clips(count: int = 5, name: str = "") -> MemoryClips:
    ids = [f"{name}{number}" for number in range(count)]
    return MemoryClips([tiny_frames(number) for number in range(count)], [f"clip {n}" for n in ids], ids)


def tiny_trainer(parts: ModelParts | None = None, sources: Any = None, **changes: Any) -> Trainer:
    pipeline = TextToVideoPipeline(parts or tiny_parts(), "cpu")
    sources = sources or [Weighted(memory_clips())]
    return Trainer(tiny_settings(**changes), pipeline, sources, Accelerator(cpu=True))


def frozen_tensors(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Every tensor of the model that training must leave as it is."""
    owners = ("unet", "motion_adapter", "text_encoder", "text_encoder_2", "vae")
    parts = {owner: getattr(trainer.pipeline.parts, owner) for owner in owners}
    named = {
        f"{owner}.{name}": tensor
        for owner, part in parts.items() if part is not None
        for name, tensor in part.state_dict().items()
    }  # fmt: skip
    return {name: tensor for name, tensor in named.items() if name not in trainer.target.parameters}


def write_tiny_model(folder: Path) -> Path:
    return save_tiny_model(folder, **DEFAULTS)


def write_tiny_clips(folder: Path, count: int = 5, first: int = 0) -> Path:
    """A folder of short videos with their manifest."""
    folder.mkdir(parents=True)
    entries = []
    for number in range(first, first + count):
        path = folder / f"{number}.mp4"
        frames = tiny_frames(number).permute(0, 2, 3, 1).numpy()
        write_video(path, frames, Fraction(8), None, codec="libx264rgb")
        stat = path.stat()
        entries.append(
            ClipEntry(
                id=str(number), path=path.name, sha256=file_sha256(path), num_frames=FRAMES, fps=Fraction(8),
                width=WIDTH, height=HEIGHT, caption=f"clip {number}", start=0.0, end=FRAMES / 8,
                num_bytes=stat.st_size, mtime_ns=stat.st_mtime_ns,
            )
        )  # fmt: skip
    write_manifest(folder, entries)
    return folder
