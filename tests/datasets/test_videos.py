"""Frames of videos by number, in any order, held against all of them decoded from the beginning; and parts of pictures by name."""

import multiprocessing
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from reid.datasets import presence, regions, videos
from reid.datasets.decoding import decode
from reid.datasets.manifest import load_rows
from reid.datasets.regions import Box, Region
from reid.datasets.sources.frames_of_video import frames_of_video
from reid.errors import DataError

COUNT = 40


def film(
    file: Path, codec: str, options: dict[str, str] | None = None, pix_fmt: str = "yuv420p"
) -> dict[int, np.ndarray]:
    """A video of noise that moves; returns its frames as a decoding from the beginning gives them."""
    rng = np.random.default_rng(0)
    background = rng.integers(0, 256, (64, 128, 3), np.uint8)
    with av.open(str(file), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(25), options=options or {})
        stream.width, stream.height, stream.pix_fmt = 96, 64, pix_fmt
        for number in range(COUNT):
            picture = np.roll(background, 5 * number, 1)[:, :96].copy()
            picture[:8, :8] = 6 * number
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)))
        container.mux(stream.encode())
    return dict(frames_of_video(file, frozenset(range(COUNT))))


FILMS = {
    "H.264 with B-frames": ("a.mp4", "libx264", {"g": "12", "bf": "3"}),
    "one key frame": ("a.mkv", "libx264", {"g": "1000", "bf": "2"}),
    "MPEG-4 in MP4": ("a.mp4", "mpeg4", {"g": "10", "bf": "2"}),
    "MPEG transport stream": ("a.ts", "libx264", {"g": "9", "bf": "2"}),
    "VP9": ("a.webm", "libvpx-vp9", {"g": "8"}),
    "every frame a picture": ("a.mkv", "mjpeg", {}),
}


@pytest.mark.parametrize("name", FILMS)
def test_frames_in_any_order_are_those_of_a_decoding_in_order(tmp_path, name):
    file, codec, options = FILMS[name]
    expected = film(tmp_path / file, codec, options, "yuvj420p" if codec == "mjpeg" else "yuv420p")
    assert len(expected) == COUNT
    order = [*np.random.default_rng(1).permutation(COUNT), *range(COUNT), *reversed(range(COUNT)), 7, 7]
    for number in order:
        np.testing.assert_array_equal(videos.frame_of(str(tmp_path / file), int(number)), expected[int(number)])


def test_a_forked_process_reads_from_a_place_of_its_own(tmp_path):
    file = str(tmp_path / "a.mkv")
    expected = film(Path(file), "libx264", {"g": "1000"})
    np.testing.assert_array_equal(videos.frame_of(file, 3), expected[3])
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.starmap(videos.frame_of, [(file, number) for number in range(COUNT)])
    np.testing.assert_array_equal(found, list(expected.values()))
    np.testing.assert_array_equal(videos.frame_of(file, 4), expected[4])


def test_what_is_not_there(tmp_path):
    film(tmp_path / "a.mp4", "libx264")
    with pytest.raises(DataError, match=rf"a\.mp4: has no frame {COUNT} .* it is a video of {COUNT} frames"):
        decode(f"{tmp_path}/a.mp4#frame={COUNT}")
    with pytest.raises(DataError, match=r"gone\.mp4: cannot read this video: No such file"):
        decode(tmp_path / "gone.mp4#frame=0")
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(DataError, match=r"noise\.mp4: cannot read this video"):
        decode(tmp_path / "noise.mp4#frame=0")
    whole = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])  # what says where the frames are comes last
    with pytest.raises(DataError, match=r"cut\.mp4: cannot read this video"):
        decode(tmp_path / "cut.mp4#frame=0")


