"""How the folded batch of a running pass divides into videos, and what their frames are to each other."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from video_diffusion.models.motion_adapter import MotionAdapter
from video_diffusion.shapes import FrameWindow


@dataclass(frozen=True)
class FrameLayout:
    """What temporal layers must know of a pass; the arguments of `VideoUNet.forward` tell the meaning.

    Attributes:
        num_frames: Of each video.
        positions: For each frame its row of the position table; None means 0, 1, 2, …
        motion_scale: Factor on the scores of attention.
        windows: Frames that are mixed with each other; None mixes all with all.
        motion_effect: Factor on what temporal layers add.
    """

    num_frames: int
    positions: Tensor | None
    motion_scale: float | Tensor
    windows: Sequence[FrameWindow] | None
    motion_effect: float | Tensor = 1.0

    def check(self, motion_adapter: MotionAdapter) -> None:
        """Refuse what the position tables of an adapter cannot serve.

        Raises:
            ValueError: Too many frames, positions outside the table, or windows that leave a frame out.
        """
        if self.windows is not None:
            self._check_windows(self.windows, motion_adapter)
            return
        motion_adapter.check_num_frames(self.num_frames)
        known, positions = motion_adapter.max_num_frames, self.positions
        if positions is None:
            return
        if len(positions) != self.num_frames:
            raise ValueError(
                f"frame_positions must name one row per frame, but holds {len(positions)} "
                f"for {self.num_frames} frames; pass None to count from 0"
            )
        lowest, highest = int(positions.min()), int(positions.max())
        if lowest < 0 or highest >= known:
            raise ValueError(
                f"frame_positions must lie in 0…{known - 1}, the rows this motion adapter knows, but span "
                f"{lowest}…{highest}; take frames that lie closer together"
            )

    def _check_windows(self, windows: Sequence[FrameWindow], motion_adapter: MotionAdapter) -> None:
        wrong = set(range(self.num_frames)) ^ {frame for window, _ in windows for frame in window}
        if wrong:
            problem = "is missing" if min(wrong) < self.num_frames else "is beyond the clip"
            raise ValueError(
                f"frame_windows must hold every frame of 0…{self.num_frames - 1} and no other, but frame "
                f"{min(wrong)} {problem}; add or drop it"
            )
        motion_adapter.check_num_frames(max(len(window) for window, _ in windows))
