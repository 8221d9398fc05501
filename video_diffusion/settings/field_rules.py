"""What single settings declare and accept: names to choose from, texts, exact frame rates, sizes."""

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, PlainSerializer

MAX_PROMPT_CHARACTERS = 65_536
MAX_FPS_TERM = 1_000_000  # numerator and denominator: what every container writes exactly

SchedulerName = Literal[
    "ddim", "ddpm", "euler", "euler_a", "heun", "dpmpp_2m", "dpmpp_2m_karras", "dpmpp_sde", "unipc", "lcm"
]
DtypeName = Literal["float32", "float16", "bfloat16", "float64"]
QuantizeName = Literal["int8"]
NoiseType = Literal["independent", "mixed", "progressive", "constant"]
ContextSchedule = Literal["uniform", "uniform_looped", "static", "even", "batched"]
ContextFuse = Literal["pyramid", "flat", "linear"]
RefineUpscale = Literal["frames", "latents"]
PromptBlend = Literal["lerp", "slerp"]
FrequencyFilter = Literal["butterworth", "gaussian", "ideal", "box"]


@dataclass(frozen=True)
class Setting:
    """What the declaration of a field says besides its type, range and description.

    Attributes:
        flags: On the command line, the usual one first; none if only files and `--set` can set it.
        metavar: Of the flag's value; empty for a switch.
        each: What a repeatable flag takes one value for: a frame, step, block, range of frames, or item.
        pixels: Whether it can change the pixels; what changes timing, rounding or memory only cannot.
        in_id: Whether it always counts in a job's id. Later settings count only where they change something,
            so that ids stay.
        none_means: What None stands for, where that may also be said and changes nothing.
        names: What it names: a file or folder that the clip starts from, one for each of some frames, a
            network beside the model, LoRAs or embeddings. Ids then hold the content of what is used, not the
            place.
        needs: Settings of which one must be set, or this one changes nothing.
    """

    flags: str = ""
    metavar: str = ""
    each: Literal["", "frame", "step", "block", "range", "item"] = ""
    pixels: bool = True
    in_id: bool = False
    none_means: Any = None
    names: Literal["", "input", "frame inputs", "network", "loras", "embeddings"] = ""
    needs: tuple[str, ...] = ()


