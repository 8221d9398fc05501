"""Training clips show the right frames at the right times, the same ones always, and never a changed file."""

import gc
import os
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from painted_clips import entry_of, numbers, paint_video
from PIL import Image
from torch.utils.data import DataLoader

from video_diffusion.training.data import ClipDataset, ClipOrder, Draw
from video_diffusion.training.data.cutting import _frames, frames_at
from video_diffusion.training.data.manifest import ClipChangedError
from video_diffusion.training.data.shards import clip_file
from video_diffusion.video import read_video
from video_diffusion.video.images import fit


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    paint_video(folder / "wide.mp4", 24, 32, 48, 24)
    paint_video(folder / "tall.mp4", 20, 48, 32, 20)
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(folder / "still.png")
    return folder


def entries(folder: Path) -> list:
    return [
        entry_of(folder / "wide.mp4"),
        entry_of(folder / "tall.mp4", 20, 20, width=32, height=48),
        entry_of(folder / "still.png", 1, None, width=60, height=40),
    ]


def dataset(folder: Path, num_frames: int = 4, fps: int = 8, sizes: object = None, **options) -> ClipDataset:
    return ClipDataset(entries(folder), folder, num_frames, Fraction(fps), sizes, **options)


def test_an_item_is_frames_caption_and_what_it_was_drawn_from(folder: Path) -> None:
    data = dataset(folder, random_start=False)
    assert len(data) == 2
    item = data[0]
    assert item["frames"].shape == (4, 3, 32, 48) and item["frames"].dtype == torch.uint8
    assert numbers(item["frames"]) == [0, 3, 6, 9]
    assert (item["id"], item["caption"], item["picture"]) == ("wide", "the clip wide", False)
    assert data[1]["frames"].shape == (4, 3, 48, 32)
    with pytest.raises(IndexError):
        data[2]


@pytest.mark.parametrize(
    "fps, target, expected",
    [
        (24, 24, [5, 6, 7, 8]),
        (24, 12, [5, 7, 9, 11]),
        (25, 8, [5, 8, 11, 14]),  # 5 + 0, 3.125, 6.25, 9.375
        (30, 8, [5, 8, 12, 16]),  # 5 + 0, 3.75, 7.5, 11.25
    ],
)
def test_frames_are_chosen_by_time_not_by_stride(
    tmp_path: Path, fps: int, target: int, expected: list
) -> None:
    path = paint_video(tmp_path / "clip.mp4", 24, fps=fps)
    times = [5 / fps + index / target for index in range(4)]
    found = frames_at(path, times)
    assert numbers(np.stack(found).transpose(0, 3, 1, 2)) == expected


def test_variable_frame_rate_shows_what_a_viewer_sees(tmp_path: Path) -> None:
    """A frame that stays for a second is shown for a second; a stride would run through it."""
    ticks = [0, 1, 2, 3, 34, 35, 36, 37, 38, 60]
    path = paint_video(tmp_path / "vfr.mp4", 10, fps=30, ticks=ticks)
    entry = entry_of(path, 10, Fraction(5), end=61 / 30)
    data = ClipDataset([entry], tmp_path, 8, Fraction(4), None, random_start=False)
    # at 0, 7.5, 15, 22.5, 30, 37.5, 45, 52.5 thirtieths
    assert numbers(data[0]["frames"]) == [0, 3, 3, 3, 3, 7, 8, 8]


def test_clocks_that_round_repeat_no_frame(tmp_path: Path) -> None:
    """Matroska keeps milliseconds: frame 1 of 24 fps stands at 0.042, after 1/24."""
    path = paint_video(tmp_path / "clip.mkv", 24, fps=24)
    assert read_video(path).timestamps[1] == Fraction(42, 1000)
    data = ClipDataset([entry_of(path)], tmp_path, 20, Fraction(24), None)
    for epoch in range(5):
        shown = numbers(data[Draw(epoch, 0)]["frames"])
        assert np.diff(shown).tolist() == [1] * 19


def test_a_stretch_of_a_file_never_shows_its_neighbours(tmp_path: Path) -> None:
    path = paint_video(tmp_path / "clip.mp4", 36, fps=24)
    entry = entry_of(path, 12, 24, start=0.5, end=1.0)
    data = ClipDataset([entry], tmp_path, 5, Fraction(12), None)
    starts = set()
    for epoch in range(12):
        shown = numbers(data[Draw(epoch, 0)]["frames"])
        assert np.diff(shown).tolist() == [2] * 4 and min(shown) >= 12 and max(shown) < 24
        starts.add(shown[0])
        assert 12 <= numbers(data[Draw(epoch, 0, picture=True)]["frames"])[0] < 24
    assert len(starts) > 2


