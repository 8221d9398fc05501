"""The fine-tuning loop: a model, its trained parameters and their optimizer, and a generator of steps."""

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.training_utils import EMAModel
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from video_diffusion.acceleration import kernels
from video_diffusion.acceleration.accelerate import Swaps
from video_diffusion.pipeline import TextToVideoPipeline
from video_diffusion.settings.training import LossSettings, TrainingSettings
from video_diffusion.training.clips import ClipEncoder, ClipMix, EncodingCaches, Item, Weighted, read_ahead
from video_diffusion.training.distil import KnotObjective, record_schedule, trailing
from video_diffusion.training.objective import (
    DenoisingObjective,
    ItemDraws,
    Stream,
    chance,
    draw_step,
    training_scheduler,
)
from video_diffusion.training.optimizer import learning_rate_factor, make_optimizer
from video_diffusion.training.targets import Target, record_noise, set_temporarily

MAX_OVERFLOWS = 20  # steps in a row that fp16 may lose before a run is given up


# The frozen image U-Net split over the processes of a run, so that each holds only its share of it.


def shard_frozen(unet: UNet2DConditionModel, num_processes: int, device_type: str) -> None:
    """Split an image U-Net over the processes by PyTorch's FSDP; each layer is gathered while it computes.

    What is trained stays whole on every process: it is small, and so are its moments and its average.
    """
    mesh = init_device_mesh(device_type, (num_processes,))
    blocks = [*unet.down_blocks, *([unet.mid_block] if unet.mid_block is not None else []), *unet.up_blocks]
    for block in blocks:
        for layer in [*block.resnets, *(getattr(block, "attentions", None) or [])]:
            if layer is not None:
                fully_shard(layer, mesh=mesh)
    fully_shard(unet, mesh=mesh)


def leave_out_of_ddp(model: nn.Module) -> None:
    """Keep data-parallel training from copying frozen parameters: they are equal everywhere, or shares."""
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    # PyTorch's own switch for this has a leading underscore.
    ignore: Any = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
    ignore(model, frozen)


# The image U-Net's attention as CPUs train it fastest; in effect for one step at a time.


