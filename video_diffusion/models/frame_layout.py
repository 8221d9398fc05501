"""How the folded batch of a running pass divides into videos, and what their frames are to each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from video_diffusion.models.motion_adapter import MotionAdapter
from video_diffusion.models.temporal_places import temporal_blocks
from video_diffusion.shapes import FrameNumbers, FrameWindow

BlockFactors = Mapping[str, float]


@dataclass(frozen=True)
class FrameLayout:
    """What temporal layers must know of a pass; the arguments of `VideoUNet.forward` tell the meaning.

    Attributes:
        num_frames: Of each video.
        positions: For each frame its row of the position table; None means 0, 1, 2, …
        motion_scale: Factor on the scores of attention.
        windows: Frames that are mixed with each other; None mixes all with all.
        motion_effect: Factor on what temporal layers add.
        motion_scale_blocks: Factors on the motion scale, by block.
        motion_effect_blocks: Factors on the motion effect, by block.
    """

    num_frames: int
    positions: Tensor | None
    motion_scale: FrameNumbers
    windows: Sequence[FrameWindow] | None
    motion_effect: FrameNumbers = 1.0
    motion_scale_blocks: BlockFactors = field(default_factory=dict)
    motion_effect_blocks: BlockFactors = field(default_factory=dict)

    def of_block(self, block: str) -> tuple[Any, ...]:
        """What a temporal layer of this block is told, in the order of `TemporalTransformer.forward`."""
        return (
            self.num_frames,
            self.positions,
            _scaled(self.motion_scale, self.motion_scale_blocks, block),
            self.windows,
            _scaled(self.motion_effect, self.motion_effect_blocks, block),
        )

    def check(self, motion_adapter: MotionAdapter) -> None:
        """Refuse what an adapter cannot serve.

        Raises:
            ValueError: Too many frames, positions outside the table, windows that leave a frame out, or a
                block without temporal layers.
        """
        check_blocks("motion_scale_blocks", self.motion_scale_blocks, motion_adapter)
        check_blocks("motion_effect_blocks", self.motion_effect_blocks, motion_adapter)
        longest = self.num_frames if self.windows is None else self._check_windows(self.windows)
        if self.positions is None:
            motion_adapter.check_num_frames(longest)
            return
        known, positions = motion_adapter.max_num_frames, self.positions
        if len(positions) != self.num_frames:
            raise ValueError(
                f"frame_positions must name one row per frame, but holds {len(positions)} "
                f"for {self.num_frames} frames; pass None to count from 0"
            )
        lowest, highest = float(positions[:longest].min()), float(positions[:longest].max())
        if lowest < 0 or highest > known - 1:
            raise ValueError(
                f"frame_positions must lie in 0…{known - 1}, the rows this motion adapter knows, but span "
                f"{lowest:g}…{highest:g}; take frames that lie closer together"
            )

    def _check_windows(self, windows: Sequence[FrameWindow]) -> int:
        """Refuse windows that are not of this clip, and tell the length of the longest."""
        wrong = set(range(self.num_frames)) ^ {frame for window, _ in windows for frame in window}
        if wrong:
            problem = "is missing" if min(wrong) < self.num_frames else "is beyond the clip"
            raise ValueError(
                f"frame_windows must hold every frame of 0…{self.num_frames - 1} and no other, but frame "
                f"{min(wrong)} {problem}; add or drop it"
            )
        return max(len(window) for window, _ in windows)


def check_blocks(name: str, factors: BlockFactors, motion_adapter: MotionAdapter) -> None:
    """Refuse factors for blocks that have no temporal layers.

    Args:
        name: Of the argument, for the message.
        factors: By block.
        motion_adapter: The temporal layers.

    Raises:
        ValueError: There is no such block.
    """
    known = temporal_blocks(motion_adapter)
    for block in factors:
        if block not in known and not any(each.startswith(f"{block}.") for each in known):
            raise ValueError(
                f"{name} names {block}, where this motion adapter has no temporal layers; it has them in "
                f"{', '.join(known)}"
            )


def _scaled(numbers: FrameNumbers, factors: BlockFactors, block: str) -> FrameNumbers:
    factor = factors.get(block, factors.get(block.partition(".")[0], 1.0))
    return numbers if factor == 1 else numbers * factor
