"""Controls frame by frame: each window sees its own, several add up, one video at a time gives the same."""

import numpy as np
import pytest
import torch
from control_networks import tiny_controlnet, tiny_sparse_control
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from tiny_models import TEXT_WIDTH, randomised, relative_error, tiny_adapter, tiny_unet
from torch import Tensor
from torch.nn import functional

from video_diffusion.models import (
    ControlledUNet,
    ControlWithin,
    FrameControl,
    PictureControl,
    SparseControl,
    VideoUNet,
)
from video_diffusion.models.control import normalise_each_frame
from video_diffusion.sampling import ContextWindows, Windowed

NUM_FRAMES, HEIGHT, WIDTH = 7, 6, 10
TIMESTEP = torch.tensor(321)


@pytest.fixture(scope="module")
def video_unet() -> VideoUNet:
    unet = randomised(tiny_unet()).double()
    return VideoUNet(unet, tiny_adapter(unet))


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 255, (NUM_FRAMES, 2 * HEIGHT, 2 * WIDTH, 3), np.uint8)


@pytest.fixture(scope="module")
def picture_control(pictures: np.ndarray) -> PictureControl:
    return PictureControl(tiny_controlnet().double(), pictures, 0.7)


@pytest.fixture(scope="module")
def sparse_control() -> SparseControl:
    torch.manual_seed(4)
    network = tiny_sparse_control("rgb").double()
    normalise_each_frame(network)
    return SparseControl(network, {1: torch.randn(4, HEIGHT, WIDTH), 5: torch.randn(4, HEIGHT, WIDTH)}, 0.9)


def inputs(num_videos: int = 2) -> tuple[Tensor, Tensor]:
    torch.manual_seed(5)
    latents = torch.randn(num_videos, 4, NUM_FRAMES, HEIGHT, WIDTH, dtype=torch.float64)
    return latents, torch.randn(num_videos, NUM_FRAMES, 3, TEXT_WIDTH, dtype=torch.float64)


@torch.no_grad()
def predict(
    video_unet: VideoUNet, controls: list[FrameControl], rows: list[int], num_videos: int = 2
) -> Tensor:
    """Of some frames of the clip as a clip of their own."""
    latents, embeds = inputs(num_videos)
    numbers = torch.tensor(rows)
    model = ControlledUNet(video_unet, controls)
    return model(latents[:, :, rows], TIMESTEP, embeds[:, rows], frame_numbers=numbers)


def test_windows_see_the_controls_of_their_own_frames(
    video_unet: VideoUNet, picture_control: PictureControl, sparse_control: SparseControl
) -> None:
    """Against the concatenation written out: side by side, then averaged with flat weights."""
    latents, embeds = inputs()
    controls: list[FrameControl] = [picture_control, sparse_control]

    @torch.no_grad()
    def windowed(windows: ContextWindows) -> Tensor:
        model = Windowed(ControlledUNet(video_unet, controls), windows)
        return model(latents, TIMESTEP, embeds, frame_numbers=torch.arange(NUM_FRAMES))

    side_by_side = [predict(video_unet, controls, rows) for rows in ([0, 1, 2], [3, 4, 5, 6])]
    found = windowed(ContextWindows(NUM_FRAMES, 4, 0, schedule="batched"))
    assert relative_error(found, torch.cat(side_by_side, dim=2)) <= 1e-12

    first, second = (predict(video_unet, controls, rows) for rows in ([0, 1, 2, 3, 4], [2, 3, 4, 5, 6]))
    expected = torch.zeros_like(latents)
    expected[:, :, :5] += first
    expected[:, :, 2:] += second
    expected[:, :, 2:5] /= 2
    found = windowed(ContextWindows(NUM_FRAMES, 5, 3, schedule="static", fuse="flat"))
    assert relative_error(found, expected) <= 1e-12
    whole = windowed(ContextWindows(NUM_FRAMES, 7, 2))
    assert torch.equal(whole, predict(video_unet, controls, list(range(NUM_FRAMES))))
    assert relative_error(whole, expected) > 1e-3


