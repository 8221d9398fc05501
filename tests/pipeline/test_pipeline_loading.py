"""What a pipeline is loaded from, in which precision and on which device, and what it saves."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from red_ball import clip
from tiny_models import relative_error, save_tiny_model, tiny_adapter, tiny_unet

from video_diffusion import TextToVideoPipeline
from video_diffusion.loading import DeviceError, ModelLoadError, choose_device, choose_dtype


def test_what_is_saved_gives_the_same_clip(pipeline: TextToVideoPipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path / "saved")
    again = TextToVideoPipeline.from_pretrained(str(tmp_path / "saved"), device="cpu")
    assert again.defaults == pipeline.defaults
    assert again.parts.motion_adapter.config.norm_scope == "frame"
    assert again("a red ball").frames_sha256 == pipeline("a red ball").frames_sha256
    with pytest.raises(FileExistsError):
        pipeline.save_pretrained(tmp_path / "saved", overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_a_model_without_defaults_has_the_usual_ones(tmp_path: Path) -> None:
    pipeline = TextToVideoPipeline.from_pretrained(str(save_tiny_model(tmp_path / "model")), device="cpu")
    resolved = pipeline.resolve(clip())
    assert (resolved.num_frames, resolved.height, resolved.width) == (
        9,
        16,
        16,
    )  # 9 positions, 8 latents, 2 px
    assert (resolved.fps, resolved.num_inference_steps) == (8, 25)
    assert (resolved.guidance_scale, resolved.scheduler) == (7.5, "ddim")
    assert pipeline.vocabulary == ()


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.2), ("float64", 1e-4)])
def test_other_precisions_make_nearly_the_same_latents(
    folder: Path, pipeline: TextToVideoPipeline, dtype: str, tolerance: float
) -> None:
    other = TextToVideoPipeline.from_pretrained(str(folder), dtype=dtype, device="cpu")
    latents: list[torch.Tensor] = []
    for each in (other, pipeline):
        each("a red ball", scheduler="ddim", on_step=lambda step: latents.append(step.latents))
    found, expected = latents[2], latents[-1]
    assert found.dtype == (torch.float64 if dtype == "float64" else torch.float32)
    assert relative_error(found.float(), expected) < tolerance
    assert other("a red ball").settings.dtype == dtype


def test_an_adapter_brings_the_noise_it_was_trained_with(folder: Path, tmp_path: Path) -> None:
    tiny_adapter(tiny_unet()).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"noise_type": "mixed", "noise_alpha": 2.0}))
    pipeline = TextToVideoPipeline.from_pretrained(str(folder), str(tmp_path), device="cpu")
    own, named = pipeline("a red ball"), pipeline("a red ball", noise_type="mixed", noise_alpha=2.0)
    assert (own.settings.noise_type, own.settings.noise_alpha) == ("mixed", 2.0)
    assert own.frames_sha256 == named.frames_sha256 != pipeline("a", noise_type="independent").frames_sha256


def test_an_adapter_for_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    tiny_adapter(tiny_unet("three")).save_pretrained(tmp_path)
    with pytest.raises(
        ModelLoadError, match=r"block_out_channels \(8, 16, 24\), but this U-Net has \(8, 16\)"
    ):
        TextToVideoPipeline.from_pretrained(str(folder), str(tmp_path), device="cpu")


def test_half_precision_on_a_cpu_is_warned_of(folder: Path) -> None:
    with pytest.warns(UserWarning, match="float16 is slow on a CPU and overflows"):
        TextToVideoPipeline.from_pretrained(str(folder), dtype="float16", device="cpu")


def test_devices_and_precisions_that_are_not_there_are_refused() -> None:
    with pytest.raises(DeviceError, match=r"device cuda:97 is not on this machine, which has .*cpu"):
        choose_device("cuda:97")
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device().type in {"cuda", "xpu", "mps", "cpu"}
    with pytest.raises(ValueError, match=r"dtype must be one of float32, .* not int8"):
        choose_dtype("int8")
    assert choose_dtype(None) == choose_dtype(torch.float32) == torch.float32


def test_temporal_layers_can_be_switched_off(folder: Path) -> None:
    """Then a frame does not depend on how many there are."""
    pipeline = TextToVideoPipeline.from_pretrained(str(folder), "none", device="cpu")
    one, many = (pipeline("a red ball", num_frames=n) for n in (1, 5))
    assert np.abs(many.frames[:1].astype(int) - one.frames.astype(int)).max() <= 1
    assert one.settings.motion_adapter == "none"
    assert (
        one.run_record.job_id
        != TextToVideoPipeline.from_pretrained(str(folder), device="cpu")(
            "a red ball", num_frames=1
        ).run_record.job_id
    )
