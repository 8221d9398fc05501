"""What made a clip, as JSON beside the file (`clip.json`) and in its metadata; read as untrusted input."""

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import UInt8
from pydantic import BaseModel, ConfigDict, Field, field_validator

from video_diffusion.settings import (
    GenerationSettings,
    Layer,
    file_sha256,
    parse_json,
    read_bytes,
    shown,
    validate,
)
from video_diffusion.video.files import atomic_path
from video_diffusion.video.reader import read_tags
from video_diffusion.video.writer import SUFFIXES

SCHEMA_VERSION = 1
ANIMATIONS = {".gif", ".webp"}  # formats that one clip is often written in beside its video
TAG = "video_diffusion"
MAX_RECORD_BYTES = 4_000_000
MAX_TITLE_CHARACTERS = 200
LIBRARIES = (
    "video-diffusion", "torch", "diffusers", "transformers", "numpy", "opencv-python-headless", "av",
    "imageio-ffmpeg",
)  # fmt: skip

Text = Annotated[str, Field(max_length=2000)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_FROZEN = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


class RecordError(ValueError):
    """A record that is missing, damaged, too large or not ours; the message is one line."""


class ModelIdentity(BaseModel):
    """Which weights made the clip: names as given, SHA-256 over the weight files (`weights_sha256`)."""

    model_config = _FROZEN

    name: Text
    weights_sha256: Sha256 | None = None
    revision: Text | None = None
    motion_adapter: Text | None = None
    motion_adapter_sha256: Sha256 | None = None


class MeasuredValue(BaseModel):
    """One measure of the frames before encoding; value is None where status says why there is none."""

    model_config = _FROZEN

    value: float | None
    unit: Text
    status: Text
    series: list[float | None] | None = None


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide the pixels, as installed; nothing is imported."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _processor() -> str:
    """The processor's own name where the system tells it (Linux), else its architecture."""
    with suppress(OSError), Path("/proc/cpuinfo").open() as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()[:200]
    return platform.processor() or platform.machine()


class RunRecord(BaseModel):
    """Everything needed to make a clip again and to tell whether the result is the same.

    Attributes:
        settings: fully resolved, so that later changes of a model's defaults do not matter.
        frames_sha256: of the uint8 frames before encoding (`frames_sha256`).
        noise_sha256: of the noise that denoising started from: clips that share it are paired.
        measures: metric name to value, unit and status.
        window_starts: first frames of the context windows that made the clip; empty if it was one pass.
        inputs: SHA-256 of the files that the clip started from, by setting (`content_sha256`).
        timings: seconds by stage.
        num_threads: of the CPU; together with the processor it decides the last bits of every sum.
        batch_size: clips that were denoised together with this one, itself included; as num_threads.
        accelerated: whether denoising took the faster ways of `acceleration`; as num_threads.
        low_memory: whether time was spent to save memory; as num_threads.
        created: UTC, ISO 8601. Not part of any identity.
        ai_generated: the machine-readable mark that the clip is synthetic.
    """

    model_config = _FROZEN

    schema_version: Annotated[int, Field(ge=1, le=SCHEMA_VERSION)] = SCHEMA_VERSION
    ai_generated: Literal[True] = True
    settings: GenerationSettings
    model: ModelIdentity
    job_id: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    frames_sha256: Sha256
    noise_sha256: Sha256 | None = None
    measures: dict[Text, MeasuredValue] = Field(default_factory=dict)
    window_starts: list[Annotated[int, Field(ge=0)]] = Field(default_factory=list)
    inputs: dict[Text, Sha256] = Field(default_factory=dict)
    timings: dict[Text, float] = Field(default_factory=dict)
    versions: dict[Text, Text] = Field(default_factory=library_versions)
    device: Text = "cpu"
    num_threads: Annotated[int, Field(ge=1, le=65_536)] | None = None
    batch_size: Annotated[int, Field(ge=1)] = 1
    accelerated: bool = False
    low_memory: bool = False
    processor: Text = Field(default_factory=_processor)
    platform: Text = Field(default_factory=platform.platform)
    created: Text = ""
    notes: list[Text] = Field(default_factory=list)

    @field_validator("settings", mode="before")
    @classmethod
    def _read_old_prompts(cls, settings: Any) -> Any:
        """Before `prompt_syntax` was written down, every sign of a prompt was read as text."""
        is_old = isinstance(settings, Mapping) and "prompt_syntax" not in settings
        return {**settings, "prompt_syntax": "plain"} if is_old else settings

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; fps as text such as "30000/1001"."""
        return self.model_dump(mode="json")

    def to_json(self) -> str:
        """The sidecar's text: indented, all of Unicode as it is, ends with a newline."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> "RunRecord":
        """Reads a record that anybody may have written.

        Raises:
            RecordError: too large, not JSON, a newer schema, or fields that do not fit; `where` is named.
        """
        values = _load(text, where)
        version = values.get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            made_by = shown(version)
            raise RecordError(
                f"{where}: made by record schema {made_by}; this program reads {SCHEMA_VERSION}"
            )
        try:
            return validate(cls, Layer(values))
        except ValueError as error:
            raise RecordError(f"{where}: not a clip record: {error}") from None

    def parameters_line(self) -> str:
        """The settings for human eyes, in the order image generators have made customary."""
        own, model = self.settings, self.model
        negative = f"\nNegative prompt: {own.negative_prompt}" if own.negative_prompt else ""
        facts: dict[str, object] = {
            "Steps": own.num_inference_steps,
            "Sampler": own.scheduler,
            "CFG scale": own.guidance_scale,
            "Seed": own.seed,
            "Size": f"{own.width}x{own.height}",
            "Frames": own.num_frames,
            "FPS": own.fps,
            "Model": model.name,
            "Model hash": model.weights_sha256[:10] if model.weights_sha256 else None,
            "Version": f"video_diffusion {self.versions.get('video-diffusion', '?')}",
        }
        line = ", ".join(f"{name}: {value}" for name, value in facts.items() if value is not None)
        return f"{own.prompt}{negative}\n{line}"

    def tags(self) -> dict[str, str]:
        """Metadata for the video file: title, human comment and the whole record."""
        record = json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        title = self.settings.prompt[:MAX_TITLE_CHARACTERS]
        return {"title": title, "comment": self.parameters_line(), TAG: record}


def read_record(path: Path | str) -> RunRecord:
    """The record of a clip: the file itself if it is JSON, else its embedded tag, else the sidecar beside it.

    Raises:
        RecordError: there is none, or it cannot be trusted.
        VideoReadError: the clip cannot be opened.

    >>> import tempfile
    >>> from video_diffusion import TextToVideoPipeline
    >>> pipeline = TextToVideoPipeline.from_pretrained("embedded", device="cpu")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pipeline("a red circle", frames=2, steps=1, progress=False).save(f"{folder}/a.mp4")
    ...     read_record(f"{folder}/a.mp4").settings.prompt
    'a red circle'
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        return _read_sidecar(path)
    tags = {name.lower(): text for name, text in read_tags(path).items()}  # Matroska writes tags in capitals
    if TAG in tags:
        return RunRecord.from_json(tags[TAG], f"{path} (embedded record)")
    beside = _found_sidecar(path)
    if beside is not None:
        return _read_sidecar(beside)
    raise RecordError(f"{path}: no record inside it and no {sidecar_path(path).name} beside it")


@contextmanager
def record_beside(clip: Path | str, record: RunRecord, overwrite: bool = True) -> Iterator[Path]:
    """Write the sidecar under a temporary name, let the block write the clip, then name the sidecar.

    So a full disk shows before the clip has its name, and a clip that fails leaves no record without a clip.

    Raises:
        FileExistsError: there is a sidecar already and `overwrite` is False.
        OSError: no space, no permission.
    """
    target = sidecar_path(Path(clip))
    with atomic_path(target, overwrite=overwrite) as part:
        part.write_bytes(record.to_json().encode())
        yield target


def sidecar_path(path: Path) -> Path:
    """`clip.json` for `clip.mp4`, `clip.webp.json` for `clip.webp`, `frames.json` for a folder."""
    is_video = path.suffix.lower() in SUFFIXES and path.suffix.lower() not in ANIMATIONS
    path = path if path.name else path.absolute()  # the folder that we are in
    return path.with_suffix(".json") if is_video else path.parent / f"{path.name}.json"


def _found_sidecar(path: Path) -> Path | None:
    """The record beside a clip; an animation's may have its older name, where no video claims it."""
    places = [sidecar_path(path)]
    if path.suffix.lower() in ANIMATIONS:
        videos = (path.with_suffix(suffix) for suffix in SUFFIXES if suffix not in ANIMATIONS)
        places += [] if any(video.exists() for video in videos) else [path.with_suffix(".json")]
    return next((each for each in places if each.is_file()), None)


def frames_sha256(frames: UInt8[np.ndarray, "f h w c"]) -> str:
    """SHA-256 over dtype, shape and bytes of the frames, in hex: equal exactly when the clips are equal.

    >>> frames_sha256(np.zeros((1, 2, 2, 3), np.uint8)) == frames_sha256(np.zeros((1, 2, 2, 3), np.uint8))
    True
    """
    digest = hashlib.sha256(f"{frames.dtype.str} {frames.shape} ".encode())
    digest.update(np.ascontiguousarray(frames).data)
    return digest.hexdigest()


def weights_sha256(path: Path | str) -> str | None:
    """SHA-256 over names and contents of a folder's safetensors files, or of one file; None without any.

    Only a model's folder is looked through to its depths: any other place may hold a whole disk.
    """
    path = Path(path)
    is_model = any((path / name).is_file() for name in ("model_index.json", "config.json"))
    patterns = ("**/*.safetensors",) if is_model else ("*.safetensors", "*/*.safetensors")
    found = [path] if path.is_file() else {file for pattern in patterns for file in path.glob(pattern)}
    files = sorted(file for file in found if file.is_file())
    if not files:
        return None
    digest = hashlib.sha256()
    for file in files:
        name = file.relative_to(path).as_posix() if path.is_dir() else ""
        digest.update(f"{name} {file_sha256(file)}\n".encode())
    return digest.hexdigest()


def _read_sidecar(path: Path) -> RunRecord:
    if not path.is_file():
        raise RecordError(f"{path}: no such file")
    try:
        text = read_bytes(path, MAX_RECORD_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: not UTF-8 at byte {error.start}; not a clip record") from None
    if not text:
        raise RecordError(f"{path}: is empty; not a clip record")
    return RunRecord.from_json(text, str(path))


def _load(text: str, where: str) -> dict[str, Any]:
    if len(text) > MAX_RECORD_BYTES:
        raise RecordError(f"{where}: larger than {MAX_RECORD_BYTES} bytes; not a clip record")
    try:
        values = parse_json(text)
    except ValueError as error:
        raise RecordError(f"{where}: not JSON ({error})") from None
    if not isinstance(values, dict):
        raise RecordError(f"{where}: not a clip record (holds {shown(values, 20)})")
    return values
