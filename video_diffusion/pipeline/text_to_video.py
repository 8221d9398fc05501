"""Prompt to measured clip: the flow of the whole project, in the order in which it happens."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from itertools import groupby
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from video_diffusion import TORCH_CAME_FIRST
from video_diffusion.acceleration import accelerate_unet, compiler_problem
from video_diffusion.loading import (
    ModelParts,
    OnBytes,
    choose_device,
    choose_dtype,
    load_model,
    needs_float32,
    quantize_weights,
    save_memory,
    save_model,
    swap_motion_adapter,
)
from video_diffusion.models import VideoUNet, decode_latents, decodes_in_time, latent_scale, usual_chunk_size
from video_diffusion.pipeline.clip_denoiser import ClipDenoiser, draw_noise, sample
from video_diffusion.pipeline.inputs import (
    NOTHING_GIVEN,
    Additions,
    ControlNetworks,
    GivenEmbeds,
    added_conditions,
    at_work,
    count_chunks,
    encode_input,
    encode_negative_prompts,
    encode_prompts,
    noise_moves,
    read_extended,
    with_input_files,
)
from video_diffusion.pipeline.plan import has_guidance, plan
from video_diffusion.pipeline.video import DecodedVideo, GeneratedVideo, OnFrame, progress_bars, timed
from video_diffusion.sampling import DenoisingStep, noise_sha256
from video_diffusion.settings import (
    GenerationSettings,
    ResolvedSettings,
    by_field_name,
    check_quantize,
    model_defaults,
)
from video_diffusion.shapes import Latents, to_uint8
from video_diffusion.text import unknown_words_note

OnStep = Callable[[DenoisingStep], None]


def _warn_of_spinning_threads(device: torch.device) -> None:
    """Say so where torch's threads will burn the time of cores that others need, too late to change it."""
    cores = os.cpu_count() or 1
    busy = hasattr(os, "getloadavg") and os.getloadavg()[0] > cores
    if TORCH_CAME_FIRST and device.type == "cpu" and torch.get_num_threads() > 1 and busy:
        warnings.warn(
            f"other programs use this machine's {cores} cores, and torch, imported before video_diffusion, "
            "spins while it waits: a clip may take several times as long; import video_diffusion first, or "
            "set OMP_WAIT_POLICY=PASSIVE",
            stacklevel=3,
        )


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
        _warn_of_spinning_threads(self.device)
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
            None if parts.image_model is None else parts.image_model[1],
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
        vae: str | None = None,
        text_encoder: str | None = None,
        allow_extra_weights: bool = False,
        low_memory: bool = False,
        quantize: str | None = None,
        on_bytes: OnBytes | None = None,
    ) -> "TextToVideoPipeline":
        """Load a model.

        Args:
            model: "embedded", a folder or a hub id; a Stable Diffusion or an AnimateDiff pipeline.
            motion_adapter: Folder or hub id of other temporal layers; None takes the model's own, "none"
                switches them off.
            dtype: Precision of the networks: float32 (the default), bfloat16, float16 or float64.
            device: None and "auto" take a GPU if there is one.
            vae: Another autoencoder: a folder, the folder of a model that has one, a file or a hub id.
            text_encoder: Folder or hub id of a model whose text encoders and tokenizers are taken.
            allow_extra_weights: Whether tensors that the model does not have are left out instead of refused.
            low_memory: Whether to spend time to save memory, see the class.
            quantize: "int8" stores the linear maps of U-Net and temporal layers in 8 bits; needs torchao.
            on_bytes: Told while weights are read how many bytes are, and of how many.

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
        parts = load_model(
            model,
            motion_adapter,
            precision,
            vae=vae,
            text_encoder=text_encoder,
            allow_extra_weights=allow_extra_weights,
            on_bytes=on_bytes,
        )
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

    @overload
    def __call__(self, prompt: str | None = None, *, seed: int = 0, **settings: Any) -> GeneratedVideo: ...

    @overload
    def __call__(
        self, prompt: str | list[str] | None = None, *, seed: int | Sequence[int] = 0, **settings: Any
    ) -> list[GeneratedVideo]: ...

    def __call__(
        self,
        prompt: str | list[str] | None = None,
        *,
        seed: int | Sequence[int] = 0,
        progress: bool = True,
        on_step: OnStep | None = None,
        on_frame: OnFrame | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        **settings: Any,
    ) -> GeneratedVideo | list[GeneratedVideo]:
        """Make a clip, or one of each prompt with each seed where one of these is a list.

        Args:
            prompt: What the clip shows; a list makes a clip of each. May be left out where `prompt_travel` or
                `prompt_embeds` say it.
            seed: A number, or several.
            progress: Whether bars show the steps and frames, in a notebook or a terminal.
            on_step: Called after every denoising step.
            on_frame: Called after every frame of a clip that is decoded or measured.
            prompt_embeds: Embeddings in place of the prompt's, (tokens, width) or one for each frame.
            negative_prompt_embeds: Likewise in place of the negative prompt's.
            pooled_prompt_embeds: Of SDXL, beside them.
            negative_pooled_prompt_embeds: Likewise.
            settings: Any of docs/settings.md, also by the names of the flags (`steps`, `frames`, `size`,
                `lora`). Where a file is named, PIL's images, NumPy's arrays and torch's tensors do, too.

        Returns:
            One clip; a list where prompts or seeds are one, all seeds of the first prompt first.

        Raises:
            ValueError: Settings that this model cannot follow.
            NonFiniteLatentsError: Denoising broke down, with the step.

        >>> pipeline = TextToVideoPipeline.from_pretrained("embedded", device="cpu")
        >>> video = pipeline("a red circle moving left", frames=2, steps=1, progress=False)
        >>> video.frames.shape
        (2, 64, 64, 3)
        >>> prompts = ["a red circle", "a blue square"]
        >>> clips = pipeline(prompts, seed=[1, 2], frames=2, steps=1, progress=False)
        >>> [(clip.settings.prompt, clip.settings.seed) for clip in clips]
        [('a red circle', 1), ('a red circle', 2), ('a blue square', 1), ('a blue square', 2)]
        """
        given = GivenEmbeds(
            prompt_embeds, negative_prompt_embeds, pooled_prompt_embeds, negative_pooled_prompt_embeds
        )
        if prompt is None and prompt_embeds is not None:
            prompt = "prompt_embeds"  # a clip's label; what is in its place is recorded by its hash
        prompts = list(prompt) if isinstance(prompt, list | tuple) else [prompt]
        seeds = [seed] if isinstance(seed, int) else list(seed)
        values = with_input_files(by_field_name(settings))
        asked = [
            GenerationSettings.from_values(
                ({} if text is None else {"prompt": text}) | values | {"seed": each}
            )
            for text in prompts
            for each in seeds
        ]
        words = " ".join(dict.fromkeys(text for each in asked for text in each.all_prompts))
        note = None if prompt_embeds is not None else unknown_words_note(words, self.vocabulary)
        if note is not None:
            warnings.warn(note, stacklevel=2)
        with progress_bars(progress, on_step, on_frame) as (step, frame):
            videos = self.generate(asked, step, frame, given)
        return videos if isinstance(prompt, list | tuple) or not isinstance(seed, int) else videos[0]

    def __repr__(self) -> str:
        parts = self.parts.identity
        adapter = f", motion_adapter={parts.motion_adapter!r}" if parts.motion_adapter else ""
        precision = str(self.parts.unet.dtype).removeprefix("torch.")
        return (
            f"TextToVideoPipeline({parts.name!r}{adapter}, dtype={precision!r}, device={str(self.device)!r})"
        )

    def to(
        self,
        device: torch.device | torch.dtype | str | None = None,
        dtype: torch.dtype | str | None = None,
    ) -> "TextToVideoPipeline":
        """Move the model to a device, or to another precision, and return the pipeline itself.

        Args:
            device: Its name, or a precision alone; None stays where it is.
            dtype: Precision of the networks; None stays as it is.

        Raises:
            DeviceError: There is no such device.
            ValueError: No such precision, or a model whose networks wait elsewhere or are quantised.

        >>> TextToVideoPipeline.from_pretrained("embedded").to("cpu", torch.bfloat16)
        TextToVideoPipeline('embedded', dtype='bfloat16', device='cpu')
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        if self.low_memory or self.parts.quantize is not None:
            how = "low_memory" if self.low_memory else "quantize"
            raise ValueError(f"to() does not go with {how}; load the model again with the device or dtype")
        chosen = self.device if device is None else choose_device(str(device))
        precision = None if dtype is None else choose_dtype(dtype)
        for part in self.parts.networks:
            keeps_range = part is self.parts.vae and needs_float32(self.parts, precision)
            nn.Module.to(part, device=chosen, dtype=torch.float32 if keeps_range else precision)
        self.device = chosen
        self._control_networks = ControlNetworks(self.parts, chosen)
        return self

    def use_motion_adapter(self, motion_adapter: str) -> "TextToVideoPipeline":
        """Take other temporal layers, without loading the rest again, and return the pipeline itself.

        Args:
            motion_adapter: A folder, a file or a hub id; "none" switches temporal layers off.

        Raises:
            ModelLoadError: It cannot be used with this image model; the present one then stays.

        >>> TextToVideoPipeline.from_pretrained("embedded", device="cpu").use_motion_adapter("none")
        TextToVideoPipeline('embedded', motion_adapter='none', dtype='float32', device='cpu')
        """
        parts = swap_motion_adapter(self.parts, motion_adapter)
        self.video_unet.detach()
        self.__init__(parts, self.device, self.accelerated, self.low_memory)  # type: ignore[misc]
        return self

    def generate(
        self,
        settings: Sequence[GenerationSettings],
        on_step: OnStep | None = None,
        on_frame: OnFrame | None = None,
        given: GivenEmbeds = NOTHING_GIVEN,
    ) -> list[GeneratedVideo]:
        """Make clips, together where their settings allow it: they may differ in prompts and seeds.

        A clip's noise does not depend on the others; its pixels do only by rounding, in the last bits of
        float32.

        Args:
            settings: One for each clip; `model`, `motion_adapter`, `dtype` and `device` are those of this
                pipeline.
            on_step: Called after every denoising step, with the state of all clips that are made together.
            on_frame: Called after every frame of a clip that is decoded or measured.
            given: Embeddings in place of the prompt; then there is one clip.

        Raises:
            ValueError: Settings that this model cannot follow.
            NonFiniteLatentsError: Denoising broke down, with the step.
        """
        decoded = self.generate_frames(settings, on_step, on_frame, given)
        return [each.measured(on_frame) for each in decoded]

    def generate_frames(
        self,
        settings: Sequence[GenerationSettings],
        on_step: OnStep | None = None,
        on_frame: OnFrame | None = None,
        given: GivenEmbeds = NOTHING_GIVEN,
    ) -> list[DecodedVideo]:
        """Do all of `generate` that needs the model; `measured()` does the rest, on the CPU, in any thread.

        So a GPU can go on with the next clips while these are measured and encoded.
        """
        if given.sha256s and len(settings) != 1:
            raise ValueError(
                f"prompt_embeds is for one clip, but {len(settings)} are asked for; call once for each"
            )
        resolved = [self.resolve(each) for each in settings]
        made: dict[int, DecodedVideo] = {}
        order = sorted(range(len(resolved)), key=lambda place: resolved[place].made_together)
        for _, places in groupby(order, key=lambda place: resolved[place].made_together):
            batch = list(places)
            with at_work(self.parts, [resolved[place] for place in batch]) as additions:
                counts = {
                    place: count_chunks(self.parts, resolved[place], additions.reading) for place in batch
                }
                for num_chunks in dict.fromkeys(
                    counts.values()
                ):  # empty chunks would change a shorter prompt
                    alike = [place for place in batch if counts[place] == num_chunks]
                    clips = self._generate_batch(
                        [resolved[place] for place in alike], additions, num_chunks, given, on_step, on_frame
                    )
                    made |= zip(alike, clips, strict=True)
        return [made[place] for place in range(len(resolved))]

    def _generate_batch(
        self,
        batch: Sequence[ResolvedSettings],
        additions: Additions,
        num_chunks: int,
        given: GivenEmbeds,
        on_step: OnStep | None,
        on_frame: OnFrame | None,
    ) -> Iterator[DecodedVideo]:
        """The flow, for resolved settings that agree on all but seeds and prompts, these of equal length."""
        one, parts, timings = batch[0], self.parts, dict[str, float]()
        with timed(timings, "encode_prompt", len(batch)):
            reading = additions.reading
            prompt_embeds = given.of_tokens("prompt_embeds", parts.unet, one.num_frames)
            if prompt_embeds is None:
                prompt_embeds = encode_prompts(parts, batch, reading, num_chunks)
            negative_embeds = None
            if has_guidance(one):
                num_tokens = prompt_embeds.shape[-2]
                negative_embeds = given.of_tokens("negative_prompt_embeds", parts.unet, one.num_frames)
                if negative_embeds is None:
                    negative_embeds = encode_negative_prompts(parts, batch, reading, num_tokens)
                elif negative_embeds.shape[-2] != num_tokens:
                    raise ValueError(
                        f"negative_prompt_embeds has {negative_embeds.shape[-2]} tokens, but the prompt "
                        f"{num_tokens}; make both equally long"
                    )
        seeds = [each.seed for each in batch]
        channels = int(parts.unet.config.in_channels)
        latent_size = (channels, one.height // self.latent_scale, one.width // self.latent_scale)
        noise = draw_noise(one, seeds, latent_size, noise_moves(one, self.latent_scale))
        latents = noise.to(self.device, torch.promote_types(torch.float32, prompt_embeds.dtype))
        with timed(timings, "encode_input", len(batch)):
            extended = read_extended(one)
            start_latents = encode_input(parts, one)
            input_latents = start_latents if extended is None else extended.known_latents(parts, one)
            guided = negative_embeds is not None
            conditions = added_conditions(parts, batch, guided, reading, additions.ip_adapter, given)
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
                for step in sample(denoiser.guided, one, latents, seeds, start_latents, config):
                    latents = step.latents
                    if on_step is not None:
                        on_step(step)
        window_starts = denoiser.window_starts
        if extended is not None:
            window_starts = extended.joints(window_starts)
        for each, own_noise, video_latents in zip(batch, noise, torch.split(latents, 1), strict=True):
            own_timings = dict(timings)
            with timed(own_timings, "decode_latents"):
                chunk_size = 1 if self.low_memory else one.decode_chunk_size
                frames = self.decode(video_latents, chunk_size, on_frame)
                if extended is not None:
                    frames = extended.joined(frames)
            facts = {
                "model": parts.identity,
                "device": str(self.device),
                "num_threads": torch.get_num_threads(),
                "batch_size": len(batch),
                "accelerated": self.accelerated,
                "low_memory": self.low_memory,
                "inputs": {**each.input_sha256s(), **additions.sha256s, **controls.sha256s, **given.sha256s},
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
        usual = usual_chunk_size(
            height * scale, width * scale, self.parts.vae.dtype.itemsize, decodes_in_time(self.parts.vae)
        )
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
