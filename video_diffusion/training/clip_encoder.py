"""Clips and captions as the network sees them: latents and prompt embeddings, computed once if possible."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from video_diffusion.loading import ModelParts
from video_diffusion.models import encode_frames
from video_diffusion.training.clip_mix import Item
from video_diffusion.training.data.latent_cache import LatentCache, module_sha256

MAX_KEPT_CAPTIONS = 4096


class EncodingCaches:
    """Where encodings are kept on disk, by content: no change of a file, model or caption finds a wrong one.

    Args:
        folder: May be shared by any number of runs.
        parts: What encodes.
    """

    def __init__(self, folder: Path, parts: ModelParts) -> None:
        self.latents = LatentCache(folder / "latents", module_sha256(parts.vae), str(parts.vae.dtype))
        readers = [(parts.tokenizer, parts.text_encoder), (parts.tokenizer_2, parts.text_encoder_2)]
        facts = [
            module_sha256(each, *_vocabulary(tokenizer)) for tokenizer, each in readers if each is not None
        ]
        dtype = f"{parts.text_encoder.dtype}, zeros for empty: {parts.zeros_for_empty_prompt}"
        self.captions = LatentCache(folder / "captions", " ".join(facts), dtype)


class ClipEncoder:
    """Encodes clips one by one, so that latents never depend on the batch; captions likewise.

    Args:
        parts: The model; its autoencoder and text encoders are frozen.
        read_again: Reads the frames of an item that was left unread because its latents were thought to be
            kept.
        caches: Where encodings are kept; None encodes every time.
        chunk_size: Frames encoded at once.
    """

    def __init__(
        self,
        parts: ModelParts,
        read_again: Callable[[Item], Tensor],
        caches: EncodingCaches | None = None,
        chunk_size: int = 16,
    ) -> None:
        self.parts, self.read_again, self.caches, self.chunk_size = parts, read_again, caches, chunk_size
        self._kept: dict[str, Tensor] = {}

    def latents(self, items: Sequence[Item]) -> Float[Tensor, "b c f h w"]:
        """The clips' latents, float32, on the CPU."""
        return torch.stack([self._clip(item) for item in items])

    def prompts(self, captions: Sequence[str]) -> Float[Tensor, "b n d"]:
        """The captions' embeddings, on the CPU."""
        encode = self.parts.encode_prompts
        return torch.cat([self._once(caption, partial(encode, [caption])) for caption in captions])

    def conditions(self, captions: Sequence[str], height: int, width: int) -> Mapping[str, Tensor] | None:
        """What an SDXL U-Net reads besides, for clips of a size in pixels; None for other models."""
        if self.parts.text_encoder_2 is None:
            return None

        def pooled(caption: str) -> Tensor:
            return (self.parts.added_conditions([caption], height, width) or {})["text_embeds"]

        kept = [self._once(f"pooled {caption}", partial(pooled, caption)) for caption in captions]
        added = self.parts.added_conditions([""], height, width) or {}
        return {"text_embeds": torch.cat(kept), "time_ids": added["time_ids"].cpu().expand(len(captions), -1)}

    def _clip(self, item: Item) -> Float[Tensor, "c f h w"]:
        def encode() -> Tensor:
            frames = item["frames"] if "frames" in item else self.read_again(item)
            latents = encode_frames(self.parts.vae, frames.float() / 255, self.chunk_size)
            return latents.float().cpu().contiguous()

        return self.caches.latents.get_or_encode(item["key"], encode) if self.caches else encode()

    def _once(self, key: str, encode: Callable[[], Tensor]) -> Tensor:
        """An encoding of a caption, kept in memory and, if there are caches, on disk."""
        if key not in self._kept:
            if len(self._kept) >= MAX_KEPT_CAPTIONS:
                self._kept.pop(next(iter(self._kept)))
            made = self.caches.captions.get_or_encode(key, encode) if self.caches else encode()
            self._kept[key] = made.detach().cpu()
        return self._kept[key]


def _vocabulary(tokenizer: Any) -> tuple[int, str]:
    """What decides how a tokenizer reads a text: its length and the hash of its words."""
    words = json.dumps(sorted(tokenizer.get_vocab().items())).encode()
    return int(tokenizer.model_max_length), hashlib.sha256(words).hexdigest()