def test_every_frame_has_a_picture_of_its_own(
    video_unet: VideoUNet, picture_control: PictureControl, pictures: np.ndarray
) -> None:
    """A window that begins later, or goes around the clip's end, takes the pictures that belong there."""
    rows = [5, 6, 0]
    own = PictureControl(picture_control.network, pictures[rows], 0.7)
    latents, embeds = inputs()
    with torch.no_grad():
        expected = ControlledUNet(video_unet, [own])(
            latents[:, :, rows], TIMESTEP, embeds[:, rows], frame_numbers=torch.arange(3)
        )
    assert torch.equal(predict(video_unet, [picture_control], rows), expected)
    assert relative_error(predict(video_unet, [own], [0, 1, 2]), expected) > 1e-3


def test_a_window_without_a_picture_runs_without_sparsectrl(
    video_unet: VideoUNet, sparse_control: SparseControl
) -> None:
    assert torch.equal(predict(video_unet, [sparse_control], [2, 3, 4]), predict(video_unet, [], [2, 3, 4]))
    steered, free = (predict(video_unet, controls, [3, 4, 5]) for controls in ([sparse_control], []))
    # Frame 3 has no picture, but sees that of frame 5 through the encoder's temporal attention.
    assert relative_error(steered[:, :, 0], free[:, :, 0]) > 1e-3


def test_several_controls_add_up(
    video_unet: VideoUNet, picture_control: PictureControl, sparse_control: SparseControl
) -> None:
    rows = list(range(NUM_FRAMES))
    latents, embeds = inputs()
    with torch.no_grad():
        both = [
            control(latents, TIMESTEP, embeds, torch.tensor(rows))
            for control in (picture_control, sparse_control)
        ]
        assert all(residuals is not None for residuals in both)
        (downs, mid), (other_downs, other_mid) = both  # type: ignore[misc]
        expected = video_unet(
            latents,
            TIMESTEP,
            embeds,
            down_block_additional_residuals=[a + b for a, b in zip(downs, other_downs, strict=True)],
            mid_block_additional_residual=mid + other_mid,
        )
    assert torch.equal(predict(video_unet, [picture_control, sparse_control], rows), expected)


def test_one_video_at_a_time_gives_the_same(
    picture_control: PictureControl, sparse_control: SparseControl
) -> None:
    unet = randomised(tiny_unet()).double()
    adapter, rows = tiny_adapter(unet), list(range(NUM_FRAMES))
    controls: list[FrameControl] = [picture_control, sparse_control]
    with VideoUNet(unet, adapter) as together:
        expected = predict(together, controls, rows, num_videos=3)
    batches: list[int] = []
    handle = picture_control.network.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    with VideoUNet(unet, adapter, one_by_one=True) as alone:
        found = predict(alone, controls, rows, num_videos=3)
    handle.remove()
    assert relative_error(found, expected) <= 1e-12
    assert batches == [NUM_FRAMES] * 3


def test_a_control_works_between_its_timesteps(
    video_unet: VideoUNet, picture_control: PictureControl
) -> None:
    latents, embeds = inputs()
    numbers = torch.arange(NUM_FRAMES)
    for lowest, highest, works in (
        (321.0, 900.0, True),
        (0.0, 321.0, True),
        (322.0, 900.0, False),
        (0.0, 320.0, False),
    ):
        control = ControlWithin(picture_control, lowest, highest)
        with torch.no_grad():
            assert (control(latents, TIMESTEP, embeds, numbers) is not None) == works


def test_sparsectrl_normalises_each_frame_as_it_was_trained() -> None:
    """AnimateDiff folds frames into the batch before the norm of a temporal layer: `(b f) c h w`."""
    network = tiny_sparse_control("scribble").double()
    layers = [each for each in network.modules() if isinstance(each, AnimateDiffTransformer3D)]
    norm = layers[0].norm
    video = torch.randn(2, 8, 5, 3, 4, dtype=torch.float64)
    clip = norm(video)
    normalise_each_frame(network)
    for index in range(5):
        expected = functional.group_norm(video[:, :, index], 4, norm.weight, norm.bias, norm.eps)
        assert relative_error(norm(video)[:, :, index], expected) <= 1e-12
    assert relative_error(norm(video), clip) > 1e-2
    assert len(layers) == 2
