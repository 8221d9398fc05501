"""What finished latents and files tell without denoising again: denoiser, decoder, encoder and input.

All are put as the other changes are: a clip as it is, and the clip without what the stage adds. The
difference is what the stage contributes, in the units of the measures.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file

from video_diffusion.diagnosis.parts import Part
from video_diffusion.metrics import measure
from video_diffusion.settings import file_sha256, read_json_file
from video_diffusion.shapes import Latents
from video_diffusion.video import iter_frames, open_video, read_video, write_bytes, write_video

Frames = UInt8[np.ndarray, "f h w 3"]
Decode = Callable[[Latents], Frames]

MEASURES = ("flicker", "morph", "drift", "motion", "steady_sharpness")
"""What every stage and every change is looked at by, where it can be measured."""
OF_INPUTS = ("flicker", "morph", "drift")
STILL_FRAMES, STILL_PLACES, STILL_STEP = 8, 3, 0.1
X264_OPTIONS = re.compile(rb"x264 - core .{0,2000}? crf=(\d{1,2})(?:\.\d)?", re.DOTALL)
FIRST_BYTES = 4_000_000


@dataclass(frozen=True)
class StageLook:
    """One stage at one seed.

    Attributes:
        part: The stage.
        label: What is taken away from the clip as it is.
        as_it_is, without: Measure to value; None where it could not be measured.
        clip: Of what is left without the stage, relative to the folder; "" where there is nothing to see.
    """

    part: Part
    label: str
    as_it_is: Mapping[str, float | None]
    without: Mapping[str, float | None]
    clip: str = ""


_LOOKS = TypeAdapter(list[StageLook])


@dataclass(frozen=True)
class Given:
    """Frames that a clip was made of.

    Attributes:
        label: What they are.
        frames: At the size of the clip.
        joined: Makes the whole clip of what was made, where it goes on from them; else None.
    """

    label: str
    frames: Frames
    joined: Callable[[Frames], Frames] | None = None


@dataclass(frozen=True)
class Encoder:
    """How a file was encoded, as far as it tells, so that other seeds can go the same way.

    Attributes:
        path: Of the file whose encoder it is; None is what `generate` writes.
        suffix, codec, crf, pixel_format: As `write_video` takes them.
    """

    path: Path | None = None
    suffix: str = ".mp4"
    codec: str | None = None
    crf: int | None = None
    pixel_format: str | None = None

    @property
    def words(self) -> str:
        """The encoder in a few words."""
        crf = f" crf {self.crf}" if self.crf is not None else ""
        return f"{self.codec or self.suffix.removeprefix('.')}{crf}"


USUAL_ENCODER = Encoder(codec="libx264", crf=18)
"""What `generate` writes: an encoder is to blame for what its file has lost beyond that."""
CODEC_NAMES = {"h264": "libx264", "vp9": "libvpx-vp9", "av1": "libsvtav1", "gif": "gif", "webp": "webp"}


def encoder_of(path: Path) -> Encoder | None:
    """Tell how a file was encoded; None if it is one that `write_video` cannot imitate.

    x264 writes its options into the stream, the crf among them; other encoders keep theirs to themselves.
    """
    with open_video(path) as source:
        codec, pixel_format = CODEC_NAMES.get(source.codec), source.pixel_format
    if codec is None or path.is_dir():
        return None
    crf = None
    if codec == "libx264":
        with path.open("rb") as file:
            found = X264_OPTIONS.search(file.read(FIRST_BYTES))
        crf = int(found[1]) if found else None
    known = pixel_format in {"yuv420p", "yuv444p"} and codec not in {"gif", "webp"}
    return Encoder(path, path.suffix.lower(), codec, crf, pixel_format if known else None)


def save_latents(folder: Path, job_id: str, latents: Latents) -> None:
    """Keep a clip's latents beside the clips."""
    folder.mkdir(exist_ok=True)
    save_file({"latents": latents.contiguous()}, folder / f"{job_id}.safetensors")


def load_latents(folder: Path, job_id: str) -> Latents | None:
    """The latents of a clip; None if they are not there, whole."""
    try:
        return load_file(folder / f"{job_id}.safetensors")["latents"]
    except Exception:  # safetensors raises its own for a torn file; then they are made again
        return None


def smoothed(latents: Latents) -> Latents:
    """Mix each frame with its neighbours, 1 : 2 : 1; the ends with themselves."""
    padded = torch.cat([latents[:, :, :1], latents, latents[:, :, -1:]], dim=2)
    return (padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]) / 4


def nearly_still(latents: Latents) -> Iterator[Latents]:
    """Short clips that go a tenth of the way from a frame to the next: what moves in them, a decoder made."""
    num_frames = latents.shape[2]
    places = sorted({round(share * (num_frames - 2)) for share in np.linspace(0, 1, STILL_PLACES)})
    steps = torch.linspace(0, STILL_STEP, STILL_FRAMES, dtype=latents.dtype)[:, None, None]
    for place in places:
        here, there = latents[:, :, place : place + 1], latents[:, :, place + 1 : place + 2]
        yield here + (there - here) * steps


