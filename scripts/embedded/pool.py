"""A pool of procedural clips as latents: rendered and encoded on first use, kept in one file on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from video_diffusion.procedural.render import render_scenes
from video_diffusion.procedural.scene import Scene, World


class LatentPool:
    """Clips number 0 to `size` − 1 of a world, each a pure function of (seed, number).

    Args:
        file: Where latents are kept (half precision, `size × f × c × h × w`); a sparse file that fills as
            clips are used.
        world: What the scenes are drawn from.
        size: Number of clips.
        latent_shape: `(f, c, h, w)`.
        encode: Frames `b f 3 h w` in [0, 1] to latents `b f c h w`.
        side: Pixels per side.
        seed: Names the pool; two pools of different seed share no clip.
        centre_out: Straight moves start near the centre and move outward.
    """

    def __init__(
        self,
        file: Path,
        *,
        world: World,
        size: int,
        latent_shape: tuple[int, int, int, int],
        encode: Callable[[Float[Tensor, "b f 3 h w"]], Float[Tensor, "b f c h2 w2"]],
        side: int,
        seed: int,
        centre_out: bool,
    ) -> None:
        self.world, self.size, self._encode = world, size, encode
        self._side, self._seed, self._centre_out = side, seed, centre_out
        self._num_frames = latent_shape[0]
        file.parent.mkdir(parents=True, exist_ok=True)
        shape = (size, *latent_shape)
        num_bytes = 2 * int(np.prod(shape))
        mode: Literal["r+", "w+"] = "r+" if file.exists() and file.stat().st_size == num_bytes else "w+"
        self._latents = np.memmap(file, dtype=np.dtype("float16"), mode=mode, shape=shape)

    def scene(self, number: int) -> Scene:
        """What clip `number` shows."""
        return self.world.sample(np.random.default_rng((self._seed, number)))

    def latents(self, numbers: Sequence[int]) -> Float[Tensor, "b f c h w"]:
        """Latents of the given clips, in float32."""
        # Latents of a real frame are never all zero, so an untouched row of the sparse file tells that it is
        # missing. Rows are
        # written front to back, and two processes that fill one row write the same numbers.
        missing = sorted(
            {n for n in numbers if not (self._latents[n, 0].any() and self._latents[n, -1].any())}
        )
        if missing:
            scenes = [self.scene(n) for n in missing]
            seeds = [self._seed * 1_000_003 + n for n in missing]
            frames = render_scenes(
                scenes, seeds, self._num_frames, self._side, self._side, [self._centre_out] * len(missing)
            )
            self._latents[missing] = self._encode(frames).to(torch.float16).cpu().numpy()
        return torch.from_numpy(self._latents[list(numbers)].astype(np.float32))

    def fill(self, chunk: int = 4) -> None:
        """Render and encode every clip that is missing, in order of number."""
        for first in range(0, self.size, chunk):
            self.latents(range(first, min(first + chunk, self.size)))
