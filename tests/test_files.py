"""Files appear whole or not at all; a folder is one program's until it ends, however it ends."""

import errno
import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch

from reid.errors import DataError
from reid.files import LOCK, atomic, check_zip, exclusive_lock, remove_left_behind

BUSY = "somebody is here; wait"


def hold(folder: Path, pipe: Connection) -> None:
    with exclusive_lock(folder, BUSY):
        pipe.send("held")
        pipe.recv()


@contextmanager
def holder(folder: Path) -> Iterator[tuple[multiprocessing.process.BaseProcess, Connection]]:
    """Another process, which holds the folder until it is sent something."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=hold, args=(folder, theirs))
    process.start()
    theirs.close()
    try:
        assert ours.poll(60) and ours.recv() == "held"
        yield process, ours
    finally:
        process.kill()
        process.join()
        process.close()
        ours.close()


def enter(folder: Path) -> list[str]:
    """What is in the folder while this process holds it."""
    with exclusive_lock(folder, BUSY):
        return os.listdir(folder)


def test_two_processes_are_never_both_in(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "one"
    with holder(folder) as (process, pipe):
        for _ in range(2):  # to be turned away takes nothing from the holder
            with pytest.raises(DataError) as caught:
                enter(folder)
            assert caught.value.problems == (f"{folder}: {BUSY}",)
            assert os.listdir(folder) == [LOCK]
        pipe.send("go")
        process.join(60)
        assert process.exitcode == 0
    assert os.listdir(folder) == []
    assert enter(folder) == [LOCK]
    assert os.listdir(folder) == []


def test_a_killed_holder_bars_nobody(tmp_path: Path) -> None:
    with holder(tmp_path) as (process, _):
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    assert os.listdir(tmp_path) == [LOCK]
    assert enter(tmp_path) == [LOCK]
    assert os.listdir(tmp_path) == []


def test_an_error_inside_passes_and_frees_the_folder(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError, match="their own"), exclusive_lock(tmp_path, BUSY):
        raise BlockingIOError("their own")
    assert os.listdir(tmp_path) == []


def gone(file: Path) -> None:
    file.unlink()


def next_one(file: Path) -> None:
    file.unlink()
    file.touch()


@pytest.mark.parametrize("change", [gone, next_one])
def test_whoever_comes_as_the_folder_is_given_back_does_not_hold_a_removed_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda lock, how: change(tmp_path / LOCK))
    with pytest.raises(DataError, match=BUSY):
        enter(tmp_path)
    assert (tmp_path / LOCK).exists() == (change is next_one)  # the next one's lock stays


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(lock: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(DataError) as caught:
        enter(tmp_path)
    what = (
        f"cannot lock this folder: {os.strerror(number)}; choose a writable folder on a file system that supports locks"
    )
    assert caught.value.problems == (f"{tmp_path / LOCK}: {what}",)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for folder, reason in ((tmp_path / "file", "File exists"), (tmp_path / "file" / "in", "Not a directory")):
        with pytest.raises(DataError, match=f"cannot lock this folder: {reason}; choose a writable folder"):
            enter(folder)
    (tmp_path / LOCK).mkdir()
    with pytest.raises(DataError, match="cannot lock this folder: Is a directory"):
        enter(tmp_path)

    def forbidden(*_: object, **__: object) -> None:  # as chmod would not stop root
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "mkdir", forbidden)
    with pytest.raises(DataError, match="cannot lock this folder: Permission denied"):
        enter(tmp_path / "theirs")


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.txt"
    with atomic(file) as temporary:
        temporary.write_text("first")
        assert not file.exists()
    with pytest.raises(ZeroDivisionError), atomic(file) as temporary:
        temporary.write_text("sec")
        raise ZeroDivisionError
    assert [(held.name, held.read_text()) for held in file.parent.iterdir()] == [("a.txt", "first")]


def zip_with_directory(make: Callable[[Path], object], file: Path) -> tuple[bytes, int]:
    """A ZIP file's bytes, and where its directory begins."""
    make(file)
    with zipfile.ZipFile(file) as archive:
        return file.read_bytes(), archive.start_dir


def arrays(file: Path) -> None:
    np.savez(file, features=np.eye(3), gallery=np.arange(2), fingerprint=np.array("f00"))


def tensors(file: Path) -> None:
    torch.save({"schema": 1, "first": torch.zeros(4), "second": torch.ones(4)}, file)


# Of the directory: what no reader looks at here (version, dates, attributes) may change, and changes nothing.
@pytest.mark.parametrize(("make", "name"), [(arrays, "a.npz"), (tensors, "a.pt")])
def test_no_changed_bit_of_a_zip_gives_other_content(make: Callable[[Path], object], name: str, tmp_path: Path) -> None:
    good, directory = zip_with_directory(make, tmp_path / name)
    read = (lambda f: {k: v.tolist() for k, v in np.load(f).items()}) if make is arrays else torch.load
    expected, found = str(read(tmp_path / name)), 0
    for place in range(directory, len(good)):
        for bit in (1, 128):
            bad = tmp_path / f"bad{Path(name).suffix}"
            bad.write_bytes(good[:place] + bytes([good[place] ^ bit]) + good[place + 1 :])
            try:
                with open(bad, "rb") as file:
                    check_zip(file)
                content = str(read(bad))
            except (zipfile.BadZipFile, RuntimeError):  # torch's own reader raises the second
                found += 1
                continue
            assert content == expected, f"byte {place}"
    assert found > (len(good) - directory) / 2


def test_a_changed_byte_of_a_member_is_found(tmp_path: Path) -> None:
    good, directory = zip_with_directory(arrays, tmp_path / "a.npz")
    place = directory - 10
    (tmp_path / "a.npz").write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
    with open(tmp_path / "a.npz", "rb") as file, pytest.raises(zipfile.BadZipFile, match="checksum of"):
        check_zip(file)


def test_what_a_killed_process_has_left_is_removed_and_a_living_ones_is_not(tmp_path: Path) -> None:
    code = "import os, sys; from pathlib import Path; from reid.files import atomic\nwith atomic(Path(sys.argv[1])) as t: t.touch(); "
    for name in ("a.pt", "b.pt"):
        done = subprocess.run(
            [sys.executable, "-c", code + "os.kill(os.getpid(), 9)", str(tmp_path / name)], check=False
        )
        assert done.returncode == -9
    left = sorted(os.listdir(tmp_path))
    assert [name[:6] for name in left] == [".a.pt.", ".b.pt."]
    *name, host, pid, end = left[0].split(".")
    living, elsewhere = ".".join([*name, host, str(os.getppid()), end]), ".".join([*name, "00000000", pid, end])
    for name in (living, elsewhere):
        (tmp_path / name).touch()
    with atomic(tmp_path / "a.pt") as temporary:
        temporary.write_text("whole")
    assert sorted(os.listdir(tmp_path)) == sorted([living, elsewhere, left[1], "a.pt"])
    remove_left_behind(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([living, elsewhere, "a.pt"])
