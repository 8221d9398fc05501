"""Every feature on a device that is not the CPU, simulated; it gives what the CPU gives, in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from control_networks import save_control_networks, save_pictures
from ip_adapter_files import save_picture, save_tiny_ip_adapter
from motion_files import SHAPES, original_lora, published_file
from safetensors.torch import save_file
from simulated_device import DeviceTensor, held, simulated_device
from small_bases import save_small_bases
from tiny_models import relative_error, save_tiny_model
from tiny_run import tiny_parts
from torch import Tensor

from video_diffusion.jobs import Pipelines, model_facts, read_jobs
from video_diffusion.jobs.runner import BatchSizes, ClipMaker, finish
from video_diffusion.loading import load_model
from video_diffusion.models import VideoUNet
from video_diffusion.pipeline import TextToVideoPipeline
from video_diffusion.sampling import SCHEDULERS
from video_diffusion.settings.training import LossSettings
from video_diffusion.training.objective import DenoisingObjective, training_scheduler

pytestmark = pytest.mark.full

Settings = dict[str, Any]
CLIP: Settings = {
    "num_frames": 5, "height": 16, "width": 24, "num_inference_steps": 1, "seed": 3, "guidance_scale": 2.5,
}  # fmt: skip
FAMILIES = ["animatediff-v2", *(pytest.param(f, marks=pytest.mark.slow) for f in ("pia", "animatediff-sdxl"))]
WITH_LOW_MEMORY = {  # where networks come and go
    "plain", "no guidance", "windows", "lora", "picture", "video", "image prompts", "controlnet",
    "sparsectrl",
}  # fmt: skip
COMPUTED_OUTSIDE_NETWORKS = {
    "windows", "loop", "freenoise", "freeinit", "travel on arcs", "positions", "noise of a video", "picture",
    "image prompts", "heun", "dpmpp_sde", "unipc", "lcm",
}  # fmt: skip
ONE_STEP_ERROR = (
    1e-7  # a step of these random networks makes a thousand million times of a rounding in float64
)


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    family = request.param
    base = save_small_bases(tmp_path_factory.mktemp("bases"))[len(SHAPES[family][0])]
    return base, published_file(tmp_path_factory.mktemp("motion"), family), family


@pytest.fixture(scope="module")
def cases(model: tuple[Path, Path, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Settings]:
    """Settings of each feature, with the files that they name."""
    base, motion, family = model
    folder = tmp_path_factory.mktemp("inputs")
    picture, other = save_picture(folder / "a.png", 1, 16, 24), save_picture(folder / "b.png", 2, 16, 24)
    video = str(save_pictures(folder / "video", 5))
    parts = load_model(str(base), str(motion), torch.float64)
    save_file(original_lora(parts.motion_adapter), folder / "zoom.safetensors")
    ip_adapter = str(save_tiny_ip_adapter(folder, parts.unet))
    found: dict[str, Settings] = {
        "plain": {},
        "no guidance": {"guidance_scale": 1.0},
        "windows": {"context_length": 3, "context_overlap": 1, "context_schedule": "static"},
        "loop": {"context_length": 3, "loop": True},
        "freenoise": {"num_frames": 6, "freenoise": True, "context_length": 4},
        "travel": {"prompt_travel": {"0": "a red ball", "-1": "blue"}},
        "travel on arcs": {"prompt_travel": {"0": "a red ball", "-1": "blue"}, "prompt_blend": "slerp"},
        "mixed noise": {"noise_type": "mixed"},
        "blocks": {"motion_effect_blocks": {"down": 0.5}, "motion_scale_blocks": {"up.0": 1.2}},
        "noise over steps": {"guidance_interval": (0.1, 0.9)},
        "motion over frames": {"motion_scale_travel": {"-1": 1.3}, "motion_effect": 0.5},
        "positions": {"position_stretch": 2.0},
        "noise of a video": {"noise_video": video},
        "progressive noise": {"noise_type": "progressive"},
        "lora": {"loras": [str(folder / "zoom.safetensors")]},
        "picture": {"init_image": other, "strength": 1.0},
        "chunks": {"decode_chunk_size": 2},
        "speed": {"speed": 2, "num_inference_steps": 5, "scheduler": "euler"},
        "image prompts": {"ip_adapter": ip_adapter, "ip_image": {"0-1": picture, "2-4": other}},
        **{name: {"scheduler": name} for name in SCHEDULERS},
    }
    if family == "pia":
        return {name: {"init_image": picture, "strength": 1.0, **case} for name, case in found.items()}
    found |= {"freeinit": {"freeinit": 2}, "video": {"init_video": video, "strength": 1.0}}
    if len(SHAPES[family][0]) == 4:
        controlnet, sparsectrl = save_control_networks(folder, parts.unet)
        found["controlnet"] = {"controlnet": controlnet, "control_video": video}
        found["sparsectrl"] = {"sparsectrl": sparsectrl, "sparse_images": {"-1": picture}}
    return found


def runner(pipeline: TextToVideoPipeline) -> Callable[[Settings], Tensor]:
    """Latents of the last step of a clip."""

    def run(settings: Settings) -> Tensor:
        steps: list[Tensor] = []
        pipeline("a red ball", on_step=lambda step: steps.append(step.latents), **{**CLIP, **settings})
        return steps[-1]

    return run


@pytest.mark.filterwarnings("ignore:init_")
@pytest.mark.filterwarnings("ignore:negative_prompt")
@pytest.mark.parametrize("low_memory", [False, True])
def test_every_feature_on_a_device(
    model: tuple[Path, Path, str], cases: dict[str, Settings], low_memory: bool
) -> None:
    base, motion, _ = model
    asked = {name: case for name, case in cases.items() if not low_memory or name in WITH_LOW_MEMORY}
    on_cpu = runner(TextToVideoPipeline(load_model(str(base), str(motion), torch.float64)))
    expected = {name: on_cpu(case) for name, case in asked.items()}
    parts = load_model(str(base), str(motion), torch.float64)
    with simulated_device() as device:
        there = runner(TextToVideoPipeline(parts, device, low_memory=low_memory))
        for name, case in asked.items():
            latents = there(case)
            assert isinstance(latents, DeviceTensor), name
            assert relative_error(held(latents), expected[name]) < (
                0.1 if "speed" in case else ONE_STEP_ERROR
            ), name


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:init_")
@pytest.mark.filterwarnings("ignore:negative_prompt")
@pytest.mark.parametrize("low_memory", [False, True])
def test_every_feature_on_a_gpu(
    model: tuple[Path, Path, str], cases: dict[str, Settings], low_memory: bool
) -> None:
    base, motion, _ = model
    asked = {name: case for name, case in cases.items() if not low_memory or name in WITH_LOW_MEMORY}
    on_cpu = runner(TextToVideoPipeline(load_model(str(base), str(motion), torch.float64)))
    parts = load_model(str(base), str(motion), torch.float64)
    there = runner(TextToVideoPipeline(parts, torch.device("cuda"), low_memory=low_memory))
    errors = {name: relative_error(there(case).cpu(), on_cpu(case)) for name, case in asked.items()}
    speed = {name for name, case in asked.items() if "speed" in case}
    assert {name: error for name, error in errors.items() if error > (0.1 if name in speed else 1e-6)} == {}


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:init_")
@pytest.mark.filterwarnings("ignore:negative_prompt")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_feature_on_a_gpu_in_low_precision_is_finite(
    model: tuple[Path, Path, str], cases: dict[str, Settings], dtype: torch.dtype
) -> None:
    there = runner(TextToVideoPipeline(load_model(str(model[0]), str(model[1]), dtype), torch.device("cuda")))
    assert [name for name, case in cases.items() if not torch.isfinite(there(case)).all()] == []


def test_a_device_without_float64(model: tuple[Path, Path, str], cases: dict[str, Settings]) -> None:
    """As Apple's GPUs are."""
    parts = load_model(str(model[0]), str(model[1]), torch.float32)
    with simulated_device(knows_float64=False) as device:
        there = runner(TextToVideoPipeline(parts, device))
        for name in COMPUTED_OUTSIDE_NETWORKS & set(cases):
            assert torch.isfinite(held(there(cases[name]))).all(), name


