"""Activations recomputed in the backward pass, cut so that the dearest operations do not run twice.

A region is computed again only up to the last tensor that its backward pass needs, which is the input of its
last operation. So a region that ends with a convolution or a matrix product does not repeat that one.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

Region = Callable[..., Any]
"""Runs a function on inputs, which are kept, while what it computes on the way is not."""


def region(function: Callable[..., Any], *inputs: Any) -> Any:
    """Run a function, keep its inputs alone, and run it again when its gradient is asked for."""
    return checkpoint(function, *inputs, use_reentrant=False)


def is_plain_resnet(module: Any) -> bool:
    """Whether a module is a resnet of the usual kind: SiLU, time added, no change of size, no rescaling."""
    return (
        type(module) is ResnetBlock2D
        and isinstance(module.nonlinearity, nn.SiLU)
        and module.time_emb_proj is not None
        and module.time_embedding_norm == "default"
        and not module.skip_time_act
        and module.upsample is None
        and module.downsample is None
        and module.output_scale_factor == 1
        and (module.dropout.p == 0 or not module.training)
    )


@contextmanager
def resnet_in_halves(resnet: ResnetBlock2D, run: Region) -> Iterator[None]:
    """Inside, a plain resnet computes the same, but as two regions that end with its convolutions.

    What is kept are the inputs of its two norms. As one region, as diffusers has it, it would keep one of
    them less and compute its first convolution twice.

    Args:
        resnet: Of the kind that `is_plain_resnet` approves.
        run: How a region is run, such as `region`.
    """

    def first(hidden_states: Tensor) -> Tensor:
        return resnet.conv1(functional.silu(resnet.norm1(hidden_states)))

    def second(hidden_states: Tensor) -> Tensor:
        return resnet.conv2(functional.silu(resnet.norm2(hidden_states)))

    def forward(input_tensor: Tensor, temb: Tensor) -> Tensor:
        embedded = resnet.time_emb_proj(functional.silu(temb))[:, :, None, None]
        hidden_states = run(second, run(first, input_tensor) + embedded)
        shortcut = input_tensor if resnet.conv_shortcut is None else resnet.conv_shortcut(input_tensor)
        return shortcut + hidden_states

    own = vars(resnet)
    before = own.get("forward")
    own["forward"] = forward
    try:
        yield
    finally:
        del own["forward"]
        if before is not None:
            own["forward"] = before
