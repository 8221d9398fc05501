"""How much GPU memory each recipe of `configs/train` needs, counted on full-size models without numbers.

The run's own code is used (what is frozen, halved, recomputed, moved away), on tensors that have shapes
alone; what is alive at once is added up. Left out are what kernels take for themselves and what the allocator
and CUDA add, some 0.5 to 1 GB together.

    python scripts/training_memory.py                             # all recipes, as Markdown
    python scripts/training_memory.py configs/train/sdxl-lora.yaml --set activation_offload=true
    python scripts/training_memory.py --real-step RECIPE    # one step of it at full size, on this CPU
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from benchmark_models import SHAPES, fill, outline, quiet
from counting import peak_bytes
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from transformers.models.clip.configuration_clip import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection

from video_diffusion.loading import ModelParts, load_model
from video_diffusion.models import encode_frames
from video_diffusion.pipeline import TextToVideoPipeline
from video_diffusion.settings import Layer, assign, merge, read_config, validate
from video_diffusion.settings.training import TrainingSettings
from video_diffusion.training import loop
from video_diffusion.training.clips import Item, MemoryClips, Weighted
from video_diffusion.training.distil import AT_ONCE
from video_diffusion.training.loop import Trainer
from video_diffusion.training.objective import draw_step

RECIPES = Path(__file__).parents[1] / "configs" / "train"
TOKENS, GB = 77, 1e9
EIGHT_BIT = 2 + 2 * 4 / 256  # bytes a parameter: two moments of one byte, a float32 scale for each 256
EVERY_WAY: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("as it is", ()),
    ("without gradient_checkpointing", ("gradient_checkpointing=false",)),
    ("activation_offload instead of it", ("gradient_checkpointing=false", "activation_offload=true")),
    ("float32", ("mixed_precision=no",)),
)


@dataclass(frozen=True)
class Need:
    """Bytes that a training keeps on its device, and what it needs besides at its largest.

    Attributes:
        frozen: The image U-Net's weights, and the temporal layers' where they are not trained.
        trained: Weights that are trained.
        gradients, moments, average: Of these.
        activations: Of the largest moment of a step, beside all of the above.
        encoding: Autoencoder, text encoders and what the autoencoder needs for one clip, while clips are
            encoded that are not kept yet; 0 where a teacher's are used.
        teacher: What the guided teacher needs for the clips that it makes at once; 0 where there is none.
    """

    frozen: int
    trained: int
    gradients: int
    moments: int
    average: int
    activations: int
    encoding: int = 0
    teacher: int = 0

    @property
    def kept(self) -> int:
        """What stays between steps."""
        return self.frozen + self.trained + self.moments + self.average

    @property
    def total(self) -> int:
        """Of a step."""
        return self.kept + self.gradients + self.activations

    @property
    def before(self) -> int:
        """Of the encoding of clips between steps, or of the teacher before the first, weights included."""
        return max(self.kept + self.encoding if self.encoding else 0, self.kept + self.teacher)


@contextmanager
def gpu_autocast() -> Iterator[None]:
    """Norms and softmax in float32, as autocast has them on a GPU; on a CPU it leaves them in bfloat16."""
    names = ("layer_norm", "group_norm", "softmax")
    before = {name: getattr(functional, name) for name in names}

    def wide(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(*args: Any, **kwargs: Any) -> Tensor:
            if torch.is_autocast_enabled("cpu"):
                args = tuple(_widened(each) for each in args)
                kwargs = {name: _widened(each) for name, each in kwargs.items()}
            return function(*args, **kwargs)

        return run

    for name in names:
        setattr(functional, name, wide(before[name]))
    try:
        yield
    finally:
        for name in names:
            setattr(functional, name, before[name])


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


@contextmanager
def left_on_device() -> Iterator[None]:
    """In the place of `save_on_cpu`: what a backward pass needs is not there until it asks for it."""

    def pack(tensor: Tensor) -> tuple[tuple[int, ...], tuple[int, ...], Tensor]:
        return tuple(tensor.shape), tensor.stride(), tensor.new_empty(0)

    def unpack(packed: tuple[tuple[int, ...], tuple[int, ...], Tensor]) -> Tensor:
        shape, stride, kind = packed
        return kind.new_empty_strided(shape, stride)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield


@contextmanager
def staying_where_they_are() -> Iterator[None]:
    """Modules are moved to no device: they are there, and PyTorch cannot move tensors without numbers."""
    apply = nn.Module._apply
    nn.Module._apply = lambda self, fn, recurse=True: self  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module._apply = apply  # type: ignore[method-assign]


def networks(settings: TrainingSettings) -> dict[str, Any]:
    """Full-size parts of the model that a recipe names, on the default device."""
    is_xl = "xl" in settings.model
    unet, _ = outline(SHAPES["E" if is_xl else "D"])
    adapter_fields = {"use_motion_mid_block": False, "motion_max_seq_length": 32, "norm_scope": "frame"}
    parts: dict[str, Any] = {
        "unet": unet,
        "motion_adapter": type(_)(block_out_channels=unet.config.block_out_channels, **adapter_fields).eval(),
        "vae": AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
        ).eval(),
        "text_encoder": CLIPTextModel(
            CLIPTextConfig(
                hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
            )
        ),
    }
    if is_xl:
        sizes = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32}
        parts["text_encoder_2"] = CLIPTextModelWithProjection(
            CLIPTextConfig(**sizes, num_attention_heads=20, projection_dim=1280)
        )
    return parts


def trainer_of(settings: TrainingSettings, made: Mapping[str, Any]) -> Trainer:
    """The run's trainer on these networks, whose clips are asked for by nobody."""
    embedded = load_model("embedded")
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear", "steps_offset": 1}
    parts = ModelParts(
        tokenizer=embedded.tokenizer,
        scheduler_config={"_class_name": "DDIMScheduler", "prediction_type": "epsilon", **schedule},
        defaults={"fps": "8"},
        identity=embedded.identity,
        **made,
    )
    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=True, mixed_precision=settings.mixed_precision)
    source = MemoryClips([torch.zeros(1, 3, 8, 8, dtype=torch.uint8)], [""])
    pipeline = TextToVideoPipeline(parts, "cpu")
    return Trainer(settings, pipeline, [Weighted(source)], accelerator)


