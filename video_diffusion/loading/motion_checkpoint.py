"""Motion modules read from any published layout, and written in AnimateDiff's own.

diffusers tells them apart by asking the hub, and knows neither Hotshot-XL nor AnimateLCM nor tables of 64
positions; here keys and shapes are enough.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from video_diffusion.io import atomic_path
from video_diffusion.loading.components import load_diffusers
from video_diffusion.loading.errors import ModelLoadError
from video_diffusion.loading.motion_file import CONFIG_TAG, MotionFile, detect
from video_diffusion.loading.motion_layout import POSITIONS, original_names
from video_diffusion.loading.weight_files import StoredTensor, StoredWeights, compare_weights
from video_diffusion.models import MotionAdapter
from video_diffusion.models.temporal_attention import SinusoidalPositions


def read_motion_checkpoint(
    path: Path | str,
    dtype: torch.dtype | None = None,
    *,
    allow_pickle: bool = False,
    allow_extra: bool = False,
    variant: str | None = None,
) -> MotionAdapter:
    """Read a motion module, in evaluation mode on the CPU.

    Args:
        path: A file in any of the layouts that `detect` knows, or a folder in diffusers' layout.
        dtype: To convert to; None keeps what is stored, bit for bit.
        allow_pickle: Whether a `.ckpt` or the like may be read, see `open_weights`.
        allow_extra: Whether surplus tensors are left out instead of refused.
        variant: Of a folder's weights, see `find_weights`.

    Raises:
        ModelLoadError: One line naming the file, and the tensors that are missing, surplus, of another shape,
            not floating point or not finite.
    """
    found = detect(path, allow_pickle=allow_pickle, variant=variant)
    if found.path.is_dir():
        adapter = load_diffusers(
            MotionAdapter,
            found.path,
            dtype or _stored_dtype(found),
            allow_extra=allow_extra,
            variant=variant,
            norm_scope=found.config["norm_scope"],
            family=found.family,
        )
        assert isinstance(adapter, MotionAdapter)
        return adapter
    outline = _outline(found)
    tensors = _gathered(found, outline, allow_extra)
    outline.load_state_dict(tensors, assign=True)
    adapter = outline if dtype is None else torch.nn.Module.to(outline, dtype=dtype)
    for name, tensor in adapter.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise ModelLoadError(
                f"{found.path}: {name} holds NaN or infinity after loading as {tensor.dtype}; "
                "the file needs a dtype of wider range"
            )
    return adapter.eval()


def write_original_layout(adapter: MotionAdapter, path: Path | str, *, overwrite: bool = True) -> None:
    """Write a motion module in AnimateDiff's layout, as safetensors, in its present precision.

    The position tables are written too, once for each attention, because other programs tell versions apart
    by them. What shapes cannot tell (heads, groups, norms, family) goes into the file's metadata.

    Args:
        adapter: Of any shape; programs other than ours expect 8 heads and 32 groups.
        path: Appears only when it is complete.
        overwrite: False refuses an existing file.

    Raises:
        FileExistsError: See `overwrite`.
        OSError: No space, no permission.
    """
    tensors = {
        stored: tensor.detach().cpu().contiguous().clone()
        for name, tensor in adapter.state_dict().items()
        for stored in original_names(name)
    }
    config = {key: value for key, value in adapter.config.items() if not key.startswith("_")}
    metadata = {"format": "pt", CONFIG_TAG: json.dumps(config, sort_keys=True)}
    with atomic_path(path, overwrite=overwrite) as part:
        save_file(tensors, part, metadata)


def _stored_dtype(found: MotionFile) -> torch.dtype:
    known = {"F64": torch.float64, "F16": torch.float16, "BF16": torch.bfloat16}
    return known.get(found.dtypes[0], torch.float32) if len(found.dtypes) == 1 else torch.float32


def _outline(found: MotionFile) -> MotionAdapter:
    """The adapter without its numbers."""
    if found.layout.num_attentions != 2:
        raise ModelLoadError(
            f"{found.path}: its temporal layers have {found.layout.num_attentions} attentions each, but only "
            "those with 2 are supported, as all published motion modules have"
        )
    try:
        with torch.device("meta"):
            return MotionAdapter(**found.config)
    except Exception as error:  # whatever a wrong value leads to, deep inside torch
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelLoadError(f"{found.path}: cannot be built from what it says ({reason})") from None


def _gathered(found: MotionFile, outline: MotionAdapter, allow_extra: bool) -> dict[str, Tensor]:
    """The tensors under our names, having checked that they are those that the adapter has."""
    names, described = found.layout.stored_names, found.weights.tensors
    tables = {name: tuple(t.shape) for name, t in outline.state_dict().items() if name.endswith(POSITIONS)}
    present: dict[str, StoredTensor] = {name: described[stored[0]] for name, stored in names.items()}
    if found.layout.num_positions is None:
        present |= {name: StoredTensor("F32", shape) for name, shape in tables.items()}
    described_by = "the rest of the file"
    compare_weights(StoredWeights(found.path, present, None, described_by), outline, allow_extra)
    stored_tensors = found.weights.load()
    tensors = {}
    for name in outline.state_dict():
        if name not in names:
            _, num_positions, width = tables[name]
            with torch.device("cpu"):
                tensors[name] = SinusoidalPositions(width, num_positions).pe
            continue
        tensors[name] = _agreed(found.path, names[name], stored_tensors)
    return tensors


def _agreed(path: Path, names: tuple[str, ...], tensors: Mapping[str, Tensor]) -> Tensor:
    first, *others = (tensors[name] for name in names)
    if not all(torch.equal(first, other) for other in others):
        raise ModelLoadError(
            f"{path}: {' and '.join(names)} differ, but the attentions of a layer share one table of "
            "positions; the file is damaged"
        )
    return first
