"""What settings name by its content: files, networks, LoRAs; and the id of a clip that follows from all."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from video_diffusion.settings.field_rules import Setting
from video_diffusion.settings.input_files import (
    content_sha256,
    ip_adapter_sha256s,
    is_folder,
    lora_identity,
    network_sha256,
)
from video_diffusion.settings.prompt_syntax import reads_syntax
from video_diffusion.settings.prompts import PromptSettings

VIDEOS = ("init_video", "control_video", "noise_video")
"""Videos of which frames are taken at the clip's rate, where no stride is given."""


@cache
def declarations(model: type[BaseModel]) -> Mapping[str, Setting]:
    """The declaration of every field."""
    return {
        name: next(part for part in field.metadata if isinstance(part, Setting))
        for name, field in model.model_fields.items()
    }


@cache
def idle_values(model: type[BaseModel]) -> Mapping[str, Any]:
    """Values at which pixel fields change nothing; they then do not count in a job's id."""
    defaults = model(prompt="-").model_dump(mode="json")
    return {
        name: defaults[name] if setting.none_means is None else setting.none_means
        for name, setting in declarations(model).items()
        if setting.pixels and not setting.in_id
    }


class IdentifiedSettings(PromptSettings):
    """Settings whose files count by what is in them, not by where they lie."""

    if TYPE_CHECKING:
        video_stride: int | None

    @property
    def input_files(self) -> dict[str, str]:
        """Images and videos that the clip starts from, by the setting that names them."""
        return dict(self._places("input")) | dict(self._places("frame inputs"))

    @property
    def networks(self) -> dict[str, str]:
        """Networks beside the model, by the setting that names them."""
        return dict(self._places("network"))

    def _places(self, kind: str) -> Iterator[tuple[str, str]]:
        """Each path with the setting that names it: of several with a number, of frames with the frame."""
        for name, setting in declarations(type(self)).items():
            if setting.names != kind or not (value := getattr(self, name)):
                continue
            if isinstance(value, str):
                yield name, value
            elif kind == "frame inputs":
                yield from ((f"{name}.{frame}", path) for frame, path in value)
            else:
                yield from zip(_numbered(name, len(value)), value, strict=True)

    def input_sha256s(self) -> dict[str, str]:
        """Hashes of these files and of networks' weights, as far as they can be read."""
        hashes = {name: content_sha256(path) for name, path in self.input_files.items()}
        hashes |= {name: network_sha256(path, name) for name, path in self.networks.items()}
        if "ip_adapter" in self.networks:  # and of its image encoder
            hashes |= ip_adapter_sha256s(self.networks["ip_adapter"])
        hashes |= {f"embeddings.{word}": content_sha256(path) for word, path in self.used_embeddings.items()}
        return {name: sha256 for name, sha256 in hashes.items() if sha256 is not None}

    @property
    def _takes_frames_by_time(self) -> bool:
        """Whether the clip's rate decides which frames of its videos are taken."""
        videos = [path for name in VIDEOS for path in _as_tuple(getattr(self, name))]
        return self.video_stride is None and any(not is_folder(path) for path in videos)

    def canonical_json(self) -> str:
        """Sorted keys, no spaces, fractions as text: equal settings give equal bytes."""
        return _canonical(self.model_dump(mode="json"))

    def job_id(self, model_identity: Mapping[str, Any] | None = None) -> str:
        """First 12 hex digits of the SHA-256 of everything that changes the pixels.

        Args:
            model_identity: Hashes of the weights, if known; then the model's name does not count.
        """
        idle, declared = idle_values(type(self)), declarations(type(self))
        values = {
            name: value
            for name, value in self.model_dump(mode="json").items()
            if (declared[name].pixels or (name == "fps" and value is not None and self._takes_frames_by_time))
            and not (name in idle and value in (None, idle[name]))
        }
        sha256s = self.input_sha256s()
        by_content: dict[str, Any] = {}
        for name, value in values.items():
            if declared[name].names == "frame inputs":
                by_content[name] = {
                    frame: sha256s.get(f"{name}.{frame}", path) for frame, path in value.items()
                }
            elif declared[name].names in {"input", "network"} and isinstance(value, list):
                each = zip(_numbered(name, len(value)), value, strict=True)
                by_content[name] = [sha256s.pop(number, path) for number, path in each]
        places = {f"embeddings.{word}": path for word, path in self.used_embeddings.items()}
        values = {**values, **places, **sha256s, **by_content}
        for name in ("embeddings", "prompt_syntax"):
            values.pop(name, None)
        if loras := self.all_loras:
            values["loras"] = [lora_identity(entry) for entry in loras]
        if self.prompt_syntax != "plain" and any(
            map(reads_syntax, (*self.prompt_texts, *self.negative_texts))
        ):
            values["prompt_syntax"] = self.prompt_syntax
        if model_identity is not None:
            values |= {"model": dict(model_identity), "motion_adapter": None}
        return hashlib.sha256(_canonical(values).encode()).hexdigest()[:12]


def _as_tuple(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value or ()


def _numbered(name: str, count: int) -> list[str]:
    """How each of several places that one setting names is called; one alone has the setting's name."""
    return [name] if count == 1 else [f"{name}.{number}" for number in range(count)]


def _canonical(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
