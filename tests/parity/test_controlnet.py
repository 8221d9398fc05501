"""Whole runs steered by a ControlNet and by SparseCtrl, against diffusers' pipelines in float64."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from control_networks import save_pictures, tiny_controlnet, tiny_sparse_control
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.pipelines.animatediff import (
    pipeline_animatediff_sparsectrl,
    pipeline_animatediff_video2video_controlnet,
)
from diffusers.pipelines.animatediff.pipeline_animatediff_controlnet import AnimateDiffControlNetPipeline
from diffusers.pipelines.animatediff.pipeline_animatediff_sdxl import AnimateDiffSDXLPipeline
from diffusers.pipelines.animatediff.pipeline_animatediff_sparsectrl import (
    AnimateDiffSparseControlNetPipeline,
)
from diffusers.pipelines.controlnet.pipeline_controlnet_sd_xl import StableDiffusionXLControlNetPipeline
from diffusers_pipelines import diffusers_pipeline
from PIL import Image
from tiny_models import randomised, relative_error, save_tiny_model
from tiny_xl import save_tiny_xl
from torch import Tensor

from video_diffusion.pipeline import TextToVideoPipeline
from video_diffusion.sampling import initial_noise, make_scheduler
from video_diffusion.settings import GenerationSettings

NUM_FRAMES, HEIGHT, WIDTH, NUM_STEPS, TOLERANCE = 5, 16, 24, 4, 1e-12
PROMPTS, NEGATIVES, SEEDS = ["a red ball", "blue"], ["dull", ""], [3, 2**40]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> TextToVideoPipeline:
    folder = save_tiny_model(tmp_path_factory.mktemp("parity") / "model")
    return TextToVideoPipeline.from_pretrained(str(folder), dtype="float64", device="cpu")


def expected(pipeline: Any, num_videos: int, **arguments: Any) -> Tensor:
    noise = [initial_noise(seed, NUM_FRAMES, 4, HEIGHT // 2, WIDTH // 2) for seed in SEEDS[:num_videos]]
    return pipeline(
        PROMPTS[:num_videos],
        negative_prompt=NEGATIVES[:num_videos],
        latents=torch.stack(noise).double(),
        num_frames=NUM_FRAMES,
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=NUM_STEPS,
        output_type="latent",
        **arguments,
    ).frames


def found(pipeline: TextToVideoPipeline, num_videos: int, **changes: Any) -> Tensor:
    common = {"num_frames": NUM_FRAMES, "height": HEIGHT, "width": WIDTH, "num_inference_steps": NUM_STEPS}
    clips = [
        GenerationSettings.from_values(
            {"prompt": prompt, "negative_prompt": negative, "seed": seed, "scheduler": "ddim"}
            | common
            | changes
        )
        for prompt, negative, seed in zip(PROMPTS, NEGATIVES, SEEDS, strict=True)
    ]
    steps: list[Tensor] = []
    pipeline.generate(clips[:num_videos], on_step=lambda step: steps.append(step.latents))
    return steps[-1]


@pytest.mark.full
@pytest.mark.parametrize(("guidance_scale", "steps"), [(7.5, None), (1.0, None), (2.5, (0.25, 0.8))])
@pytest.mark.filterwarnings("ignore:negative_prompt is ignored at guidance_scale 1")
def test_a_run_with_a_controlnet_equals_diffusers(
    ours: TextToVideoPipeline, tmp_path: Path, guidance_scale: float, steps: tuple[float, float] | None
) -> None:
    network = tiny_controlnet().double()
    network.save_pretrained(tmp_path / "controlnet")
    folder = save_pictures(tmp_path / "edges", NUM_FRAMES)
    theirs = diffusers_pipeline(AnimateDiffControlNetPipeline, ours, controlnet=network)
    pictures = [Image.open(path) for path in sorted(folder.iterdir())]
    interval = {} if steps is None else dict(zip(("start", "end"), steps, strict=True))
    reference = expected(
        theirs,
        1,
        guidance_scale=guidance_scale,
        conditioning_frames=pictures,
        controlnet_conditioning_scale=0.8,
        **{f"control_guidance_{name}": share for name, share in interval.items()},
    )
    settings = {
        "guidance_scale": guidance_scale,
        "controlnet": str(tmp_path / "controlnet"),
        "control_video": str(folder),
        "controlnet_steps": steps,
    }
    steered = found(ours, 1, **settings, controlnet_scale=0.8)
    assert relative_error(steered, reference) <= TOLERANCE
    assert relative_error(found(ours, 1, **settings, controlnet_scale=0.6), reference) > 1e-3


@pytest.mark.full
def test_a_run_with_two_controlnets_equals_diffusers(ours: TextToVideoPipeline, tmp_path: Path) -> None:
    first, second = tiny_controlnet().double(), tiny_controlnet(seed=4).double()
    first.save_pretrained(tmp_path / "first")
    second.save_pretrained(tmp_path / "second")
    folders = [save_pictures(tmp_path / f"edges{seed}", NUM_FRAMES, seed=seed) for seed in (5, 6)]
    theirs = diffusers_pipeline(AnimateDiffControlNetPipeline, ours, controlnet=[first, second])
    reference = expected(
        theirs,
        1,
        guidance_scale=2.5,
        conditioning_frames=[[Image.open(path) for path in sorted(each.iterdir())] for each in folders],
        controlnet_conditioning_scale=[0.8, 0.3],
        control_guidance_start=[0.0, 0.25],
        control_guidance_end=[0.5, 1.0],
    )
    settings = {
        "guidance_scale": 2.5,
        "controlnet": [str(tmp_path / "first"), str(tmp_path / "second")],
        "control_video": list(map(str, folders)),
        "controlnet_scale": [0.8, 0.3],
        "controlnet_steps": ["0-0.5", "0.25-1"],
    }
    assert relative_error(found(ours, 1, **settings), reference) <= TOLERANCE
    turned = settings | {"controlnet_scale": [0.3, 0.8]}
    assert relative_error(found(ours, 1, **turned), reference) > 1e-3


def xl_controlnet(unet: Any) -> ControlNetModel:
    torch.manual_seed(24)
    network = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(6, 10))
    return randomised(network.float()).double().eval()


@pytest.mark.full
@pytest.mark.parametrize("temporal", [False, True])
def test_a_run_of_sdxl_with_a_controlnet_equals_diffusers(tmp_path: Path, temporal: bool) -> None:
    """Frame by frame its image pipeline; with temporal layers, whose pipeline takes none, its networks."""
    model = str(save_tiny_xl(tmp_path / "model"))
    adapter = None if temporal else "none"
    ours = TextToVideoPipeline.from_pretrained(model, adapter, dtype="float64", device="cpu")
    network = xl_controlnet(ours.parts.unet)
    network.save_pretrained(tmp_path / "controlnet")
    pictures = [Image.open(path) for path in sorted(save_pictures(tmp_path / "edges", NUM_FRAMES).iterdir())]
    noise = initial_noise(SEEDS[0], NUM_FRAMES, 4, HEIGHT // 2, WIDTH // 2)[None].double()
    common: dict[str, Any] = {
        "negative_prompt": NEGATIVES[0], "height": HEIGHT, "width": WIDTH, "num_inference_steps": NUM_STEPS,
        "guidance_scale": 2.5, "output_type": "latent",
    }  # fmt: skip
    if temporal:
        theirs = diffusers_pipeline(AnimateDiffSDXLPipeline, ours)
        steer(theirs.unet, network, pictures, 0.8)
        reference = theirs(PROMPTS[0], latents=noise, num_frames=NUM_FRAMES, **common).frames
    else:
        parts = ours.parts
        theirs = StableDiffusionXLControlNetPipeline(
            vae=parts.vae, text_encoder=parts.text_encoder, text_encoder_2=parts.text_encoder_2,
            tokenizer=parts.tokenizer, tokenizer_2=parts.tokenizer_2, unet=parts.unet, controlnet=network,
            scheduler=make_scheduler("ddim", parts.scheduler_config), add_watermarker=False,
        )  # fmt: skip
        theirs.set_progress_bar_config(disable=True)
        frames = [
            theirs(
                PROMPTS[0],
                image=picture,
                latents=noise[:, :, frame],
                controlnet_conditioning_scale=0.8,
                **common,
            ).images
            for frame, picture in enumerate(pictures)
        ]
        reference = torch.stack(frames, dim=2)
    settings = {
        "guidance_scale": 2.5,
        "controlnet": str(tmp_path / "controlnet"),
        "control_video": str(tmp_path / "edges"),
        "controlnet_scale": 0.8,
    }
    assert relative_error(found(ours, 1, **settings), reference) <= TOLERANCE
    assert relative_error(found(ours, 1, guidance_scale=2.5), reference) > 1e-3


def steer(unet: Any, network: ControlNetModel, pictures: list[Image.Image], scale: float) -> None:
    """Give diffusers' motion U-Net what its ControlNet says, as AnimateDiffControlNetPipeline does."""
    pixels = torch.stack([to_tensor(picture) for picture in pictures]).double()
    plain = unet.forward

    def steered(sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, **more: Any) -> Any:
        frames, words = sample.shape[2], encoder_hidden_states
        added = {name: each.repeat_interleave(frames, 0) for name, each in more["added_cond_kwargs"].items()}
        downs, mid = network(
            sample.transpose(1, 2).flatten(0, 1), timestep, words,
            torch.cat([pixels] * len(sample)), scale, added_cond_kwargs=added, return_dict=False,
        )  # fmt: skip
        residuals = {"down_block_additional_residuals": downs, "mid_block_additional_residual": mid}
        return plain(sample, timestep, encoder_hidden_states, **more, **residuals)

    unet.forward = steered


