"""`video-diffusion inspect`: what made a clip, or what is in a model folder; nothing is executed."""

import json
import shlex
from math import prod
from pathlib import Path
from typing import Any

import click

from video_diffusion.cli.terminal import printable

WEIGHT_SUFFIXES = {".safetensors", ".ckpt", ".pt", ".pth", ".bin"}
USES = {
    "ControlNetModel": "--controlnet {} --control-video FRAMES",
    "SparseControlNetModel": "--sparsectrl {} --sparse-image '0: IMAGE'",
}
TRAINED = ("motion_adapter", "motion_lora", "domain_lora")


@click.command()
@click.argument("path", metavar="FILE")
@click.option(
    "--allow-pickle", is_flag=True, help="Read a .ckpt or .pth, through torch's tensors-only reader."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def inspect(path: str, allow_pickle: bool, as_json: bool) -> None:
    """Show the record of a clip, or what a model, a training run, an adapter, a LoRA or a weights file is.

    Of temporal weights it tells the family, the image models they fit, positions, norms, noise schedule,
    usual settings and how to use them: from names and shapes alone, nothing is loaded.
    """
    from video_diffusion.loading.sources import EMBEDDED

    target = EMBEDDED if path == "embedded" else Path(path)
    if not target.exists():
        raise click.UsageError(f"FILE: {path}: no such file or folder")
    facts = look_at(target, allow_pickle)
    click.echo(json.dumps(facts) if as_json else "\n".join(_lines(_for_people(facts))))


def look_at(path: Path, allow_pickle: bool = False) -> dict[str, Any]:
    """Facts about a clip, a record, a model, a training run, an adapter, a LoRA or a weights file."""
    from video_diffusion.loading.weights_facts import describe_weights

    if (path / "model_index.json").is_file():
        return _model_folder(path)
    if (path / "config.json").is_file():
        component = {"kind": "component", **_component(path)}
        if component["class"] in USES:
            flags = USES[component["class"]].format(shlex.quote(str(path)))
            component["use"] = f"video-diffusion generate PROMPT --model MODEL {flags}"
        is_adapter = component["class"] == "MotionAdapter"
        return component | (describe_weights(path) if is_adapter else {})
    if path.suffix.lower() in WEIGHT_SUFFIXES:
        return describe_weights(path, allow_pickle=allow_pickle)
    if path.is_dir() and any((path / part).is_dir() for part in TRAINED):
        return _run(path)
    return _clip(path)


def _run(folder: Path) -> dict[str, Any]:
    """A training run or one of its checkpoints: what it has for use."""
    from video_diffusion.loading.sources import find_lora
    from video_diffusion.loading.weights_facts import describe_weights

    facts: dict[str, Any] = {
        "kind": "checkpoint" if (folder / "manifest.json").is_file() else "training run",
        "path": str(folder),
    }
    for part in TRAINED:
        place = folder / part
        if place.is_dir():
            facts[part] = describe_weights(place if part == "motion_adapter" else find_lora(str(place)))
    return facts


def _clip(path: Path) -> dict[str, Any]:
    from video_diffusion.video import RecordError, open_video, read_record

    facts: dict[str, Any] = {
        "kind": "record" if path.suffix.lower() == ".json" else "clip",
        "path": str(path),
    }
    if facts["kind"] == "clip":
        with open_video(path) as source:
            count = sum(1 for _ in source.frames)
            facts |= {
                "num_frames": count,
                "size": f"{source.width}x{source.height}",
                "fps": None if source.fps is None else str(source.fps),
                "codec": source.codec,
                "pixel_format": source.pixel_format,
                "notes": source.notes,
            }
    try:
        facts["record"] = read_record(path).to_dict()
    except RecordError as error:
        if facts["kind"] == "record":
            raise
        facts["record"] = None
        facts["record_problem"] = str(error)
    return facts


def _model_folder(folder: Path) -> dict[str, Any]:
    from video_diffusion.loading.motion import distilled_settings
    from video_diffusion.loading.weights import read_json
    from video_diffusion.loading.weights_facts import base_of, fitting_families
    from video_diffusion.settings.input_files import PARTS_OF_MODELS
    from video_diffusion.video import weights_sha256

    index = read_json(folder / "model_index.json")
    defaults = folder / "generation_defaults.json"
    components = {
        path.name: _component(path) for path in sorted(folder.iterdir()) if (path / "config.json").is_file()
    }
    adapter = folder / "motion_adapter" / "config.json"
    has_adapter = adapter.is_file()
    distilled = distilled_settings(read_json(adapter)) if has_adapter else {}
    unet = read_json(folder / "unet" / "config.json") if (folder / "unet" / "config.json").is_file() else {}
    is_fused = unet.get("_class_name") == "UNetMotionModel"
    base = base_of(unet)
    facts: dict[str, Any] = {"base": base or "none of the published"}
    if has_adapter or is_fused:
        facts["temporal_layers"] = "its own"
    else:
        facts |= {
            "temporal_layers": "none",
            "fitting_motion_modules": fitting_families(base, unet.get("block_out_channels")),
        }
    lacking = [part for part in PARTS_OF_MODELS if not (folder / part).is_dir()]
    flags = "".join(f" --{part.replace('_', '-')} PATH" for part in lacking)
    asks_for = "" if facts["temporal_layers"] == "its own" else " --motion-adapter ADAPTER"
    return {
        "kind": "model",
        "path": str(folder),
        "pipeline": index.get("_class_name"),
        **facts,
        "lacks": lacking or None,
        "use": f"video-diffusion generate PROMPT --model {shlex.quote(str(folder))}{asks_for}{flags}",
        "weights_sha256": weights_sha256(folder),
        "num_parameters": sum(part.get("num_parameters", 0) for part in components.values()),
        "generation_defaults": (read_json(defaults) if defaults.is_file() else {}) | distilled or None,
        "components": components,
    }


CONFIG_FACTS = (
    "sample_size", "in_channels", "block_out_channels", "latent_channels", "cross_attention_dim",
    "norm_scope", "motion_max_seq_length", "max_num_frames", "use_motion_mid_block", "hidden_size",
    "vocab_size", "scaling_factor", "prediction_type",
)  # fmt: skip


def _component(folder: Path) -> dict[str, Any]:
    from video_diffusion.loading.weights import read_header, read_json

    config = read_json(folder / "config.json")
    files = sorted(folder.glob("*.safetensors"))
    listed = config.get("architectures")
    name = config.get("_class_name") or ", ".join(map(str, listed if isinstance(listed, list) else ["?"]))
    facts: dict[str, Any] = {"class": str(name)}
    facts |= {key: config[key] for key in CONFIG_FACTS if key in config}
    if files:
        tensors = [tensor for file in files for tensor in read_header(file)[0].values()]
        facts["num_parameters"] = sum(prod(tensor.shape) for tensor in tensors)
        facts["dtypes"] = sorted({tensor.dtype for tensor in tensors})
    return facts


def _for_people(facts: dict[str, Any]) -> dict[str, Any]:
    """Each measure in one line, without its series."""
    record = facts.get("record")
    if not record:
        return facts
    measures = {
        name: f"{measure['value']:.4g} {measure['unit']}, {measure['status']}"
        if measure["value"] is not None
        else measure["status"]
        for name, measure in record["measures"].items()
    }
    return {**facts, "record": {**record, "measures": measures}}


def _lines(facts: dict[str, Any], indent: int = 0) -> list[str]:
    """Nested facts as indented lines, everything escaped: files may hold terminal controls."""
    lines = []
    for key, value in facts.items():
        name = " " * indent + printable(str(key))
        if isinstance(value, dict) and value:
            lines += [f"{name}:", *_lines(value, indent + 2)]
        elif isinstance(value, list) and len(value) > 24:
            lines.append(f"{name}: {len(value)} entries")
        elif value not in (None, [], {}, ""):
            shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            lines.append(f"{name}: {printable(shown)}")
    return lines
