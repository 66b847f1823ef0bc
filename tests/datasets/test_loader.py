"""Decoding and batching: real files, damaged ones, and order under workers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reid.datasets import workers as processes
from reid.datasets.decoding import decode
from reid.datasets.loader import load_batches
from reid.errors import DataError
from reid.tracklets import Split

SIZES = [(32, 16)] * 6 + [(40, 24)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for i, size in enumerate(SIZES):
        pixels = rng.integers(0, 256, (size[0] // 8, size[1] // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(pixels).save(tmp_path / f"{i}.jpg", quality=95)
    return tmp_path


def split_of(folder: Path) -> Split:
    names = np.array(sorted(path.name.encode() for path in folder.glob("*.jpg")))
    return Split(folder, names, np.array([0]), np.array([len(names)]), np.array([1]), np.array([1]))


def test_jpeg_equals_pillow(folder: Path) -> None:
    for path in folder.glob("*.jpg"):
        np.testing.assert_allclose(decode(path).astype(int), np.asarray(Image.open(path)).astype(int), atol=2)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_png_in_any_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGB", (4, 6), (200, 30, 90)).convert(mode)
    image.save(tmp_path / "a.png")
    assert np.array_equal(decode(tmp_path / "a.png"), np.asarray(image.convert("RGB")))


def test_grey_jpeg_becomes_rgb(tmp_path: Path) -> None:
    Image.new("L", (8, 16), 77).save(tmp_path / "a.jpg")
    assert decode(tmp_path / "a.jpg").shape == (16, 8, 3)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "missing", "folder"])
def test_damaged_files_are_named(folder: Path, damage: str) -> None:
    path = folder / "3.jpg"
    data = path.read_bytes()
    if damage in ("missing", "folder"):
        path.unlink()
        if damage == "folder":
            path.mkdir()
    else:
        path.write_bytes({"truncated": data[: len(data) // 2], "empty": b"", "text": b"not an image"}[damage])
    with pytest.raises(DataError) as caught:
        decode(path)
    assert len(caught.value.problems) == 1
    assert str(path) in str(caught.value)
    assert ("cannot read this image" if damage in ("missing", "folder") else "damaged image") in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_order_and_content(folder: Path, workers: int) -> None:
    split = split_of(folder)
    wanted = [np.array([3, 1]), np.array([0]), np.array([5, 5, 2, 4]), np.array([1, 6])]
    batches = list(load_batches(split, wanted, workers=workers))
    assert [batch.frames.tolist() for batch in batches] == [w.tolist() for w in wanted]
    for batch in batches:
        for image, frame in zip(batch.images, batch.frames.tolist(), strict=True):
            assert np.array_equal(image.numpy(), decode(split.path(frame)))
    assert isinstance(batches[2].images, torch.Tensor)
    assert isinstance(batches[3].images, list)  # sizes differ
    assert [tuple(image.shape[:2]) for image in batches[3].images] == [SIZES[1], SIZES[6]]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_frame_stops_the_run_with_its_name(folder: Path, workers: int) -> None:
    path = folder / "2.jpg"
    path.write_bytes(path.read_bytes()[:200])
    stream = load_batches(split_of(folder), [np.array([0]), np.array([1, 2]), np.array([3])], workers=workers)
    next(stream)
    with pytest.raises(DataError, match=r"2\.jpg: damaged image"):
        next(stream)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_that_are_kept_are_not_written_over(folder: Path, workers: int) -> None:
    split = split_of(folder)
    wanted = [np.array([i % 6, (i + 1) % 6]) for i in range(15)]  # more than there are slots
    kept = [batch.images[0] for batch in load_batches(split, wanted, workers=workers)]  # a view of half a batch
    for image, numbers in zip(kept, wanted, strict=True):
        assert np.array_equal(image.numpy(), decode(split.path(numbers[0])))


def test_memory_is_used_again_once_nobody_holds_it(folder: Path) -> None:
    stream = load_batches(split_of(folder), [np.array([i % 6]) for i in range(40)], workers=1)
    places = {batch.images.data_ptr() for batch in stream if isinstance(batch.images, torch.Tensor)}
    assert len(places) <= len(processes.Slots(1).memory)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_larger_than_a_slot(folder: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    monkeypatch.setattr(processes, "_ROOM", 2 * 32 * 16 * 3 + 1)
    split, wanted = split_of(folder), [np.array([0, 1]), np.array([0, 1, 2, 3, 4, 6]), np.array([6, 6])]
    for batch, numbers in zip(load_batches(split, wanted, workers=workers), wanted, strict=True):
        for image, number in zip(batch.images, numbers, strict=True):
            assert np.array_equal(image.numpy(), decode(split.path(number)))


@pytest.mark.parametrize("workers", [0, 2])
def test_without_shared_slots_batches_travel_themselves(
    folder: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(processes.Slots, "numbered", lambda self, batches: ((i, None) for i in range(batches)))
    [batch] = load_batches(split_of(folder), [np.array([4, 2])], workers=workers)
    assert np.array_equal(batch.images[1].numpy(), decode(folder / "2.jpg"))
