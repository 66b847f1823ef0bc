"""Packs read back byte for byte, from any process; damage, and the index at size."""

import hashlib
import itertools
import json
import multiprocessing
import os
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from reid.datasets import frames, packing
from reid.datasets.mars import image_names
from reid.datasets.pack import Pack, stand_in
from reid.errors import DataError
from tests.datasets.conftest import content, flip, hidden, pack


def test_every_file_reads_as_it_was(root: Path) -> None:
    pack(root)
    held = hidden(root)
    assert len(held) == 48
    for name, data in held.items():
        assert frames.read(root / name) == data
        assert frames.read(str(root / name)) == data
        assert frames.is_packed(root / name)


def test_relative_paths_mean_the_current_folder(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(root)
    held = hidden(root)
    other = tmp_path / "other" / "bbox_train" / "0001" / "0001C1T0001F002.jpg"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"another")
    name = Path("bbox_train/0001/0001C1T0001F002.jpg")
    for folder, data in (
        ("data", held["0001/0001C1T0001F002.jpg"]),
        ("other", b"another"),
        ("data", held["0001/0001C1T0001F002.jpg"]),
    ):
        monkeypatch.chdir(tmp_path / folder)
        assert frames.read(name) == data
        assert frames.read(Path("..") / folder / name) == data


def test_a_folder_that_is_there_is_read_itself(root: Path) -> None:
    pack(root)
    (root / "0001" / "0001C1T0001F003.jpg").write_bytes(b"newer")
    (root / "0001" / "0001C1T0001F004.jpg").unlink()
    (root / "0002").rename(root.with_name("away"))
    assert frames.read(root / "0001" / "0001C1T0001F003.jpg") == b"newer"
    for name in ("0001/0001C1T0001F004.jpg", "0002/0002C1T0001F001.jpg"):
        with pytest.raises(DataError, match="cannot read this image: No such file"):
            frames.read(root / name)


@pytest.mark.parametrize(
    "name", ["0001/0001C1T0001F999.jpg", "0001/x", "0001", "0003/x.jpg", "0001/0001C1T0001F001.jpg\0", "", "9/8/7.jpg"]
)
def test_what_a_pack_does_not_hold_is_said(root: Path, name: str) -> None:
    pack(root)
    hidden(root)
    with pytest.raises(DataError) as caught:
        frames.read(f"{root}/{name}")
    assert len(caught.value.problems) == 1 and str(root) in str(caught.value)
    assert not frames.is_packed(f"{root}/{name}")


def test_without_folder_and_pack_the_image_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"bbox_train/0001/a\.jpg: cannot read this image: No such file"):
        frames.read(tmp_path / "bbox_train" / "0001" / "a.jpg")


@pytest.mark.parametrize("near", [0, 100, 2**14])
def test_what_is_expected_is_asked_of_the_disk_and_changes_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch, near: int
) -> None:
    held = content(root)
    opened = Pack(pack(root))
    hidden(root)
    stand_in(root)
    wanted = [name for number, name in enumerate(held) if number % 3]
    paths: list[str | Path] = [
        *(root / name for name in wanted),
        root / "0001" / "none.jpg",
        root / "0003" / "a.jpg",
        "nowhere/a.jpg",
    ]
    asked: list[tuple[int, int, int]] = []
    with monkeypatch.context() as disk:
        disk.setattr(os, "posix_fadvise", lambda file, begin, size, advice: asked.append((file, begin, begin + size)))
        disk.setattr("reid.datasets.pack._NEAR", near)
        frames.expect(paths)
    shard_of = {descriptor: number for number, descriptor in enumerate(dict.fromkeys(file for file, _, _ in asked))}
    pieces = [(shard_of[file], begin, end) for file, begin, end in asked]
    assert pieces == sorted(pieces)
    for name in wanted:
        row = opened.names.tolist().index(os.fsencode(name))
        _, offset, size, _ = opened.index[row].item()
        shard = int(np.searchsorted(opened.first, row, side="right")) - 1
        assert any(where == shard and begin <= offset and offset + size <= end for where, begin, end in pieces)
    gaps = [(two[1] - one[2]) for one, two in itertools.pairwise(pieces) if one[0] == two[0]]
    assert all(gap > near for gap in gaps) and (near < 2**14 or not gaps)
    assert {name: frames.read(root / name) for name in held} == held


def test_images_of_folders_and_damaged_packs_can_be_expected(root: Path) -> None:
    folder = pack(root)
    stand_in(root)
    names = [root / name for name in content(root)]
    frames.expect(names)
    (folder / "pack.json").unlink()
    hidden(root)
    frames.expect(names)
    with pytest.raises(DataError, match="this pack is unfinished"):
        frames.read(names[0])


def _read_all(paths: list[Path]) -> list[bytes]:
    return [frames.read(path) for path in paths]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_the_same(root: Path, method: str) -> None:
    pack(root)
    held = hidden(root)
    paths = [root / name for name in held]
    assert _read_all(paths) == list(held.values())  # its descriptors are open before the processes begin
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(_read_all, [paths, paths[::-1]]) == [list(held.values()), list(held.values())[::-1]]


