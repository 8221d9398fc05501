"""Whole runs with weighted prompts of several chunks against diffusers, given the same embeddings."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from control_networks import save_pictures, tiny_controlnet
from diffusers.pipelines.animatediff.pipeline_animatediff import AnimateDiffPipeline
from diffusers.pipelines.animatediff.pipeline_animatediff_sdxl import AnimateDiffSDXLPipeline
from diffusers_pipelines import diffusers_pipeline
from ip_adapter_files import save_picture, save_tiny_ip_adapter
from safetensors.torch import save_file
from tiny_models import TEXT_WIDTH, relative_error, save_tiny_model, tiny_unet
from tiny_xl import SECOND_WIDTH, save_tiny_xl
from torch import Tensor

from video_diffusion.pipeline import TextToVideoPipeline
from video_diffusion.sampling import initial_noise
from video_diffusion.text import PromptReading

FRAMES, HEIGHT, WIDTH, SEED = 4, 16, 24, 7
VALUES: dict[str, Any] = {
    "num_frames": FRAMES, "height": HEIGHT, "width": WIDTH, "num_inference_steps": 2, "guidance_scale": 3.0
}  # fmt: skip
PROMPT, NEGATIVE = "a (red:1.4) dot on the sea, far off", "[dull]"  # 26 letters: two chunks of 14, and one
READING = PromptReading("a1111")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> TextToVideoPipeline:
    folder = save_tiny_model(tmp_path_factory.mktemp("long") / "model")
    return TextToVideoPipeline.from_pretrained(str(folder), dtype="float64", device="cpu")


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> TextToVideoPipeline:
    folder = save_tiny_xl(tmp_path_factory.mktemp("long") / "xl")
    return TextToVideoPipeline.from_pretrained(str(folder), dtype="float64", device="cpu")


def latents(pipeline: TextToVideoPipeline, prompt: Any = PROMPT, **settings: Any) -> Tensor:
    steps: list[Tensor] = []
    values = VALUES | {"scheduler": "ddim", "fps": 8, "seed": SEED, "progress": False} | settings
    pipeline(prompt, on_step=lambda step: steps.append(step.latents), **values)
    return steps[-1]


@pytest.mark.parametrize("kind", ["plain", "xl"])
def test_a_whole_run_with_a_long_weighted_prompt_equals_diffusers(
    kind: str, request: pytest.FixtureRequest
) -> None:
    ours: TextToVideoPipeline = request.getfixturevalue(kind)
    text = ours.parts.text_encoders
    count = text.num_chunks([PROMPT], READING)
    assert count == 2
    given = {
        "prompt_embeds": text.prompt_embeds([PROMPT], READING, count),
        "negative_prompt_embeds": text.prompt_embeds([NEGATIVE], READING, count),
    }
    if kind == "xl":
        given |= {
            "pooled_prompt_embeds": text.pooled_embeds([PROMPT], READING),
            "negative_pooled_prompt_embeds": text.pooled_embeds([NEGATIVE], READING),
        }
    theirs = diffusers_pipeline(AnimateDiffPipeline if kind == "plain" else AnimateDiffSDXLPipeline, ours)
    noise = initial_noise(SEED, FRAMES, 4, HEIGHT // 2, WIDTH // 2)[None].double()
    expected = theirs(latents=noise, output_type="latent", **given, **VALUES).frames
    assert relative_error(latents(ours, negative_prompt=NEGATIVE), expected) <= 1e-12
    assert relative_error(latents(ours, None, **given), expected) <= 1e-12  # as Python may give them


def test_a_short_clip_of_a_batch_is_not_padded_to_a_long_one(plain: TextToVideoPipeline) -> None:
    alone = latents(plain, "a dot")
    clips = plain(["a dot", PROMPT], progress=False, scheduler="ddim", fps=8, seed=SEED, **VALUES)
    again = plain("a dot", progress=False, scheduler="ddim", fps=8, seed=SEED, **VALUES)
    assert np.array_equal(clips[0].frames, again.frames)
    assert alone.shape == (1, 4, FRAMES, HEIGHT // 2, WIDTH // 2)


@pytest.mark.parametrize("kind", ["plain", "xl"])
def test_long_prompts_travel_frame_by_frame(kind: str, request: pytest.FixtureRequest) -> None:
    ours: TextToVideoPipeline = request.getfixturevalue(kind)
    text = ours.parts.text_encoders
    first, last = text.prompt_embeds([PROMPT, "a (wood)"], READING, 2)
    along = torch.stack([torch.lerp(first, last, k / 3) for k in range(FRAMES)])
    given = {"prompt_embeds": along, "negative_prompt_embeds": text.prompt_embeds([""], READING, 2)}
    if kind == "xl":
        given |= {
            "pooled_prompt_embeds": text.pooled_embeds([PROMPT], READING),
            "negative_pooled_prompt_embeds": text.pooled_embeds([""], READING),
        }
    expected = latents(ours, None, **given)
    assert relative_error(latents(ours, prompt_travel={"-1": "a (wood)"}), expected) <= 1e-12


def test_long_prompts_go_with_windows_ip_adapter_and_controlnet(
    plain: TextToVideoPipeline, tmp_path: Path
) -> None:
    tiny_controlnet().save_pretrained(tmp_path / "net")
    others = {
        "ip_adapter": str(save_tiny_ip_adapter(tmp_path / "adapter", tiny_unet())),
        "ip_image": save_picture(tmp_path / "a.png", 1), "controlnet": str(tmp_path / "net"),
        "control_video": str(save_pictures(tmp_path / "edges", 6)), "num_frames": 6, "context_length": 4,
    }  # fmt: skip
    text = plain.parts.text_encoders
    given = {
        "prompt_embeds": text.prompt_embeds([PROMPT], READING, 2),
        "negative_prompt_embeds": text.prompt_embeds([NEGATIVE], READING, 2),
    }
    found = latents(plain, negative_prompt=NEGATIVE, **others)
    assert relative_error(found, latents(plain, None, **given, **others)) <= 1e-12
    assert relative_error(found, latents(plain, "a red dot", negative_prompt=NEGATIVE, **others)) > 1e-3


@pytest.mark.parametrize("kind", ["plain", "xl"])
def test_embeddings_work_in_a_clip_and_are_recorded(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    ours: TextToVideoPipeline = request.getfixturevalue(kind)
    vectors = torch.randn(3, TEXT_WIDTH + SECOND_WIDTH, generator=torch.Generator().manual_seed(3))
    tensors = {"emb_params": vectors[:, :TEXT_WIDTH].contiguous()}
    if kind == "xl":
        tensors = {"clip_l": tensors["emb_params"], "clip_g": vectors[:, TEXT_WIDTH:].contiguous()}
    save_file(tensors, tmp_path / "neg.safetensors")
    settings = {"negative_prompt": "(neg:1.2), dull", "embeddings": [str(tmp_path)]}
    with_it = latents(ours, "a dot", **settings)
    assert relative_error(with_it, latents(ours, "a dot", negative_prompt="dull")) > 1e-4
    video = ours("a dot", progress=False, scheduler="ddim", fps=8, **VALUES, **settings)
    assert set(video.run_record.inputs) == {"embeddings.neg"}
    save_file({"emb_params": torch.zeros(2, 5)}, tmp_path / "neg.safetensors")
    with pytest.raises(ValueError, match=r"no embedding|vectors of width 5, but this model's text encoder"):
        latents(ours, "a dot", **settings)


def test_embeddings_of_a_wrong_shape_are_refused_in_one_line(xl: TextToVideoPipeline) -> None:
    width = TEXT_WIDTH + SECOND_WIDTH
    for given, reason in (
        ({"prompt_embeds": torch.zeros(16, 3)}, r"prompt_embeds must have the shape \(tokens, 32\)"),
        (
            {"prompt_embeds": torch.zeros(16, width)},
            "pooled_prompt_embeds is missing; an SDXL model reads it",
        ),
        ({"prompt_embeds": torch.zeros(17, width)}, "give negative_prompt_embeds of the same length"),
        (
            {"prompt_embeds": torch.zeros(16, width), "negative_prompt_embeds": torch.zeros(32, width)},
            "negative_prompt_embeds has 32 tokens, but the prompt 16",
        ),
    ):
        with pytest.raises(ValueError, match=reason):
            latents(xl, None, **given)
    with pytest.raises(ValueError, match="prompt_embeds is for one clip, but 2 are asked for"):
        latents(xl, ["a", "b"], prompt_embeds=torch.zeros(16, width))