def test_short_clips_start_over_when_looped(tmp_path: Path) -> None:
    path = paint_video(tmp_path / "clip.mp4", 6, fps=8)
    data = ClipDataset([entry_of(path, 6, 8)], tmp_path, 16, Fraction(8), None, too_short="loop")
    assert numbers(data[0]["frames"]) == [*range(6), *range(6), *range(4)]


def test_a_clip_is_a_function_of_seed_epoch_and_item(folder: Path) -> None:
    draws = [Draw(epoch, item) for epoch in range(6) for item in range(2)]
    one, again = dataset(folder, seed=3), dataset(folder, seed=3)
    backwards = {draw: again[draw] for draw in reversed(draws)}
    for draw in draws:
        first, second = one[draw], backwards[draw]
        assert first["key"] == second["key"] and torch.equal(first["frames"], second["frames"])
    assert len({one.sample(draw).times for draw in draws}) > 6
    assert dataset(folder, seed=4).sample(draws[0]) != one.sample(draws[0])


def test_other_clips_in_the_manifest_do_not_matter(folder: Path) -> None:
    rows = entries(folder)
    alone = ClipDataset(rows[1:], folder, 4, Fraction(8), None)
    assert alone.sample(Draw(5, 0)) == dataset(folder).sample(Draw(5, 1))


def test_workers_read_the_same_clips(folder: Path) -> None:
    data = dataset(folder, sizes=[(24, 16)], allow_upscaling=True)
    order = ClipOrder(data, 2, seed=1, image_fraction=0.25)
    batches = [order.batch(number) for number in range(4)]
    gc.collect()  # the encoders of the test's own videos have threads, which must not be freed in a worker
    seen = []
    for num_workers in (0, 2):
        loader = DataLoader(data, batch_sampler=batches, num_workers=num_workers)
        seen.append([(batch["key"], batch["frames"]) for batch in loader])
    for (keys, frames), (others, copies) in zip(*seen, strict=True):
        assert keys == others and torch.equal(frames, copies)
    assert seen[0][0][1].shape == (2, 4, 3, 16, 24) and seen[0][3][1].shape == (2, 1, 3, 16, 24)


def test_left_and_right_stay_unless_flipping_is_asked_for(folder: Path) -> None:
    def left_is_darker(item: dict) -> bool:
        frame = item["frames"][0].float()
        return bool(frame[:, :, :8].mean() < frame[:, :, -8:].mean() - 6)

    plain, flipping = dataset(folder), dataset(folder, flip=True)
    assert all(left_is_darker(plain[Draw(epoch, 0)]) for epoch in range(12))
    sides = [left_is_darker(flipping[Draw(epoch, 0)]) for epoch in range(12)]
    assert 2 < sum(sides) < 10
    turned = flipping.sample(Draw(sides.index(False), 0))
    assert turned.flipped and turned.content_key != replace(turned, flipped=False).content_key


def test_frames_are_cropped_about_the_centre_and_never_stretched() -> None:
    frame = np.zeros((40, 60, 3), np.uint8)
    frame[:, 10:50] = 255  # a white square in the middle
    assert fit(frame, 40, 40).min() == 255
    assert fit(frame, 20, 20).shape == (20, 20, 3) and fit(frame, 20, 20)[2:-2, 2:-2].min() == 255
    assert fit(frame, 40, 60) is not None and np.array_equal(fit(frame, 40, 60), frame)
    wide = fit(frame, 30, 90)  # cut to 60x20, then enlarged by 1.5
    assert wide.shape == (30, 90, 3) and (wide[:, 20:70] > 250).all() and (wide[:, :12] < 6).all()
    stripes = np.tile(np.array([0, 255], np.uint8)[None, :, None], (8, 8, 3))  # 8 by 16
    assert (np.abs(fit(stripes, 2, 4).astype(int) - 128) < 12).all()  # averaged, not skipped


def test_pictures_have_one_frame(folder: Path) -> None:
    data = dataset(folder)
    item = data[Draw(0, 2, picture=True)]
    assert item["frames"].shape == (1, 3, 40, 60) and item["picture"] is True and item["id"] == "still"
    assert int(item["frames"].min()) == int(item["frames"].max()) == 90
    seen = {numbers(data[Draw(epoch, 0, picture=True)]["frames"])[0] for epoch in range(10)}
    assert len(seen) > 4


