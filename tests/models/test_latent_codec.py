import pytest
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from tiny_models import relative_error, tiny_vae

from video_diffusion.models import decode_latents, encode_frames, usual_chunk_size

LATENTS = torch.randn(2, 4, 3, 5, 6, generator=torch.Generator().manual_seed(0))
FRAMES = torch.rand(7, 3, 10, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("chunk_size", [1, 2, 4, 6, 99])
def test_chunks_are_all_frames_in_order_whatever_their_size(chunk_size: int) -> None:
    vae = tiny_vae()
    chunks = list(decode_latents(vae, LATENTS, chunk_size))
    assert {len(chunk) for chunk in chunks[:-1]} <= {chunk_size}
    frames = torch.cat(chunks)
    assert frames.shape == (6, 3, 10, 12)
    one = vae.decode(LATENTS[1:, :, 2] / 0.7).sample.float() / 2 + 0.5
    assert relative_error(frames[5:], one.clamp(0, 1)) < 1e-5


def test_decoding_is_lazy_clipped_and_without_gradient() -> None:
    vae = tiny_vae()
    vae.decoder.conv_out.weight.data *= 50
    chunks = decode_latents(vae, LATENTS, 2)
    frames = next(chunks)
    assert not frames.requires_grad
    assert frames.dtype == torch.float32
    assert float(frames.min()) == 0
    assert float(frames.max()) == 1


def test_scale_and_shift_are_undone_before_decoding() -> None:
    plain, shifted = tiny_vae(scaling_factor=1.0), tiny_vae(scaling_factor=0.25, shift_factor=0.5)
    expected = torch.cat(list(decode_latents(plain, LATENTS, 4)))
    found = torch.cat(list(decode_latents(shifted, (LATENTS - 0.5) * 0.25, 4)))
    assert relative_error(found, expected) < 1e-5
    assert (
        relative_error(encode_frames(shifted, FRAMES, 4), (encode_frames(plain, FRAMES, 4) - 0.5) * 0.25)
        < 1e-5
    )


@pytest.mark.parametrize("chunk_size", [1, 3, 99])
def test_encoding_is_the_mode_of_each_frame(chunk_size: int) -> None:
    vae = tiny_vae()
    latents = encode_frames(vae, FRAMES, chunk_size)
    assert latents.shape == (4, 7, 5, 6)
    one = vae.encode(FRAMES[2:3] * 2 - 1).latent_dist.mean * 0.7
    assert relative_error(latents[:, 2], one[0]) < 1e-5


def test_the_codecs_precision_is_its_own() -> None:
    vae = tiny_vae().bfloat16()
    assert next(decode_latents(vae, LATENTS, 2)).dtype == torch.float32
    assert encode_frames(vae, FRAMES, 2).dtype == torch.bfloat16


def test_the_tiny_autoencoder_is_taken_too() -> None:
    widths = {"encoder_block_out_channels": (4, 4), "decoder_block_out_channels": (4, 4)}
    vae = AutoencoderTiny(
        **widths, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1), latent_channels=4, scaling_factor=1.0
    )
    latents = encode_frames(vae, FRAMES, 3)
    assert latents.shape == (4, 7, 5, 6)
    assert torch.cat(list(decode_latents(vae, latents[None], 3))).shape == FRAMES.shape


def test_few_large_frames_are_decoded_at_once() -> None:
    assert usual_chunk_size(64, 64, 4) == 4
    assert usual_chunk_size(512, 512, 2) == 2
    assert usual_chunk_size(512, 768, 2) == 1
    assert usual_chunk_size(1024, 1024, 4) == 1
