"""Embeddings (textual inversion, Gal et al. 2022): what their files hold, told by names and shapes."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from video_diffusion.loading.weights import FLOAT_TYPES, ModelLoadError, StoredTensor, open_weights

if TYPE_CHECKING:
    from torch import Tensor

    from video_diffusion.loading.model import ModelParts

WIDTHS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 1280: "Stable Diffusion XL"}
XL_NAMES = (("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1"))
"""What the vectors for SDXL's two encoders are called: by the web UI and ComfyUI, and by diffusers."""
ONE_NAMES = ("emb_params", "string_to_param.*", "*")
MAX_VECTORS = 512
NARROWEST, WIDEST = 8, 4096


def is_embedding(tensors: Mapping[str, StoredTensor]) -> bool:
    """Tell whether tensors are an embedding: one list of vectors, or one for each of SDXL's encoders."""
    return embedding_names(tensors) is not None


def embedding_names(tensors: Mapping[str, StoredTensor]) -> tuple[str, ...] | None:
    """The names of the vectors for each text encoder; None if these are no embedding."""
    vectors = [name for name, tensor in tensors.items() if _is_list_of_vectors(tensor)]
    for names in XL_NAMES:
        if set(names) == set(tensors) == set(vectors):
            return names
    named = [name for name in vectors if name in ONE_NAMES or (len(tensors) == 1 and "." not in name)]
    return (named[0],) if len(named) == 1 and len(tensors) <= 2 else None


def _is_list_of_vectors(tensor: StoredTensor) -> bool:
    shape = tensor.shape
    fits = len(shape) in {1, 2} and NARROWEST <= shape[-1] <= WIDEST
    return fits and tensor.dtype in FLOAT_TYPES and (len(shape) == 1 or 1 <= shape[0] <= MAX_VECTORS)


def load_embedding(path: Path | str, parts: "ModelParts") -> "tuple[Tensor, ...]":
    """Read an embedding for a model.

    Args:
        path: A safetensors file.
        parts: The model.

    Returns:
        For each of its text encoders, one vector per row.

    Raises:
        ModelLoadError: The file is damaged, no embedding, or made for a text encoder of another width.
    """
    file = open_weights(path)
    names = embedding_names(file.tensors)
    if names is None:
        raise ModelLoadError(
            f"{path}: holds no embedding (one list of vectors, or clip_l and clip_g for SDXL) but "
            f"{len(file.tensors)} tensors; a LoRA is given as loras"
        )
    tensors = file.load(names)
    vectors = tuple(tensors[name].reshape(-1, tensors[name].shape[-1]) for name in names)
    found = [each.shape[1] for each in vectors]
    expected = [int(encoder.config.hidden_size) for encoder in parts.text_encoders.text_encoders]
    if found != expected:
        made_for = WIDTHS.get(found[-1])
        raise ModelLoadError(
            f"{path}: this embedding has vectors of width {' and '.join(map(str, found))}"
            f"{f' ({made_for})' if made_for else ''}, but this model's text encoder reads "
            f"{' and '.join(map(str, expected))}; use one for the same base model"
        )
    if len({len(each) for each in vectors}) > 1:
        raise ModelLoadError(
            f"{path}: has {len(vectors[0])} vectors for the first text encoder and {len(vectors[1])} for the "
            "second; they must be as many"
        )
    return vectors
