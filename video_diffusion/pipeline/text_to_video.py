"""Prompt to measured clip: the flow of the whole project, in the order in which it happens."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import nn

from video_diffusion.acceleration import accelerate_unet, compiler_problem
from video_diffusion.loading import (
    ModelParts,
    choose_device,
    choose_dtype,
    load_model,
    quantize_weights,
    save_memory,
    save_model,
)
from video_diffusion.models import VideoUNet, decode_latents, latent_scale, usual_chunk_size
from video_diffusion.pipeline.clip_denoiser import ClipDenoiser, draw_noise, sample
from video_diffusion.pipeline.inputs import (
    Additions,
    ControlNetworks,
    added_conditions,
    at_work,
    encode_input,
    encode_prompts,
    noise_moves,
)
from video_diffusion.pipeline.plan import has_guidance, plan
from video_diffusion.pipeline.video import DecodedVideo, GeneratedVideo, OnFrame, timed
from video_diffusion.sampling import DenoisingStep, noise_sha256
from video_diffusion.settings import GenerationSettings, ResolvedSettings, check_quantize, model_defaults
from video_diffusion.shapes import Latents, to_uint8

OnStep = Callable[[DenoisingStep], None]


class TextToVideoPipeline:
    """A text-to-video model, loaded and ready; `from_pretrained` makes one.

    Args:
        parts: The model. Its image U-Net carries the temporal layers from here on, see `VideoUNet`.
        device: To compute on; the parts are moved there.
        accelerated: Whether to take faster ways through the same arithmetic, see `Acceleration`; frames then
            differ by rounding.
        low_memory: Whether to spend time to save memory: videos of a batch and the two passes of guidance run
            one after the other, frames are decoded singly, in tiles where they are large, and on a GPU only
            the network that computes is there, see `save_memory`.

    Attributes:
        defaults: Generation settings where the caller leaves them open.
        vocabulary: Words the model was trained on, if that is all it knows; else empty.
    """

    def __init__(
        self,
        parts: ModelParts,
        device: torch.device | str = "cpu",
        accelerated: bool = True,
        low_memory: bool = False,
    ) -> None:
        self.parts = parts
        self.device = torch.device(device)
        self.accelerated = accelerated
        self.low_memory = low_memory
        if low_memory:
            save_memory(parts, self.device)
        else:
            for part in parts.networks:
                nn.Module.to(part, device=self.device)
        self.video_unet = VideoUNet(parts.unet, parts.motion_adapter, one_by_one=low_memory)
        self._control_networks = ControlNetworks(parts, self.device)
        self.latent_scale = latent_scale(parts.vae)
        self.defaults = model_defaults(
            parts.unet.config,
            parts.vae.config,
            parts.motion_adapter.config,
            parts.defaults,
            parts.identity.name,
        )
        self.vocabulary = tuple(parts.defaults.get("vocabulary", ()))

    @classmethod
    def from_pretrained(
        cls,
        model: str = "embedded",
        motion_adapter: str | None = None,
        dtype: str | torch.dtype | None = None,
        device: str | None = None,
        *,
        allow_extra_weights: bool = False,
        low_memory: bool = False,
        quantize: str | None = None,
    ) -> "TextToVideoPipeline":
        """Load a model.

        Args:
            model: "embedded", a folder or a hub id; a Stable Diffusion or an AnimateDiff pipeline.
            motion_adapter: Folder or hub id of other temporal layers; None takes the model's own, "none"
                switches them off.
            dtype: Precision of the networks: float32 (the default), bfloat16, float16 or float64.
            device: None and "auto" take a GPU if there is one.
            allow_extra_weights: Whether tensors that the model does not have are left out instead of refused.
            low_memory: Whether to spend time to save memory, see the class.
            quantize: "int8" stores the linear maps of U-Net and temporal layers in 8 bits; needs torchao.

        Raises:
            ModelLoadError: The files are not such a model, or the two do not fit together.
            DeviceError: There is no such device.
            ValueError: No such dtype, or torchao is not installed.
        """
        check_quantize(quantize)
        chosen = choose_device(device or "auto")
        precision = choose_dtype(dtype)
        if precision == torch.float16 and chosen.type == "cpu":
            warnings.warn(
                "float16 is slow on a CPU and overflows; set dtype to bfloat16 or float32", stacklevel=2
            )
        parts = load_model(model, motion_adapter, precision, allow_extra_weights=allow_extra_weights)
        if quantize is not None:
            parts = quantize_weights(parts, quantize)
        return cls(parts, chosen, low_memory=low_memory)

    def save_pretrained(self, folder: Path | str, overwrite: bool = True) -> None:
        """Write the whole model to a folder that `from_pretrained` and `diffusers.AnimateDiffPipeline` open.

        diffusers knows no `norm_scope` and computes "clip": only such an adapter gives the same clips there.

        Raises:
            FileExistsError: The folder exists and `overwrite` is False.
            OSError: No space, no permission.
        """
        save_model(self.parts, folder, overwrite)

    def __call__(
        self,
        prompt: str,
        *,
        on_step: OnStep | None = None,
        on_frame: OnFrame | None = None,
        **settings: object,
    ) -> GeneratedVideo:
        """Make one clip."""
        asked = GenerationSettings.from_values({"prompt": prompt, **settings})
        return self.generate([asked], on_step, on_frame)[0]

    def generate(
        self,
        settings: Sequence[GenerationSettings],
        on_step: OnStep | None = None,
        on_frame: OnFrame | None = None,
    ) -> list[GeneratedVideo]:
        """Make clips, together where their settings allow it: they may differ in prompts and seeds.

        A clip's noise does not depend on the others; its pixels do only by rounding, in the last bits of
        float32.

        Args:
            settings: One for each clip; `model`, `motion_adapter`, `dtype` and `device` are those of this
                pipeline.
            on_step: Called after every denoising step, with the state of all clips that are made together.
            on_frame: Called after every frame of a clip that is decoded or measured.

        Raises:
            ValueError: Settings that this model cannot follow.
            NonFiniteLatentsError: Denoising broke down, with the step.
        """
        return [decoded.measured(on_frame) for decoded in self.generate_frames(settings, on_step, on_frame)]

    def generate_frames(
        self,
        settings: Sequence[GenerationSettings],
        on_step: OnStep | None = None,
        on_frame: OnFrame | None = None,
    ) -> list[DecodedVideo]:
        """Do all of `generate` that needs the model; `measured()` does the rest, on the CPU, in any thread.

        So a GPU can go on with the next clips while these are measured and encoded.
        """
        resolved = [self.resolve(each) for each in settings]
        made: dict[int, DecodedVideo] = {}
        order = sorted(range(len(resolved)), key=lambda place: resolved[place].made_together)
        for _, places in groupby(order, key=lambda place: resolved[place].made_together):
            batch = list(places)
            together = [resolved[place] for place in batch]
            with at_work(self.parts, together[0]) as additions:
                made |= zip(batch, self._generate_batch(together, additions, on_step, on_frame), strict=True)
        return [made[place] for place in range(len(resolved))]

    def _generate_batch(
        self,
        batch: Sequence[ResolvedSettings],
        additions: Additions,
        on_step: OnStep | None,
        on_frame: OnFrame | None,
    ) -> Iterator[DecodedVideo]:
        """The flow, for resolved settings that agree on everything but prompts and seeds."""
        one, parts, timings = batch[0], self.parts, dict[str, float]()
        with timed(timings, "encode_prompt", len(batch)):
            prompt_embeds = encode_prompts(parts, batch)
            negative_embeds = None
            if has_guidance(one):
                negative_embeds = encode_prompts(parts, batch, negative=True)
        seeds = [each.seed for each in batch]
        channels = int(parts.unet.config.in_channels)
        latent_size = (channels, one.height // self.latent_scale, one.width // self.latent_scale)
        noise = draw_noise(one, seeds, latent_size, noise_moves(one, self.latent_scale))
        latents = noise.to(self.device, torch.promote_types(torch.float32, prompt_embeds.dtype))
        with timed(timings, "encode_input", len(batch)):
            input_latents = encode_input(parts, one)
            guided = negative_embeds is not None
            conditions = added_conditions(parts, batch, guided, additions.ip_adapter)
            controls = self._control_networks.controls(one)
        with timed(timings, "denoise", len(batch)):
            config = parts.scheduler_config
            denoiser = ClipDenoiser(
                self.video_unet,
                one,
                prompt_embeds,
                negative_embeds,
                input_latents,
                config,
                controls.frame_controls,
                **conditions,
            )
            faster: Any = nullcontext()
            if self.accelerated:
                faster = accelerate_unet(self.video_unet, compiling=one.compile)
            with faster, closing(denoiser):
                for step in sample(denoiser.guided, one, latents, seeds, input_latents, config):
                    latents = step.latents
                    if on_step is not None:
                        on_step(step)
        window_starts = denoiser.window_starts
        for each, own_noise, video_latents in zip(batch, noise, torch.split(latents, 1), strict=True):
            own_timings = dict(timings)
            with timed(own_timings, "decode_latents"):
                chunk_size = 1 if self.low_memory else one.decode_chunk_size
                frames = self.decode(video_latents, chunk_size, on_frame)
            facts = {
                "model": parts.identity,
                "device": str(self.device),
                "num_threads": torch.get_num_threads(),
                "batch_size": len(batch),
                "accelerated": self.accelerated,
                "low_memory": self.low_memory,
                "inputs": {**each.input_sha256s(), **additions.sha256s, **controls.sha256s},
                "noise_sha256": noise_sha256(own_noise),
            }
            yield DecodedVideo(frames, each, window_starts, own_timings, facts, video_latents.cpu())

    def decode(
        self, latents: Latents, decode_chunk_size: int | None = None, on_frame: OnFrame | None = None
    ) -> UInt8[np.ndarray, "f rows columns rgb"]:
        """Decode the latents of one video, such as those of a `DenoisingStep`, to frames as they are encoded.

        Args:
            latents: Of one video.
            decode_chunk_size: Frames decoded at once; None is what the settings' default is for their size.
            on_frame: Called after every chunk of frames.

        Raises:
            ValueError: More than one video, or latents whose frames are not finite.
        """
        if len(latents) != 1:
            raise ValueError(f"latents must hold one video, but hold {len(latents)}; decode them one by one")
        scale, (num_frames, height, width) = self.latent_scale, latents.shape[2:]
        frames = np.empty((num_frames, height * scale, width * scale, 3), np.uint8)
        usual = usual_chunk_size(height * scale, width * scale, self.parts.vae.dtype.itemsize)
        done = 0
        for chunk in decode_latents(self.parts.vae, latents, decode_chunk_size or usual):
            frames[done : done + len(chunk)] = to_uint8(chunk)
            done += len(chunk)
            if on_frame is not None:
                on_frame("decode", done, num_frames)
        return frames

    def resolve(self, settings: GenerationSettings) -> ResolvedSettings:
        """Fill in what settings leave open, and check what only this model can tell; see `plan`.

        Args:
            settings: Of one clip.

        Raises:
            ValueError: Size or length that the model cannot make, or settings that name another model.
        """
        problem = None
        if settings.compile:
            problem = compiler_problem(self.device.type) if self.accelerated else "acceleration is off"
        return plan(settings, self.parts, self.device, self.defaults, problem)
