"""Which clips of a folder training never sees, so that its loss can be measured on them."""

import hashlib

from video_diffusion.training.data.clip_plan import ClipPlan

MAX_HELD_OUT = 16
HELD_OUT_SHARE = 16  # one in so many, up to the number above


def held_out_ids(plan: ClipPlan, num_held_out: int | None) -> frozenset[str]:
    """Which clips are kept apart: by the hash of their ids, whatever their order.

    Args:
        plan: Of the whole folder; only what training could use is chosen from.
        num_held_out: How many; None is a sixteenth, at most 16.

    Raises:
        ValueError: Nothing would be left to train on.
    """
    usable = {clip.entry.id for clip in plan.clips}
    wanted = min(len(usable) // HELD_OUT_SHARE, MAX_HELD_OUT) if num_held_out is None else num_held_out
    if wanted and wanted >= len(usable):
        raise ValueError(
            f"clips.held_out is {wanted}, but a folder has {len(usable)} clips that can be used; "
            "hold fewer out"
        )
    order = sorted(usable, key=lambda name: hashlib.sha256(name.encode()).digest())
    return frozenset(order[:wanted])
