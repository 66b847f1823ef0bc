"""Safe loading of plain data from pickled files: no code from a file is ever executed."""

from __future__ import annotations

import os
import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from reid.errors import DataError
from reid.files import check_zip


class _Refused(Exception):
    """Raised for a global that is not allowed; the message is its name."""


class _Dtype:
    """Replaces numpy.dtype; the only dtype that these files need is uint8."""

    def __init__(self, code: str | bytes, *_: Any) -> None:
        if code not in ("u1", b"u1"):
            raise ValueError(f"array of {code!r:.40}, expected bytes (u1)")

    def __setstate__(self, state: object) -> None:
        """Ignores the state: byte order and the like do not matter for uint8."""


class _Array:
    """Replaces numpy.ndarray, so that no state from a file reaches NumPy unchecked. `value` is None until `__setstate__`."""

    def __init__(self, *_: Any) -> None:
        self.value: NDArray[np.uint8] | None = None

    def __setstate__(self, state: tuple[int, tuple[int, ...], _Dtype, bool, bytes]) -> None:
        _, shape, dtype, column_major, content = state
        if not isinstance(dtype, _Dtype):
            raise TypeError(f"array of {dtype!r:.40}, expected a dtype")
        self.value = np.frombuffer(content, np.uint8).reshape(shape, order="F" if column_major else "C")


class _Unpickler(pickle.Unpickler):
    ALLOWED = {
        "numpy.core.multiarray._reconstruct": _Array,
        "numpy._core.multiarray._reconstruct": _Array,
        "numpy.ndarray": _Array,
        "numpy.dtype": _Dtype,
        "_codecs.encode": str.encode,  # Python 3 pickles bytes this way for Python 2
    }

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in self.ALLOWED:
            raise _Refused(f"{module}.{name}")
        return self.ALLOWED[f"{module}.{name}"]


def unpickle(path: Path) -> dict[Any, Any]:
    """Loads a pickled dict of plain types and uint8 arrays, written by Python 2 or 3; keys that are bytes are decoded to str.

    Args:
        path: the file.

    Raises:
        DataError: the file is missing or damaged, holds no dict, or refers to any other class or function, which is not executed.
    """
    content = _load_dict(path, _load_pickle)
    return {
        key.decode("latin1") if isinstance(key, bytes) else key: value.value if isinstance(value, _Array) else value
        for key, value in content.items()
    }


def _load_pickle(file: BinaryIO) -> Any:
    """Unpickles a file after checking its memo indices: the memo is a list up to the highest index, so a forged one takes gigabytes."""
    size = os.fstat(file.fileno()).st_size
    for instruction, argument, _ in pickletools.genops(file):
        if instruction.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument or 0) > size:
            raise ValueError(f"{instruction.name} {argument} in a file of {size} bytes")
    file.seek(0)
    return _Unpickler(file, encoding="bytes").load()


def load_arrays(path: Path) -> dict[Any, Any]:
    """Loads a dict of integer arrays from .npz, or from a dict that torch.save wrote.

    Args:
        path: the file; any name that does not end in .npz is read as a file of torch.save.

    Raises:
        DataError: the file is missing or damaged, holds no dict, or refers to any other class or function, which is not executed.
    """
    return _load_dict(path, _load_npz if path.suffix == ".npz" else _load_torch)


def _load_npz(file: BinaryIO) -> Any:
    check_zip(file)
    with np.load(file, allow_pickle=False) as stored:
        return dict(stored)


def _load_torch(file: BinaryIO) -> Any:
    if zipfile.is_zipfile(file):  # files of torch before 1.6 are not zip files and have no checksums
        check_zip(file)
    file.seek(0)
    reconstruct: Any = np.empty(0).__reduce__()[0]
    known_as: list[Any] = [(reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")]
    with torch.serialization.safe_globals([*known_as, np.ndarray, np.dtype, np.dtypes.Int64DType]):
        return torch.load(file, map_location="cpu", weights_only=True)


def _load_dict(path: Path, load: Callable[[BinaryIO], Any]) -> dict[Any, Any]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(
            f"{path}: cannot read this file: {error.strerror}; data/README.md shows the expected layout"
        ) from None
    try:
        with file:
            content = load(file)
    except _Refused as refused:
        raise _refusal(path, str(refused)) from None
    except Exception as error:  # damaged files raise almost any exception
        named = re.search(r"GLOBAL (\S+)|got <class '([^']+)'>", str(error))  # torch's message for a refused global
        if named:
            raise _refusal(path, named[1] or named[2]) from None
        reasons = str(error).rpartition("WeightsUnpickler error: ")[2].splitlines() or [type(error).__name__]
        raise DataError(
            f"{path}: damaged ({path.stat().st_size} bytes): {reasons[0]}; download the file again (see data/README.md)"
        ) from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a dict of arrays, got {type(content).__name__}; is it another file?")
    return content


def _refusal(path: Path, name: str) -> DataError:
    what = f"imports {name}, which a data file never needs"
    return DataError(f"{path}: {what}; nothing in it was executed; download the file from the official site")