def parse_interval(value: object) -> tuple[float, float] | None:
    """Two shares from 0 to 1, the lower first: "0.2-0.8" or a list of two; None stays None."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d(?:\.\d{1,9})?)-(\d(?:\.\d{1,9})?)", value) if isinstance(value, str) else None
    pair: object = found.groups() if found else value
    if isinstance(pair, list | tuple) and len(pair) == 2 and not any(isinstance(end, bool) for end in pair):
        try:
            low, high = (float(end) for end in pair)
        except (TypeError, ValueError):
            low, high = 1.0, 0.0
        if 0 <= low < high <= 1:
            return low, high
    raise ValueError("must be two shares from 0 to 1, the lower first, such as 0.2-0.8")


def parse_size(value: object) -> tuple[int, int]:
    """Width and height from a text such as "64x48".

    Raises:
        ValueError: anything else.
    """
    found = re.fullmatch(r"(\d{1,9})[xX×](\d{1,9})", str(value).strip())
    if found is None:
        raise ValueError("must be WIDTHxHEIGHT in pixels, such as 64x48")
    return int(found[1]), int(found[2])


Interval = Annotated[tuple[float, float] | None, BeforeValidator(parse_interval)]


def check_text(text: str) -> str:
    """The text itself, if every program can store it.

    Raises:
        ValueError: a NUL, bytes that were not UTF-8 (lone surrogates), or more than 65536 characters.
    """
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise ValueError(f"must be at most {MAX_PROMPT_CHARACTERS} characters, not {len(text)}; shorten it")
    if "\0" in text:
        raise ValueError(f"holds a NUL character at position {text.index(chr(0))}; remove it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        at = len(text[: error.start].encode())
        raise ValueError(f"is not valid UTF-8 at byte {at}; re-enter it as UTF-8") from None
    return text


def check_prompt(prompt: str) -> str:
    """The prompt itself, if it says something and can be stored.

    Raises:
        ValueError: empty, only spaces, or refused by `check_text`.
    """
    if not prompt.strip():
        raise ValueError("is empty; say what the clip shows")
    return check_text(prompt)


def parse_fps(value: object) -> Fraction | None:
    """Frames per second as an exact fraction: 24, "23.976" (= 2997/125) or "30000/1001"; None stays None.

    Raises:
        ValueError: not a number from 1/10 to 240, or one that containers cannot write exactly.
    """
    if value is None:
        return None
    rule = "must be a number or a fraction from 0.1 to 240, such as 24, 23.976 or 30000/1001"
    plain = isinstance(value, (int, float, Fraction)) and not isinstance(value, bool)
    if not plain and not (isinstance(value, str) and re.fullmatch(r"\d{1,9}(\.\d{1,9}|/\d{1,9})?", value)):
        raise ValueError(rule)
    try:
        fps = Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        raise ValueError(rule) from None
    if not Fraction(1, 10) <= fps <= 240:
        raise ValueError(rule)
    if max(fps.numerator, fps.denominator) > MAX_FPS_TERM:
        raise ValueError(f"must be a fraction with terms up to {MAX_FPS_TERM}, such as 30000/1001")
    return fps


def check_device(device: str) -> str:
    """The device itself, if it is a name that devices have."""
    if not re.fullmatch(r"auto|cpu|mps|(cuda|xpu)(:\d{1,3})?", device):
        raise ValueError("must be auto, cpu, cuda, cuda:N, xpu, xpu:N or mps")
    return device


def check_name(name: str | None) -> str | None:
    """The name of a model itself, if it says something and can be stored; None stays None."""
    if name is not None and not name.strip():
        raise ValueError("is empty; name a folder or a hub id")
    return name if name is None else _check_file_name(name)


def check_quantize(name: str | None) -> None:
    """Refuse what cannot be done here; None is always right. Imports neither torch nor torchao.

    Raises:
        ValueError: No such kind, or torchao is not installed.
    """
    if name is None:
        return
    if name not in get_args(QuantizeName):
        raise ValueError(f"quantize must be one of {', '.join(get_args(QuantizeName))}, not {name!r}")
    if find_spec("torchao") is None:
        raise ValueError(
            f"quantize {name} needs torchao, which is not installed; "
            "pip install 'video-diffusion[quantize]', or leave quantize out"
        )


MAX_AFTER_NAME = 64  # bytes, of ":0.8" and "=word"


def check_path(path: str | None) -> str | None:
    """The name of a file itself, if it says something and can be stored; None stays None."""
    if path is not None and not path.strip():
        raise ValueError("is empty; name a file or folder")
    return path if path is None else _check_file_name(path)


def _check_file_name(path: str) -> str:
    """Refuse what no system has as a name; a weight or a word may follow the last part."""
    data = check_text(path).encode()
    if len(data) > 4096 or max(map(len, data.split(b"/"))) > 255 + MAX_AFTER_NAME:
        raise ValueError("is longer than a file's name can be (255 bytes between slashes, 4096 in all)")
    return path


Size = Annotated[int | None, Field(ge=16, le=8192, multiple_of=8)]
Fps = Annotated[
    Fraction | None,
    BeforeValidator(parse_fps),
    PlainSerializer(lambda fps: None if fps is None else str(fps), return_type=str | None),
]


# Settings that hold one value or several, such as a ControlNet and its scale: one is written without a list.


MAX_CONTROLS = 8
ControlMake = Literal["canny", "soft", "none"]


def _one_or_more(value: object, alone: bool) -> tuple[Any, ...]:
    """What is written as one value (`alone`), as a list or not at all."""
    values = () if value is None else (value,) if alone else value
    if not isinstance(values, list | tuple):
        raise ValueError("must be one value or a list of them")
    if len(values) > MAX_CONTROLS:
        raise ValueError(f"must be at most {MAX_CONTROLS}, not {len(values)}")
    return tuple(values)


def check_paths(value: object) -> tuple[str, ...]:
    """Paths or names: one as a text, several as a list."""
    paths = _one_or_more(value, isinstance(value, str))
    if not all(isinstance(path, str) for path in paths):
        raise ValueError("must be a path, or a list of paths")
    return tuple(str(check_path(path)) for path in paths)


def check_scales(value: object) -> tuple[float, ...]:
    """Numbers from 0 to 10: one for all, or a list."""
    scales = []
    for each in _one_or_more(value, isinstance(value, int | float | str)):
        try:
            scale = math.nan if isinstance(each, bool) else float(each)
        except (TypeError, ValueError):
            scale = math.nan
        if not 0 <= scale <= 10:
            raise ValueError("must be a finite number from 0 to 10, or a list of them")
        scales.append(scale)
    if not scales:
        raise ValueError("must be a finite number from 0 to 10, or a list of them")
    return tuple(scales)


def check_intervals(value: object) -> tuple[tuple[float, float], ...]:
    """Shares as of `parse_interval`: one interval, or a list of them."""
    is_pair = isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[0], int | float)
    intervals = (parse_interval(each) for each in _one_or_more(value, is_pair or isinstance(value, str)))
    return tuple(interval for interval in intervals if interval is not None)


def check_makes(value: object) -> tuple[str, ...]:
    """Names of what is drawn: one, or a list."""
    names = _one_or_more(value, isinstance(value, str))
    if not all(isinstance(name, str) and name in get_args(ControlMake) for name in names):
        raise ValueError(f"must be {', '.join(get_args(ControlMake))}, or a list of these")
    return names


def _plainly(values: tuple[Any, ...]) -> Any:
    return None if not values else values[0] if len(values) == 1 else list(values)


_PLAINLY = PlainSerializer(_plainly)
Paths = Annotated[tuple[str, ...], BeforeValidator(check_paths), _PLAINLY]
Scales = Annotated[tuple[float, ...], BeforeValidator(check_scales), _PLAINLY]
Intervals = Annotated[tuple[tuple[float, float], ...], BeforeValidator(check_intervals), _PLAINLY]
ControlMakes = Annotated[tuple[ControlMake, ...], BeforeValidator(check_makes), _PLAINLY]