def test_a_changed_file_is_noticed_before_it_is_read(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(folder, own)  # keeps times, as a copy of a data set may or may not
    rows = entries(own)

    def read(**options: object) -> None:
        _ = ClipDataset(rows[:1], own, 4, Fraction(8), None, **options)[0]

    os.utime(own / "wide.mp4", ns=(0, 5))
    read()  # another time, the same bytes
    data = bytearray((own / "wide.mp4").read_bytes())
    data[-20] ^= 1
    (own / "wide.mp4").write_bytes(data)
    with pytest.raises(
        ClipChangedError, match=r"wide\.mp4: its sha256 differs .* `video-diffusion data check"
    ):
        read()
    os.utime(own / "wide.mp4", ns=(0, rows[0].mtime_ns))
    read()  # size and time are right: only the hash can tell
    with pytest.raises(ClipChangedError, match="its sha256 differs"):
        read(hash_files=True)
    (own / "wide.mp4").write_bytes(bytes(data) + b"x")
    with pytest.raises(ClipChangedError, match=r"wide\.mp4: has \d+ bytes, the manifest says \d+"):
        read()
    (own / "wide.mp4").unlink()
    with pytest.raises(ClipChangedError, match=r"wide\.mp4: No such file or directory, but the manifest"):
        read()


def test_a_changed_file_is_named_by_a_worker_too(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "wide.mp4", tmp_path)
    data = ClipDataset(entries(folder)[:1], tmp_path, 4, Fraction(8), None)
    (tmp_path / "wide.mp4").write_bytes(b"another video")
    gc.collect()
    with pytest.raises(ClipChangedError) as caught:
        next(iter(DataLoader(data, num_workers=1)))
    line = str(caught.value)
    assert line.startswith(f"{tmp_path}/wide.mp4: has 13 bytes, the manifest says") and "\n" not in line


def test_cached_clips_are_not_read(folder: Path, tmp_path: Path) -> None:
    rows = entries(folder)[:1]
    asked: list[str] = []

    def is_cached(key: str) -> bool:
        asked.append(key)
        return True

    data = ClipDataset(rows, tmp_path / "nowhere", 4, Fraction(8), None, is_cached=is_cached)
    assert "frames" not in data[0] and asked == [data[0]["key"]] * 2


def test_the_key_names_file_window_and_size(folder: Path) -> None:
    clip = dataset(folder).sample(Draw(0, 0))
    others = [
        replace(clip, times=(*clip.times[:-1], clip.times[-1] + 0.001)),
        replace(clip, size=(24, 16)),
        replace(clip, entry=replace(clip.entry, sha256="1" * 64)),
    ]
    assert len({clip.content_key, *(other.content_key for other in others)}) == 4
    assert replace(clip, entry=replace(clip.entry, caption="else", id="z")).content_key == clip.content_key


def test_nothing_usable_says_why(folder: Path) -> None:
    with pytest.raises(
        ValueError, match=r"none of 3 clips can be used; the first, wide\.mp4, lasts 1\.000 s"
    ):
        dataset(folder, num_frames=99)
    with pytest.raises(ValueError, match="all are single pictures"):
        ClipDataset(entries(folder)[2:], folder, 4, Fraction(8), None)


@pytest.mark.full
@pytest.mark.parametrize(
    "name, jumps, options",
    [
        # open groups have no place to enter; neither has a file with one key frame
        ("clip.mp4", False, {"g": "40", "bf": "3", "x264-params": "open-gop=1:bframes=3:b-adapt=0"}),
        ("clip.mp4", True, {"g": "40", "bf": "3", "x264-params": "bframes=3:b-adapt=0"}),
        ("clip.mkv", True, {"g": "40"}),
        ("clip.mp4", False, {"g": "1000"}),
    ],
)
def test_frames_late_in_a_file_are_reached_by_a_jump_and_are_the_same(
    tmp_path: Path, name: str, jumps: bool, options: dict
) -> None:
    path = paint_video(tmp_path / name, 240, 16, 24, fps=12, levels=1, **options)
    whole = read_video(path)
    assert (_frames(clip_file(path), [13.3], Fraction(133, 10)) is not None) == jumps
    for start in (5.01, 7.5, 13.3, 19.6):
        times = [start + index / 8 for index in range(6)]
        expected = [
            whole.frames[max(i for i, shown in enumerate(whole.timestamps) if shown <= time + 0.005)]
            for time in times
        ]
        assert np.array_equal(np.stack(frames_at(path, times)), np.stack(expected))
