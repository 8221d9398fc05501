"""Published kinds of temporal layers from their files to a clip, and real sizes for one step."""

import resource
import time
from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from motion_files import SHAPES, published_file
from small_bases import save_small_bases
from tiny_models import SCHEDULER_CONFIG
from torch import nn

from video_diffusion.models import MotionAdapter, VideoUNet
from video_diffusion.pipeline import TextToVideoPipeline
from video_diffusion.sampling import Guided, denoise, make_scheduler
from video_diffusion.settings import GenerationSettings

CLIP = {"num_frames": 3, "height": 16, "width": 24}


@pytest.fixture(scope="module")
def image_models(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    return save_small_bases(tmp_path_factory.mktemp("bases"))


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("animatediff-v1", ("ddim", 25, 7.5, "linear")),
        pytest.param("animatediff-v3", ("ddim", 25, 7.5, "linear"), marks=pytest.mark.slow),
        pytest.param("animatelcm", ("lcm", 6, 1.5, "linear"), marks=pytest.mark.slow),
        ("animatediff-lightning", ("euler", 4, 1.0, "linear")),
        ("hotshot-xl", ("euler_a", 30, 7.5, "scaled_linear")),
    ],
)
def test_a_family_makes_clips_with_its_own_settings(
    tmp_path: Path, image_models: dict[int, Path], family: str, expected: tuple[str, int, float, str]
) -> None:
    base = image_models[len(SHAPES[family][0])]
    file = published_file(tmp_path, family)
    pipeline = TextToVideoPipeline.from_pretrained(str(base), str(file), device="cpu")
    settings = pipeline.resolve(GenerationSettings.from_values({"prompt": "a red ball", **CLIP}))
    config = pipeline.parts.scheduler_config
    found = (
        settings.scheduler,
        settings.num_inference_steps,
        settings.guidance_scale,
        config["beta_schedule"],
    )
    assert found == expected
    batches: list[int] = []
    pipeline.parts.unet.conv_in.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    clip = pipeline("a red ball", num_inference_steps=2, **CLIP)
    assert clip.frames.shape == (3, 16, 24, 3)
    assert set(batches) == {3 if expected[2] == 1 else 6}  # without guidance one pass, not doubled
    assert clip.settings.scheduler == expected[0]
    pooled = [
        m for m in pipeline.parts.unet.modules() if isinstance(m, nn.GroupNorm) and m._forward_pre_hooks
    ]
    assert bool(pooled) == (family == "animatediff-v1")


def full_size(kind: type[nn.Module], **config: object) -> nn.Module:
    """A network of real size with random numbers in bfloat16, made quickly: a million of them, repeated."""
    with torch.device("meta"):
        module = kind(**config)
    module = nn.Module.to_empty(nn.Module.to(module, dtype=torch.bfloat16), device="cpu")
    with torch.no_grad():
        block = torch.randn(1_000_003, generator=torch.Generator().manual_seed(0)).bfloat16()
        for name, tensor in module.state_dict().items():
            if "norm" in name and name.endswith("weight"):
                tensor.fill_(1)
                continue
            scale = tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 0.1
            for piece in tensor.view(-1).split(len(block)):
                piece.copy_(block[: len(piece)] * scale)
    return module.eval()


XL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip


SD1 = {"cross_attention_dim": 768}
SD2 = {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
FULL_SIZES = {
    "v1": (
        SD1,
        {"use_motion_mid_block": False, "motion_max_seq_length": 24, "resnet_norm_scope": "clip"},
        417,
    ),
    "v2": (SD1, {"use_motion_mid_block": True}, 453),
    "v3": (SD1, {"use_motion_mid_block": False}, 417),
    "sd2": (SD2, {"use_motion_mid_block": True}, 453),
    "sdxl": (XL, {"use_motion_mid_block": False}, 237),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL_SIZES)
def test_real_sizes_attach_at_once_and_run(name: str) -> None:
    """One guided step of two frames, in bfloat16: no second model, and everything stays finite."""
    base, temporal, millions = FULL_SIZES[name]
    is_xl = name == "sdxl"
    unet = full_size(UNet2DConditionModel, **base)
    widths = (320, 640, 1280) if is_xl else (320, 640, 1280, 1280)
    adapter = full_size(MotionAdapter, block_out_channels=widths, **temporal)
    assert round(sum(parameter.numel() for parameter in adapter.parameters()) / 1e6) == millions
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    spent = []
    for _ in range(3):  # the first also pays for the test run's own shape checks
        started = time.process_time()
        video_unet = VideoUNet(unet, adapter)
        spent.append(time.process_time() - started)
        video_unet.detach()
    video_unet.attach()
    megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{name}: attached in {min(spent) * 1000:.1f} ms, {megabytes:.1f} MB")
    assert megabytes <= 50
    embeds = torch.randn(2, 77, base["cross_attention_dim"]).bfloat16()
    added = {"text_embeds": torch.randn(2, 1280).bfloat16(), "time_ids": torch.zeros(2, 6)} if is_xl else None
    guided = Guided(video_unet, embeds[1:], embeds[:1], 7.5, added_cond_kwargs=added)
    schedule = SCHEDULER_CONFIG | {"prediction_type": "v_prediction" if name == "sd2" else "epsilon"}
    noise = torch.randn(1, 4, 2, 8, 8)
    (step,) = denoise(guided, make_scheduler("ddim", schedule), noise, 1, [0])
    assert step.latents.shape == noise.shape
    assert not torch.equal(step.latents, noise)
