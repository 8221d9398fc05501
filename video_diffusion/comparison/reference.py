"""Whether the clips of each setting move like those of a reference folder: `compare --reference`."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from jaxtyping import Float64
from pydantic import ConfigDict, Field, TypeAdapter

from video_diffusion.comparison.summary import ClipResult, SetMotion
from video_diffusion.metrics import MOTION_FEATURES, features_of, measure, set_distance
from video_diffusion.metrics.sets import NUM_FEATURES
from video_diffusion.settings import ConfigError, read_json_file
from video_diffusion.settings.input_files import files_below
from video_diffusion.video import SUFFIXES, RecordError, VideoReadError, read_record, read_video, write_bytes
from video_diffusion.web import counted

FEATURES_FILE = "motion_features.json"
FEWEST_CLIPS = 4
MORE_SUFFIXES = (".avi", ".m4v", ".ts")
Features = Float64[np.ndarray, "features"]
_Numbers = Annotated[list[float], Field(min_length=NUM_FEATURES, max_length=NUM_FEATURES)]
_FEATURES: TypeAdapter[dict[str, list[float] | None]] = TypeAdapter(
    dict[str, _Numbers | None], config=ConfigDict(strict=True, allow_inf_nan=False)
)


def clips_in(folder: Path) -> list[Path]:
    """Every clip below a folder, in order of its name."""
    known = {*SUFFIXES, *MORE_SUFFIXES}
    return sorted(
        path
        for path in files_below(folder)
        if path.suffix.lower() in known and path.is_file() and not path.name.startswith(".")
    )


def check_reference(folder: Path) -> None:
    """Refuses a folder that cannot be a reference set, before any clip is made."""
    if not folder.is_dir():
        raise ConfigError(f"--reference: {folder}: no such folder; name a folder of clips to move like")
    found = len(clips_in(folder))
    if found < FEWEST_CLIPS:
        raise ConfigError(
            f"--reference: a set needs at least {FEWEST_CLIPS} clips (given {found} in {folder}); add some"
        )


class _Motion:
    """How clips move, kept by the hash of their files, so that going on measures only what is new."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FEATURES_FILE
        self._known = _features_in(self._file)

    def of(self, path: Path) -> Features | None:
        """The 80 numbers of a clip, None if it is too short or cannot be read."""
        try:
            with path.open("rb") as file:
                key = hashlib.file_digest(file, "sha256").hexdigest()
            if key not in self._known:
                video = read_video(path)
                found = features_of(measure(video.frames, video.fps or 8, metrics=[MOTION_FEATURES]))
                self._known[key] = None if found is None else found.tolist()
        except (OSError, VideoReadError):
            return None
        numbers = self._known[key]
        return None if numbers is None else np.array(numbers)

    def keep(self) -> None:
        """Writes what is known."""
        write_bytes(self._file, json.dumps(self._known).encode())


def _features_in(file: Path) -> dict[str, list[float] | None]:
    """What was kept; of a file that is damaged nothing, so that all is measured again."""
    try:
        return _FEATURES.validate_python(read_json_file(file))
    except (OSError, ValueError):
        return {}


def motion_against(
    reference: Path, arms: Sequence[str], clips: Sequence[ClipResult], folder: Path
) -> tuple[SetMotion, ...]:
    """The distance of each arm's clips from the reference set in how they move.

    Clips are paired with the reference of the same prompt (by its record) or of the same name, and that
    distance is told where every clip of the arm has a partner.
    """
    motion = _Motion(folder)
    files = clips_in(reference)
    found = {path: numbers for path in files if (numbers := motion.of(path)) is not None}
    by_name = _by_name(reference, found)
    sets = []
    for arm in arms:
        own = [clip for clip in clips if clip.arm == arm and clip.path]
        moved = [(clip, motion.of(folder / clip.path)) for clip in own]
        known = [(clip, numbers) for clip, numbers in moved if numbers is not None]
        sets.append(_set_of(arm, known, list(found.values()), by_name))
    motion.keep()
    return tuple(sets)


def _set_of(
    arm: str,
    clips: Sequence[tuple[ClipResult, Features]],
    reference: Sequence[Features],
    by_name: Mapping[str, Features],
) -> SetMotion:
    counts = (len(clips), len(reference))
    partners = [by_name.get(clip.prompt) for clip, _ in clips]
    apart = [
        float(np.linalg.norm(numbers - partner))
        for (_, numbers), partner in zip(clips, partners, strict=True)
        if partner is not None
    ]
    paired = float(np.mean(apart)) if apart and len(apart) == len(clips) else None
    if min(counts) < FEWEST_CLIPS:
        note = f"a set needs at least {FEWEST_CLIPS} clips that can be measured"
        return SetMotion(arm, None, None, None, None, paired, *counts, note)
    distance = set_distance(np.array([numbers for _, numbers in clips]), np.array(reference))
    return SetMotion(arm, distance.distance, distance.low, distance.high, distance.p, paired, *counts)


def _by_name(folder: Path, found: Mapping[Path, Features]) -> dict[str, Features]:
    """References by prompt where a record tells it, else by name; of one there twice, none."""
    named: dict[str, list[Features]] = {}
    for path, numbers in found.items():
        try:
            name = read_record(path).settings.prompt
        except (RecordError, VideoReadError):
            name = path.relative_to(folder).with_suffix("").as_posix()
        named.setdefault(name, []).append(numbers)
    return {name: numbers[0] for name, numbers in named.items() if len(numbers) == 1}


def in_words(each: SetMotion) -> str:
    """One line on a set."""
    counts = f"{counted(each.num_clips, 'clip')} against {each.num_reference}"
    paired = "" if each.paired is None else f"; clips of the same prompt or name are {each.paired:.2f} apart"
    if each.distance is None:
        return f"motion of {counts}: not compared, {each.note}{paired}"
    return (
        f"motion of {counts}: distance {each.distance:.3f} [{each.low:.3f}, {each.high:.3f}], "
        f"p {each.p:.2g}{paired}"
    )
