"""Read MATLAB files with SciPy in a subprocess, because a damaged file can crash SciPy."""

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

SECONDS, MEMORY = 120, 2**32  # limits of the subprocess; the tables of the largest dataset take a second and 100 MB
_READER = Path(__file__).with_name("matlab_reader.py")
_HDF5 = b"\x89HDF\r\n\x1a\n"

_read: dict[tuple[str, int, int, int], dict[str, Any]] = {}  # cache, by path, inode, modification time and size


def read_all(files: Sequence[Path]) -> None:
    """Read several files at once into the cache of `read`; files that are missing or damaged are skipped, since `read` reports them."""
    todo = [file for file in files if file.is_file() and _state(file) not in _read and not _newer_format(file)]
    if not todo:
        return
    answer = _ask(todo)
    if isinstance(answer, str):
        if len(todo) == 1:
            _read[_state(todo[0])] = {"error": answer}
        return  # one file of several is damaged; reading each alone shows which
    for file, content in zip(todo, answer, strict=True):
        _read[_state(file)] = content


def read(file: Path) -> dict[str, np.ndarray]:
    """Read the variables of a MATLAB file; None stands for those that are neither numbers nor texts.

    Raises:
        DataError: the file is missing, damaged, or in the format of MATLAB 7.3.
    """
    if not file.is_file():
        raise DataError(f"{file}: is missing; it comes with the dataset and cannot be rebuilt (see data/README.md)")
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
    """Read files in a subprocess: one result per file, or the reason why the subprocess failed."""
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
