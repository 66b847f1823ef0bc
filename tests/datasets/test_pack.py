"""Packs read back byte for byte, with zipfile as the oracle; kills, damage and the index at size."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import json
import logging
import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reid.datasets import frames, packing
from reid.datasets.mars import image_names
from reid.datasets.pack import Pack, stand_in
from reid.errors import ConfigError, DataError

PERSONS = ["00-1", "0000", "0001", "00010", "0002", "00020"]  # some begin as others do
SHARD_BYTES = 4000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of files with all sorts of sizes, none and one byte among them."""
    rng = np.random.default_rng(0)
    root = tmp_path / "data" / "bbox_train"
    for person in PERSONS:
        (root / person).mkdir(parents=True)
        for frame, size in enumerate([0, 1, *rng.integers(2, 700, 6)]):
            (root / person / f"{person}C1T0001F{frame:03d}.jpg").write_bytes(rng.bytes(size))
    return root


def names_of(root: Path) -> list[bytes]:
    return sorted(os.fsencode(file.relative_to(root)) for file in root.rglob("*.jpg"))


def pack(root: Path, *, shard_bytes: float = SHARD_BYTES, keep: bool = False) -> Path:
    folder = root.with_name(root.name + ".pack")
    packing.write(root, names_of(root), folder, shard_bytes=shard_bytes, keep=keep)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def hidden(root: Path) -> dict[str, bytes]:
    """The content of a folder, which is away afterwards."""
    held = content(root)
    root.rename(root.with_name("away"))
    return held


def test_every_file_reads_as_it_was(root: Path) -> None:
    pack(root)
    held = hidden(root)
    assert len(held) == 48
    for name, data in held.items():
        assert frames.read(root / name) == data
        assert frames.read(str(root / name)) == data


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


def test_zipfile_agrees_on_every_offset_and_byte(root: Path) -> None:
    folder = pack(root)
    index, row = np.load(folder / "index.npy", allow_pickle=False), 0
    shards = sorted(folder.glob("*.zip"))
    assert len(shards) == len(json.loads((folder / "pack.json").read_text())["shards"]) > 3
    for shard in shards:
        raw = shard.read_bytes()
        with zipfile.ZipFile(shard) as archive:
            assert archive.testzip() is None
            for member in archive.infolist():
                name, offset, size, crc = index[row].item()
                lengths = struct.unpack_from("<HH", raw, member.header_offset + 26)
                assert offset == member.header_offset + 30 + sum(lengths)
                assert (os.fsdecode(name), size, crc) == (member.filename, member.file_size, member.CRC)
                assert raw[offset : offset + size] == archive.read(member) == (root / member.filename).read_bytes()
                row += 1
    assert row == len(index) and index["name"].tolist() == names_of(root)


def test_shards_are_as_full_as_they_may_be(root: Path) -> None:
    with_next = []
    for shard, (first, last) in enumerate(itertools.pairwise(Pack(pack(root)).first)):
        sizes = [(root / os.fsdecode(name)).stat().st_size for name in names_of(root)]
        assert 0 < sum(sizes[first:last]) <= SHARD_BYTES, shard
        with_next.append(sum(sizes[first : last + 1]))
    assert min(with_next[:-1]) > SHARD_BYTES


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


KILLER = """
import os, signal, sys, zipfile
from pathlib import Path
from reid.datasets import packing
root, owner, name, after = Path(sys.argv[1]), {"os": os, "ZipFile": zipfile.ZipFile}[sys.argv[2]], sys.argv[3], int(sys.argv[4])
inner, calls = getattr(owner, name), 0
def counted(*args, **settings):
    global calls
    calls += 1
    if calls == after:
        os.kill(os.getpid(), signal.SIGKILL)
    return inner(*args, **settings)
setattr(owner, name, counted)
names = sorted(os.fsencode(file.relative_to(root)) for file in root.rglob("*.jpg"))
packing.write(root, names, root.with_name(root.name + ".pack"), shard_bytes=4000)
"""