def to_tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1) / 255


@pytest.mark.full
@pytest.mark.parametrize("enforce_steps", [False, True])
@pytest.mark.parametrize(("strength", "steps"), [(0.8, None), (0.6, (0.5, 1.0))])
def test_a_steered_run_that_starts_from_a_video_equals_diffusers(
    ours: TextToVideoPipeline,
    tmp_path: Path,
    strength: float,
    steps: tuple[float, float] | None,
    enforce_steps: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """diffusers samples the video's latents and draws its noise inside; here both are what ours are."""
    theirs_module = pipeline_animatediff_video2video_controlnet
    mode = partial(theirs_module.retrieve_latents, sample_mode="argmax")
    noise = initial_noise(SEEDS[0], NUM_FRAMES, 4, HEIGHT // 2, WIDTH // 2)[None].double()
    monkeypatch.setattr(theirs_module, "retrieve_latents", mode)
    monkeypatch.setattr(theirs_module, "randn_tensor", lambda *_, **__: noise.transpose(1, 2))
    network = tiny_controlnet().double()
    network.save_pretrained(tmp_path / "controlnet")
    video = save_pictures(tmp_path / "video", NUM_FRAMES, seed=6)
    edges = save_pictures(tmp_path / "edges", NUM_FRAMES)
    theirs = diffusers_pipeline(
        theirs_module.AnimateDiffVideoToVideoControlNetPipeline, ours, controlnet=network
    )
    start, end = steps or (0.0, 1.0)
    reference = theirs(
        video=[Image.open(path) for path in sorted(video.iterdir())],
        prompt=PROMPTS[0],
        negative_prompt=NEGATIVES[0],
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=NUM_STEPS,
        enforce_inference_steps=enforce_steps,
        strength=strength,
        guidance_scale=2.5,
        conditioning_frames=[Image.open(path) for path in sorted(edges.iterdir())],
        controlnet_conditioning_scale=0.8,
        control_guidance_start=start,
        control_guidance_end=end,
        output_type="latent",
    ).frames
    settings = {
        "guidance_scale": 2.5,
        "init_video": str(video),
        "strength": strength,
        "enforce_steps": enforce_steps,
        "controlnet": str(tmp_path / "controlnet"),
        "control_video": str(edges),
        "controlnet_steps": steps,
    }
    steered = found(ours, 1, **settings, controlnet_scale=0.8)
    assert relative_error(steered, reference) <= 1e-6  # videos are read in float32
    assert relative_error(found(ours, 1, **settings, controlnet_scale=0.6), reference) > 1e-3


@pytest.mark.full
@pytest.mark.parametrize("reads", ["rgb", "scribble"])
def test_a_run_with_sparsectrl_equals_diffusers(
    ours: TextToVideoPipeline, tmp_path: Path, reads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """diffusers draws a sample of what the autoencoder says of a picture; made to take the mode, as here."""
    mode = partial(pipeline_animatediff_sparsectrl.retrieve_latents, sample_mode="argmax")
    monkeypatch.setattr(pipeline_animatediff_sparsectrl, "retrieve_latents", mode)
    network = tiny_sparse_control(reads).double()
    network.save_pretrained(tmp_path / "sparse")
    config = tmp_path / "sparse" / "config.json"
    config.write_text(config.read_text().replace("{", '{"norm_scope": "clip",', 1))
    folder = save_pictures(tmp_path / "pictures", 2)
    theirs = diffusers_pipeline(AnimateDiffSparseControlNetPipeline, ours, controlnet=network)
    reference = expected(
        theirs,
        2,
        guidance_scale=2.5,
        conditioning_frames=[Image.open(path) for path in sorted(folder.iterdir())],
        controlnet_frame_indices=[1, 4],
        controlnet_conditioning_scale=0.7,
    )
    settings = {
        "guidance_scale": 2.5,
        "sparsectrl": str(tmp_path / "sparse"),
        "sparse_images": {"-1": str(folder / "001.png"), "1": str(folder / "000.png")},
        "sparsectrl_scale": 0.7,
    }
    assert relative_error(found(ours, 2, **settings), reference) <= TOLERANCE
    config.write_text(config.read_text().replace('"clip"', '"frame"', 1))
    ours._control_networks._kept.clear()
    assert relative_error(found(ours, 2, **settings), reference) > 1e-3
