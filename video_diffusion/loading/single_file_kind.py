"""Which image model a single file in Stable Diffusion's original layout holds, by shapes; takes no torch."""

from collections.abc import Mapping
from dataclasses import dataclass

from video_diffusion.loading.weight_files import StoredTensor


@dataclass(frozen=True)
class SingleFileKind:
    """One kind of image model as its makers publish it.

    Attributes:
        title: For people.
        text_width: Width of the text embeddings that its U-Net reads.
        num_blocks: Blocks of its U-Net.
        sample_size: Latent pixels along each side of its training pictures.
    """

    title: str
    text_width: int
    num_blocks: int
    sample_size: int


SINGLE_FILE_KINDS: Mapping[str, SingleFileKind] = {
    "sd1": SingleFileKind("Stable Diffusion 1.x", 768, 4, 64),
    "sd2": SingleFileKind("Stable Diffusion 2.x", 1024, 4, 96),
    "sdxl": SingleFileKind("Stable Diffusion XL", 2048, 3, 128),
}

UNET = "model.diffusion_model."
_SD_TEXT = f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
_XL_TEXT = f"{UNET}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"


def single_file_kind(tensors: Mapping[str, StoredTensor]) -> str | None:
    """Name the kind of image model, a key of `SINGLE_FILE_KINDS`; None if it is none of them."""
    if not any(name.startswith(UNET) for name in tensors):
        return None
    found = tensors.get(_SD_TEXT) or tensors.get(_XL_TEXT)
    if found is None or len(found.shape) != 2:
        return None
    has_fourth_block = f"{UNET}input_blocks.11.0.in_layers.0.weight" in tensors
    for name, kind in SINGLE_FILE_KINDS.items():
        if kind.text_width == found.shape[1] and (kind.num_blocks == 4) == has_fourth_block:
            return name
    return None
