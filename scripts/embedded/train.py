"""Train the embedded model on the procedural world: text encoder, image U-Net, temporal layers, from scratch.

python scripts/embedded train --run runs/embedded --vae runs/codec/vae
Stops and resumes at any step: run the same command again, or with other settings. At every checkpoint the
model so far is in runs/embedded/model, a folder that `video-diffusion generate --model` opens.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np

from embedded.trainer import EmbeddedSettings, EmbeddedTrainer


def arguments() -> argparse.Namespace:
    """Read the command line: one flag for each field of the settings, and what this session does."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(EmbeddedSettings.__doc__ or "").split("Attributes:")[-1],
    )
    parser.add_argument("--run", type=Path, required=True, help="folder of checkpoints, pools and the model")
    parser.add_argument("--vae", type=Path, required=True, help="folder of the trained autoencoder")
    parser.add_argument("--stop-at", type=int, help="checkpoint and end there, to go on with other settings")
    parser.add_argument("--fill-pools", action="store_true", help="only render and encode the clips")
    parser.add_argument("--save-every", type=int, default=250)
    parser.add_argument("--log-every", type=int, default=50)
    for field in fields(EmbeddedSettings):
        default = asdict(EmbeddedSettings())[field.name]
        many = {"nargs": "+", "type": int} if isinstance(default, tuple) else {"type": type(default)}
        parser.add_argument(f"--{field.name.replace('_', '-')}", default=default, **many)
    return parser.parse_args()


def main() -> None:
    """Train, printing a line of JSON every so often."""
    args = arguments()
    chosen = {field.name: getattr(args, field.name) for field in fields(EmbeddedSettings)}
    settings = EmbeddedSettings(**{**chosen, "widths": tuple(args.widths)})
    trainer = EmbeddedTrainer(args.run, args.vae, settings)
    if args.fill_pools:
        for pool in trainer.pools.values():
            pool.fill()
        return
    losses = []
    for done, loss, seconds in trainer.run(args.stop_at, args.save_every):
        if done % 4:  # every fourth step's loss also counts a still frame
            losses.append(loss)
        if done % args.log_every:
            continue
        row = {"step": done, "loss": float(np.mean(losses)), "seconds": seconds}
        if done % (4 * args.log_every) == 0:
            row |= {f"direction_gap_{t}": trainer.direction_gap(t) for t in (999, 800, 600, 400)}
        print(json.dumps({name: round(value, 4) for name, value in row.items()}), flush=True)
        losses = []
