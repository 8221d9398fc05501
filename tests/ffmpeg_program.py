"""The ffmpeg program, to make files that this package itself would never write."""

import subprocess

import imageio_ffmpeg

# ffmpeg's filters that turn RGB into BT.709 of limited range, and tag it so
BT709 = "scale=out_color_matrix=bt709:out_range=tv,setparams=colorspace=bt709:range=tv"


def ffmpeg(*arguments: object) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
