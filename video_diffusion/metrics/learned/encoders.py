"""Frames as unit vectors of what they show, by local CLIP or DINO weights, and their cosines."""

from collections import deque
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

from video_diffusion.metrics.flow import Rgb
from video_diffusion.metrics.learned.weights import MetricWeightsError, libraries_said, load_folder
from video_diffusion.metrics.report import Accumulator, ClipFacts, Reading, Series, SeriesAccumulator, Status
from video_diffusion.metrics.views import Frame
from video_diffusion.settings import read_json_file, shown

MAX_SIDE = 4096  # pixels that a processor may make of a frame

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
        last = self._last  # read once: another thread may embed another frame meanwhile
        if last is None or last[0] is not rgb:
            with torch.inference_mode():
                pixels = self._processor(images=rgb, return_tensors="pt")["pixel_values"]
                last = rgb, _unit(self._embed_pixels(pixels))
            self._last = last
        return last[1]

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
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        raise MetricWeightsError(f"{folder}: holds no preprocessor_config.json; {advice}")
    with libraries_said(f"{file}: makes no image processor", advice):
        config = read_json_file(file, strict=False)
        for name in ("size", "crop_size"):
            given = config.get(name)
            sides = [*given.values()] if isinstance(given, dict) else [given]
            if given is not None and not all(type(side) is int and 1 <= side <= MAX_SIDE for side in sides):
                raise MetricWeightsError(
                    f"{file}: {name} must be numbers of 1…{MAX_SIDE}, but is {shown(given)}; {advice}"
                )
        return AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")


def _tried(encoder: ImageEncoder, folder: Path, advice: str) -> ImageEncoder:
    """The encoder, having embedded a black image, so that a folder that cannot is refused before any work."""
    with libraries_said(f"{folder}: config.json and preprocessor_config.json do not go together", advice):
        encoder.embed(np.zeros((8, 8, 3), np.uint8))
    return encoder


def load_clip(folder: Path | str) -> ImageEncoder:
    """Load CLIP from a local folder.

    Raises:
        MetricWeightsError: not a whole, trained CLIP model.
    """
    folder = Path(folder)
    model, sha256 = load_folder(folder, CLIPModel, CLIP_ADVICE)

    def embed_words(text: str) -> Tensor:
        with libraries_said(f"{folder}: its tokenizer does not go with its config.json", CLIP_ADVICE):
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            length = model.config.text_config.max_position_embeddings
            tokens = tokenizer([text], truncation=True, max_length=length, return_tensors="pt")
            return model.get_text_features(**tokens).pooler_output[0]

    def embed_pixels(pixels: Tensor) -> Tensor:
        return model.get_image_features(pixel_values=pixels).pooler_output[0]

    processor = _processor(folder, CLIP_ADVICE)
    encoder = ImageEncoder(f"CLIP {folder.name}", sha256, processor, embed_pixels, embed_words)
    return _tried(encoder, folder, CLIP_ADVICE)


def load_dino(folder: Path | str) -> ImageEncoder:
    """Load DINO or DINOv2 from a local folder; a frame's vector is the class token after the last norm.

    Raises:
        MetricWeightsError: not a whole, trained model of either kind.
    """
    folder = Path(folder)
    try:
        kind = read_json_file(folder / "config.json", strict=False).get("model_type")
    except (OSError, ValueError, AttributeError):
        kind = None
    classes: dict[str, tuple[Any, dict[str, Any]]] = {
        "vit": (ViTModel, {"add_pooling_layer": False}),
        "dinov2": (Dinov2Model, {}),
    }
    if not isinstance(kind, str) or kind not in classes:
        raise MetricWeightsError(f"{folder}: holds no DINO or DINOv2 model; {DINO_ADVICE}")
    model_class, settings = classes[kind]
    model, sha256 = load_folder(folder, model_class, DINO_ADVICE, **settings)

    def embed_pixels(pixels: Tensor) -> Tensor:
        return model(pixel_values=pixels).last_hidden_state[0, 0]

    encoder = ImageEncoder(f"DINO {folder.name}", sha256, _processor(folder, DINO_ADVICE), embed_pixels)
    return _tried(encoder, folder, DINO_ADVICE)


class ClipAdjacent(Accumulator):
    """Mean cosine of the CLIP vectors of neighbouring frames, −1…1.

    CLIP sees 224 pixels: it cannot see fine flicker. Cosines crowd near 1, so compare differences of pairs.
    """

    view = Frame

    def __init__(self, encoder: ImageEncoder):
        self._encoder = encoder
        self._series = Series()
        self._previous: Embedding | None = None

    def look(self, view: Frame) -> Embedding:
        """Return the vector of one frame."""
        return self._encoder.embed(view.rgb)

    def add(self, index: int, row: Embedding) -> None:
        """Compare with the frame before, in the same shot."""
        if self._previous is not None:
            self._series.add(index, float(self._previous @ row))
        self._previous = row

    def new_shot(self) -> None:
        """Forget the frame before."""
        self._previous = None

    def result(self, clip: ClipFacts) -> Reading:
        """Return the mean over neighbours."""
        if not len(self._series):
            return Reading(None, "too_short", note="needs 2 frames of one shot")
        return Reading(
            self._series.mean(), clip.status(len(self._series)), self._series, note=self._encoder.note
        )


