"""FreeInit, a whole run against diffusers' AnimateDiffPipeline, fed the same noises.

diffusers mixes frequencies in float32, whatever the model's precision: hence the tolerance.
"""

from typing import Any

import pytest
from diffusers.pipelines.animatediff.pipeline_animatediff import AnimateDiffPipeline
from diffusers_pipelines import diffusers_pipeline
from tiny_models import relative_error, save_tiny_model
from torch import Tensor

from video_diffusion import TextToVideoPipeline
from video_diffusion.pipeline.clip_denoiser import FREE_INIT_STEPS
from video_diffusion.sampling import initial_noise, step_noise

FRAMES, SEED, SIZE = 5, 3, (4, 8, 12)


@pytest.mark.full
@pytest.mark.parametrize(
    ("kind", "spatial", "temporal"),
    [("butterworth", 0.25, 0.25), ("gaussian", 0.3, 0.5), ("ideal", 0.4, 0.2)],
)
def test_a_whole_run_equals_diffusers(
    kind: str, spatial: float, temporal: float, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = TextToVideoPipeline.from_pretrained(
        str(save_tiny_model(tmp_path / "model")), dtype="float64", device="cpu"
    )
    theirs = diffusers_pipeline(AnimateDiffPipeline, ours)
    theirs.enable_free_init(
        num_iters=2, method=kind, spatial_stop_frequency=spatial, temporal_stop_frequency=temporal
    )
    channels, height, width = SIZE
    fresh = step_noise(
        SEED, FREE_INIT_STEPS + 1, num_frames=FRAMES, num_channels=channels, height=height, width=width
    )
    monkeypatch.setattr("diffusers.pipelines.free_init_utils.randn_tensor", lambda *_, **__: fresh[None])
    common: dict[str, Any] = {
        "num_frames": FRAMES, "height": 16, "width": 24, "num_inference_steps": 3, "guidance_scale": 2.5
    }  # fmt: skip
    noise = initial_noise(SEED, FRAMES, *SIZE)[None].double()
    expected = theirs("a red ball", latents=noise, output_type="latent", **common).frames
    found: list[Tensor] = []
    ours(
        "a red ball", seed=SEED, scheduler="ddim", freeinit=2, freeinit_filter=kind,
        freeinit_spatial_cutoff=spatial, freeinit_temporal_cutoff=temporal,
        on_step=lambda step: found.append(step.latents), **common,
    )  # fmt: skip
    assert len(found) == 6
    assert relative_error(found[-1], expected) < 1e-5
    assert relative_error(found[2], expected) > 1e-2  # which one round is not
