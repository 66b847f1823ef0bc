"""Packs as they are written: with zipfile as the oracle, through kills, full disks and files that change."""

import errno
import fcntl
import itertools
import json
import logging
import os
import signal
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reid.datasets import frames, packing
from reid.datasets.pack import Pack
from reid.errors import ConfigError, DataError
from tests.datasets.conftest import SHARD_BYTES, content, flip, frames_of, hidden, names_of, pack


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
    with pytest.raises(DataError, match=r"bbox_train\.pack: this pack is unfinished, .*--resume auto"):
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


def test_packing_again_leaves_nothing_of_before(root: Path) -> None:
    folder = pack(root, shard_bytes=1000)
    many = len(list(folder.glob("*.zip")))
    (folder / ".00001.zip.7.tmp").write_bytes(b"left by a kill")
    pack(root, keep=True)
    assert len(list(folder.glob("*.zip"))) < many and not list(folder.glob(".*"))
    assert frames_of(folder) == content(root)


@pytest.mark.parametrize(
    ("shard_bytes", "message"),
    [
        (0, "shard size: expected > 0"),
        (5e9, "shard size"),
        (float("nan"), "shard size"),
        (20, "do not fit into a shard"),
    ],
)
def test_shard_sizes_have_a_range(root: Path, shard_bytes: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pack(root, shard_bytes=shard_bytes)


def test_a_pack_keeps_to_a_number_of_shards(tmp_path: Path) -> None:
    root = tmp_path / "bbox_train"
    root.mkdir()
    for number in range(300):
        (root / f"{number:03d}.jpg").write_bytes(b"1234")
    with pytest.raises(ConfigError, match="300 shards, expected 256 at most; choose a larger --shard-size"):
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
    before = content(folder)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(
            DataError, match=r"bbox_train\.pack: another process is writing this pack; wait until it finishes"
        ):
            pack(root)
    assert content(folder) == {**before, ".lock": b""}
    pack(root)
    assert content(folder) == before


def test_a_place_that_cannot_be_written_is_said(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot lock this folder: Not a directory; choose a writable folder"):
        packing.write(root, names_of(root), tmp_path / "file" / "bbox_train.pack")


@pytest.mark.parametrize("theirs", ["precious.txt", "00000.zip", "index.npy", ".precious.tmp"])
def test_a_folder_that_is_no_pack_is_left_alone(tmp_path: Path, theirs: str) -> None:
    other = tmp_path / "bbox_train.pack"
    other.mkdir()
    assert packing.state(other) == "none"
    (other / ".lock").touch()  # by one who was killed at once
    assert packing.state(other) == "none"
    (other / theirs).touch()
    with pytest.raises(DataError, match="exists and is not a pack"):
        packing.state(other)
    with pytest.raises(DataError, match="exists and is not a pack"):
        packing.state(other / theirs)
