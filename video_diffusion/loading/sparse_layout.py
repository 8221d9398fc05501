"""SparseCtrl encoders told from the names and shapes of their tensors; takes no torch.

AnimateDiff's files and diffusers' folders hold the same tensors; only temporal layers are named differently.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from video_diffusion.loading.errors import ModelLoadError
from video_diffusion.loading.motion_layout import POSITIONS, present_name
from video_diffusion.loading.weight_files import StoredTensor

UNSTORED_POSITIONS = 32
"""Rows of the position tables of published encoders, where a file holds none."""

_CONDITION = "controlnet_cond_embedding."
_RESNET = re.compile(r"down_blocks\.(\d+)\.resnets\.(\d+)\.conv1\.weight")


@dataclass(frozen=True)
class SparseLayout:
    """What the tensors of a SparseCtrl encoder tell.

    Attributes:
        reads: Pictures ("rgb", through the autoencoder) or drawings ("scribble", as pixels).
        config: Fields of diffusers' `SparseControlNetModel` that follow from the shapes; those that do not,
            such as heads, are Stable Diffusion 1.x's.
        stored_names: diffusers' name of each tensor to the name it is stored under.
        has_positions: Whether position tables are stored.
    """

    reads: Literal["rgb", "scribble"]
    config: Mapping[str, Any]
    stored_names: Mapping[str, str]
    has_positions: bool


def is_sparse_control(names: Iterable[str]) -> bool:
    """Whether tensors of these names are a SparseCtrl encoder's: a ControlNet's with temporal layers."""
    names = list(names)
    return any(_CONDITION in name for name in names) and any(".motion_modules." in name for name in names)


def describe_sparse_layout(tensors: Mapping[str, StoredTensor], where: str) -> SparseLayout:
    """Find out how a SparseCtrl encoder is built.

    Args:
        tensors: By the names they are stored under.
        where: The file, for messages.

    Raises:
        ModelLoadError: They are none, or lack what tells how it is built.
    """
    if not is_sparse_control(tensors):
        raise ModelLoadError(
            f"{where}: not a SparseCtrl encoder (its tensors are {', '.join(sorted(tensors)[:3])}, …); "
            "a ControlNet is given as controlnet, temporal layers as motion_adapter"
        )
    stored_names = {present_name(name): name for name in tensors}
    shapes = {ours: tensors[name].shape for ours, name in stored_names.items()}
    layers = [found for found in map(_RESNET.fullmatch, shapes) if found is not None]
    num_blocks = 1 + max((int(found[1]) for found in layers), default=-1)
    embeddings = [shapes[name] for name in shapes if name.endswith(".attn2.to_k.weight")]
    is_simple = f"{_CONDITION}weight" in shapes
    conv = shapes.get(f"{_CONDITION}weight" if is_simple else f"{_CONDITION}conv_in.weight", ())
    if not num_blocks or not embeddings or len(conv) != 4:
        raise ModelLoadError(f"{where}: this SparseCtrl encoder is not whole; download it again")
    tables = [shape for name, shape in shapes.items() if name.endswith(POSITIONS) and len(shape) == 3]
    spatial = next((n for n in shapes if ".attentions." in n and n.endswith(".proj_in.weight")), "")
    config: dict[str, Any] = {
        "block_out_channels": tuple(
            shapes[f"down_blocks.{block}.resnets.0.conv1.weight"][0] for block in range(num_blocks)
        ),
        "layers_per_block": 1 + max(int(found[2]) for found in layers),
        "down_block_types": tuple(
            "CrossAttnDownBlockMotion"
            if any(name.startswith(f"down_blocks.{block}.attentions.") for name in shapes)
            else "DownBlockMotion"
            for block in range(num_blocks)
        ),
        "cross_attention_dim": embeddings[0][1],
        "use_linear_projection": len(shapes.get(spatial, ())) == 2,
        "conditioning_channels": conv[1] - 1,  # the last one is the mask
        "use_simplified_condition_embedding": is_simple,
        "motion_max_seq_length": tables[0][1] if tables else UNSTORED_POSITIONS,
    }
    if not is_simple:
        stack = [conv[0]]
        while f"{_CONDITION}blocks.{2 * len(stack) - 1}.weight" in shapes:
            stack.append(shapes[f"{_CONDITION}blocks.{2 * len(stack) - 1}.weight"][0])
        config["conditioning_embedding_out_channels"] = tuple(stack)
    return SparseLayout("rgb" if is_simple else "scribble", config, stored_names, bool(tables))
