"""MATLAB files, read by SciPy in a process of its own: a damaged one can crash SciPy, and must not take the command along."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reid.errors import DataError

SECONDS, MEMORY = 120, 2**32  # of the reading process; the tables of the largest dataset take a second and 100 MB
_READER = Path(__file__).with_name("matlab_reader.py")
_HDF5 = b"\x89HDF\r\n\x1a\n"

_read: dict[tuple[str, int, int, int], dict[str, Any]] = {}  # by path, inode, time and size: what has been read already


def read_all(files: Sequence[Path]) -> None:
    """Reads some files at once, for `read` to give; one that is not there or damaged is passed over, as `read` tells of it."""
    todo = [file for file in files if file.is_file() and _state(file) not in _read and not _newer_format(file)]
    if not todo:
        return
    answer = _ask(todo)
    if isinstance(answer, str):
        if len(todo) == 1:
            _read[_state(todo[0])] = {"error": answer}
        return  # one of them; which, shows when each is asked for alone
    for file, content in zip(todo, answer, strict=True):
        _read[_state(file)] = content


def read(file: Path) -> dict[str, np.ndarray]:
    """The variables of a MATLAB file that are numbers or texts; None stands for others.

    Raises:
        DataError: the file is missing, damaged, or in the format of MATLAB 7.3.
    """
    if not file.is_file():
        raise DataError(f"{file}: missing; it comes with the dataset and cannot be rebuilt (see data/README.md)")
    if _newer_format(file):
        raise DataError(f"{file}: in the format of MATLAB 7.3 (HDF5); save it again with save(…, '-v7')")
    read_all([file])
    content = _read[_state(file)]
    if "error" in content:
        raise DataError(f"{file}: not a readable MATLAB file ({content['error']}); copy it again")
    return content["arrays"]


def _state(file: Path) -> tuple[str, int, int, int]:
    held = file.stat()
    return str(file.absolute()), held.st_ino, held.st_mtime_ns, held.st_size


def _newer_format(file: Path) -> bool:
    with open(file, "rb") as stream:
        head = stream.read(512 + len(_HDF5))
    return head.startswith(_HDF5) or head[512:] == _HDF5


def _ask(files: Sequence[Path]) -> list[dict[str, Any]] | str:
    """What the reading process said of each file, or what became of it."""
    command = [
        sys.executable,
        "-P",
        "-W",
        "ignore",
        str(_READER),
        str(MEMORY),
        *(str(file.absolute()) for file in files),
    ]
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"reading it took more than {SECONDS} s"
    if done.returncode < 0:
        return f"SciPy crashed on it: {signal.Signals(-done.returncode).name}"
    try:
        line, _, archive = done.stdout.partition(b"\n")
        told = json.loads(line)
        with np.load(io.BytesIO(archive), allow_pickle=False) as arrays:
            held = {name: arrays[name] for name in arrays.files}
    except (ValueError, zipfile.BadZipFile, OSError, EOFError):
        return f"reading it failed: {done.stderr.decode(errors='replace').strip().rpartition(chr(10))[2]:.200}"
    return [
        {"error": said["error"]}
        if "error" in said
        else {"arrays": {name: held.get(f"{number}/{name}") for name in said["variables"]}}
        for number, said in enumerate(told)
    ]
