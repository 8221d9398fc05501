"""How much lives at once while a long clip is made: counted tensors, on the real pipeline."""

import pytest
import torch
from counting import peak_bytes
from tiny_models import SCHEDULER_CONFIG, tiny_adapter, tiny_text_encoder, tiny_tokenizer, tiny_unet, tiny_vae

from video_diffusion import TextToVideoPipeline
from video_diffusion.loading import ModelParts
from video_diffusion.video import ModelIdentity

WINDOW, LONG = 8, 64
LATENT_BYTES = 4 * 8 * 12 * 4  # of one frame in float32


def pipeline() -> TextToVideoPipeline:
    """A U-Net wide enough that its features, not the latents, are what takes memory."""
    unet = tiny_unet(block_out_channels=(64, 128))
    return TextToVideoPipeline(
        ModelParts(
            tokenizer=tiny_tokenizer(),
            text_encoder=tiny_text_encoder(),
            vae=tiny_vae(block_out_channels=(32, 64)),
            unet=unet,
            motion_adapter=tiny_adapter(unet),
            scheduler_config=SCHEDULER_CONFIG,
            defaults={},
            identity=ModelIdentity(name="tiny", weights_sha256="0" * 64),
        )
    )


@pytest.mark.full
def test_a_clip_eight_times_as_long_takes_the_memory_of_one_window() -> None:
    """To a tenth, latents and all: what grows with the length are a few copies of them and the prompts."""
    made = pipeline()
    settings = {"height": 16, "width": 24, "num_inference_steps": 1, "context_length": WINDOW, "fps": 8}
    peaks = {
        num_frames: peak_bytes(lambda n=num_frames: made("a red ball", num_frames=n, **settings))
        for num_frames in (WINDOW, LONG)
    }
    assert peaks[LONG] <= 1.1 * peaks[WINDOW]
    one_pass = peak_bytes(lambda: made("a red ball", num_frames=4, **settings))
    assert peaks[WINDOW] > 1.5 * one_pass  # so the bound above would notice features of a longer window


def test_decoding_holds_the_float_frames_of_one_chunk() -> None:
    made = pipeline()
    latents = torch.zeros(1, 4, LONG, 8, 12)
    peaks = [peak_bytes(lambda n=n: made.decode(latents[:, :, :n], 4)) for n in (4, LONG)]
    folded = LATENT_BYTES * LONG
    float_frames = 3 * 16 * 24 * 4 * LONG
    assert peaks[1] - peaks[0] - folded < float_frames / 10