def test_the_training_loss_on_a_device_without_float64() -> None:
    """Forward alone: PyTorch's engine of gradients wants queues that the simulated device does not have."""
    loss = LossSettings(min_snr_gamma=5.0, appearance_debias=1.0)
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(2, 4, 5, 8, 6, generator=generator) for _ in range(2))

    def losses(device: torch.device) -> Tensor:
        parts = tiny_parts()
        for network in (parts.unet, parts.motion_adapter):
            torch.nn.Module.to(network, device=device)
        scheduler = training_scheduler(parts.scheduler_config, loss)
        objective = DenoisingObjective(VideoUNet(parts.unet, parts.motion_adapter), scheduler, loss)
        embeds = torch.ones(2, 7, parts.unet.config.cross_attention_dim)
        given = (latents, noise, torch.tensor([100, 700]), embeds, torch.tensor([1, 3]))
        with torch.no_grad():
            return objective(*(each.to(device) for each in given))

    expected = losses(torch.device("cpu"))
    with simulated_device(knows_float64=False) as device:
        found = losses(device)
        assert isinstance(found, DeviceTensor)
        torch.testing.assert_close(held(found), expected)


def test_clips_of_a_device_are_finished_while_the_next_is_made(tmp_path: Path) -> None:
    """Their rows are those of the CPU; measuring and encoding, in another thread, know no device."""
    folder = save_tiny_model(
        tmp_path / "tiny", num_frames=5, height=32, width=48, fps="8", num_inference_steps=1
    )
    file = tmp_path / "jobs.jsonl"
    file.write_text('{"prompt": "a cat", "seeds": "0-2"}\n')
    base = {"model": str(folder), "dtype": "float64"}
    asked = list(read_jobs(file, base, model_facts))

    def rows(pipeline: TextToVideoPipeline, name: str, behind: bool) -> list[dict[str, Any]]:
        class Ready(Pipelines):
            def get(self, settings: Any, low_memory: bool = False) -> TextToVideoPipeline:
                return pipeline

        (tmp_path / name).mkdir()
        batches = list(ClipMaker(tmp_path / name, Ready(), BatchSizes(2)).make_alike(asked))
        assert [(len(batch.calls), batch.behind) for batch in batches] == [(2, behind), (1, behind)]
        own = {"seconds", "bytes", "settings"}  # settings name the device
        found = [{k: v for k, v in each.row.items() if k not in own} for each in finish(batches)]
        assert all((tmp_path / name / row["file"]).is_file() for row in found)
        return found

    expected = rows(TextToVideoPipeline(load_model(str(folder), None, torch.float64)), "cpu", False)
    parts = load_model(str(folder), None, torch.float64)
    with simulated_device() as device:
        assert rows(TextToVideoPipeline(parts, device), "device", True) == expected
