"""Clips and captions as the network sees them: latents and prompt embeddings, computed once if possible."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from video_diffusion.models import encode_frames
from video_diffusion.text import encode_prompt
from video_diffusion.training.clip_mix import Item
from video_diffusion.training.data.latent_cache import LatentCache, module_sha256

MAX_KEPT_CAPTIONS = 4096


class EncodingCaches:
    """Where encodings are kept on disk, by content: no change of a file, model or caption finds a wrong one.

    Args:
        folder: May be shared by any number of runs.
        vae, tokenizer, text_encoder: What encodes.
    """

    def __init__(self, folder: Path, vae: Any, tokenizer: Any, text_encoder: Any) -> None:
        vocabulary = json.dumps(sorted(tokenizer.get_vocab().items())).encode()
        facts = (tokenizer.model_max_length, hashlib.sha256(vocabulary).hexdigest())
        self.latents = LatentCache(folder / "latents", module_sha256(vae), str(vae.dtype))
        self.captions = LatentCache(
            folder / "captions", module_sha256(text_encoder, *facts), str(text_encoder.dtype)
        )


class ClipEncoder:
    """Encodes clips one by one, so that latents never depend on the batch; captions likewise.

    Args:
        vae, tokenizer, text_encoder: The model's own, frozen.
        read_again: Reads the frames of an item that was left unread because its latents were thought to be
            kept.
        caches: Where encodings are kept; None encodes every time.
        chunk_size: Frames encoded at once.
    """

    def __init__(
        self,
        vae: Any,
        tokenizer: Any,
        text_encoder: Any,
        read_again: Callable[[Item], Tensor],
        caches: EncodingCaches | None = None,
        chunk_size: int = 16,
    ) -> None:
        self.vae, self.tokenizer, self.text_encoder = vae, tokenizer, text_encoder
        self.read_again, self.caches, self.chunk_size = read_again, caches, chunk_size
        self._captions: dict[str, Tensor] = {}

    def latents(self, items: Sequence[Item]) -> Float[Tensor, "b c f h w"]:
        """The clips' latents, float32, on the CPU."""
        return torch.stack([self._clip(item) for item in items])

    def prompts(self, captions: Sequence[str]) -> Float[Tensor, "b n d"]:
        """The captions' embeddings, on the CPU."""
        return torch.cat([self._caption(caption) for caption in captions])

    def _clip(self, item: Item) -> Float[Tensor, "c f h w"]:
        def encode() -> Tensor:
            frames = item["frames"] if "frames" in item else self.read_again(item)
            return encode_frames(self.vae, frames.float() / 255, self.chunk_size).float().cpu().contiguous()

        return self.caches.latents.get_or_encode(item["key"], encode) if self.caches else encode()

    def _caption(self, caption: str) -> Float[Tensor, "1 n d"]:
        def encode() -> Tensor:
            return encode_prompt([caption], self.tokenizer, self.text_encoder).cpu()

        if caption not in self._captions:
            if len(self._captions) >= MAX_KEPT_CAPTIONS:
                self._captions.pop(next(iter(self._captions)))
            kept = self.caches.captions.get_or_encode(caption, encode) if self.caches else encode()
            self._captions[caption] = kept
        return self._captions[caption]