class ClipAllPairs(Accumulator):
    """Mean cosine of the CLIP vectors of all pairs of frames of a shot, −1…1: slow drift shows, too.

    From the sum s of n unit vectors: (|s|² − n) / (n (n − 1)), so that nothing but s is kept. It falls with
    the length of a drifting clip: compare equal lengths. The series is the mean cosine with all earlier
    frames of the shot.
    """

    view = Frame

    def __init__(self, encoder: ImageEncoder):
        self._encoder = encoder
        self._series = Series()
        self._sum: Embedding | None = None
        self._count = 0
        self._cosines, self._pairs = 0.0, 0

    def look(self, view: Frame) -> Embedding:
        """Return the vector of one frame."""
        return self._encoder.embed(view.rgb)

    def add(self, index: int, row: Embedding) -> None:
        """Compare with all earlier frames of the shot."""
        if self._sum is None:
            self._sum, self._count = np.zeros_like(row), 0
        if self._count:
            cosines = float(self._sum @ row)
            self._series.add(index, cosines / self._count)
            self._cosines, self._pairs = self._cosines + cosines, self._pairs + self._count
        self._sum, self._count = self._sum + row, self._count + 1

    def new_shot(self) -> None:
        """Forget the earlier frames."""
        self._sum = None

    def result(self, clip: ClipFacts) -> Reading:
        """Return the mean over all pairs."""
        if not self._pairs:
            return Reading(None, "too_short", note="needs 2 frames of one shot")
        value = self._cosines / self._pairs
        return Reading(value, clip.status(self._pairs), self._series, note=self._encoder.note)


class PromptAlignment(SeriesAccumulator):
    """100 × mean over frames of the cosine of frame and prompt (CLIPScore, Hessel et al. 2021, without w).

    Detail `lowest`: that of the worst frame, since a mean hides the frame where the subject is gone.
    """

    view = Frame
    needs_shots = False

    def __init__(self, encoder: ImageEncoder, words: Embedding):
        super().__init__()
        self._encoder = encoder
        self._words = words

    def look(self, view: Frame) -> float:
        """Return the alignment of one frame."""
        return 100 * float(self._encoder.embed(view.rgb) @ self._words)

    def result(self, clip: ClipFacts) -> Reading:
        """Return the mean over frames."""
        details = {"lowest": float(self.series.values.min())}
        status: Status = "has_cut" if clip.cuts else "ok"
        return Reading(self.series.mean(), status, self.series, details=details, note=self._encoder.note)


LAGS = (1, 2, 4, 8, 16, 32, 64)


class VbenchConsistency(Accumulator):
    """Mean over frames t ≥ 1 of ½ (max(0, cos(f₋₁, f)) + max(0, cos(f₀, f))), 0…1.

    The formula of vbench/subject_consistency.py with DINO, of background_consistency.py with CLIP, in which
    nothing isolates the background. Details: `previous` and `first`, the two terms; the first one falls with
    the length of the clip, so compare equal lengths; and `lag_Δ`, the mean cosine of frames Δ apart. Unlike
    VBench the mean is over the frames of a shot, and the weights may be DINO's or DINOv2's.
    """

    view = Frame

    def __init__(self, encoder: ImageEncoder):
        self._encoder = encoder
        self._both, self._to_previous, self._to_first = Series(), Series(), Series()
        self._first: Embedding | None = None
        self._recent: deque[Embedding] = deque(maxlen=LAGS[-1])
        self._at_lag: dict[int, list[float]] = {lag: [] for lag in LAGS}

    def look(self, view: Frame) -> Embedding:
        """Return the vector of one frame."""
        return self._encoder.embed(view.rgb)

    def add(self, index: int, row: Embedding) -> None:
        """Compare with the first of the shot and with the frames that lie a lag before."""
        if self._first is None:
            self._first = row
        else:
            previous, first = (max(0.0, float(each @ row)) for each in (self._recent[-1], self._first))
            self._to_previous.add(index, previous)
            self._to_first.add(index, first)
            self._both.add(index, (previous + first) / 2)
        for lag in LAGS:
            if len(self._recent) >= lag:
                self._at_lag[lag].append(float(self._recent[-lag] @ row))
        self._recent.append(row)

    def new_shot(self) -> None:
        """Forget the shot that ended."""
        self._first = None
        self._recent.clear()

    def result(self, clip: ClipFacts) -> Reading:
        """Return the mean over frames."""
        if not len(self._both):
            return Reading(None, "too_short", note="needs 2 frames of one shot")
        details = {"previous": self._to_previous.mean(), "first": self._to_first.mean()}
        details |= {f"lag_{lag}": float(np.mean(cosines)) for lag, cosines in self._at_lag.items() if cosines}
        status = clip.status(len(self._both))
        return Reading(self._both.mean(), status, self._both, details=details, note=self._encoder.note)
