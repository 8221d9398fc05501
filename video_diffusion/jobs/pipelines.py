"""The loaded model, kept from job to job; another is loaded when a job asks for it."""

import os
from typing import TYPE_CHECKING

from video_diffusion.generation_settings import GenerationSettings

if TYPE_CHECKING:
    from video_diffusion.pipeline import TextToVideoPipeline


class Pipelines:
    """One pipeline in memory at a time; a model that could not be loaded is not tried again."""

    def __init__(self) -> None:
        self._key: tuple[str | bool | None, ...] | None = None
        self._pipeline: TextToVideoPipeline | None = None
        self._failed: dict[tuple[str | bool | None, ...], Exception] = {}

    def get(self, settings: GenerationSettings, low_memory: bool = False) -> "TextToVideoPipeline":
        """The pipeline for these settings.

        Args:
            settings: name the model.
            low_memory: whether the pipeline spends time to save memory.

        Raises:
            ModelLoadError, DeviceError: it cannot be loaded.
        """
        # imported here: a job file is checked, and skipped when all is done, without importing torch
        from video_diffusion.pipeline import TextToVideoPipeline  # noqa: PLC0415

        key = (
            settings.model,
            settings.motion_adapter,
            settings.dtype,
            settings.quantize,
            settings.device,
            low_memory,
        )
        if key in self._failed:
            raise self._failed[key]
        if self._pipeline is None or key != self._key:
            self._pipeline = None  # frees the memory before the next one is loaded
            try:
                self._pipeline = TextToVideoPipeline.from_pretrained(
                    settings.model,
                    settings.motion_adapter,
                    settings.dtype,
                    own_device(settings.device),
                    low_memory=low_memory,
                    quantize=settings.quantize,
                )
            except Exception as error:
                self._failed[key] = error
                raise
            self._key = key
        return self._pipeline


def own_device(name: str) -> str:
    """The device asked for; "auto" is the GPU that a launcher gave this process, if it gave one."""
    rank = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or ""
    if name != "auto" or not rank.isdecimal():
        return name
    import torch  # noqa: PLC0415 - see above

    return f"cuda:{int(rank) % torch.cuda.device_count()}" if torch.cuda.is_available() else name
