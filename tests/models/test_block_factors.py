"""Motion scale and effect block by block: against weights changed in those blocks alone."""

from collections.abc import Mapping

import pytest
import torch
from tiny_models import TEXT_WIDTH, relative_error, tiny_adapter, tiny_unet
from torch import Tensor, nn

from video_diffusion.models import VideoUNet, temporal_blocks

BLOCKS = ("down.0", "down.1", "mid", "up.0", "up.1")


def model() -> VideoUNet:
    unet = tiny_unet().double()
    return VideoUNet(unet, tiny_adapter(unet))


def predict(video_unet: VideoUNet, **conditions: object) -> Tensor:
    torch.manual_seed(3)
    latents = torch.randn(2, 4, 5, 6, 10, dtype=torch.float64)
    embeds = torch.randn(2, 7, TEXT_WIDTH, dtype=torch.float64)
    with torch.no_grad():
        return video_unet(latents, torch.tensor([20, 700]), embeds, **conditions)


def block_of(video_unet: VideoUNet, name: str) -> nn.Module:
    kind, _, number = name.partition(".")
    if kind == "mid":
        return video_unet.motion_adapter.mid_block
    return (video_unet.motion_adapter.down_blocks if kind == "down" else video_unet.motion_adapter.up_blocks)[
        int(number)
    ]


@pytest.mark.full
@pytest.mark.parametrize(
    ("factors", "meant"),
    [
        ({"mid": 0.0}, {"mid": 0.0}),
        ({"up.0": 0.5, "down.1": 3.0}, {"up.0": 0.5, "down.1": 3.0}),
        ({"down": 0.5}, {"down.0": 0.5, "down.1": 0.5}),
        ({"up": 0.5, "up.1": 2.0}, {"up.0": 0.5, "up.1": 2.0}),
    ],
)
def test_factors_are_those_of_their_block(factors: dict[str, float], meant: Mapping[str, float]) -> None:
    """A motion effect is a factor on a layer's last map, a motion scale one on attention's queries."""
    found = {
        "effect": predict(model(), motion_effect=1.5, motion_effect_blocks=factors),
        "scale": predict(model(), motion_scale=1.5, motion_scale_blocks=factors),
    }
    for kind, base in (("effect", "motion_effect"), ("scale", "motion_scale")):
        changed = model()
        for name, factor in meant.items():
            for layer, parameter in block_of(changed, name).named_parameters():
                if ".proj_out." in f".{layer}." if kind == "effect" else ".to_q." in layer:
                    parameter.data.mul_(factor)
        assert relative_error(found[kind], predict(changed, **{base: 1.5})) <= 1e-12
        assert relative_error(found[kind], predict(model(), **{base: 1.5})) > 1e-4


def test_blocks_are_named_from_the_input_on() -> None:
    unet = tiny_unet()
    assert temporal_blocks(tiny_adapter(unet)) == BLOCKS
    assert temporal_blocks(tiny_adapter(unet, use_mid_block=False)) == tuple(b for b in BLOCKS if b != "mid")


@pytest.mark.parametrize("name", ["motion_scale_blocks", "motion_effect_blocks"])
@pytest.mark.parametrize("block", ["down.2", "middle", "up_blocks"])
def test_a_block_without_temporal_layers_is_refused(name: str, block: str) -> None:
    with pytest.raises(
        ValueError, match=rf"{name} names {block}, where .* has no temporal layers; it has them in down.0, "
    ):
        predict(model(), **{name: {block: 1.0}})


def test_factors_go_with_numbers_of_frames() -> None:
    scale = torch.tensor([0.5, 1.0, 1.5, 2.0, 0.7])
    found = predict(model(), motion_scale=scale, motion_scale_blocks=dict.fromkeys(BLOCKS, 2.0))
    assert relative_error(found, predict(model(), motion_scale=2 * scale)) <= 1e-12
