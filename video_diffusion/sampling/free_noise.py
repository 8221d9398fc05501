"""FreeNoise (Qiu et al. 2023): long clips in one pass, from noise that repeats in another order.

Frames of one window that start from the same noise as frames of another look alike, and temporal attention in
windows keeps within what the adapter was trained for. The windows are the model's own affair, see
`VideoUNet`'s `frame_windows`; here is the noise.
"""

from jaxtyping import Float
from torch import Tensor

from video_diffusion.sampling.noise import frame_order


def shuffle_noise(
    noise: Float[Tensor, "c f h w"], seed: int, window_length: int, window_stride: int
) -> Float[Tensor, "c f h w"]:
    """Make every frame after the first window one of the `window_length` frames before, in shuffled order.

    For i = L, L + s, …: frames i … i+s-1 are frames i-L … i-L+s-1, permuted. A longer clip begins with the
    noise of a shorter one, whatever its length.

    Args:
        noise: Of one clip; its first window stays.
        seed: Decides the order.
        window_length: L, frames of a window.
        window_stride: s, frames by which windows move on.
    """
    shuffled, num_frames = noise.clone(), noise.shape[1]
    for first in range(window_length, num_frames, window_stride):
        order = frame_order(seed, first, window_stride)[: num_frames - first]
        shuffled[:, first : first + window_stride] = shuffled[:, [first - window_length + k for k in order]]
    return shuffled