class FoldedFrameAttention:
    """Attention processor for training: prompt keys and values once per clip, softmax core in float32.

    All frames of a clip read the same prompt, so its keys and values are projected once and the frames'
    queries are laid end
    to end: the same numbers for less work. The bf16 backward of scaled-dot-product attention took half of a
    training step on
    CPUs; in float32 it takes a fortieth.

    Attributes:
        num_frames: Frames per clip of the running pass.
    """

    def __init__(self) -> None:
        self.num_frames = 1

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: object
    ) -> Tensor:
        """As diffusers' own processor for plain `(b f) n d` attention without masks."""
        if encoder_hidden_states is None:
            return self._attend(attn, hidden_states, hidden_states)
        queries = rearrange(hidden_states, "(b f) n d -> b (f n) d", f=self.num_frames)
        mixed = self._attend(attn, queries, encoder_hidden_states[:: self.num_frames])
        return rearrange(mixed, "b (f n) d -> (b f) n d", f=self.num_frames)

    def _attend(self, attn: Attention, hidden_states: Tensor, context: Tensor) -> Tensor:
        projected = (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        query, key, value = (rearrange(t, "b n (k d) -> b k n d", k=attn.heads).float() for t in projected)
        with torch.autocast(hidden_states.device.type, enabled=False):
            mixed = functional.scaled_dot_product_attention(query, key, value)
        return attn.to_out[0](rearrange(mixed, "b k n d -> b n (k d)"))


@contextmanager
def folded_frame_attention(unet: UNet2DConditionModel, num_frames: int) -> Iterator[None]:
    """Inside, attention reads each clip's prompt once and computes its core in float32.

    The same numbers but for rounding; with bfloat16 on a CPU a step of the embedded model takes 0.37 s
    instead of 0.61 s of one core. Attentions of another kind (IP-Adapter and the like) stay as they are.
    """
    folded, swaps = FoldedFrameAttention(), Swaps()
    folded.num_frames = num_frames
    for module in unet.modules():
        if kernels.attention_fits(module):
            swaps.put(module, "processor", folded)
    try:
        yield
    finally:
        swaps.undo()


# The fine-tuning loop: a model, its trained parameters and their optimizer, and a generator of steps.


class NonFiniteLossError(ArithmeticError):
    """The loss turned NaN or infinite; nothing that follows could be learned from.

    Attributes:
        step: Which step broke and can be left out; None where the run as a whole did.
    """

    exit_code = 1

    def __init__(self, message: str, step: int | None = None) -> None:
        super().__init__(message)
        self.step = step


@dataclass(frozen=True)
class TrainingStep:
    """What one optimizer step did.

    Attributes:
        step: Counted from 1.
        num_steps: How many there will be.
        loss: Mean over the batch, before the step.
        learning_rate: That it was taken with.
        grad_norm: Length of the gradient before clipping.
        ids: Of the clips, over all processes.
        seconds: That it took.
        skipped: Whether the weights stayed as they were: a step that broke before, or an overflow in fp16.
        lost: Source, and what was wrong, of each clip that could not be read and was replaced.
    """

    step: int
    num_steps: int
    loss: float
    learning_rate: float
    grad_norm: float
    ids: tuple[str, ...]
    seconds: float
    skipped: bool = False
    lost: tuple[tuple[int, str], ...] = ()


class Trainer:
    """A fine-tuning run in memory; `steps()` trains.

    Args:
        settings: Of the run.
        pipeline: The model, which is trained in place.
        sources: The clips, with their weights.
        accelerator: Device, precision and processes.
        caches: Where encodings are kept; None encodes every time.

    Attributes:
        step: Optimizer steps done.
        num_skipped: Of these, such that left the weights as they were; the schedule does not count them.
        broken_steps: Steps to leave out, since they broke before.
        target: What is trained.
        loss: What of it decides the draws of a step.
        ema: Its running average, or None.

    Raises:
        ValueError: Settings that this model or number of processes cannot follow.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        pipeline: TextToVideoPipeline,
        sources: Sequence[Weighted],
        accelerator: Accelerator,
        caches: EncodingCaches | None = None,
    ) -> None:
        self.settings, self.pipeline, self.accelerator = settings, pipeline, accelerator
        self.step = self.num_skipped = self._num_overflows = 0
        self.broken_steps: frozenset[int] = frozenset()
        parts = pipeline.parts
        pieces = settings.gradient_accumulation_steps * accelerator.num_processes
        if settings.batch_size % pieces:
            raise ValueError(
                f"batch_size is {settings.batch_size}, which {accelerator.num_processes} processes with "
                f"gradient_accumulation_steps {settings.gradient_accumulation_steps} cannot share equally; "
                f"make it a multiple of {pieces}"
            )
        self.micro_batch_size = settings.batch_size // pieces
        self.mix = ClipMix(sources, self.micro_batch_size, settings.seed, settings.clips.image_fraction)
        self.encoder = ClipEncoder(parts, self.mix.read_again, caches)
        self.target = Target(parts, settings)
        record_noise(parts.motion_adapter, settings)
        if settings.gradient_checkpointing:
            pipeline.video_unet.enable_gradient_checkpointing()
        if settings.shard_frozen and accelerator.num_processes > 1:
            shard_frozen(parts.unet, accelerator.num_processes, accelerator.device.type)
        self.scheduler = training_scheduler(parts.scheduler_config, settings.loss)
        self.objective: DenoisingObjective | KnotObjective
        if settings.objective == "distil":
            record_schedule(parts.motion_adapter, settings.distil)
            steps = settings.distil.num_inference_steps
            self.objective = KnotObjective(pipeline.video_unet, trailing(self.scheduler), steps)
            self.loss = LossSettings(caption_dropout=0)
        else:
            self.objective = DenoisingObjective(pipeline.video_unet, self.scheduler, settings.loss)
            self.loss = settings.loss
        self.raw_optimizer = make_optimizer(list(self.target.parameters.values()), settings.optimizer)
        self.rate = learning_rate_factor(settings.optimizer, settings.num_steps, self.raw_optimizer)
        leave_out_of_ddp(self.objective)
        self._model, self._optimizer = accelerator.prepare(self.objective, self.raw_optimizer)
        self.ema = None
        if settings.ema_decay:
            parameters = self.target.parameters.values()
            self.ema = EMAModel(parameters, decay=settings.ema_decay, foreach=True)

    def steps(self, stop_at: int | None = None) -> Iterator[TrainingStep]:
        """Train from where the run stands to its end, or to `stop_at`, yielding after every step."""
        last = min(self.settings.num_steps, stop_at or self.settings.num_steps)
        batches = iter(read_ahead(self.mix, self._numbers(last), self.settings.num_workers))
        started = time.perf_counter()
        while self.step < last:
            if self.step + 1 in self.broken_steps:
                self.step += 1
                self.num_skipped += 1
                seconds = time.perf_counter() - started
                none = float("nan")
                yield TrainingStep(
                    self.step, self.settings.num_steps, none, 0.0, none, (), seconds, skipped=True
                )
            else:
                yield self._one_step(batches, started)
            started = time.perf_counter()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the trained parameters have their averaged values, which are the ones to be used."""
        if self.ema is None:
            yield
            return
        values = dict(zip(self.target.parameters, self.ema.shadow_params, strict=True))
        with set_temporarily(self.target.parameters, values):
            yield

    def losses(
        self, items: Sequence[Item], draws: Sequence[ItemDraws], model: nn.Module, latents: Tensor
    ) -> Tensor:
        """The loss of each clip, whose latents are given too, under given draws."""
        device, parts = self.accelerator.device, self.pipeline.parts
        captions = [
            "" if draw.without_caption else item["caption"] for draw, item in zip(draws, items, strict=True)
        ]
        height, width = (side * self.pipeline.latent_scale for side in latents.shape[-2:])
        added = self.encoder.conditions(captions, height, width)
        losses: Tensor = model(
            **{name: value.to(device) for name, value in self.objective.inputs(latents, draws).items()},
            prompt_embeds=self.encoder.prompts(captions).to(device, parts.unet.dtype),
            added_cond_kwargs=added and {name: value.to(device) for name, value in added.items()},
        )
        return losses

    def _one_step(self, batches: Iterator[list[Item]], started: float) -> TrainingStep:
        settings, accelerator = self.settings, self.accelerator
        draws = draw_step(settings.seed, self.step, settings.batch_size, self.loss)
        turns = settings.gradient_accumulation_steps
        rate = settings.optimizer.learning_rate * self.rate(self.step - self.num_skipped)
        for group in self.raw_optimizer.param_groups:
            group["lr"] = rate
        total, seen = torch.zeros((), device=accelerator.device), list[_Seen]()
        with self._own_randomness():
            for turn in range(turns):
                items, latents = self.encoder.encode(next(batches))
                place = (turn * accelerator.num_processes + accelerator.process_index) * len(items)
                last = turn == turns - 1
                with nullcontext() if last else accelerator.no_sync(self._model):
                    total += self._backward(items, latents, draws[place : place + len(items)], turns)
                seen += [(str(item["id"]), item["source"], tuple(item["lost"])) for item in items]
        self.encoder.rest()
        grad_norm = self._clip()
        loss_value = float(accelerator.reduce(total, "mean"))
        if accelerator.scaler is None and not (_finite(loss_value) and _finite(grad_norm)):
            half = f"{settings.optimizer.learning_rate / 2:g}"
            raise NonFiniteLossError(
                f"loss is {loss_value} and its gradient {grad_norm} at step {self.step + 1}; lower the rate: "
                f"--resume --set optimizer.learning_rate={half} --allow optimizer.learning_rate "
                "(mixed_precision likewise) goes on from the last checkpoint, which is whole, and leaves "
                "this step out",
                self.step + 1,
            )
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        skipped = accelerator.optimizer_step_was_skipped
        if accelerator.scaler is not None:
            self._check_overflows(skipped, accelerator.scaler.get_scale())
        self.num_skipped += skipped
        if self.ema is not None and not skipped:
            self.ema.step(self.target.parameters.values())
        self.step += 1
        seconds = time.perf_counter() - started
        everyone = _gathered(seen, turns, accelerator)
        ids = tuple(name for name, _, _ in everyone)
        lost = tuple((source, reason) for _, source, reasons in everyone for reason in reasons)
        return TrainingStep(
            self.step, settings.num_steps, loss_value, rate, grad_norm, ids, seconds, skipped, lost
        )

    def _check_overflows(self, skipped: bool, scale: float) -> None:
        """Stop a run in fp16 whose gradients overflow at every scale: it would go on without learning."""
        self._num_overflows = self._num_overflows + 1 if skipped else 0
        if self._num_overflows >= MAX_OVERFLOWS or scale < 1:
            raise NonFiniteLossError(
                f"gradients in fp16 overflowed in {self._num_overflows} steps in a row, the last step "
                f"{self.step + 1}, down to a loss scale of {scale:g}; set mixed_precision to "
                "bf16 or no (--resume --set mixed_precision=bf16 --allow mixed_precision), or lower "
                "optimizer.learning_rate"
            )

    def _backward(
        self, items: Sequence[Item], latents: Tensor, draws: Sequence[ItemDraws], turns: int
    ) -> Tensor:
        """Add the gradients of one piece of the batch, and return its share of the loss."""
        offload = save_on_cpu() if self.settings.activation_offload else nullcontext()
        with self._fastest_attention(latents.shape[-3]), offload:
            loss = self.losses(items, draws, self._model, latents).mean() / turns
            # A one-frame clip reaches no temporal layer; every process must still take part.
            self.accelerator.backward(loss if loss.requires_grad else loss + 0 * self._any_parameter())
        return loss.detach()

    def _fastest_attention(self, num_frames: int) -> AbstractContextManager[None]:
        on_cpu = self.accelerator.device.type == "cpu"
        return folded_frame_attention(self.pipeline.parts.unet, num_frames) if on_cpu else nullcontext()

    def _clip(self) -> float:
        limit = self.settings.optimizer.max_grad_norm
        norm = self.accelerator.clip_grad_norm_(
            self.target.parameters.values(), float("inf") if limit is None else limit
        )
        return float(norm)

    def _any_parameter(self) -> Tensor:
        return torch.stack([parameter.sum() for parameter in self.target.parameters.values()]).sum()

    def _numbers(self, last: int) -> Sequence[int]:
        """Numbers of this process's batches, from the present step to `last`, broken steps left out."""
        num, rank = self.accelerator.num_processes, self.accelerator.process_index
        per_step = self.settings.gradient_accumulation_steps * num
        numbers = range(self.step * per_step + rank, last * per_step, num)
        if not self.broken_steps:
            return numbers
        return [number for number in numbers if number // per_step + 1 not in self.broken_steps]

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """Layers that draw (a LoRA's dropout) draw from (seed, step, process), and the global state stays."""
        module, device = self.target.lora_module, self.accelerator.device
        if not self.settings.lora.dropout or module is None:
            yield
            return
        numbers = chance(self.settings.seed, self.step, Stream.LAYERS).integers(2**62, size=1024)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(int(numbers[self.accelerator.process_index]))
            module.train()
            yield
            module.eval()


_Seen = tuple[str, int, tuple[str, ...]]
"""Of a clip: its id, its source, and why those whose place it takes could not be read."""


def _gathered(seen: list[_Seen], turns: int, accelerator: Accelerator) -> list[_Seen]:
    """The clips of all processes in the order in which one process would see them."""
    if accelerator.num_processes == 1:
        return seen
    from accelerate.utils import gather_object  # noqa: PLC0415

    size = len(seen) // turns
    pieces = gather_object([seen[turn * size : (turn + 1) * size] for turn in range(turns)])
    by_rank = [pieces[rank * turns : (rank + 1) * turns] for rank in range(accelerator.num_processes)]
    return [clip for turn in range(turns) for rank in by_rank for clip in rank[turn]]


def _finite(value: float) -> bool:
    return value - value == 0
