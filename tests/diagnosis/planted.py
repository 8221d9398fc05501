"""Clips of the shipped model with one known cause each, so that a diagnosis can be held against the truth."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from motion_files import original_lora
from safetensors.torch import save_file
from torch import Tensor, nn

from video_diffusion.comparison.alignment import PromptMeter
from video_diffusion.diagnosis.findings import Findings, find
from video_diffusion.diagnosis.run import Diagnosis, Subject
from video_diffusion.diagnosis.stages import USUAL_ENCODER, encoder_of
from video_diffusion.jobs import Pipelines
from video_diffusion.jobs.job import open_settings
from video_diffusion.pipeline import TextToVideoPipeline
from video_diffusion.settings import GenerationSettings

PROMPT = "a large red circle moving left on a white background"
BLUE = PROMPT.replace("red", "blue")


@dataclass(frozen=True)
class Plant:
    """A cause: the settings, decoder or encoder that makes a clip worse; `parts` are right as the first."""

    name: str
    parts: tuple[str, ...]
    values: Mapping[str, Any] = field(default_factory=dict)
    crf: int | None = None
    jitter: float = 0.0
    is_local: bool = False
    lora: float = 0.0


PLANTS = (
    Plant("a decoder that jitters", ("decoder",), jitter=6.0),
    Plant(
        "windows without overlap",
        ("window seams",),
        {"context_length": 4, "context_overlap": 0, "context_schedule": "static"},
    ),
    Plant("guidance 20", ("guidance",), {"guidance_scale": 20.0}),
    Plant("temporal layers off", ("temporal layers",), {"motion_adapter": "none"}),
    Plant("temporal layers at a fifth", ("temporal layers",), {"motion_effect": 0.2}),
    Plant("crf 40", ("encoder",), crf=40),
    Plant("a noisy LoRA", ("LoRA",), lora=1.0),
    Plant(
        "a prompt that jumps",
        ("prompt travel",),
        {"prompt_travel": dict(zip(map(str, range(12)), 6 * [PROMPT, BLUE], strict=True))},
    ),
    Plant("a decoder that adds noise", ("decoder",), jitter=6.0, is_local=True),
    Plant("guidance 20 and crf 40", ("guidance", "encoder"), {"guidance_scale": 20.0}, crf=40),
)  # fmt: skip


class JitteringPipelines(Pipelines):
    """Pipelines whose decoder makes every frame, or every pixel, lighter or darker by chance."""

    def __init__(self, levels: float, is_local: bool) -> None:
        super().__init__()
        self.levels, self.is_local = levels, is_local

    def get(self, settings: GenerationSettings, low_memory: bool = False) -> TextToVideoPipeline:
        pipeline = super().get(settings, low_memory)
        decoder: nn.Module = pipeline.parts.vae.decoder
        if self.levels and not decoder._forward_hooks:
            decoder.register_forward_hook(self._jitter)
        return pipeline

    def _jitter(self, module: nn.Module, inputs: object, images: Tensor) -> Tensor:
        noise = []
        for image in images:
            generator = torch.Generator().manual_seed(zlib.crc32(image.numpy().tobytes()))
            shape = image.shape if self.is_local else (1, 1, 1)
            noise.append((2 * torch.rand(shape, generator=generator) - 1).expand(image.shape))
        return images + torch.stack(noise) * self.levels / 127.5


def diagnosed(
    plant: Plant, folder: Path, seeds: tuple[int, ...] = (0, 1, 2), prompt: str = PROMPT, **values: Any
) -> Findings:
    """Plant a cause and diagnose the clip."""
    folder.mkdir(parents=True, exist_ok=True)
    usual = {"motion_adapter": "teacher", "device": "cpu"}  # guided steps, of which some causes are made
    asked: dict[str, Any] = {"prompt": prompt, "seed": seeds[0], **usual, **values, **plant.values}
    pipelines = JitteringPipelines(plant.jitter, plant.is_local)
    if plant.lora:
        file = folder / "noisy.safetensors"
        if not file.exists():
            adapter = TextToVideoPipeline.from_pretrained(device="cpu").parts.motion_adapter
            save_file(original_lora(adapter), file)
        asked["loras"] = [f"{file}:{plant.lora}"]
    settings = GenerationSettings.from_values(asked)
    settings = settings.with_defaults(open_settings(settings.model, settings.motion_adapter))
    clip, encoder = None, USUAL_ENCODER
    if plant.crf is not None:
        clip = folder / "clip.mp4"
        if not clip.exists():
            (video,) = pipelines.get(settings).generate([settings])
            video.save(clip, crf=plant.crf)
        found = encoder_of(clip)
        assert found is not None and found.crf == plant.crf  # x264 tells
        encoder = found
    subject = Subject(settings, seeds, clip, encoder)
    diagnosis = Diagnosis(subject, folder, pipelines, PromptMeter(), 3600.0)
    for _ in diagnosis.steps():
        pass
    return find(diagnosis.seen, subject)
