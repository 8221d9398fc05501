"""Measure the tables of docs/metrics.md and write them into it, between their markers.

    python scripts/make_metric_tables.py relations    # other measures beside ours, on clips of known truth
    python scripts/make_metric_tables.py encoding     # what encoders change in synthetic and generated clips

Half a minute and two minutes on one core; no network. `--print` shows a table instead of writing it.
"""

import argparse
import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import imageio_ffmpeg
import numpy as np
from synthetic_clips import DISTORTIONS, clean_clip

from video_diffusion.metrics import measure
from video_diffusion.metrics.flow import DisFlow
from video_diffusion.metrics.views import Frame, Pair, luma
from video_diffusion.video import atomic_path, read_video, write_video

PAGE = Path("docs/metrics.md")
ENCODINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "H.264 crf 18": ("clip.mp4", {"crf": 18}),
    "H.264 crf 23": ("clip.mp4", {"crf": 23}),
    "H.264 crf 28": ("clip.mp4", {"crf": 28}),
    "VP9 crf 24": ("clip.webm", {}),
    "GIF": ("clip.gif", {}),
}
ENCODED = (
    "raw_flicker", "flicker", "luma_flicker", "morph", "warp_psnr", "warp_ssim", "coverage", "drift",
    "motion", "flow_jitter", "sharpness", "mean_luma",
)  # fmt: skip
PROMPTS = (
    "a large blue square moving right on a pink background",
    "a small red circle moving left on a white background",
    "a yellow triangle rising on a black background",
    "a green circle falling in front of gray",
)


def known_clips() -> dict[str, np.ndarray]:
    """Clips whose truth is known, from the most to the least coherent."""
    pan, fast = clean_clip("pebbles", "pan", 2).frames, clean_clip("waves", "pan", 8).frames
    still = np.repeat(pan[:1], 16, axis=0)
    boiling = pan.copy()
    boiling[:, 24:72, 36:92] = DISTORTIONS["texture boiling"].apply(pan, 4)[:, 24:72, 36:92]
    return {
        "frozen": still,
        "slow pan, flawless": pan,
        "fast pan, flawless": fast,
        "fast pan on twos": DISTORTIONS["stutter"].apply(fast, 8),
        "slow pan, fading colours": DISTORTIONS["slow drift"].apply(pan, 40),
        "slow pan, noise of σ 6": DISTORTIONS["frame noise"].apply(pan, 6),
        "slow pan, brightness ±8": DISTORTIONS["brightness flicker"].apply(pan, 8),
        "slow pan, its middle boils": boiling,
        "slow pan, all of it boils": DISTORTIONS["texture boiling"].apply(pan, 2.4),
    }


def masked_warp_error(frames: np.ndarray) -> float:
    """Mean squared error, in 1/1000, of each frame and the next fetched onto it, over believable pixels."""
    errors = []
    for first, second in pairwise(Frame(index, 0.0, frame) for index, frame in enumerate(frames)):
        pair = Pair(first, second, DisFlow())
        left = (pair.second_on_first - pair.first.levels)[pair.forward_valid] / 255
        errors.append(float(np.mean(left**2)))
    return 1000 * float(np.mean(errors))


def ffmpeg_values(frames: np.ndarray, filters: str, key: str) -> list[float]:
    """The per-frame values that an ffmpeg filter prints for the luma of the frames."""
    planes = np.rint([luma(frame.astype(np.float32)) for frame in frames]).astype(np.uint8)
    size = f"{planes.shape[2]}x{planes.shape[1]}"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "rawvideo", "-pix_fmt", "gray"]
    command += [
        "-color_range",
        "pc",
        "-s",
        size,
        "-r",
        "8",
        "-i",
        "pipe:0",
        "-vf",
        f"{filters},metadata=print:file=-",
    ]
    done = subprocess.run(
        [*command, "-f", "null", "-"], input=planes.tobytes(), capture_output=True, check=True
    )
    return [float(value) for value in re.findall(rf"{key}=([\d.]+)", done.stdout.decode())]


