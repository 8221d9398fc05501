"""Draw the pictures of docs/metrics.md: one for each metric, measured on clips of known truth.

python scripts/make_metric_figures.py
Writes docs/images/metrics/*.png. About two minutes on one core.
"""

import argparse
import io
from pathlib import Path

import cv2
from matplotlib.figure import Figure
from metric_flicker_figures import (
    flash_safety,
    flicker,
    luma_flicker,
    luma_spectrum,
    raw_flicker,
    seam_excess,
)
from metric_morph_figures import coverage, drift, morph, warp_psnr, warp_ssim
from metric_motion_figures import cuts, duplicate_pairs, flow_jitter, motion
from metric_sharpness_figures import mean_luma, sharpness, steady_sharpness
from PIL import Image

from video_diffusion.video import atomic_path

FIGURES = {
    draw.__name__: draw
    for draw in (
        raw_flicker,
        flicker,
        luma_flicker,
        luma_spectrum,
        seam_excess,
        flash_safety,
        morph,
        warp_psnr,
        warp_ssim,
        coverage,
        drift,
        motion,
        flow_jitter,
        duplicate_pairs,
        cuts,
        sharpness,
        steady_sharpness,
        mean_luma,
    )
}


def save(figure: Figure, path: Path) -> None:
    """Write a PNG with a palette of 128 colours, a third of the size."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    reduced = (
        Image.open(drawn)
        .convert("RGB")
        .quantize(128, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    )
    with atomic_path(path) as part:
        reduced.save(part, format="PNG", optimize=True)


def main() -> None:
    """Draw all figures, or those named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[[], *FIGURES], help="only these")
    parser.add_argument("--out", type=Path, default=Path("docs/images/metrics"))
    options = parser.parse_args()
    cv2.setNumThreads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.names or FIGURES:
        path = options.out / f"{name}.png"
        save(FIGURES[name](), path)
        print(f"{path} {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
