"""The machine a run trains on: device, precision, processes and trackers, all by accelerate."""

from datetime import timedelta
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from video_diffusion.loading import choose_device
from video_diffusion.training.settings import TrainingSettings

# The others wait while the first process validates and saves.
LONGEST_WAIT = timedelta(hours=2)


def make_accelerator(settings: TrainingSettings, folder: Path | None = None) -> Accelerator:
    """Device, precision and processes, as `accelerate launch` and `torchrun` say.

    Args:
        settings: Of the run.
        folder: Where trackers that write files put them, in a folder `logs`.

    Raises:
        ValueError: `log_with` names a tracker that accelerate does not know or that is not installed;
            `device` is not the one that accelerate gives to this process.
        DeviceError: There is no such device.
    """
    if settings.log_with is not None:
        check_tracker(settings.log_with)
    asked = choose_device(settings.device)
    accelerator = Accelerator(
        mixed_precision=settings.mixed_precision,
        cpu=settings.device == "cpu",
        log_with=settings.log_with,
        kwargs_handlers=[
            DistributedDataParallelKwargs(
                broadcast_buffers=False, find_unused_parameters=settings.temporal_and is not None
            ),
            InitProcessGroupKwargs(timeout=LONGEST_WAIT),
        ],
        project_dir=folder,
    )
    given = accelerator.device
    if settings.device != "auto" and (given.type, given.index or 0) != (asked.type, asked.index or 0):
        raise ValueError(
            f"device is {settings.device} but accelerate trains on {given} here; set device to auto, and "
            "choose GPUs by CUDA_VISIBLE_DEVICES"
        )
    return accelerator


def check_tracker(name: str) -> None:
    """Refuse a tracker that cannot log here.

    Raises:
        ValueError: It is not one of accelerate's, or its package is not installed; those that are, are named.
    """
    from accelerate.tracking import get_available_trackers  # noqa: PLC0415

    available = [str(getattr(tracker, "value", tracker)) for tracker in get_available_trackers()]
    if name not in available:
        raise ValueError(
            f"log_with must be a tracker that accelerate knows and that is installed, not {name!r}; here are "
            f"{', '.join(available) or 'none'}"
        )
