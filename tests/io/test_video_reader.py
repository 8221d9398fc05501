"""Clips are read as they are shown: real times, upright, true colours; what is no clip says why in a line."""

import os
import stat
import struct
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from video_diffusion.io import ReadLimits, VideoReadError, iter_frames, open_video, read_video, write_video

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
TOP_LEFT, REST = (200, 40, 30), (30, 60, 190)


def marked_frames(num_frames: int = 6, height: int = 32, width: int = 48) -> np.ndarray:
    """Blue, with a red quarter at the top left, and brightness that tells the frames apart."""
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    frames[:] = REST
    frames[:, : height // 2, : width // 2] = TOP_LEFT
    return frames + np.arange(num_frames, dtype=np.uint8)[:, None, None, None] * 8


def ffmpeg(*arguments: object) -> None:
    done = subprocess.run(
        [FFMPEG, "-y", "-v", "error", *map(str, arguments)], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def encode(path: Path, frames: np.ndarray, *options: object, fps: object = 8) -> Path:
    raw = path.with_suffix(".raw")
    raw.write_bytes(frames.tobytes())
    size = f"{frames.shape[2]}x{frames.shape[1]}"
    ffmpeg("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", fps, "-i", raw, *options, path)
    raw.unlink()
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    write_video(tmp_path / "clip.mp4", marked_frames(), Fraction(8))
    return tmp_path / "clip.mp4"


def refusal(path: Path | str, **options: Any) -> str:
    with pytest.raises(VideoReadError) as caught:
        read_video(path, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}") and "\n" not in message.removeprefix(str(path))
    return message.removeprefix(f"{path}").lstrip("/:").strip()


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may read everything; these tests need somebody who may not."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_frames_times_rate_and_notes(clip: Path) -> None:
    video = read_video(clip)
    assert video.frames.shape == (6, 32, 48, 3) and video.frames.dtype == np.uint8
    assert video.timestamps == tuple(Fraction(index, 8) for index in range(6))
    assert (video.fps, video.notes) == (Fraction(8), ())
    assert np.abs(video.frames.astype(int) - marked_frames()).mean() < 3


def test_streaming_gives_the_same_and_can_stop_early(clip: Path) -> None:
    frames = iter_frames(clip)
    first = next(frames)
    frames.close()
    assert np.array_equal(first.pixels, read_video(clip).frames[0])
    with open_video(clip) as source:
        assert (source.width, source.height, source.fps, source.declared_frames) == (48, 32, Fraction(8), 6)
        assert [frame.index for frame in source.frames] == list(range(6))


@pytest.mark.parametrize("angle, turns", [(90, 1), (180, 2), (270, 3)])
def test_rotated_phone_videos_are_turned_upright(clip: Path, tmp_path: Path, angle: int, turns: int) -> None:
    """As ffmpeg itself shows them: it turns by default when it re-encodes."""
    rotated, shown = tmp_path / "rotated.mp4", tmp_path / "shown.mp4"
    ffmpeg("-display_rotation", angle, "-i", clip, "-c", "copy", rotated)
    ffmpeg("-i", rotated, "-crf", 0, shown)
    video = read_video(rotated)
    assert np.array_equal(video.frames, np.rot90(read_video(clip).frames, turns, (1, 2)))
    assert video.frames.shape == read_video(shown).frames.shape
    assert np.abs(video.frames.astype(int) - read_video(shown).frames).mean() < 3
    assert any("turned upright" in note for note in video.notes)
    with open_video(rotated) as source:
        assert (source.height, source.width) == video.frames.shape[1:3]


def test_variable_frame_rate_keeps_its_real_times(tmp_path: Path) -> None:
    ticks = [0, 1, 2, 10, 11, 30]
    path = tmp_path / "vfr.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 30)
        for tick, pixels in zip(ticks, marked_frames(), strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    video = read_video(path)
    assert video.timestamps == tuple(Fraction(tick, 30) for tick in ticks)
    assert any("variable frame rate" in note for note in video.notes)


FLAT = np.broadcast_to(
    np.array([[210, 60, 30], [20, 180, 90], [90, 90, 90]], np.uint8)[:, None, None], (3, 16, 24, 3)
)
BT601 = "scale=out_color_matrix=bt601:out_range=tv,setparams=colorspace=smpte170m:range=tv"
FULL = "scale=out_color_matrix=bt709:out_range=pc,setparams=colorspace=bt709:range=pc"
BT709 = "scale=out_color_matrix=bt709:out_range=tv,setparams=colorspace=bt709:range=tv"


@pytest.mark.parametrize(
    "options",
    [
        ("-vf", BT601, "-pix_fmt", "yuv420p"),
        ("-vf", FULL, "-pix_fmt", "yuv420p"),
        ("-vf", FULL, "-pix_fmt", "yuvj420p"),
        ("-vf", BT709, "-pix_fmt", "yuv420p10le"),
        ("-vf", BT709, "-pix_fmt", "yuv422p"),
        ("-c:v", "libx264rgb", "-pix_fmt", "rgb24"),
    ],
    ids=["BT.601", "full range", "yuvj", "10 bit", "4:2:2", "RGB"],
)
def test_colours_follow_the_tags(tmp_path: Path, options: tuple[str, ...]) -> None:
    video = read_video(encode(tmp_path / "flat.mp4", FLAT, *options, "-crf", 0))
    assert np.abs(video.frames.astype(int) - FLAT).max() <= 2


def test_untagged_colours_are_read_as_bt601_and_said_so(tmp_path: Path) -> None:
    untagged = (
        "scale=out_color_matrix=bt601:out_range=tv,setparams=colorspace=unknown:color_primaries=unknown"
    )
    video = read_video(encode(tmp_path / "flat.mp4", FLAT, "-vf", untagged, "-pix_fmt", "yuv420p", "-crf", 0))
    assert np.abs(video.frames.astype(int) - FLAT).max() <= 2
    assert video.notes == ("colours are not tagged; read as BT.601",)


def test_hdr_is_refused(tmp_path: Path) -> None:
    pq = "scale=out_color_matrix=bt2020,setparams=colorspace=bt2020nc:color_trc=smpte2084"
    path = encode(tmp_path / "hdr.mp4", FLAT, "-vf", pq, "-pix_fmt", "yuv420p10le")
    assert refusal(path) == "is HDR (PQ); convert it to BT.709 first"


@pytest.mark.parametrize(
    "name, options, note",
    [
        ("sar.mp4", ("-vf", f"{BT709},setsar=4/3"), "pixels are not square (aspect 4/3)"),
        ("alpha.webm", ("-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p"), "transparency is dropped"),
        ("woven.mp4", ("-vf", BT709, "-flags", "+ildct+ilme", "-pix_fmt", "yuv420p"), "interlaced"),
    ],
)
def test_oddities_are_noted(tmp_path: Path, name: str, options: tuple[str, ...], note: str) -> None:
    video = read_video(encode(tmp_path / name, marked_frames(6, 64, 48), *options))
    assert any(text.startswith(note) for text in video.notes), video.notes
    assert video.frames.shape == (6, 64, 48, 3)


def test_grey_video_is_rgb(tmp_path: Path) -> None:
    video = read_video(encode(tmp_path / "grey.mp4", marked_frames(), "-pix_fmt", "gray"))
    assert video.frames.shape[-1] == 3 and np.ptp(video.frames, axis=-1).max() <= 1


def test_the_first_of_two_video_streams_is_read_and_said_so(clip: Path, tmp_path: Path) -> None:
    other = encode(tmp_path / "other.mp4", marked_frames(3, 16, 24), "-pix_fmt", "yuv420p")
    ffmpeg("-i", clip, "-i", other, "-map", "0", "-map", "1", "-c", "copy", tmp_path / "two.mp4")
    video = read_video(tmp_path / "two.mp4")
    assert video.frames.shape == (6, 32, 48, 3)
    assert "2 video streams; the first is read" in video.notes


def test_b_frames_and_late_starts_give_times_from_zero(tmp_path: Path) -> None:
    path = encode(
        tmp_path / "late.mkv", marked_frames(), "-bf", 3, "-pix_fmt", "yuv420p", "-output_ts_offset", 5
    )
    video = read_video(path)
    assert video.timestamps[0] == 0 and video.timestamps[-1] == Fraction(5, 8)


def test_an_edit_list_that_hides_frames_is_not_damage(tmp_path: Path) -> None:
    long = encode(tmp_path / "long.mp4", marked_frames(24), "-g", 24, "-bf", 0, "-pix_fmt", "yuv420p")
    ffmpeg("-ss", 1, "-i", long, "-c", "copy", tmp_path / "cut.mp4")
    frames = read_video(tmp_path / "cut.mp4").frames
    assert 15 <= len(frames) <= 17
    assert abs(int(frames[0, 0, 0, 0]) - (TOP_LEFT[0] + 8 * 8) % 256) <= 12


def test_a_size_change_is_an_error(tmp_path: Path) -> None:
    parts = [
        encode(tmp_path / f"{height}.ts", marked_frames(4, height, 48), "-pix_fmt", "yuv420p")
        for height in (32, 48)
    ]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert refusal(joined, allow_truncated=True).startswith("the size changes from 48x32 to 48x48")


NOT_VIDEOS: dict[str, bytes] = {
    "empty": b"",
    "random": np.random.default_rng(0).bytes(5000),
    "text": b"this is only text\n" * 50,
    "html": b"<!DOCTYPE html><html><body>404</body></html>" * 20,
    "ffconcat": b"ffconcat version 1.0\nfile clip.mp4\n",
    "playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nclip.mp4\n#EXT-X-ENDLIST\n",
    "lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
}


@pytest.mark.parametrize("kind", NOT_VIDEOS)
@pytest.mark.parametrize("suffix", [".mp4", ".png", ".gif"])
def test_what_is_not_a_video_says_so(clip: Path, kind: str, suffix: str) -> None:
    path = clip.with_name(f"other{suffix}")
    path.write_bytes(NOT_VIDEOS[kind])
    if kind == "empty":
        assert refusal(path).startswith("is empty (0 bytes); not")
    else:
        assert refusal(path).startswith(("not a plain video file", "not an image, or damaged"))


def test_a_picture_named_mp4_is_not_a_video(tmp_path: Path) -> None:
    Image.fromarray(marked_frames()[0]).save(tmp_path / "picture.png")
    (tmp_path / "picture.png").rename(tmp_path / "picture.mp4")
    assert refusal(tmp_path / "picture.mp4").startswith("not a plain video file")


@pytest.mark.parametrize(
    "name", ["http://127.0.0.1:9/a.mp4", "tcp://127.0.0.1:9", "data:video/mp4;base64,AAAA", "pipe:0"]
)
def test_addresses_are_only_names_of_files(name: str) -> None:
    with pytest.raises(VideoReadError, match="no such file"):
        read_video(name)


def test_protocol_names_of_real_files_stay_file_names(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clip.parent)
    for name in ("concat:clip.mp4|clip.mp4", "data:,x", "-i.mp4", "a#b 100%?.mp4", "two\nlines.mp4"):
        Path(name).write_bytes(clip.read_bytes())
        assert len(read_video(name).frames) == 6


def test_audio_alone_and_a_cover_alone_have_no_video(tmp_path: Path) -> None:
    Image.fromarray(marked_frames()[0]).save(tmp_path / "cover.png")
    audio, covered = tmp_path / "audio.m4a", tmp_path / "covered.m4a"
    ffmpeg("-f", "lavfi", "-i", "anullsrc", "-t", 1, audio)
    ffmpeg("-i", audio, "-i", tmp_path / "cover.png", "-map", 0, "-map", 1, "-c", "copy", "-disposition:v:0",
           "attached_pic", covered)  # fmt: skip
    assert refusal(audio) == "no video stream in it (only audio)"
    assert refusal(covered) == "no video stream in it (only audio, cover picture)"


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_a_clip_that_was_cut_off_is_an_error_unless_allowed(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 48, 3), dtype=np.uint8)
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    write_video(whole, noise, Fraction(8))
    data = whole.read_bytes()
    cut.write_bytes(data[: len(data) * 6 // 10])
    assert refusal(cut).startswith(("damaged or cut off after frame", "cut off:"))
    video = read_video(cut, allow_truncated=True)
    assert 1 <= len(video.frames) < 24
    assert any("cut off" in note for note in video.notes)
    assert len(read_video(whole).frames) == 24


def test_an_mp4_without_its_index_says_that_writing_was_cut_off(tmp_path: Path) -> None:
    path = encode(tmp_path / "late.mp4", marked_frames(), "-pix_fmt", "yuv420p")  # index at the end
    path.write_bytes(path.read_bytes()[:-400])
    assert refusal(path).startswith("has no index (moov): its writing was cut off")


@pytest.mark.parametrize("name", ["clip.gif", "clip.webp", "clip.png", "clip.jpg"])
def test_cut_off_pictures_are_errors(tmp_path: Path, name: str) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 48, 3), dtype=np.uint8)
    path = tmp_path / name
    if name in {"clip.gif", "clip.webp"}:
        write_video(path, frames, Fraction(8))
    else:
        Image.fromarray(frames[0]).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    assert "damaged" in refusal(path)


def test_limits_hold_before_decoding(clip: Path) -> None:
    assert refusal(clip, limits=ReadLimits(max_side=40)).startswith("is 48x32, beyond 40 pixels a side")
    assert refusal(clip, limits=ReadLimits(max_pixels=1000)).startswith("is 48x32, beyond")
    assert refusal(clip, limits=ReadLimits(max_frames=5)) == "declares 6 frames, above the limit of 5"
    assert refusal(clip, limits=ReadLimits(max_seconds=0)) == "declares 1 s, above the limit of 0"
    assert refusal(clip, limits=ReadLimits(max_bytes=3 * 48 * 32 * 5)).startswith("needs more than")
    assert len(read_video(clip, limits=ReadLimits(max_bytes=3 * 48 * 32 * 6)).frames) == 6


def test_undeclared_length_is_limited_while_reading(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.ts", marked_frames(30), "-pix_fmt", "yuv420p")
    assert refusal(path, limits=ReadLimits(max_frames=20)) == "more than 20 frames"


def bomb(path: Path, width: int, height: int) -> Path:
    """A PNG of a few bytes that declares a huge picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_decompression_bombs_are_refused_by_their_header(tmp_path: Path, side: int) -> None:
    assert "beyond" in refusal(bomb(tmp_path / "bomb.png", side, side))


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


def test_places_that_are_not_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.mp4")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "folder.mp4").mkdir()
    assert refusal(tmp_path / "fifo.mp4").startswith("is not a regular file")
    assert refusal("/dev/zero").startswith("is not a regular file")
    assert "symbolic links" in refusal(tmp_path / "loop.mp4")
    assert refusal(tmp_path / "folder.mp4").startswith("holds no images")
    assert refusal(tmp_path / "none.mp4") == "no such file"
    assert refusal("a\0b") == "embedded null byte"


@pytest.mark.parametrize("name", ["clip.mp4", "clip.png"])
def test_no_permission(tmp_path: Path, name: str) -> None:
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(parent.stat().st_mode | stat.S_IXOTH | stat.S_IROTH)
    (tmp_path / name).write_bytes(b"x" * 100)
    (tmp_path / name).chmod(0)
    with as_nobody():
        assert "ermission" in refusal(tmp_path / name)
