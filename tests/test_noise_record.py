"""The record's noise hash: equal exactly for clips that start from the same noise, whatever else differs."""

import pytest
from tiny_models import save_tiny_model

from video_diffusion.pipeline import TextToVideoPipeline


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    folder = save_tiny_model(tmp_path_factory.mktemp("noise") / "tiny", num_frames=5, height=16, width=24)
    return TextToVideoPipeline.from_pretrained(str(folder), device="cpu")


@pytest.mark.full
def test_clips_are_paired_when_only_their_making_differs(pipeline):
    def noise(prompt="a red ball", **changes):
        settings = {"seed": 3, "num_inference_steps": 1, **changes}
        return pipeline(prompt, **settings).run_record.noise_sha256

    own = noise()
    assert own == noise("b", num_inference_steps=2, scheduler="euler", guidance_scale=1.0, motion_scale=2.0)
    others = [{"seed": 4}, {"num_frames": 4}, {"width": 32}, {"height": 24}, {"noise_type": "mixed"}]
    assert len({own, *(noise(**each) for each in others)}) == 6