@pytest.mark.parametrize(
    "moment",
    [
        ("ZipFile", "writestr", 1),  # in the first shard
        ("ZipFile", "writestr", 31),  # in another
        ("ZipFile", "close", 2),  # before its directory is written
        ("os", "replace", 3),  # complete, but not yet in its place
        ("os", "replace", -2),  # the index
        ("os", "replace", -1),  # the last thing of all
    ],
)
def test_killed_anywhere_it_resumes_to_identical_bytes(root: Path, moment: tuple[str, str, int]) -> None:
    expected = content(pack(root))
    folder = root.with_name("bbox_train.pack")
    folder.rename(folder.with_name("straight"))
    shards = sum(name.endswith(".zip") for name in expected)
    owner, name, after = moment
    calls = str(after if after > 0 else shards + 3 + after)
    killed = subprocess.run([sys.executable, "-c", KILLER, str(root), owner, name, calls], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert packing.state(folder) == "unfinished"
    with pytest.raises(DataError, match=r"bbox_train\.pack: this pack is unfinished; .*--resume auto"):
        Pack(folder)
    finished = {file: file.stat().st_ino for file in folder.glob("*.zip") if not file.name.startswith(".")}
    pack(root, keep=True)
    assert content(folder) == expected
    assert {file: file.stat().st_ino for file in finished} == finished  # kept, not made again


def test_a_shard_that_is_not_as_the_folder_is_made_again(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    folder = pack(root)
    first, second, third = sorted(folder.glob("*.zip"))[:3]
    kept = first.stat().st_ino
    flip(second, second.stat().st_size // 2)
    with zipfile.ZipFile(third) as archive:
        changed = root / archive.namelist()[3]
    flip(changed, 0)
    pack(root, keep=True)
    packing.verify(folder)
    assert first.stat().st_ino == kept
    assert [record.getMessage().split(": ")[0] for record in caplog.records] == [str(second), str(third)]
    assert frames_of(folder) == content(root)


def frames_of(folder: Path) -> dict[str, bytes]:
    held = Pack(folder)
    return {os.fsdecode(name): held.read(row) for row, name in enumerate(held.names)}


def test_packing_again_leaves_nothing_of_before(root: Path) -> None:
    folder = pack(root, shard_bytes=1000)
    many = len(list(folder.glob("*.zip")))
    (folder / ".00001.zip.7.tmp").write_bytes(b"left by a kill")
    pack(root, keep=True)
    assert len(list(folder.glob("*.zip"))) < many and not list(folder.glob(".*"))
    assert frames_of(folder) == content(root)


def flip(file: Path, position: int) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 16
    file.write_bytes(data)


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


@pytest.mark.parametrize(
    ("shard_bytes", "message"),
    [(0, "shard size: expected > 0"), (5e9, "shard size"), (float("nan"), "shard size"), (20, "more than a shard")],
)
def test_shard_sizes_have_a_range(root: Path, shard_bytes: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pack(root, shard_bytes=shard_bytes)


def test_a_pack_keeps_to_a_number_of_shards(tmp_path: Path) -> None:
    root = tmp_path / "bbox_train"
    root.mkdir()
    for number in range(300):
        (root / f"{number:03d}.jpg").write_bytes(b"1234")
    with pytest.raises(ConfigError, match="300 shards, expected 256 at most; choose larger ones with --shard-size"):
        pack(root, shard_bytes=5)
    pack(root, shard_bytes=8)
    hidden(root)
    assert frames.read(root / "299.jpg") == b"1234"


def test_a_full_disk_is_one_line_and_can_be_resumed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner, calls = zipfile.ZipFile.writestr, itertools.count(1)

    def full(*args: Any) -> None:
        if next(calls) > 25:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        inner(*args)

    with monkeypatch.context() as disk:
        disk.setattr(zipfile.ZipFile, "writestr", full)
        with pytest.raises(DataError, match=r"\d\.zip: cannot write this file: No space left on device"):
            pack(root)
    folder = pack(root, keep=True)
    assert frames_of(folder) == content(root)


def test_an_image_that_goes_meanwhile_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner, gone = zipfile.ZipFile.writestr, root / "0002" / "0002C1T0001F003.jpg"

    def deleting(*args: Any) -> None:
        gone.unlink(missing_ok=True)
        inner(*args)

    monkeypatch.setattr(zipfile.ZipFile, "writestr", deleting)
    with pytest.raises(DataError, match=r"0002C1T0001F003\.jpg: cannot read this file: No such file"):
        pack(root)


def test_an_image_that_changes_meanwhile_is_found(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner, changed = zipfile.ZipFile.close, root / "00-1" / "00-1C1T0001F003.jpg"

    def changing(archive: zipfile.ZipFile) -> None:
        inner(archive)
        changed.write_bytes(b"x" + changed.read_bytes()[1:])

    monkeypatch.setattr(zipfile.ZipFile, "close", changing)
    with pytest.raises(DataError, match=r"00-1C1T0001F003\.jpg differs from the file"):
        pack(root)


def test_two_writers_do_not_meet(root: Path) -> None:
    folder = pack(root)
    with open(folder / "pack.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process is writing this pack"):
            pack(root)


def test_a_place_that_cannot_be_written_is_said(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write here: Not a directory; choose another place with --out"):
        packing.write(root, names_of(root), tmp_path / "file" / "bbox_train.pack")


def test_a_folder_that_is_no_pack_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "bbox_train.pack"
    other.mkdir()
    assert packing.state(other) == "none"
    (other / "precious.txt").touch()
    with pytest.raises(DataError, match="expected a pack or nothing, got something else"):
        packing.state(other)


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
