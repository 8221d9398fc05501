"""The frozen image U-Net split over the processes of a run, so that each holds only its share of it."""

from typing import Any

from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel


def shard_frozen(unet: Any, num_processes: int, device_type: str) -> None:
    """Split an image U-Net over the processes by PyTorch's FSDP; each layer is gathered while it computes.

    What is trained stays whole on every process: it is small, and so are its moments and its average.

    Args:
        unet: A `UNet2DConditionModel`, frozen.
        num_processes: Of the run, all of which call this.
        device_type: cuda, or cpu for tests.
    """
    mesh = init_device_mesh(device_type, (num_processes,))
    blocks = [*unet.down_blocks, *([unet.mid_block] if unet.mid_block is not None else []), *unet.up_blocks]
    for block in blocks:
        for layer in [*block.resnets, *(getattr(block, "attentions", None) or [])]:
            if layer is not None:
                fully_shard(layer, mesh=mesh)
    fully_shard(unet, mesh=mesh)


def leave_out_of_ddp(model: nn.Module) -> None:
    """Keep data-parallel training from copying frozen parameters: they are equal everywhere, or shares."""
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    # PyTorch's own switch for this has a leading underscore.
    ignore: Any = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
    ignore(model, frozen)
