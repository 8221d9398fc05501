"""Frames as unit vectors of what they show, by CLIP or DINO weights from a local folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.auto.tokenization_auto import AutoTokenizer
from transformers.models.clip.modeling_clip import CLIPModel
from transformers.models.dinov2.modeling_dinov2 import Dinov2Model
from transformers.models.vit.modeling_vit import ViTModel

from video_diffusion.metrics.learned.local_weights import MetricWeightsError, load_folder
from video_diffusion.metrics.optical_flow import Rgb

Embedding = Float64[np.ndarray, "width"]

CLIP_ADVICE = (
    "download openai/clip-vit-base-patch32 or another CLIP model, such as with "
    "`hf download openai/clip-vit-base-patch32 --local-dir clip`, and give that folder"
)
DINO_ADVICE = (
    "download facebook/dino-vitb16 (which VBench uses) or facebook/dinov2-base, such as with "
    "`hf download facebook/dino-vitb16 --local-dir dino`, and give that folder"
)


def _unit(vector: Tensor) -> Embedding:
    values = vector.detach().double().cpu().numpy().reshape(-1)
    length = float(np.linalg.norm(values))
    return values / length if length > 0 else values


class ImageEncoder:
    """Embeds frames; remembers the last one, since several metrics ask for each frame in turn.

    Args:
        name: of the model, for reports.
        sha256: of its weights.
        processor: the model's own resizing and normalisation, from its folder.
        embed_pixels: batch of pixel values → batch of vectors.
        embed_words: text → one vector; None for a model that knows no text.
    """

    def __init__(
        self,
        name: str,
        sha256: str,
        processor: Any,
        embed_pixels: Callable[[Tensor], Tensor],
        embed_words: Callable[[str], Tensor] | None = None,
    ):
        self.name = name
        self.sha256 = sha256
        self._processor = processor
        self._embed_pixels = embed_pixels
        self._embed_words = embed_words
        self._last: tuple[Rgb, Embedding] | None = None

    def embed(self, rgb: Rgb) -> Embedding:
        """Return the unit vector of a frame."""
        if self._last is None or self._last[0] is not rgb:
            with torch.inference_mode():
                pixels = self._processor(images=rgb, return_tensors="pt")["pixel_values"]
                self._last = rgb, _unit(self._embed_pixels(pixels))
        return self._last[1]

    def embed_text(self, text: str) -> Embedding:
        """Return the unit vector of a text.

        Raises:
            ValueError: the model knows no text.
        """
        if self._embed_words is None:
            raise ValueError(f"{self.name} knows no text; prompt alignment needs CLIP")
        with torch.inference_mode():
            return _unit(self._embed_words(text))

    @property
    def note(self) -> str:
        """Which weights, for the report."""
        return f"{self.name}, weights sha256 {self.sha256}"


def _processor(folder: Path, advice: str) -> Any:
    if not (folder / "preprocessor_config.json").is_file():
        raise MetricWeightsError(f"{folder}: holds no preprocessor_config.json; {advice}")
    return AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")


def load_clip(folder: Path | str) -> ImageEncoder:
    """Load CLIP from a local folder.

    Raises:
        MetricWeightsError: not a whole, trained CLIP model.
    """
    folder = Path(folder)
    model, sha256 = load_folder(folder, CLIPModel, CLIP_ADVICE)

    def embed_words(text: str) -> Tensor:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        length = model.config.text_config.max_position_embeddings
        tokens = tokenizer([text], truncation=True, max_length=length, return_tensors="pt")
        return model.get_text_features(**tokens).pooler_output[0]

    def embed_pixels(pixels: Tensor) -> Tensor:
        return model.get_image_features(pixel_values=pixels).pooler_output[0]

    return ImageEncoder(
        f"CLIP {folder.name}", sha256, _processor(folder, CLIP_ADVICE), embed_pixels, embed_words
    )


def load_dino(folder: Path | str) -> ImageEncoder:
    """Load DINO or DINOv2 from a local folder; a frame's vector is the class token after the last norm.

    Raises:
        MetricWeightsError: not a whole, trained model of either kind.
    """
    folder = Path(folder)
    try:
        kind = json.loads((folder / "config.json").read_text()).get("model_type")
    except (OSError, ValueError, AttributeError):
        kind = None
    classes: dict[str, tuple[Any, dict[str, Any]]] = {
        "vit": (ViTModel, {"add_pooling_layer": False}),
        "dinov2": (Dinov2Model, {}),
    }
    if kind not in classes:
        raise MetricWeightsError(f"{folder}: holds no DINO or DINOv2 model; {DINO_ADVICE}")
    model_class, settings = classes[kind]
    model, sha256 = load_folder(folder, model_class, DINO_ADVICE, **settings)

    def embed_pixels(pixels: Tensor) -> Tensor:
        return model(pixel_values=pixels).last_hidden_state[0, 0]

    return ImageEncoder(f"DINO {folder.name}", sha256, _processor(folder, DINO_ADVICE), embed_pixels)
