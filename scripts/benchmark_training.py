"""Steps a second and peak memory of our training against a plain diffusers loop, in turns.

Both train the temporal layers of the same model (stock diffusers `UNetMotionModel` for theirs) with AdamW on
the same latents and captions, everything else frozen. Each turn is a process of its own, so that one's memory
is not the other's.

    python scripts/benchmark_training.py --turns 3
    python scripts/benchmark_training.py --paired 8    # all four in one process: steadier ratios, no memory
"""

import argparse
import inspect
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

WAYS = ("ours", "ours, checkpointed", "diffusers", "diffusers, checkpointed")
FRAMES, SIDE = 16, 64


def our_step(batch: int, precision: str, recompute: bool, device: str) -> Callable[[], float]:
    """One optimizer step of `video-diffusion train`, from latents that are kept."""
    from video_diffusion.pipeline import TextToVideoPipeline
    from video_diffusion.settings.training import TrainingSettings
    from video_diffusion.training.clips import MemoryClips, Weighted
    from video_diffusion.training.loop import Trainer
    from video_diffusion.training.run import make_accelerator

    settings = TrainingSettings.model_validate(
        {
            "data": "memory", "num_steps": 10_000, "batch_size": batch, "device": device, "ema_decay": 0.0,
            "mixed_precision": precision, "gradient_checkpointing": recompute,
        }
    )  # fmt: skip
    pipeline = TextToVideoPipeline.from_pretrained("embedded", device=device)
    frames = torch.zeros(FRAMES, 3, SIDE, SIDE, dtype=torch.uint8)
    clips = MemoryClips([frames] * batch, ["a red circle"] * batch)
    trainer = Trainer(settings, pipeline, [Weighted(clips)], make_accelerator(settings))
    latents = trainer.encoder.latents(trainer.mix.read(0)[:1])
    trainer.encoder.latents = lambda items: latents.expand(len(items), -1, -1, -1, -1)  # type: ignore[method-assign]  # both sides start from latents
    steps = trainer.steps()
    return lambda: next(steps).loss


def plain_step(batch: int, precision: str, recompute: bool, device: str) -> Callable[[], float]:
    """One optimizer step as diffusers' examples write it."""
    from diffusers import DDIMScheduler, MotionAdapter, UNet2DConditionModel, UNetMotionModel

    from video_diffusion.loading import load_model
    from video_diffusion.text import encode_prompt
    from video_diffusion.training.objective import training_target

    parts = load_model("embedded")
    own: Any = parts.motion_adapter
    known = inspect.signature(MotionAdapter.__init__).parameters
    fields = {name: value for name, value in own.config.items() if name in known}
    adapter = MotionAdapter(**fields)
    adapter.load_state_dict(own.state_dict(), strict=False)
    image_unet = UNet2DConditionModel.from_config(parts.unet.config)
    image_unet.load_state_dict(parts.unet.state_dict())
    unet = UNetMotionModel.from_unet2d(image_unet, adapter)
    unet.to(device).requires_grad_(False)
    trained = [p for name, p in unet.named_parameters() if "motion_modules." in name]
    for parameter in trained:
        parameter.requires_grad_(True)
    if recompute:
        unet.enable_gradient_checkpointing()
    scheduler = DDIMScheduler.from_config(parts.scheduler_config)
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    latents = torch.zeros(batch, 16, FRAMES, 8, 8, device=device)
    embeds = encode_prompt(["a red circle"], parts.tokenizer, parts.text_encoder).expand(batch, -1, -1)
    embeds = embeds.to(device)

    def step() -> float:
        noise, timesteps = torch.randn_like(latents), torch.randint(0, 1000, (batch,), device=device)
        noisy = scheduler.add_noise(latents, noise, timesteps)
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            answer = unet(noisy, timesteps, embeds.repeat_interleave(FRAMES, 0)).sample
        target = training_target(scheduler, latents, noise, timesteps)
        loss = torch.nn.functional.mse_loss(answer.float(), target)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss)

    return step


def one_turn(way: str, batch: int, precision: str, steps: int, device: str) -> dict[str, float]:
    """Seconds of processor time and of the clock per step, and the growth of peak memory while stepping."""
    make = our_step if way.startswith("ours") else plain_step
    step = make(batch, precision, way.endswith("checkpointed"), device)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    clock, processor = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    return {
        "seconds": (time.perf_counter() - clock) / steps,
        "processor": (time.process_time() - processor) / steps,
        "megabytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
    }


def paired(batch: int, precision: str, rounds: int, device: str) -> None:
    """Print each way's median seconds a step, and ratios of ours to theirs in the same round.

    Of the processor on CPUs, of the clock on GPUs: each step ends by reading its loss.
    """
    clock = time.process_time if device == "cpu" else time.perf_counter
    making = {way: our_step if way.startswith("ours") else plain_step for way in WAYS}
    steps = {
        way: make(batch, precision, way.endswith("checkpointed"), device) for way, make in making.items()
    }
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds + 1):
        for way, step in steps.items():
            began = clock()
            step()
            if number:  # the first round warms up
                taken[way].append(clock() - began)
    for way, seconds in taken.items():
        print(f"{way:26}{statistics.median(seconds):9.2f}")
    for ours, theirs in (WAYS[0::2], WAYS[1::2]):
        ratios = [one / other for one, other in zip(taken[ours], taken[theirs], strict=True)]
        print(f"{ours} / {theirs}: {statistics.median(ratios):.3f}")


def main() -> None:
    """Runs the turns and prints the medians."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--turns", type=int, default=3)
    arguments.add_argument("--steps", type=int, default=4)
    arguments.add_argument("--batch", type=int, default=4)
    arguments.add_argument("--precision", choices=("no", "bf16"), default="no")
    arguments.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments.add_argument("--paired", type=int, metavar="ROUNDS", help="rounds in one process instead")
    arguments.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.one:
        print(json.dumps(one_turn(given.one, given.batch, given.precision, given.steps, given.device)))
        return
    if given.paired:
        paired(given.batch, given.precision, given.paired, given.device)
        return
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(given.turns):
        for way in WAYS:
            words = [sys.executable, __file__, "--one", way, "--batch", str(given.batch)]
            words += ["--steps", str(given.steps), "--precision", given.precision, "--device", given.device]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            found[way].append(json.loads(done.stdout.splitlines()[-1]))
    print(f"{'':26}{'s/step':>9}{'processor s':>13}{'MB above the model':>20}")
    for way, turns in found.items():
        median = {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
        print(f"{way:26}{median['seconds']:9.2f}{median['processor']:13.2f}{median['megabytes']:20.0f}")


if __name__ == "__main__":
    main()
