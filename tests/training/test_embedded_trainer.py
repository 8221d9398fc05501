"""The embedded model's training resumes exactly, whatever it was doing when it stopped."""

from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from embedded.trainer import EmbeddedSettings, EmbeddedTrainer

from video_diffusion.training.state import load_checkpoint, newest_checkpoint

SETTINGS = EmbeddedSettings(
    num_steps=10, batch=2, widths=(16, 32), text_width=16, side=32, pool=20, all_frames_from=0.8
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
        losses += [loss for _, loss, _ in EmbeddedTrainer(run, vae, SETTINGS).run(stop, save_every=5)]
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
    assert trainer.direction_gap(800) == 0.0


def test_temporal_layers_learn_and_a_single_frame_leaves_them_alone(tmp_path: Path, vae: Path) -> None:
    trainer = EmbeddedTrainer(tmp_path, vae, SETTINGS)
    trainer.loss(0).backward()
    assert all(
        m.proj_out.weight.grad.abs().max() > 0 for m in trainer.adapter.modules() if hasattr(m, "proj_out")
    )
    trainer.adapter.zero_grad()
    noise = torch.randn(2, 3, 1, 4, 4)
    trainer._predict(noise, torch.tensor([5, 9]), trainer._embed(["a", "b"]), None).sum().backward()
    assert all(p.grad is None for p in trainer.adapter.parameters())
