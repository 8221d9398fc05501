"""The embedded model's training resumes exactly, whatever it was doing when it stopped."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from embedded.trainer import EmbeddedSettings, EmbeddedTrainer

from video_diffusion.training.state import load_checkpoint, newest_checkpoint

SETTINGS = EmbeddedSettings(
    num_steps=10, batch=2, frames=5, widths=(16, 32), text_width=16, side=32, pool=20, all_frames_from=0.8
)


@pytest.fixture
def vae(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        layers_per_block=1,
        latent_channels=3,
        norm_num_groups=2,
        sample_size=32,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )
    model.save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


def trained(run: Path, vae: Path, *stops: int) -> dict[str, dict[str, torch.Tensor]]:
    losses = []
    for stop in stops:
        torch.manual_seed(stop)  # the process that goes on has another global random state
        rows = EmbeddedTrainer(run, vae, SETTINGS).run(stop, save_every=5)
        losses += [(row["clips"], row["frames"]) for row in rows]
    newest = newest_checkpoint(run)
    assert newest is not None
    step, groups, _ = load_checkpoint(newest)
    assert step == SETTINGS.num_steps
    return {**groups, "losses": {"all": torch.tensor(losses)}}


@pytest.mark.full
def test_two_halves_are_the_whole_bit_for_bit(tmp_path: Path, vae: Path) -> None:
    whole, halves = trained(tmp_path / "a", vae, 10), trained(tmp_path / "b", vae, 3, 10)
    for group, tensors in whole.items():
        assert tensors.keys() == halves[group].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, halves[group][name]), (group, name)


def test_a_gap_is_zero_for_a_network_that_does_not_read(tmp_path: Path, vae: Path) -> None:
    trainer = EmbeddedTrainer(tmp_path, vae, SETTINGS)
    with torch.no_grad():
        trainer.unet.conv_out.weight.zero_()
    gaps = trainer.caption_gaps(800, num=2)
    assert set(gaps.values()) == {0.0}
    assert {"straight", "diagonal", "growing", "shape", "colour", "size"} <= set(gaps)


@pytest.mark.parametrize("kind", ["sample", "v_prediction"])
def test_an_image_error_is_that_of_the_clean_latents_whatever_is_predicted(
    tmp_path: Path, vae: Path, kind: str
) -> None:
    trainer = EmbeddedTrainer(tmp_path, vae, replace(SETTINGS, prediction_type=kind))
    with torch.no_grad():
        trainer.unet.conv_out.weight.zero_()
        trainer.unet.conv_out.bias.zero_()
    told = trainer.image_errors((20,))["image_20"]
    pool = trainer.pools["watch"]
    clean = pool.latents(range(96))[torch.arange(96), torch.arange(96) % 16][:, None]
    noise = torch.randn(clean.transpose(1, 2).shape, generator=torch.Generator().manual_seed(7))
    signal = trainer.scheduler.alphas_cumprod[20]
    answer = (
        torch.zeros(())
        if kind == "sample"
        else signal.sqrt() * (signal.sqrt() * clean + (1 - signal).sqrt() * noise.transpose(1, 2))
    )
    assert told == pytest.approx(float((answer - clean).square().mean()), rel=1e-4)


def test_temporal_layers_learn_from_clips_and_single_frames_leave_them_alone(
    tmp_path: Path, vae: Path
) -> None:
    trainer = EmbeddedTrainer(tmp_path, vae, SETTINGS)
    trainer.clip_loss(0).backward()
    assert all(
        m.proj_out.weight.grad.abs().max() > 0 for m in trainer.adapter.modules() if hasattr(m, "proj_out")
    )
    trainer.adapter.zero_grad()
    trainer.frame_loss(0).backward()
    assert all(p.grad is None for p in trainer.adapter.parameters())
    assert trainer.unet.conv_in.weight.grad.abs().max() > 0


def test_a_run_can_begin_with_the_weights_of_a_model_folder(tmp_path: Path, vae: Path) -> None:
    first = EmbeddedTrainer(tmp_path / "first", vae, SETTINGS)
    first.save(1, 0.0)
    begun = EmbeddedTrainer(
        tmp_path / "second", vae, replace(SETTINGS, seed=5, start_from=str(tmp_path / "first" / "model"))
    )
    for theirs, ours in zip(first.modules, begun.modules, strict=True):
        for name, tensor in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)