def test_frames_behind_the_end_are_missed_before_they_are_read(tmp_path):
    expected = film(tmp_path / "a.mp4", "libx264")
    (tmp_path / "noise.mp4").write_bytes(b"noise")
    (tmp_path / "t.csv").write_text(f"path,tracklet,first,last\na.mp4,film,{COUNT - 2},{COUNT}\nnoise.mp4,noise,0,0\n")
    split = load_rows(tmp_path / "t.csv").split
    missing_F = presence.missing(split)
    assert missing_F.tolist() == [False, False, True, False]
    with pytest.raises(
        DataError, match=rf"a\.mp4#frame={COUNT}: cannot read this image: no such frame \(of tracklet film\)"
    ):
        presence.require_all(split, missing_F)
    np.testing.assert_array_equal(decode(split.path(1)), expected[COUNT - 1])
    film(tmp_path / "a.mp4", "libx264", {"g": "3", "x264-params": "crf=40"})  # another film in its place
    assert not np.array_equal(decode(split.path(1)), expected[COUNT - 1])


@pytest.mark.parametrize(
    ("name", "file", "region"),
    [
        ("a/b.jpg", "a/b.jpg", None),
        ("a#1.jpg", "a#1.jpg", None),
        ("a.jpg#", "a.jpg#", None),
        ("a.jpg#xywh=1,2,3", "a.jpg#xywh=1,2,3", None),
        ("a.jpg#xywh=1,2,3,4", "a.jpg", Region(None, Box(1, 2, 4, 6))),
        ("a.mkv#frame=12", "a.mkv", Region(12, None)),
        ("a#1.mkv#frame=12&xywh=0,2,3,4", "a#1.mkv", Region(12, Box(0, 2, 3, 6))),
    ],
)
def test_names_of_parts(name, file, region):
    assert regions.split(name) == (file, region)
    assert regions.file_of(name) == file
    if region is not None:
        assert regions.named(file, *region) == name


def test_parts_of_pictures_and_frames(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    for box, expected in (
        (Box.of(3.4, 2.6, 5, 6), picture[3:9, 3:8]),
        (Box.of(-4, -1, 10, 5), picture[0:4, 0:6]),
        (Box.of(25, 15, 100, 100), picture[15:, 25:]),
    ):
        np.testing.assert_array_equal(decode(regions.named(str(tmp_path / "a.png"), None, box)), expected)
    assert Box.of(-9, 2, 8, 4) is None and Box.of(1, 2, 0.2, 4) is None
    with pytest.raises(DataError, match=r"a\.png#xywh=40,1,5,5: the box lies outside the image of 30 x 20"):
        decode(tmp_path / "a.png#xywh=40,1,5,5")
    frames = film(tmp_path / "a.mkv", "libx264")
    np.testing.assert_array_equal(decode(tmp_path / "a.mkv#frame=9&xywh=10,20,30,40"), frames[9][20:60, 10:40])


def test_words_in_a_video_need_not_be_utf_8(tmp_path):
    file = tmp_path / "a.mkv"
    with av.open(str(file), "w") as container:
        container.metadata["title"] = "the title"
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 64, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 32, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    changed = file.read_bytes().replace(b"the title", b"\xff" * 9)
    assert b"\xff" * 9 in changed
    file.write_bytes(changed)
    [(number, picture)] = frames_of_video(file, {0})
    np.testing.assert_array_equal(videos.frame_of(str(file), number), picture)


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_video_is_one_line_by_either_way(tmp_path):
    film(tmp_path / "good.mkv", "libx264", {"g": "12"})
    good, rng = (tmp_path / "good.mkv").read_bytes(), np.random.default_rng(0)
    refused = 0
    for number in range(40):
        data = bytearray(good)
        for place in rng.integers(0, 600, 4):  # where the container says what is in it
            data[place] = rng.integers(256)
        file = tmp_path / f"{number}.mkv"
        file.write_bytes(data[: len(data) if number % 2 else rng.integers(1, len(data))])
        for read in (
            lambda file=file: videos.frame_of(str(file), 5),
            lambda file=file: dict(frames_of_video(file, {5})),
        ):
            try:
                read()
            except DataError as error:
                assert len(error.problems) == 1
                refused += 1
    assert refused > 20
