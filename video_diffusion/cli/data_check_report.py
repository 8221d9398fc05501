"""What a check of a folder found, as numbers, as lines with small histograms, and as a contact sheet."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from video_diffusion.cli.terminal import printable

if TYPE_CHECKING:
    from video_diffusion.training.data.clip_plan import ClipPlan
    from video_diffusion.training.data.folder_check import FolderCheck

CONTACT_SHEET = "contact-sheet.png"
MOST_CLIPS, CELL_SIDE = 48, 192
LENGTHS = (0, 1, 2, 4, 8, 16, 32, 64)  # seconds
MOST_ROWS, BAR = 8, 30


def summarise(
    done: "FolderCheck", plan: "ClipPlan", num_frames: int, fps: Fraction, held_out: Collection[str]
) -> dict[str, Any]:
    """Counts, histograms and what training would get, as JSON values."""
    training = [clip for clip in plan.clips if clip.entry.id not in held_out]
    videos = [entry for entry in done.entries if not entry.is_picture]
    contents = Counter((entry.sha256, entry.start) for entry in done.entries)
    lengths = Counter(_length_bin(entry.end - entry.start) for entry in videos)
    ordered = [_length_bin(float(low)) for low in LENGTHS]
    sizes = Counter(f"{entry.width}x{entry.height}" for entry in done.entries)
    rates = Counter(f"{float(entry.fps):.5g}" for entry in videos if entry.fps is not None)
    buckets = Counter(f"{clip.size[0]}x{clip.size[1]}" for clip in training)
    return {
        "folder": str(done.root),
        "format": done.source.format,
        "clips": len(done.entries),
        "videos": len(videos),
        "pictures": len(done.entries) - len(videos),
        "seconds": round(sum(entry.end - entry.start for entry in videos), 3),
        "files": done.num_files,
        "decoded_now": done.num_decoded,
        "rejected": len(done.rejects),
        "absent": done.num_absent,
        "pictures_without_caption": done.num_pictures,
        "copies": sum(count - 1 for count in contents.values()),
        "notes": dict(done.notes.most_common()),
        "lengths": {name: lengths[name] for name in ordered if lengths[name]},
        "sizes": dict(sizes.most_common()),
        "fps": dict(rates.most_common()),
        "training": {
            "num_frames": num_frames,
            "fps": str(fps),
            "clips_per_epoch": len(training),
            "held_out": len(held_out),
            "not_used": len(plan.unusable),
            "reasons": {one.entry.id: one.reason for one in plan.unusable},
            "sizes": dict(buckets.most_common()),
        },
    }


def summary_lines(summary: dict[str, Any]) -> Iterator[str]:
    """The summary for a terminal; names from files are escaped."""
    training = summary["training"]
    folder = printable(summary["folder"])
    yield f"{folder}/manifest.jsonl: {summary['clips']} clips, {summary['seconds']:.1f} s of video"
    yield f"{folder}/rejects.jsonl: {summary['rejected']} rejected"
    yield (
        f"read as {summary['format']}: {summary['files']} files, {summary['decoded_now']} of them decoded now"
    )
    for count, text in (
        (summary["pictures"], "are single pictures"),
        (summary["absent"], "rows of the list have no video here"),
        (summary["pictures_without_caption"], "pictures without a caption are left alone"),
        (summary["copies"], "clips are copies of another, byte for byte"),
        *((count, printable(text)) for text, count in summary["notes"].items()),
    ):
        if count:
            yield f"  {count} × {text}"
    for name, title in (("lengths", "length"), ("sizes", "size"), ("fps", "fps")):
        yield from _histogram(title, summary[name])
    yield (
        f"training clips per epoch: {training['clips_per_epoch']} "
        f"of {training['num_frames']} frames at {training['fps']} fps"
    )
    if training["held_out"]:
        yield f"  {training['held_out']} clips are held out, to measure the loss on"
    if training["not_used"]:
        yield f"  {training['not_used']} clips cannot be used so"
    if len(training["sizes"]) > 1:
        yield from _histogram("bucket", training["sizes"])


def save_contact_sheet(done: "FolderCheck") -> None:
    """Draws the middle frame of at most 48 clips, evenly chosen, into the folder.

    Raises:
        OSError: no space, no permission.
    """
    from video_diffusion.io.contact_sheet import draw_contact_sheet, evenly, save_picture
    from video_diffusion.training.data.clip_frames import frames_at

    if not done.entries:
        (done.root / CONTACT_SHEET).unlink(missing_ok=True)
        return
    chosen = [done.entries[index] for index in evenly(len(done.entries), MOST_CLIPS)]
    sizes = Counter((entry.width, entry.height) for entry in chosen)
    width, height = sizes.most_common(1)[0][0]
    cell = (max(1, CELL_SIDE * width // max(width, height)), max(1, CELL_SIDE * height // max(width, height)))
    cells = []
    for entry in chosen:
        middle = 0.0 if entry.is_picture else (entry.start + entry.end) / 2
        cells.append(_whole(frames_at(done.root / entry.path, [middle])[0], cell))
    title = f"{len(chosen)} of {len(done.entries)} clips"
    facts = f"middle frames, from {chosen[0].id} to {chosen[-1].id}"
    save_picture(done.root / CONTACT_SHEET, draw_contact_sheet(np.stack(cells), title, facts))


def _whole(frame: UInt8[np.ndarray, "h w 3"], cell: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The frame as large as it fits into a cell (width, height), on grey."""
    from PIL import Image, ImageOps

    return np.asarray(ImageOps.pad(Image.fromarray(frame), cell, color="#e4e7ec"))


def _length_bin(seconds: float) -> str:
    low = max(bound for bound in LENGTHS if bound <= seconds)
    after = [bound for bound in LENGTHS if bound > low]
    return f"{low} to {after[0]} s" if after else f"from {low} s"


def _histogram(title: str, counts: dict[str, int]) -> Iterable[str]:
    rows = list(counts.items())
    if len(rows) > MOST_ROWS:
        rest = sum(count for _, count in rows[MOST_ROWS - 1 :])
        rows = [*rows[: MOST_ROWS - 1], ("others", rest)]
    if not rows:
        return
    most = max(count for _, count in rows)
    width = max(len(name) for name, _ in rows)
    yield title
    for name, count in rows:
        yield f"  {name:<{width}}  {'#' * max(1, BAR * count // most)} {count}"
