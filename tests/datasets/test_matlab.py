"""MATLAB files: numbers and texts come through; what crashes the library, or is of a newer format, is one line."""

import struct
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from reid.datasets import matlab
from reid.errors import DataError


def test_numbers_and_texts_come_through(tmp_path: Path) -> None:
    file = tmp_path / "a.mat"
    table = np.arange(12, dtype=np.int32).reshape(3, 4)
    names = np.array(["1_001_1_01.png", "2_001_1_02.png"], object)[:, None]
    savemat(file, {"table": table, "names": names, "other": {"a": 1}}, do_compression=True)
    read = matlab.read(file)
    assert np.array_equal(read["table"], table) and read["table"].dtype == np.int32
    assert [name.strip() for name in read["names"].ravel().tolist()] == names.ravel().tolist()
    assert read["other"] is None
    savemat(file, {"table": table + 1})
    assert np.array_equal(matlab.read(file)["table"], table + 1)  # a file that has changed is read anew


def element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + b"\0" * (-len(content) % 8)


def odd_struct() -> bytes:
    """A struct that claims field names of no length, by which SciPy divides."""
    flags, dimensions = element(6, struct.pack("<II", 2, 0)), element(5, struct.pack("<ii", 1, 1))
    body = element(14, flags + dimensions + element(1, b"t") + struct.pack("<HHI", 5, 4, 0) + element(1, b"a" * 8))
    return b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<HH", 0x0100, 0x4D49) + element(15, zlib.compress(body))


def test_what_crashes_the_reader_does_not_take_the_command_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = tmp_path / "reader.py"
    reader.write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    monkeypatch.setattr(matlab, "_READER", reader)
    (tmp_path / "a.mat").write_bytes(odd_struct())
    with pytest.raises(DataError, match=r"a\.mat: not a readable MATLAB file \(SciPy crashed on it: SIGSEGV\)"):
        matlab.read(tmp_path / "a.mat")


def test_a_reader_that_does_not_end_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reader.py").write_text("import time; time.sleep(60)")
    monkeypatch.setattr(matlab, "_READER", tmp_path / "reader.py")
    monkeypatch.setattr(matlab, "SECONDS", 0.2)
    (tmp_path / "a.mat").write_bytes(b"x")
    with pytest.raises(DataError, match=r"reading it took more than 0\.2 s"):
        matlab.read(tmp_path / "a.mat")


def test_hostile_bytes_are_one_line(tmp_path: Path) -> None:
    for number, content in enumerate((b"", b"no", odd_struct(), odd_struct()[:150])):
        file = tmp_path / f"{number}.mat"
        file.write_bytes(content)
        with pytest.raises(DataError, match="not a readable MATLAB file") as caught:
            matlab.read(file)
        assert len(caught.value.problems) == 1


def test_the_newer_format_is_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:
        file["t"] = np.arange(3)
    with pytest.raises(DataError, match=r"in the format of MATLAB 7\.3 \(HDF5\); save it again with save"):
        matlab.read(tmp_path / "a.mat")
