"""Program started by matlab.py: reads MATLAB files in its own process, so that a crash of SciPy ends only this process.

Arguments: its memory limit in bytes; the files. Output: a line of JSON that gives, for each file, its variables or the error; then
an .npz of the variables that are numbers or texts, each called "file number/variable". Cells of one text each become an array of texts.
"""

import contextlib
import io
import json
import sys
from typing import Any

import numpy as np
from scipy.io import loadmat


def main(memory: int, files: list[str]) -> None:
    """Read the files and write the output."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no such limits
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    told: list[dict[str, Any]] = []
    arrays: dict[str, Any] = {}
    for number, file in enumerate(files):
        try:
            content = {name: value for name, value in loadmat(file).items() if not name.startswith("__")}
        except Exception as error:  # SciPy raises many kinds on damaged files
            told.append({"error": " ".join(str(error).split())[:200] or type(error).__name__})
            continue
        told.append({"variables": list(content)})
        arrays |= {f"{number}/{name}": plain for name, value in content.items() if (plain := _plain(value)) is not None}
    archive = io.BytesIO()
    np.savez(archive, **arrays)
    sys.stdout.buffer.write(json.dumps(told).encode() + b"\n" + archive.getvalue())


def _plain(value: Any) -> np.ndarray | None:
    array = np.asarray(value)
    if array.dtype.kind == "O" and all(isinstance(c, np.ndarray) and c.dtype.kind == "U" for c in array.ravel()):
        texts = [str(cell.ravel()[0]) if cell.size else "" for cell in array.ravel()]
        return np.array(texts, np.str_).reshape(array.shape)
    return array if array.dtype.kind in "biufU" else None


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
