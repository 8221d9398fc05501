"""Shares of a run's steps as timesteps, for what is at work during a part of the run only."""

from jaxtyping import Shaped
from torch import Tensor


def timesteps_between(
    timesteps: Shaped[Tensor, " steps"], shares: tuple[float, float], setting: str
) -> tuple[float, float]:
    """Tell between which timesteps, both included, the steps of a part of a run lie.

    A step belongs to it that lies in it as a whole, counted as diffusers' ControlNet pipelines count: step i
    of n, from 0, if i/n is not below the start and (i+1)/n not above the end. Where a scheduler has one
    timestep twice (Heun's), both belong.

    Args:
        timesteps: Of the run, see `start_run`.
        shares: Start and end of the part, 0 to 1.
        setting: That says so, for messages.

    Returns:
        The lowest and the highest timestep.

    Raises:
        ValueError: No step lies in it.
    """
    count, (start, end) = len(timesteps), shares
    inside = [float(t) for i, t in enumerate(timesteps) if i / count >= start and (i + 1) / count <= end]
    if not inside:
        raise ValueError(
            f"{setting} {start:g}-{end:g} holds none of {count} steps, of which each is a share of "
            f"{1 / count:.2g}; widen it"
        )
    return min(inside), max(inside)
