"""Pictures, animations and folders of pictures are read as clips."""

from fractions import Fraction
from pathlib import Path

import numpy as np
from marked_clips import marked_frames, refusal
from PIL import Image

from video_diffusion.video import read_video


def test_an_image_is_a_clip_of_one_frame(tmp_path: Path) -> None:
    frame = marked_frames()[0]
    Image.fromarray(frame).save(tmp_path / "one.png")
    video = read_video(tmp_path / "one.png")
    assert np.array_equal(video.frames, frame[None]) and video.timestamps == (0,) and video.fps is None


def test_phone_pictures_are_turned_upright(tmp_path: Path) -> None:
    image = Image.fromarray(marked_frames()[0])
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise by 90 degrees
    image.save(tmp_path / "phone.jpg", exif=exif, quality=98, subsampling=0)
    frames = read_video(tmp_path / "phone.jpg").frames
    assert frames.shape == (1, 48, 32, 3)
    assert np.abs(frames[0].astype(int) - np.rot90(marked_frames()[0], -1)).mean() < 3


def test_transparent_sixteen_bit_and_palette_pictures(tmp_path: Path) -> None:
    clear = np.zeros((16, 24, 4), np.uint8)
    clear[:, 12:] = (10, 20, 30, 255)
    Image.fromarray(clear).save(tmp_path / "clear.png")
    video = read_video(tmp_path / "clear.png")
    assert video.frames[0, 0, 0].tolist() == [255] * 3 and video.frames[0, 0, 23].tolist() == [10, 20, 30]
    assert video.notes == ("transparent pixels are shown on white",)
    deep = np.full((16, 24), 30_000, np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert read_video(tmp_path / "deep.png").frames[0, 0, 0].tolist() == [117] * 3
    Image.fromarray(np.full((16, 24), 0.5, np.float32)).save(tmp_path / "float.tiff")
    assert "convert it to 8 or 16 bits" in refusal(tmp_path / "float.tiff")


def test_folders_are_read_in_natural_order_at_the_given_rate(tmp_path: Path) -> None:
    for index, frame in enumerate(marked_frames(12)):
        Image.fromarray(frame).save(tmp_path / f"frame{index}.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / ".hidden.png").write_text("not a picture")
    video = read_video(tmp_path, fps=Fraction(24, 5))
    assert np.array_equal(video.frames, marked_frames(12))
    assert (video.fps, video.timestamps[11], video.notes) == (Fraction(24, 5), Fraction(55, 24), ())
    assert read_video(tmp_path).notes == ("a folder has no frame rate; 8 fps is assumed (give fps)",)
    Image.fromarray(marked_frames(1, 16, 24)[0]).save(tmp_path / "frame99.png")
    assert refusal(tmp_path).startswith("frame99.png: is 24x16, the first image 48x32")


def test_animations_have_their_own_durations(tmp_path: Path) -> None:
    first, *rest = [Image.fromarray(frame) for frame in marked_frames(3)]
    for name in ("clip.gif", "clip.webp", "clip.png"):
        first.save(tmp_path / name, save_all=True, append_images=rest, duration=[100, 250, 30])
        video = read_video(tmp_path / name)
        assert [float(time) for time in video.timestamps] == [0, 0.1, 0.35], name
    first.save(tmp_path / "fast.gif", save_all=True, append_images=rest, duration=0)
    assert read_video(tmp_path / "fast.gif").fps == 10