def error(after: Frames, before: Frames) -> float:
    """Root mean square error of frames that went through a file, in pixel values."""
    difference = after.astype(np.float32) - before
    return float(np.sqrt(np.mean(difference**2)))


def fluctuation(frames: np.ndarray) -> float:
    """Flicker of what does not move: the mean of |second difference| / 4, in pixel values."""
    signed = frames.astype(np.float32)
    return float(np.abs(signed[:-2] - 2 * signed[1:-1] + signed[2:]).mean() / 4) if len(frames) > 2 else 0.0


def look_at_stages(
    latents: Latents,
    decode: Decode,
    fps: Fraction,
    place: Path,
    own_file: Path | None,
    encoder: Encoder | None,
    given: Given | None = None,
) -> Iterator[StageLook]:
    """Look at encoder, decoder, denoiser and input of one clip.

    Args:
        latents: Of the clip.
        decode: Makes frames of latents.
        fps: Of the clip.
        place: Where clips go: this path with a word and a suffix appended.
        own_file: The clip's own file, if it is the one that is diagnosed; else the frames are encoded anew.
        encoder: How; None leaves the encoder out.
        given: What the clip was made of; None for noise alone.
    """

    def whole(latents: Latents) -> np.ndarray:
        made = decode(latents)
        return given.joined(made) if given is not None and given.joined is not None else made

    frames = whole(latents)
    plain = values_of(frames, fps)
    if encoder is not None:
        after = _through(frames, fps, place, own_file, encoder)
        usual = _through(frames, fps, place, None, USUAL_ENCODER)
        if after is not None and usual is not None:
            as_it_is = {**values_of(after, fps), "coding error": error(after, frames)}
            without = {**plain, "coding error": error(usual, frames)}
            yield StageLook("encoder", f"before {encoder.words}", as_it_is, without)
    if len(frames) > 2:
        jitter = float(np.mean([fluctuation(decode(still)) for still in nearly_still(latents)]))
        yield StageLook("decoder", "a decoder that adds nothing", {"flicker": jitter}, {"flicker": 0.0})
        calm = whole(smoothed(latents))
        clip = place.with_name(f"{place.name}-smoothed.mp4")
        write_video(clip, calm, fps)
        label = "latents mixed with their neighbours"
        yield StageLook("denoiser", label, plain, values_of(calm, fps), f"{clip.parent.name}/{clip.name}")
    if given is not None and len(given.frames) > 2:
        clip = place.with_name(f"{place.name}-input.mp4")
        if given.joined is None:
            write_video(clip, given.frames, fps)
        faults = {name: value for name, value in values_of(given.frames, fps).items() if name in OF_INPUTS}
        own = {name: plain[name] for name in OF_INPUTS}
        shown = f"{clip.parent.name}/{clip.name}" if given.joined is None else ""
        yield StageLook("input", given.label, own, faults, shown)


def values_of(frames: Frames, fps: Fraction) -> dict[str, float | None]:
    """The measures of a clip by name."""
    report = measure(frames, fps, MEASURES, one_shot=True)
    return {name: report.values[name].value for name in MEASURES}


def _through(
    frames: Frames, fps: Fraction, place: Path, own_file: Path | None, encoder: Encoder
) -> Frames | None:
    """The frames after the encoder; None if the file holds others."""
    if own_file is not None:
        after = np.stack([frame.pixels for frame in iter_frames(own_file)])
        return after if after.shape == frames.shape else None
    path = place.with_name(f"{place.name}-encoded{encoder.suffix}")
    write_video(path, frames, fps, codec=encoder.codec, crf=encoder.crf, pixel_format=encoder.pixel_format)
    after = read_video(path).frames
    path.unlink()
    return after if after.shape == frames.shape else None


# What was seen of a clip's stages, kept in a file so that nothing is looked at twice.


def read_looks(path: Path, key: str) -> list[StageLook] | None:
    """What was seen before, if it was of the same file and encoder."""
    try:
        content = read_json_file(path)
        return _LOOKS.validate_python(content["looks"]) if content["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_looks(path: Path, key: str, looks: Sequence[StageLook]) -> None:
    """Keep what was seen."""
    content: dict[str, Any] = {"key": key, "looks": [asdict(look) for look in looks]}
    write_bytes(path, (json.dumps(content, indent=1) + "\n").encode())


def key_of(encoder: Encoder | None, own_file: Path | None) -> str:
    """What looks depend on besides the latents."""
    sha256 = file_sha256(own_file) if own_file is not None and own_file.is_file() else ""
    return f"{encoder.words if encoder is not None else ''} {sha256}"
