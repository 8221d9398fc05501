"""Repeated parts through PyTorch's compiler: the same numbers, each shape once, and a way out without one."""

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import save_tiny_model
from torch import nn

from video_diffusion import TextToVideoPipeline
from video_diffusion.acceleration import compiler_problem
from video_diffusion.acceleration.accelerate import compiles

SETTINGS = {"num_frames": 3, "height": 16, "width": 24, "num_inference_steps": 2, "seed": 4}


def test_what_asks_hooks_or_holds_a_lora_is_not_compiled() -> None:
    part = nn.Sequential(nn.Linear(3, 4), nn.SiLU())
    part.register_forward_hook(lambda *_: None)  # around the part, as temporal layers hang on a resnet
    assert compiles(part)
    handle = part[0].register_forward_pre_hook(lambda *_: None)
    assert not compiles(part)
    handle.remove()
    assert compiles(part)


def test_without_a_compiler_or_acceleration_a_clip_is_made_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(save_tiny_model(tmp_path / "model"))
    pipeline = TextToVideoPipeline.from_pretrained(folder, device="cpu")
    plain = pipeline("a red ball", **SETTINGS)
    assert plain.record["settings"]["compile"] is False
    monkeypatch.setattr(
        "video_diffusion.pipeline.text_to_video.compiler_problem", lambda _: "no C++ compiler"
    )
    with pytest.warns(UserWarning, match=r"^compile is ignored: no C\+\+ compiler; leave it out"):
        found = pipeline("a red ball", **SETTINGS, compile=True)
    assert found.frames_sha256 == plain.frames_sha256
    assert found.record["settings"]["compile"] is False
    pipeline.accelerated = False
    with pytest.warns(UserWarning, match="^compile is ignored: acceleration is off"):
        pipeline("a red ball", **SETTINGS, compile=True)


# A process of its own, since what checks types in tests cannot be compiled.
PROGRAM = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from tiny_models import randomised, relative_error, tiny_adapter, tiny_unet
from video_diffusion.acceleration import accelerate_unet, compiler_problem
from video_diffusion.models import VideoUNet

dtype, tolerance = getattr(torch, sys.argv[2]), float(sys.argv[3])
assert compiler_problem("cpu") is None
unet = torch.nn.Module.to(randomised(tiny_unet()), dtype)
model = VideoUNet(unet, tiny_adapter(unet))
latents, prompts = torch.randn(2, 4, 5, 12, 8, dtype=dtype), torch.randn(2, 7, 12, dtype=dtype)
torch._dynamo.utils.counters.clear()
found = []
with torch.no_grad():
    expected = model(latents, 500, prompts)
    for _ in range(2):
        with accelerate_unet(model, compiling=True):
            found += [model(latents, 500, prompts), model(latents, 500, prompts)]
    assert torch.equal(model(latents, 500, prompts), expected)
assert relative_error(found[0], expected) <= tolerance
assert all(torch.equal(each, found[0]) for each in found)
counters = torch._dynamo.utils.counters
assert not counters["graph_break"]
assert 0 < counters["stats"]["unique_graphs"] <= 11  # layers of one shape share it, and so do both times
model(latents, 500, prompts).sum().backward()  # with a gradient nothing is compiled
"""


@pytest.mark.slow  # minutes where PyTorch has not kept the compiled code yet
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-12)])
def test_a_compiled_model_predicts_the_same_and_compiles_each_shape_once(
    dtype: str, tolerance: float
) -> None:
    words = [sys.executable, "-c", PROGRAM, str(Path(__file__).parents[1]), dtype, str(tolerance)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow  # imports PyTorch's compiler
def test_a_missing_compiler_is_named() -> None:
    import torch._inductor.config
    from torch._inductor.utils import fresh_cache

    torch._dynamo.reset()
    with fresh_cache(), torch._inductor.config.patch({"cpp.cxx": ("/nowhere/g++",)}):
        problem = compiler_problem.__wrapped__("cpu")
    torch._dynamo.reset()
    assert problem
    assert "\n" not in problem