def test_one_damaged_image_is_named_and_the_others_read_on(root: Path) -> None:
    folder = pack(root)
    held = Pack(folder)
    row = 29
    name, offset, size, _ = held.index[row].item()
    shard = folder / held.shards[int(np.searchsorted(held.first, row, side="right")) - 1].file
    flip(shard, offset + size - 1)
    kept = hidden(root)
    for other, data in kept.items():
        if other == os.fsdecode(name):
            with pytest.raises(DataError, match=rf"{shard.name}: {other} is damaged: expected {size} bytes with CRC"):
                frames.read(root / other)
        else:
            assert frames.read(root / other) == data
    with pytest.raises(DataError, match=rf"{shard.name}: {os.fsdecode(name)} is damaged"):
        packing.verify(folder)


def test_any_flipped_bit_of_a_shard_is_found(root: Path) -> None:
    folder = pack(root)
    shard = folder / "00001.zip"
    for where in range(0, shard.stat().st_size, 29):  # files, headers, directory
        flip(shard, where)
        with pytest.raises(DataError, match=r"00001\.zip"):
            packing.verify(folder)
        flip(shard, where)
    packing.verify(folder)


def shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def edit_about(**changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        about = folder / "pack.json"
        about.write_text(json.dumps({**json.loads(about.read_text()), **changes}))

    return edit


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "shard cut": (lambda f: shorten(f / "00001.zip"), r"00001\.zip: expected \d+ bytes, got \d+; copy this shard"),
    "shard gone": (lambda f: (f / "00002.zip").unlink(), r"00002\.zip: cannot open this shard: No such file"),
    "index flipped": (lambda f: flip(f / "index.npy", 500), r"index\.npy: expected SHA-256 .* got"),
    "index cut": (lambda f: shorten(f / "index.npy"), r"index\.npy: expected SHA-256"),
    "index gone": (lambda f: (f / "index.npy").unlink(), r"index\.npy: No such file"),
    "unfinished": (lambda f: (f / "pack.json").unlink(), "this pack is unfinished"),
    "no JSON": (lambda f: (f / "pack.json").write_text("{"), r"pack\.json: damaged"),
    "other JSON": (lambda f: (f / "pack.json").write_text("[1]"), r"pack\.json: damaged"),
    "newer": (edit_about(schema=2), r"pack\.json: expected schema 1, got 2"),
    "fewer shards": (edit_about(shards=[]), r"index\.npy: expected 0 rows, got 48"),
}


@pytest.mark.parametrize(("spoil", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_pack_is_one_clear_error(root: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(pack(root))
    hidden(root)
    for use in (
        lambda: frames.read(root / "0001" / "0001C1T0001F001.jpg"),
        lambda: frames.is_packed(root / "0001" / "0001C1T0001F001.jpg"),
        lambda: stand_in(root),
        lambda: packing.verify(root.with_name("bbox_train.pack")),
    ):
        with pytest.raises(DataError, match=message) as caught:
            use()
        assert len(caught.value.problems) == 1


def test_each_damaged_shard_has_its_line(root: Path) -> None:
    folder = pack(root)
    for shard in ("00001.zip", "00003.zip"):
        flip(folder / shard, (folder / shard).stat().st_size // 2)
    with pytest.raises(DataError) as caught:
        packing.verify(folder)
    assert [Path(problem.split(": ")[0]).name for problem in caught.value.problems] == ["00001.zip", "00003.zip"]


def test_100_000_names_stay_one_mapped_array(tmp_path: Path) -> None:
    folder, rows = tmp_path / "bbox_train.pack", 100_000
    folder.mkdir()
    index = np.zeros(rows, [("name", "S24"), ("offset", "<u4"), ("size", "<u4"), ("crc", "<u4")])
    index["name"] = [b"%04d/%04dC1T%04dF%03d.jpg" % (i // 100, i // 100, 1, i % 100) for i in range(rows)]
    index["offset"], index["size"], index["crc"] = np.arange(rows), 1, zlib.crc32(b"x")
    np.save(folder / "index.npy", index)
    (folder / "00000.zip").write_bytes(b"x" * rows)
    shards = [{"file": "00000.zip", "files": rows, "bytes": rows, "sha256": ""}]
    digest = hashlib.sha256((folder / "index.npy").read_bytes()).hexdigest()
    (folder / "pack.json").write_text(json.dumps({"schema": 1, "index_sha256": digest, "shards": shards}))
    tracemalloc.start()
    try:
        held = Pack(folder)
        for row in (0, 99, 100, 54_321, rows - 1):
            assert held.find(index["name"][row]) == row
        allocated = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert allocated < 100_000  # bytes: one per name would be more
    assert held.span(b"0321") == (32_100, 32_200)
    assert frames.read(tmp_path / "bbox_train" / "0999" / "0999C1T0001F099.jpg") == b"x"
    assert image_names(tmp_path / "bbox_train") == index["name"].tolist()
