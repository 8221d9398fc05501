"""The tokenizer for an image model in one file, from beside it or from the local cache of the hub."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.models.clip.tokenization_clip import CLIPTokenizer

from video_diffusion.loading.components import load_tokenizer
from video_diffusion.loading.errors import ModelLoadError

# All read the same words; SD 2 and SDXL's second pad with another token than OpenAI's.
_OPENAI = (
    ("stable-diffusion-v1-5/stable-diffusion-v1-5", "tokenizer"),
    ("stabilityai/stable-diffusion-xl-base-1.0", "tokenizer"),
    ("openai/clip-vit-large-patch14", "."),
)
_OPEN_CLIP = (
    ("stabilityai/stable-diffusion-xl-base-1.0", "tokenizer_2"),
    ("stabilityai/stable-diffusion-2-1", "tokenizer"),
)


def find_tokenizer(path: Path, kind: str, second: bool = False) -> Any:
    """Find and load a tokenizer; the network is never asked.

    Args:
        path: The model's file.
        kind: A key of `SINGLE_FILE_KINDS`.
        second: Whether the second one of SDXL is meant.

    Raises:
        ModelLoadError: There is none on this machine.
    """
    name = "tokenizer_2" if second else "tokenizer"
    sources = _OPEN_CLIP if second or kind == "sd2" else _OPENAI
    for folder in (path.parent / name, *_cached(sources)):
        if (folder / "tokenizer_config.json").is_file():
            return load_tokenizer(CLIPTokenizer, folder)
    repo, subfolder = sources[0]
    raise ModelLoadError(
        f"{path}: a file of this kind holds no tokenizer, and none is in the local cache; put the folder "
        f"{subfolder} of {repo} beside it as {path.parent / name}"
    )


def _cached(sources: tuple[tuple[str, str], ...]) -> Iterator[Path]:
    # only needed where there is none beside the file
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415

    for repo, subfolder in sources:
        try:
            yield Path(snapshot_download(repo, local_files_only=True)) / subfolder
        except LocalEntryNotFoundError:
            continue
