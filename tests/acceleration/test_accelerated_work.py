"""What an accelerated video U-Net no longer does: projections twice, divisions by one, copies."""

import torch
from counting import count_operations
from small_passes import NUM_FRAMES, NUM_VIDEOS, latents_of, prompts_of, video_unet

from video_diffusion.acceleration import accelerate_unet
from video_diffusion.sampling import Guided


@torch.no_grad()
def test_prompts_are_projected_once_for_each_layer() -> None:
    model = video_unet(torch.float32)
    rows: list[int] = []
    crossing = [m.attn2 for m in model.unet.modules() if getattr(m, "attn2", None) is not None]
    for attention in crossing:
        for layer in (attention.to_k, attention.to_v):
            layer.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].shape[0]))
    guided = Guided(model, prompts_of(dtype=torch.float32), prompts_of(dtype=torch.float32, seed=8), 2.5)
    with accelerate_unet(model):
        for timestep in (900, 600, 300):
            guided(latents_of(dtype=torch.float32), torch.tensor(timestep))
    # Two layers each, once, for the prompts and negative prompts of the two videos: frames do not count.
    assert rows == [2 * NUM_VIDEOS] * (2 * len(crossing))


@torch.no_grad()
def test_nothing_is_divided_by_one_and_temporal_layers_copy_nothing() -> None:
    model = video_unet(torch.float32)
    args = latents_of(dtype=torch.float32), torch.tensor(500), prompts_of(dtype=torch.float32)
    plain = count_operations(lambda: model(*args))
    with accelerate_unet(model):
        fast = count_operations(lambda: model(*args))
    image = count_operations(lambda: model.unet(latents_of(1, torch.float32)[:, :, 0], *args[1:]))
    assert plain["aten.div by 1"] == image["aten.div by 1"] > 0  # temporal layers never did
    assert fast["aten.div by 1"] == 0
    assert fast["aten.div"] <= 1  # of the timestep embedding's frequencies
    num_layers = len([m for m in model.modules() if type(m).__name__ == "TemporalTransformer"])
    layer = next(m for m in model.modules() if type(m).__name__ == "TemporalTransformer")
    pixels = torch.randn(NUM_VIDEOS * NUM_FRAMES, layer.norm.num_channels, 3, 4)
    with accelerate_unet(model):
        copies = count_operations(lambda: layer(pixels, NUM_FRAMES))["aten.clone"]
    before = count_operations(lambda: layer(pixels, NUM_FRAMES))["aten.clone"]
    assert copies <= 1 < before  # pictures to tokens, where the linear map does not do it on the way
    assert num_layers > 1