def relations() -> str:
    """Other measures beside ours."""
    head = ("clip", "VBench flicker ↑", "masked warp error ↓", "YDIF", "TI", "scene score")
    own = ("flicker", "morph", "coverage", "motion", "flow_jitter", "drift")
    rows = []
    for name, frames in known_clips().items():
        report = measure(frames, 8).values
        others = [
            f"{report['raw_flicker'].details['vbench_temporal_flickering']:.4f}",
            f"{masked_warp_error(frames):.3f}",
            f"{np.mean(ffmpeg_values(frames, 'signalstats', 'YDIF')[1:]):.2f}",
            f"{np.mean(ffmpeg_values(frames, 'siti', 'siti.ti')[1:]):.2f}",
            f"{max(ffmpeg_values(frames, 'scdet=threshold=0', 'scd.score')[2:]):.2f}",
        ]
        rows.append([name, *others, *(shown(report[metric].value, report[metric].status) for metric in own)])
    return markdown([*head, *(f"**{name}**" for name in own)], rows)


def shown(value: float | None, status: str) -> str:
    """A value, with its status unless that is ok."""
    number = "—" if value is None else f"{value:.3g}"
    return number if status == "ok" else f"{number} ({status})"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [
        " | ".join(head),
        " | ".join(["---"] + ["---:"] * (len(head) - 1)),
        *(" | ".join(row) for row in rows),
    ]
    return "\n".join(f"| {each} |" for each in lines)


def synthetic() -> list[np.ndarray]:
    """Three clean clips and three distorted ones, 128 × 96."""
    clean = [
        clean_clip("waves", "pan", 3).frames,
        clean_clip("bricks", "rotation", 3).frames,
        clean_clip("pebbles", "zoom", 3).frames,
    ]
    names = ("brightness flicker", "frame noise", "colour jitter")
    return [*clean, *(DISTORTIONS[name].apply(clip, 6) for name, clip in zip(names, clean, strict=True))]


def embedded() -> list[np.ndarray]:
    """Clips of the model that comes with the package, 64 × 64."""
    from video_diffusion import GenerationSettings, TextToVideoPipeline

    pipeline = TextToVideoPipeline.from_pretrained("embedded")
    settings = [GenerationSettings(prompt=prompt, seed=seed) for seed, prompt in enumerate(PROMPTS)]
    return [pipeline.generate([each])[0].frames for each in settings]


def values(frames: np.ndarray) -> np.ndarray:
    """The metrics that the encoding table shows, NaN where there is no value."""
    report = measure(frames, 8).values
    return np.array([report[name].value for name in ENCODED], dtype=float)


def encoding() -> str:
    """What each encoder changes, per kind of clip: median over clips, least and largest change."""
    tables = []
    for kind, made in (("synthetic clips", synthetic()), ("clips of the embedded model", embedded())):
        before = np.array([values(frames) for frames in made])
        columns = [[f"{value:.3g}" for value in np.nanmedian(before, axis=0)]]
        for file, settings in ENCODINGS.values():
            change = np.array([values(encoded(frames, file, settings)) for frames in made]) - before
            told = zip(
                *(reduce(change, axis=0) for reduce in (np.nanmedian, np.nanmin, np.nanmax)), strict=True
            )
            columns.append([f"{middle:+.2g} ({low:+.2g} … {high:+.2g})" for middle, low, high in told])
        rows = [[name, *cells] for name, *cells in zip(ENCODED, *columns, strict=True)]
        tables.append(markdown([f"{len(made)} {kind}", "before", *ENCODINGS], rows))
    return "\n\n".join(tables)


def encoded(frames: np.ndarray, file: str, settings: dict[str, Any]) -> np.ndarray:
    """The frames as they come back from a file."""
    with tempfile.TemporaryDirectory() as folder:
        write_video(Path(folder) / file, frames, Fraction(8), **settings)
        return read_video(Path(folder) / file).frames


TABLES: dict[str, Callable[[], str]] = {"relations": relations, "encoding": encoding}


def put_into_page(name: str, table: str) -> None:
    """Replace a table of the page by a new one."""
    between = re.compile(rf"(?<=<!-- table {name} -->\n).*?(?=<!-- end of table {name} -->)", re.DOTALL)
    page, count = between.subn(lambda _: table + "\n", PAGE.read_text())
    assert count == 1, f"{PAGE} has {count} places for table {name}"
    with atomic_path(PAGE) as part:
        part.write_text(page)


def main() -> None:
    """Measure the tables named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(TABLES)}")
    parser.add_argument("--print", action="store_true", help="show instead of writing")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    for name in options.names or TABLES:
        if options.print:
            print(TABLES[name]())
        else:
            put_into_page(name, TABLES[name]())
            print(f"{PAGE}: table {name} written")


if __name__ == "__main__":
    main()
