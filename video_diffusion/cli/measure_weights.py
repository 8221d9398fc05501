"""The weights that `measure` was pointed to, loaded once per process; torch is imported only for them."""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from video_diffusion.metrics import Metric
from video_diffusion.metrics.optical_flow import FlowMethod, choose_flow

if TYPE_CHECKING:
    from video_diffusion.metrics.learned.image_encoder import ImageEncoder


@dataclass(frozen=True)
class Weights:
    """Local weights for further metrics; None leaves each of them out.

    Attributes:
        clip_model: folder, for CLIP consistency and prompt alignment.
        prompt: what the clips should show; None asks each clip's own record.
        dino_model: folder, for subject consistency.
        lpips_weights: file, for LPIPS along the flow.
        raft_weights: file; RAFT then takes the place of the named flow.
    """

    clip_model: str | None = None
    prompt: str | None = None
    dino_model: str | None = None
    lpips_weights: str | None = None
    raft_weights: str | None = None

    def metrics(self, own_prompt: str | None = None) -> tuple[Metric, ...]:
        """Return the lines of the metrics that have weights.

        Args:
            own_prompt: of the clip's record.

        Raises:
            MetricWeightsError: weights that cannot be used.
        """
        lines: tuple[Metric, ...] = ()
        if self.clip_model:
            from video_diffusion.metrics.learned import clip_metrics

            lines += clip_metrics(_clip(self.clip_model), self.prompt or own_prompt)
        if self.dino_model:
            lines += _dino(self.dino_model)
        if self.lpips_weights:
            lines += _lpips(self.lpips_weights)
        return lines

    def flow(self, name: str) -> FlowMethod:
        """Return RAFT if it has weights, else the flow of that name.

        Raises:
            MetricWeightsError: weights that cannot be used.
        """
        return _raft(self.raft_weights) if self.raft_weights else choose_flow(name)


@lru_cache(maxsize=1)
def _clip(folder: str) -> "ImageEncoder":
    from video_diffusion.metrics.learned.image_encoder import load_clip

    return load_clip(folder)


@lru_cache(maxsize=1)
def _dino(folder: str) -> tuple[Metric, ...]:
    from video_diffusion.metrics.learned import dino_metrics

    return dino_metrics(folder)


@lru_cache(maxsize=1)
def _lpips(weights: str) -> tuple[Metric, ...]:
    from video_diffusion.metrics.learned import lpips_metrics

    return lpips_metrics(weights)


@lru_cache(maxsize=1)
def _raft(weights: str) -> FlowMethod:
    from video_diffusion.metrics.learned.raft_flow import RaftFlow

    return RaftFlow(weights)
