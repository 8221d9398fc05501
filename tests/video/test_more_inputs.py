"""Containers beside MP4 and WebM, bare streams, AVIF, mirrored files, palettes, and folders with gaps."""

import subprocess
from fractions import Fraction

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image
from smooth_clips import smooth_clip

from video_diffusion.video import VideoReadError, open_video, read_video, write_video
from video_diffusion.video.reader import PALETTE_NOTE

FRAMES = np.stack([np.roll(smooth_clip(1, 48, 64)[0], 3 * step, axis=1) for step in range(10)])


def ffmpeg(*words):
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, words)], check=True)


def psnr(first, second):
    return 10 * np.log10(255**2 / np.mean((first.astype(float) - second) ** 2))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("clip.flv", ["-c:v", "flv"]),
        ("clip.wmv", ["-c:v", "wmv2"]),
        ("clip.mpg", ["-c:v", "mpeg2video", "-r", "25"]),
        ("clip.ogv", ["-c:v", "libtheora"]),
        ("clip.y4m", []),
        ("clip.h264", ["-c:v", "libx264", "-bf", "0"]),
        ("clip.hevc", ["-c:v", "libx265", "-x265-params", "log-level=error"]),
        ("clip.m2v", ["-c:v", "mpeg2video", "-r", "25"]),
    ],
)
def test_containers_and_bare_streams_are_read_whole(name, words, tmp_path):
    write_video(tmp_path / "clip.mp4", FRAMES, Fraction(25), codec="libx264rgb")
    ffmpeg("-i", tmp_path / "clip.mp4", "-q:v", "2", "-pix_fmt", "yuv420p", *words, tmp_path / name)
    video = read_video(tmp_path / name)
    assert video.frames.shape == FRAMES.shape
    assert psnr(video.frames, FRAMES) > 28
    assert video.fps == 25


@pytest.mark.parametrize(
    "words", [["-display_hflip"], ["-display_vflip"], ["-display_rotation", "90", "-display_hflip"],
              ["-display_rotation", "270", "-display_hflip"], ["-display_rotation", "90"]],
)  # fmt: skip
def test_a_mirrored_file_is_shown_as_ffmpeg_shows_it(words, tmp_path):
    write_video(tmp_path / "clip.mp4", FRAMES, Fraction(8), codec="libx264rgb")
    ffmpeg(*words, "-i", tmp_path / "clip.mp4", "-c", "copy", tmp_path / "turned.mp4")
    ffmpeg("-i", tmp_path / "turned.mp4", "-pix_fmt", "rgb24", "-frames:v", "1", tmp_path / "shown.png")
    video = read_video(tmp_path / "turned.mp4")
    assert np.array_equal(video.frames[0], np.asarray(Image.open(tmp_path / "shown.png")))
    assert any("mirrored" in note for note in video.notes) == (len(words) != 2 or "flip" in words[0])


def test_an_animated_avif_is_read_whole_and_a_folder_of_avif_too(tmp_path):
    images = [Image.fromarray(frame) for frame in FRAMES]
    images[0].save(tmp_path / "clip.avif", save_all=True, append_images=images[1:], duration=125, quality=95)
    video = read_video(tmp_path / "clip.avif")
    assert (video.frames.shape, video.fps) == (FRAMES.shape, 8)
    assert psnr(video.frames, FRAMES) > 30
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, image in enumerate(images):
        image.save(folder / f"{number:04}.avif", quality=95)
    assert psnr(read_video(folder, fps=Fraction(8)).frames, FRAMES) > 30


def test_a_gif_says_that_dithering_reads_as_flicker_and_an_mp4_does_not(tmp_path):
    for name in ("clip.gif", "clip.mp4"):
        write_video(tmp_path / name, FRAMES, Fraction(10))
    assert PALETTE_NOTE in read_video(tmp_path / "clip.gif").notes
    assert PALETTE_NOTE not in read_video(tmp_path / "clip.mp4").notes


def test_numbers_that_are_missing_or_stand_twice_in_a_folder_are_told(tmp_path):
    for number in (0, 1, 3, 4):
        Image.fromarray(FRAMES[number]).save(tmp_path / f"{number:04}.png")
    (note,) = (note for note in read_video(tmp_path, fps=Fraction(8)).notes if "missing" in note)
    assert note == "1 numbers are missing, the first is 2; its neighbours follow each other"
    Image.fromarray(FRAMES[0]).save(tmp_path / "0000.jpg")
    notes = read_video(tmp_path, fps=Fraction(8)).notes
    assert any("such as 0000.jpg and 0000.png" in note for note in notes)


@pytest.mark.parametrize(("kind", "transfer"), [("PQ", "smpte2084"), ("HLG", "arib-std-b67")])
def test_hdr_is_tone_mapped_as_ffmpegs_filters_do_on_request(kind, transfer, tmp_path):
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    still = np.stack(
        [np.broadcast_to(ramp, (48, 64)), np.broadcast_to(ramp[::-1], (48, 64)), FRAMES[0][..., 2]], -1
    )
    write_video(tmp_path / "clip.mp4", np.stack([still] * 3), Fraction(8), codec="libx264rgb")
    tags = "scale=out_color_matrix=bt2020,setparams=colorspace=bt2020nc:color_primaries=bt2020"
    tags += f":color_trc={transfer}"
    ffmpeg(
        "-i", tmp_path / "clip.mp4", "-vf", tags, "-pix_fmt", "yuv444p10le", "-crf", "0", tmp_path / "hdr.mp4"
    )
    filters = "zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,tonemap=hable:desat=0:peak=10,"
    filters += "zscale=t=bt709:m=gbr:r=full,format=gbrp"
    ffmpeg("-i", tmp_path / "hdr.mp4", "-vf", filters, "-frames:v", "1", tmp_path / "shown.png")
    with open_video(tmp_path / "hdr.mp4", tone_map=True) as source:
        ours = next(source.frames).pixels.astype(int)
        assert any(f"HDR ({kind}) is shown as SDR" in note for note in source.notes)
    theirs = np.asarray(Image.open(tmp_path / "shown.png").convert("RGB")).astype(int)
    assert np.abs(ours - theirs).mean() < 2
    with pytest.raises(VideoReadError, match=rf"is HDR \({kind}\).*--tone-map"):
        read_video(tmp_path / "hdr.mp4")
