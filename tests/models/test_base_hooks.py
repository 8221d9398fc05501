"""What PIA and AnimateDiff v1 change in the image U-Net's own layers, and that it comes off again."""

import copy
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_motion_model import UNetMotionModel
from diffusers_pipelines import diffusers_adapter
from tiny_models import TEXT_WIDTH, randomised, relative_error, tiny_adapter, tiny_unet
from torch import Tensor, nn

from video_diffusion.models import MotionAdapter, VideoUNet


class PooledNorm(nn.Module):
    """A group norm over all frames at once, written out: the mean and variance of each group of channels."""

    def __init__(self, norm: nn.GroupNorm, num_frames: int) -> None:
        super().__init__()
        self.norm, self.num_frames = norm, num_frames

    def forward(self, hidden_states: Tensor) -> Tensor:
        frames, channels, height, width = hidden_states.shape
        groups = self.norm.num_groups
        video = hidden_states.view(-1, self.num_frames, groups, channels // groups, height, width)
        mean = video.mean(dim=(1, 3, 4, 5), keepdim=True)
        variance = video.var(dim=(1, 3, 4, 5), keepdim=True, unbiased=False)
        normed = ((video - mean) / (variance + self.norm.eps).sqrt()).view(frames, channels, height, width)
        return normed * self.norm.weight[:, None, None] + self.norm.bias[:, None, None]


def changed(adapter: MotionAdapter, **fields: Any) -> MotionAdapter:
    """The same temporal layers under another configuration."""
    config = {k: v for k, v in adapter.config.items() if k[0] != "_"} | fields
    other = nn.Module.double(MotionAdapter(**config))
    other.load_state_dict(adapter.state_dict(), strict=False)
    return other.eval()


def test_v1_pools_resnet_norms_over_the_clip() -> None:
    unet = randomised(tiny_unet("three")).double()
    plain = tiny_adapter(unet)
    pooled = changed(plain, resnet_norm_scope="clip")
    reference = copy.deepcopy(unet)
    for name, module in list(reference.named_modules()):
        is_resnet_norm = ".resnets." in name and name.endswith((".norm1", ".norm2"))
        if is_resnet_norm or name == "conv_norm_out":
            parent, _, child = name.rpartition(".")
            setattr(reference.get_submodule(parent), child, PooledNorm(module, 5))
    latents, embeds = torch.randn(2, 4, 5, 8, 12).double(), torch.randn(2, 7, TEXT_WIDTH).double()
    expected = VideoUNet(reference, plain)(latents, 7, embeds)
    video_unet = VideoUNet(unet, pooled)
    assert relative_error(video_unet(latents, 7, embeds), expected) <= 1e-12
    # The image model itself, and after detaching, is what it was.
    frame = latents[:, :, 0]
    image = unet(frame, 7, embeds).sample
    assert torch.equal(video_unet.detach()(frame, 7, embeds).sample, image)
    assert relative_error(VideoUNet(unet, plain)(latents, 7, embeds), expected) > 1e-3


def pia(unet_seed: int = 0) -> tuple[nn.Module, MotionAdapter]:
    unet = randomised(tiny_unet(seed=unet_seed)).double()
    plain = tiny_adapter(unet, norm_scope="clip")
    torch.manual_seed(8)
    return unet, changed(plain, conv_in_channels=9)


def test_a_pia_adapter_equals_diffusers() -> None:
    unet, adapter = pia()
    reference = UNetMotionModel.from_unet2d(copy.deepcopy(unet), diffusers_adapter(adapter)).double().eval()
    latents, embeds = torch.randn(2, 9, 5, 6, 8).double(), torch.randn(2, 7, TEXT_WIDTH).double()
    expected = reference(latents, 7, embeds.repeat_interleave(5, 0)).sample
    before = copy.deepcopy(unet.state_dict())
    video_unet = VideoUNet(unet, adapter)
    assert relative_error(video_unet(latents, 7, embeds), expected) <= 1e-6  # theirs is made in float32
    frame = latents[:, :4, 0]
    assert torch.equal(unet(frame, 7, embeds).sample, video_unet.detach()(frame, 7, embeds).sample)
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())


def test_one_frame_takes_the_extra_channels_too() -> None:
    unet, adapter = pia()
    video_unet = VideoUNet(unet, adapter)
    latents, embeds = torch.randn(2, 9, 1, 6, 8).double(), torch.randn(2, 7, TEXT_WIDTH).double()
    still = video_unet(latents, 7, embeds)
    assert still.shape == (2, 4, 1, 6, 8)
    latents[:, 4:] += 1
    assert not torch.allclose(video_unet(latents, 7, embeds), still)


def test_a_pia_adapter_wants_its_channels() -> None:
    unet, adapter = pia()
    with pytest.raises(ValueError, match="latents must have 9 channels with this motion adapter, but have 4"):
        VideoUNet(unet, adapter)(
            torch.randn(1, 4, 5, 6, 8).double(), 7, torch.randn(1, 7, TEXT_WIDTH).double()
        )


def test_a_pia_adapter_does_not_fit_an_inpainting_model() -> None:
    _, adapter = pia()
    unet = tiny_unet(in_channels=9)
    with pytest.raises(ValueError, match="a first convolution of 9 channels, but this U-Net takes 9"):
        VideoUNet(unet, adapter)
    assert not any(module._forward_hooks for module in unet.modules())
