"""LS-VID: lists of tracklets (``tracklet_train/0000/0000_0000 0``: prefix of the frames' names, person) and the query numbers.

Frames are named ``0000_0000_01_0001.jpg`` with the camera third. ``info_test.mat`` (MATLAB 7.3) or ``query.npy`` holds rows of the test
list, counted from 1. Persons are numbered from 0 there and from 1 here, because 0 is a distractor.
"""

from __future__ import annotations

import bisect
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from reid.datasets.sources.base import Options, Published, Rows, images_of, require_file, rows_of
from reid.datasets.sources.published import Track, named, track_benchmark
from reid.errors import DataError
from reid.files import NPY_ERRORS, text_of
from reid.tracklets import Benchmark

PUBLISHED = Published(842, 2_831, 3_504, 11_310, "Li et al., ICCV 2019, Table 2, and the lists of the archive")
SHAPE = "list_sequence/list_seq_{train,test}.txt, tracklet_train/, tracklet_test/, test/data/info_test.mat"
_PERSON = re.compile(r"-?\d{1,18}")
_EXAMPLE = "tracklet_train/0000/0000_0000 0"
_QUERIES = ("test/data/info_test.mat", "test/query.npy", "info/data/info_test.mat")


def load_ls_vid(folder: Path) -> Benchmark:
    """Load the index; every test tracklet is in the gallery, queries included.

    Raises:
        DataError: a list, folder or frame is missing, or a list has another form.
    """
    lists = next(
        (folder / place for place in ("list_sequence", "info/list_sequence") if (folder / place).is_dir()), None
    )
    if lists is None:
        raise DataError(f"{folder / 'list_sequence'}: expected this folder (LS-VID has {SHAPE}), got nothing")
    train, test = (list(_tracks(folder, lists / f"list_seq_{part}.txt")) for part in ("train", "test"))
    query = _queries(folder, len(test))
    return named(
        track_benchmark(
            "ls-vid", folder, [track for track in train if track.pid > 0], test, query, np.arange(len(test))
        ),
        PUBLISHED,
    )


def recognise(source: Path) -> str | None:
    """Return why the source is this dataset, or None."""
    found = [
        place for place in ("list_sequence", "info/list_sequence") if (source / place / "list_seq_test.txt").is_file()
    ]
    return f"{found[0]}/list_seq_test.txt" if found else None


def read(source: Path, options: Options) -> Rows:
    """Read the dataset as rows."""
    return rows_of(load_ls_vid(source), PUBLISHED)


def _tracks(folder: Path, file: Path) -> Iterator[Track]:
    listed: dict[str, list[str]] = {}  # sorted names by folder, because many tracklets share one
    for number, line in enumerate(text_of(require_file(file, f"LS-VID has {SHAPE}")).splitlines(), start=1):
        if not line.strip():
            continue
        place, _, person = line.strip().rpartition(" ")
        if "/" not in place or not _PERSON.fullmatch(person):
            raise DataError(f"{file}: line {number}: expected a line such as '{_EXAMPLE}', got '{line[:80]}'")
        inside, _, begin = place.strip().rpartition("/")
        if inside not in listed:
            listed[inside] = sorted(images_of(folder / inside)) if os.path.isdir(folder / inside) else []
        names = listed[inside]
        first, last = bisect.bisect_left(names, begin + "_"), bisect.bisect_left(names, begin + "`")  # "`" follows "_"
        frames = names[first:last]
        if not frames:
            raise DataError(
                f"{file}: line {number}: expected frames {folder / place}_…, got none; is the dataset complete?"
            )
        camera = frames[0].split("_")[2] if frames[0].count("_") >= 3 else ""
        if not camera.isdecimal():
            raise DataError(
                f"{folder / inside / frames[0]}: expected a name such as 0000_0000_01_0001.jpg, camera third"
            )
        pid = int(person)
        yield Track([f"{inside}/{name}" for name in frames], pid + 1 if pid >= 0 else pid, int(camera), place.strip())


def _queries(folder: Path, num_test: int) -> np.ndarray:
    """Read the (Q,) int64 rows of the queries in the test list, counted from 0."""
    file = next((folder / place for place in _QUERIES if (folder / place).is_file()), None)
    if file is None:
        raise DataError(f"{folder / _QUERIES[0]}: expected this file, or {_QUERIES[1]}: the queries; got neither")
    rows = _read_npy(file) if file.suffix == ".npy" else _read_hdf5(file)
    if (
        rows.dtype.kind not in "iuf"
        or not len(rows)
        or np.any((rows < 1) | (rows > num_test) | (rows != np.rint(rows)))
    ):
        raise DataError(
            f"{file}: expected rows of the test list, 1 to {num_test}, got {rows.dtype} {rows[:3].tolist()} …"
        )
    return rows.astype(np.int64) - 1


def _read_npy(file: Path) -> np.ndarray:
    try:
        return np.asarray(np.load(file, allow_pickle=False)).ravel()
    except NPY_ERRORS as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DataError(f"{file}: not a readable .npy file: {reason}; copy it again") from None


def _read_hdf5(file: Path) -> np.ndarray:
    try:
        import h5py
    except ImportError:
        raise DataError(
            f"{file}: MATLAB 7.3 files are read by h5py, which is not installed: pip install 'robust-reid[hdf5]', or "
            f"save its variable query as {_QUERIES[1]}"
        ) from None
    try:
        with h5py.File(file) as content:
            return np.asarray(content["query"]).ravel()
    except (OSError, KeyError) as error:
        raise DataError(f"{file}: expected a MATLAB 7.3 file with a variable query ({error})") from None
