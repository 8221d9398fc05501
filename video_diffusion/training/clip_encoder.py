"""Clips and captions as the network sees them: latents and prompt embeddings, computed once if possible."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from video_diffusion.models import encode_frames
from video_diffusion.text import encode_prompt
from video_diffusion.training.clip_mix import Item

MAX_KEPT_CAPTIONS = 4096


class Cache(Protocol):
    """Latents kept from one reading of a clip to the next, by content."""

    def get(self, key: str) -> Tensor | None:
        """What was kept under a key, or None."""
        ...

    def put(self, key: str, value: Tensor) -> None:
        """Keep it."""
        ...


class ClipEncoder:
    """Encodes clips one by one, so that latents never depend on the batch; captions likewise.

    Args:
        vae, tokenizer, text_encoder: The model's own, frozen.
        cache: Where latents are kept; None encodes every time.
        chunk_size: Frames encoded at once.
    """

    def __init__(
        self, vae: Any, tokenizer: Any, text_encoder: Any, cache: Cache | None = None, chunk_size: int = 16
    ) -> None:
        self.vae, self.tokenizer, self.text_encoder = vae, tokenizer, text_encoder
        self.cache, self.chunk_size = cache, chunk_size
        self._captions: dict[str, Tensor] = {}

    def latents(self, items: Sequence[Item]) -> Float[Tensor, "b c f h w"]:
        """The clips' latents, float32, on the CPU."""
        return torch.stack([self._clip(item) for item in items])

    def prompts(self, captions: Sequence[str]) -> Float[Tensor, "b n d"]:
        """The captions' embeddings, on the text encoder's device."""
        return torch.cat([self._caption(caption) for caption in captions])

    def _clip(self, item: Item) -> Float[Tensor, "c f h w"]:
        kept = self.cache.get(item["key"]) if self.cache is not None else None
        if kept is not None:
            return kept
        frames: UInt8[Tensor, "f c h w"] = item["frames"]
        latents = encode_frames(self.vae, frames.float() / 255, self.chunk_size).float().cpu().contiguous()
        if self.cache is not None:
            self.cache.put(item["key"], latents)
        return latents

    def _caption(self, caption: str) -> Float[Tensor, "1 n d"]:
        if caption not in self._captions:
            if len(self._captions) >= MAX_KEPT_CAPTIONS:
                self._captions.pop(next(iter(self._captions)))
            self._captions[caption] = encode_prompt([caption], self.tokenizer, self.text_encoder)
        return self._captions[caption]
