"""The flags, files and `--set` texts that make up a clip's settings; ranges live in GenerationSettings."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from video_diffusion.settings import GenerationSettings, Layer


Command = TypeVar("Command", bound=Callable[..., Any])

# flag names -> setting, metavar ("" takes no value), help
FLAGS: tuple[tuple[tuple[str, ...], str, str, str], ...] = (
    (("--negative-prompt",), "negative_prompt", "TEXT", "What to stay away from."),
    (("--prompt-head",), "prompt_head", "TEXT", "What every prompt of the clip begins with."),
    (("--prompt-tail",), "prompt_tail", "TEXT", "What every prompt of the clip ends with."),
    (("--prompt-blend",), "prompt_blend", "NAME", "Between prompts: lerp or slerp.  [default: lerp]"),
    (("--seed",), "seed", "N", "0 to 2^63-1; the same seed gives the same clip.  [default: 0]"),
    (("--frames", "--num-frames"), "num_frames", "N", "Frames, 1 (a picture) to 4096."),
    (("--size",), "size", "WxH", "Pixels, multiples of 8, 16 to 8192."),
    (("--fps",), "fps", "RATE", "Frames per second, exact: 24, 23.976, 30000/1001."),
    (("--steps", "--num-inference-steps"), "num_inference_steps", "N", "Denoising steps, 1 to 1000."),
    (("--guidance-scale", "--guidance"), "guidance_scale", "X", "How hard to follow the prompt, 0 to 50."),
    (("--scheduler",), "scheduler", "NAME", "ddim, ddpm, euler, euler_a, heun, dpmpp_2m, ..."),
    (("--model",), "model", "MODEL", "'embedded', a folder or a hub id.  [default: embedded]"),
    (("--motion-adapter",), "motion_adapter", "PATH", "Other temporal layers; none switches them off."),
    (("--noise-type",), "noise_type", "NAME", "independent, mixed, progressive, constant along frames."),
    (("--noise-alpha",), "noise_alpha", "X", "What frames share of mixed or progressive noise, 0 to 100."),
    (("--noise-video",), "noise_video", "FILE", "Let the noise move as this video does."),
    (("--motion-scale",), "motion_scale", "X", "Sharpness of temporal attention, 0 to 10.  [default: 1]"),
    (("--motion-effect",), "motion_effect", "X", "Weight of the temporal layers, 0 to 10.  [default: 1]"),
    (("--position-stretch",), "position_stretch", "X", "Frames per trained position.  [default: 1]"),
    (("--context-length",), "context_length", "N", "Frames of a context window, for clips of any length."),
    (("--context-overlap",), "context_overlap", "N", "Frames windows share.  [default: a quarter of N]"),
    (("--context-stride",), "context_stride", "N", "Levels of dilated windows, 1 to 8.  [default: 1]"),
    (("--context-schedule",), "context_schedule", "NAME", "uniform, uniform_looped, static, even, batched."),
    (("--context-fuse",), "context_fuse", "NAME", "pyramid, flat or linear, where windows overlap."),
    (("--loop",), "loop", "", "Let the clip's end meet its beginning."),
    (("--freenoise",), "freenoise", "", "Long clips in one pass, by FreeNoise."),
    (("--freeinit",), "freeinit", "N", "Denoise N times with FreeInit, 2 to 10; 0 is off.  [default: 0]"),
    (("--freeinit-filter",), "freeinit_filter", "NAME", "butterworth, gaussian, ideal or box."),
    (("--init-video",), "init_video", "FILE", "Start from a video or a folder of images."),
    (("--init-image",), "init_image", "FILE", "Begin with a picture."),
    (("--strength",), "strength", "X", "How much is made anew, to 1.  [default: video 0.6, image 0.75]"),
    (("--enforce-steps",), "enforce_steps", "", "Do all steps at any strength, not that share of them."),
    (("--image-hold",), "image_hold", "X", "How much later frames are held to it, 0 to 1.  [default: 0.8]"),
    (("--ip-adapter",), "ip_adapter", "PATH", "An IP-Adapter, with its image encoder beside it."),
    (("--ip-scale",), "ip_scale", "X", "Weight of the pictures it shows, 0 to 2.  [default: 0.7]"),
    (("--controlnet",), "controlnet", "PATH", "A ControlNet, which steers every frame."),
    (("--control-video",), "control_video", "FILE", "Its edges, depth or poses: a video or image folder."),
    (("--controlnet-scale",), "controlnet_scale", "X", "How strongly it steers, 0 to 10.  [default: 1]"),
    (
        ("--controlnet-steps",),
        "controlnet_steps",
        "START-END",
        "Share of the steps it works in, e.g. 0-0.6.",
    ),
    (("--sparsectrl",), "sparsectrl", "PATH", "A SparseCtrl encoder, which steers some frames."),
    (("--sparsectrl-scale",), "sparsectrl_scale", "X", "How strongly it steers, 0 to 10.  [default: 1]"),
    (("--guidance-interval",), "guidance_interval", "LOW-HIGH", "Guide between noise levels, e.g. 0.1-0.9."),
    (("--speed",), "speed", "LEVEL", "exact, or 1 to 3: faster, less alike.  [default: exact]"),
    (("--compile",), "compile", "", "Compile repeated parts first: a minute, once; for GPUs."),
    (("--dtype",), "dtype", "NAME", "float32, float16, bfloat16 or float64.  [default: float32]"),
    (("--quantize",), "quantize", "NAME", "int8: linear maps in 8 bits; needs torchao."),
    (("--device",), "device", "NAME", "auto, cpu, cuda, cuda:N, xpu, mps.  [default: auto]"),
)
# flags that may be repeated, one value for a frame, step or block each -> setting, metavar, help
TRAVEL_FLAGS: tuple[tuple[str, str, str, str], ...] = (
    ("--prompt", "prompt_travel", "FRAME: TEXT", "What the clip shows from a frame on; repeatable."),
    ("--negative-travel", "negative_prompt_travel", "FRAME: TEXT", "The same for the negative prompt."),
    ("--guidance-travel", "guidance_scale_travel", "FRAME: X", "The same for the guidance scale."),
    ("--motion-travel", "motion_scale_travel", "FRAME: X", "The same for the motion scale."),
    ("--sparse-image", "sparse_images", "FRAME: FILE", "A frame's picture for --sparsectrl; repeatable."),
    ("--effect-travel", "motion_effect_travel", "FRAME: X", "The same for the motion effect."),
    ("--guidance-steps", "guidance_scale_steps", "STEP: X", "The guidance scale from a step on; repeatable."),
    ("--motion-steps", "motion_scale_steps", "STEP: X", "The same for the motion scale."),
    ("--effect-steps", "motion_effect_steps", "STEP: X", "The same for the motion effect."),
    ("--motion-blocks", "motion_scale_blocks", "BLOCK: X", "Factor in down, mid, up, down.0; repeatable."),
    ("--effect-blocks", "motion_effect_blocks", "BLOCK: X", "The same for the motion effect."),
)
TEXT_SETTINGS = {
    "noise_video",
    "negative_prompt",
    "init_video",
    "init_image",
    "ip_adapter",
    "controlnet",
    "control_video",
    "sparsectrl",
    "prompt_head",
    "prompt_tail",
    "model",
    "motion_adapter",
    "fps",
}
_FRAME = re.compile(r"-?\d{1,4}|[01]?\.\d{0,9}")
_RANGE = re.compile(r"\s*([-.\d]{1,24})\s*:\s*(\S.*)")  # the settings check what is before the colon
_BLOCK = re.compile(r"[a-z]{1,9}(\.\d{1,3})?")


def settings_options(command: Command) -> Command:
    """Adds the flags of the settings, `--config` and `--set` to a command."""
    command = click.option(
        "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="One setting as YAML; repeatable."
    )(command)
    command = click.option(
        "--config", "configs", multiple=True, metavar="FILE", help="YAML settings; later files win."
    )(command)
    command = click.option(
        "--lora",
        "loras",
        multiple=True,
        callback=_as_list,
        metavar="PATH[:WEIGHT]",
        help="A LoRA; repeatable.",
    )(command)
    command = click.option(
        "--ip-image",
        "ip_image",
        multiple=True,
        callback=_as_ranges,
        metavar="'[FRAMES: ]FILE'",
        help="A picture for the IP-Adapter, for all frames or some such as 0-7; repeatable.",
    )(command)
    for flag, setting, metavar, about in reversed(TRAVEL_FLAGS):
        command = click.option(
            flag, setting, multiple=True, callback=_as_map, metavar=f"'{metavar}'", help=about
        )(command)
    for names, setting, metavar, about in reversed(FLAGS):
        kind: dict[str, Any] = {"metavar": metavar} if metavar else {"is_flag": True}
        command = click.option(*names, setting, help=about, **kind)(command)
    return command


def settings_from(
    prompt: str | None,
    configs: Sequence[str],
    assignments: Sequence[str],
    flags: Mapping[str, str | bool | None],
) -> "GenerationSettings":
    """Lays `--config` files, `--set` texts and flags over each other and checks the result."""
    from video_diffusion.settings import GenerationSettings, set_value, validate

    layer = layer_from(configs, assignments, flags)
    if prompt is not None:
        layer = set_value(layer, ["prompt"], prompt, "PROMPT")
    if not {"prompt", "prompt_travel"} & layer.values.keys():
        raise click.UsageError('PROMPT: is missing; for example video-diffusion generate "a red circle"')
    return validate(GenerationSettings, layer)


def layer_from(
    configs: Sequence[str], assignments: Sequence[str], flags: Mapping[str, str | bool | None]
) -> "Layer":
    """The settings as given in files, `--set` texts and flags, laid over each other but not yet checked."""
    from video_diffusion.settings import Layer, assign, merge, read_config, set_value

    layer = Layer({})
    for name in configs:
        layer = merge(layer, read_config(Path(name)))
    for assignment in assignments:
        layer = assign(layer, assignment)
    repeated = [(flag, setting) for flag, setting, _, _ in TRAVEL_FLAGS]
    for flag, setting in (*repeated, ("--ip-image", "ip_image"), ("--lora", "loras")):
        text = flags.get(setting)
        if isinstance(text, str):
            layer = set_value(layer, [setting], json.loads(text), flag)
    for names, setting, _, _ in FLAGS:
        text = flags.get(setting)
        if text is True:
            layer = set_value(layer, [setting], True, names[0])
        if not isinstance(text, str):
            continue
        if setting == "size":
            width, height = size_of(text)
            layer = set_value(set_value(layer, ["width"], width, "--size"), ["height"], height, "--size")
        else:
            value = text if setting in TEXT_SETTINGS else plain_value(text)
            layer = set_value(layer, [setting], value, names[0])
    return layer


def _as_list(context: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> str | None:
    """Repeated texts as one JSON list; None if there are none."""
    return json.dumps(texts) if texts else None


def _as_map(context: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> str | None:
    """Repeated "FRAME: VALUE" texts as one JSON map; None if there are none."""
    pairs: dict[str, int | float | str] = {}
    unit = str(option.metavar).strip("'").partition(":")[0].lower()
    known = _BLOCK if unit == "block" else _FRAME
    such_as = (
        "'down: …', 'mid: …' or 'up.0: …'"
        if unit == "block"
        else f"'12: …' for {unit} 12, '-1: …' for the last one or '0.5: …' for the middle"
    )
    for text in texts:
        frame, colon, value = text.partition(":")
        if not colon or not known.fullmatch(frame.strip()):
            raise click.UsageError(
                f"{option.opts[0]}: must be {option.metavar}, such as {such_as} (given {text[:80]!r})"
            )
        if frame.strip() in pairs:
            raise click.UsageError(f"{option.opts[0]}: names {unit} {frame.strip()} twice; drop one")
        is_number = option.name not in {"prompt_travel", "negative_prompt_travel", "sparse_images"}
        pairs[frame.strip()] = plain_value(value.strip()) if is_number else value.strip()
    return json.dumps(pairs) if pairs else None


def _as_ranges(context: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> str | None:
    """Repeated "FRAMES: FILE" texts as one JSON map, or one FILE as it is; None if there are none."""
    ranges: dict[str, str] = {}
    for text in texts:
        found = _RANGE.fullmatch(text)
        if found is None or Path(text).exists():
            if len(texts) > 1:
                raise click.UsageError(
                    f"{option.opts[0]}: is given {len(texts)} times; write which frames each "
                    f"picture is for, such as '0-7: {text[:80]}'"
                )
            return json.dumps(text)
        if found[1] in ranges:
            raise click.UsageError(f"{option.opts[0]}: names frames {found[1]} twice; drop one")
        ranges[found[1]] = found[2]
    return json.dumps(ranges) if ranges else None


def size_of(text: str) -> tuple[int, int]:
    """Width and height of "64x48"."""
    from video_diffusion.settings import parse_size

    try:
        return parse_size(text)
    except ValueError as error:
        raise click.UsageError(f"--size: {error} (given {text!r})") from None


def plain_value(text: str) -> int | float | str:
    """A flag's text as the number that it is, else as it stands."""
    if re.fullmatch(r"[+-]?\d{1,40}", text):
        return int(text)
    if re.fullmatch(r"[+-]?\d{1,40}\.\d{1,40}([eE][+-]?\d{1,3})?|[+-]?\d{1,40}[eE][+-]?\d{1,3}", text):
        return float(text)
    return text
