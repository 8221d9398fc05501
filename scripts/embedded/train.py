"""Train the embedded model on the procedural world: text encoder, image U-Net, temporal layers, from scratch.

python scripts/embedded train --run runs/embedded --vae runs/codec/vae
Stops and resumes at any step: run the same command again, or with other settings. At every checkpoint the
model so far is in runs/embedded/model, a folder that `video-diffusion generate --model` opens.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from embedded.trainer import EmbeddedSettings, EmbeddedTrainer

Settings = TypeVar("Settings")


def add_flags(parser: argparse.ArgumentParser, settings: type) -> None:
    """Give a command one flag for each field of its settings."""
    defaults = settings()
    for field in fields(settings):
        default = getattr(defaults, field.name)
        many: dict[str, Any] = {"type": type(default)}
        if isinstance(default, tuple):
            many = {"nargs": "+", "type": type(default[0])}
        parser.add_argument(f"--{field.name.replace('_', '-')}", default=default, **many)


def settings_of(args: argparse.Namespace, settings: type[Settings]) -> Settings:
    """The settings that a command line names."""
    values = {field.name: getattr(args, field.name) for field in fields(settings)}  # type: ignore[arg-type]
    return settings(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def main() -> None:
    """Train, printing a line of JSON every so often."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(EmbeddedSettings.__doc__ or "").split("Attributes:")[-1],
    )
    parser.add_argument("--run", type=Path, required=True, help="folder of checkpoints, pools and the model")
    parser.add_argument("--vae", type=Path, required=True, help="folder of the trained autoencoder")
    parser.add_argument("--stop-at", type=int, help="checkpoint and end there, to go on with other settings")
    parser.add_argument("--fill-pools", action="store_true", help="only render and encode the clips")
    parser.add_argument("--save-every", type=int, default=100)
    parser.add_argument("--log-every", type=int, default=25)
    add_flags(parser, EmbeddedSettings)
    args = parser.parse_args()
    trainer = EmbeddedTrainer(args.run, args.vae, settings_of(args, EmbeddedSettings))
    if args.fill_pools:
        for pool in trainer.pools.values():
            pool.fill()
        return
    rows: list[dict[str, float]] = []
    for step in trainer.run(args.stop_at, args.save_every):
        rows.append(step)
        if step["step"] % args.log_every:
            continue
        means = {name: float(np.mean([row[name] for row in rows])) for name in ("clips", "frames", "norm")}
        found = {**step, **means}
        if step["step"] % (4 * args.log_every) == 0:
            found |= trainer.image_errors()
            found |= {f"gap_{name}_750": gap for name, gap in trainer.caption_gaps(750).items()}
        print(json.dumps({name: round(value, 4) for name, value in found.items()}), flush=True)
        rows = []