def latents_of(trainer: Trainer, batch: int) -> Tensor:
    """Latents of a micro-batch, or a teacher's knots, without a clip behind them."""
    clips, settings = trainer.settings.clips, trainer.settings
    sides = (int(clips.num_frames or 0), int(clips.height or 0) // 8, int(clips.width or 0) // 8)
    knots = (settings.distil.num_inference_steps + 1,) if settings.objective == "distil" else ()
    like: Tensor = next(trainer.pipeline.parts.unet.parameters())
    return like.new_empty((batch, *knots, 4, *sides), dtype=torch.float32)


def without_captions(trainer: Trainer) -> None:
    """Give the trainer embeddings of captions without reading any."""
    unet = trainer.pipeline.parts.unet
    like: Tensor = next(unet.parameters())
    width = int(unet.config.cross_attention_dim)
    size = (int(trainer.settings.clips.height or 0), int(trainer.settings.clips.width or 0))

    def prompts(captions: Sequence[str]) -> Tensor:
        return like.new_zeros((len(captions), TOKENS, width), dtype=torch.float32)

    def conditions(captions: Sequence[str], height: int, width: int) -> Mapping[str, Tensor] | None:
        if unet.config.addition_embed_type != "text_time":
            return None
        times = torch.tensor([[*size, 0.0, 0.0, *size]] * len(captions))
        return {"text_embeds": like.new_zeros((len(captions), 1280), dtype=torch.float32), "time_ids": times}

    trainer.encoder.prompts = prompts  # type: ignore[method-assign]
    trainer.encoder.conditions = conditions  # type: ignore[method-assign]


def size_of(tensors: Iterator[Tensor] | Sequence[Tensor]) -> int:
    """Bytes of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def count(settings: TrainingSettings) -> Need:
    """What a recipe needs."""
    is_8bit = settings.optimizer.name == "adamw_8bit"
    if is_8bit:  # which needs a GPU; its moments are reckoned
        plain = settings.optimizer.model_copy(update={"name": "adamw"})
        settings = settings.model_copy(update={"optimizer": plain})
    with quiet(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        made = networks(settings)
    with quiet(), gpu_autocast(), staying_where_they_are():
        trainer = trainer_of(settings, made)
        trainer._fastest_attention = lambda num_frames: nullcontext()  # type: ignore[method-assign]
        without_captions(trainer)
        items: list[Item] = [{"caption": ""}] * trainer.micro_batch_size
        latents = latents_of(trainer, len(items))
        draws = draw_step(0, 0, len(items), trainer.loss)
        trained = list(trainer.target.parameters.values())

        def passes() -> None:
            for _ in range(min(2, settings.gradient_accumulation_steps)):
                trainer._backward(items, latents, draws, 1)

        def update() -> None:
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            trainer.raw_optimizer.step()
            if trainer.ema is not None:
                trainer.ema.step(trained)

        vars(loop)["save_on_cpu"] = left_on_device
        for group in trainer.raw_optimizer.param_groups:
            group["foreach"] = True  # as on a GPU
        with_gradients = peak_bytes(passes, gradients=True)
        with_moments = peak_bytes(update)
        num = sum(each.numel() for each in trained)
        state = [each for kept in trainer.raw_optimizer.state.values() for each in kept.values()]
        moments = size_of([each for each in state if isinstance(each, Tensor)])
        activations = max(with_gradients - size_of(trained), with_moments - moments)
        encoding = teacher = 0
        if settings.objective == "distil":
            teacher = peak_bytes(lambda: teach(trainer))
        else:
            vae = made["vae"]
            frames = next(vae.parameters()).new_empty(
                (len(latents[0, 0]), 3, *(8 * side for side in latents.shape[-2:]))
            )
            encoders = [made[name] for name in ("vae", "text_encoder", "text_encoder_2") if name in made]
            encoding = sum(size_of(each.parameters()) for each in encoders)
            encoding += peak_bytes(lambda: encode_frames(vae, frames, trainer.encoder.chunk_size))
    assert mode is not None
    everything = [*made["unet"].parameters(), *made["motion_adapter"].parameters()]
    return Need(
        frozen=size_of(everything) - size_of(trained),
        trained=size_of(trained),
        gradients=size_of(trained),
        moments=int(EIGHT_BIT * num) if is_8bit else moments,
        average=4 * num if settings.ema_decay else 0,
        activations=activations,
        encoding=encoding,
        teacher=teacher,
    )


def teach(trainer: Trainer) -> None:
    """One step of the guided teacher, for as many clips as it makes at once."""
    latents = latents_of(trainer, 2 * AT_ONCE)[:, 0]
    embeds = trainer.encoder.prompts([""] * len(latents))
    with trainer.accelerator.autocast():
        trainer.pipeline.video_unet(latents, torch.full((len(latents),), 999), embeds)


def real_step(settings: TrainingSettings) -> None:
    """Take one optimizer step of a recipe at full size, with one clip, on random weights, on this CPU."""
    changes = {"batch_size": 1, "gradient_accumulation_steps": 1, "device": "cpu"}
    settings = settings.model_copy(update=changes)
    if settings.optimizer.name == "adamw_8bit":
        settings = settings.model_copy(
            update={"optimizer": settings.optimizer.model_copy(update={"name": "adamw"})}
        )
    with quiet(), torch.device("meta"):
        made = networks(settings)
    for name in ("unet", "motion_adapter"):
        made[name].to_empty(device="cpu")
        fill(made[name], torch.float32)
    for name in ("vae", "text_encoder", "text_encoder_2"):
        if name in made:  # nobody asks them anything
            made[name] = load_model("embedded").vae if name == "vae" else load_model("embedded").text_encoder
    trainer = trainer_of(settings, made)
    without_captions(trainer)
    latents = latents_of(trainer, 1).normal_(generator=torch.Generator().manual_seed(0))
    trainer.encoder.encode = lambda items: (list(items), latents)  # type: ignore[method-assign]
    before = {name: each.detach().clone() for name, each in list(trainer.target.parameters.items())[::40]}
    began, processor = time.monotonic(), time.process_time()
    step = next(trainer.steps())
    moved = sum(not torch.equal(trainer.target.parameters[name], value) for name, value in before.items())
    print(
        f"one step of one clip, {tuple(latents.shape)}: loss {step.loss:.4f}, gradient {step.grad_norm:.4f}, "
        f"{moved} of {len(before)} tensors looked at moved; {time.monotonic() - began:.0f} s, "
        f"{time.process_time() - processor:.0f} s of processors, at most "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB for the whole process"
    )


def settings_of(recipe: Path, assignments: Sequence[str]) -> TrainingSettings:
    """A recipe's settings with some changed."""
    layer = merge(Layer({}), read_config(recipe))
    for assignment in assignments:
        layer = assign(layer, assignment)
    return validate(TrainingSettings, layer)


def table(rows: Mapping[str, Need]) -> str:
    """Markdown, in GB of 10^9 bytes."""
    heads = "frozen | trained | gradients | moments | average | activations | **a step** | before it"
    lines = [f"| | {heads} |", "|---" * 9 + "|"]
    for name, need in rows.items():
        numbers = (
            need.frozen, need.trained, need.gradients, need.moments, need.average, need.activations,
        )  # fmt: skip
        cells = " | ".join(f"{value / GB:.2f}" for value in numbers)
        lines.append(f"| {name} | {cells} | **{need.total / GB:.1f}** | {need.before / GB:.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Counts and prints."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("recipes", nargs="*", type=Path, help="all of Stable Diffusion if none is given")
    arguments.add_argument("--set", dest="assignments", action="append", default=[], metavar="KEY=VALUE")
    arguments.add_argument("--ways", action="store_true", help="each recipe also with less and more memory")
    arguments.add_argument("--real-step", action="store_true", help="take one step on this CPU instead")
    given = arguments.parse_args()
    recipes = given.recipes or [
        file for file in sorted(RECIPES.glob("*.yaml")) if "embedded" not in file.name
    ]
    rows: dict[str, Need] = {}
    for recipe in recipes:
        if given.real_step:
            real_step(settings_of(recipe, given.assignments))
            continue
        for way, changes in EVERY_WAY if given.ways else EVERY_WAY[:1]:
            rows[f"{recipe.stem}, {way}" if given.ways else recipe.stem] = count(
                settings_of(recipe, [*given.assignments, *changes])
            )
    if rows:
        print(table(rows))


if __name__ == "__main__":
    main()
