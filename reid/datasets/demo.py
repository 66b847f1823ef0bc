"""The demo dataset: rendered people in the MARS layout, with wrong tracklet labels; the ground truth is in a side file.

Shapes: T tracklets, F frames, I identities. Every random number comes from a generator seeded by (seed, purpose, number), so images depend
neither on the label noise nor on the number of processes.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reid.datasets.demo_plan import LOOKS, TRACKLET, DemoPlan, Ints, draw_pids, plan_identities, plan_test
from reid.datasets.demo_settings import DemoSettings
from reid.datasets.figures import make_person
from reid.datasets.noise import uniform_others
from reid.datasets.orphans import end_with_parent
from reid.datasets.scenes import draw_frame, expose, start_walk
from reid.errors import DataError
from reid.files import NPY_ERRORS, check_zip, lives

GENERATOR = 1  # raise it whenever the same settings give other pixels
SCHEMA = 1
TRUTH_FILE = "info/demo_truth.npz"
RIGHT_PERSON, OTHER_PERSON, BACKGROUND = 0, 1, 2

Item = TypeVar("Item")


@dataclass(frozen=True)
class DemoTruth:
    """The ground truth of a demo dataset. Rows follow the dataset's tables, frames its name lists.

    Args:
        true_pid: (T,) int64, the person in each training tracklet.
        true_row: (T,) int64, the tracklet's row in the table of a noiseless dataset (sorted by true pid, camera, tracklet). Wrong labels
            are drawn in that order, so `uniform_others(true labels by true_row, I, rate, noise_seed)` gives the labels on disk.
        train_frame_kind, test_frame_kind: (F,) uint8, 0 the tracklet's own person (a stranger in
            distractors), 1 another person, 2 background.
        settings: of the dataset.
    """

    true_pid: Ints
    true_row: Ints
    train_frame_kind: NDArray[np.uint8]
    test_frame_kind: NDArray[np.uint8]
    settings: DemoSettings


def write_demo(
    root: Path,
    *,
    workers: int = 1,
    progress: Callable[..., Iterable[Any]] = lambda items, total: items,
    **settings: Any,
) -> Path:
    """Draw a demo dataset and move it to `root` atomically.

    A high label noise with few tracklets may leave an identity without tracklets; its pid is then missing from the training table.

    Args:
        root: the dataset's folder; must not exist yet or be empty.
        workers: drawing processes.
        progress: wraps the tracklets as they are finished, called as progress(items, total=T).
        settings: fields of `DemoSettings`.
    Returns:
        `root`.
    Raises:
        ConfigError: a setting is out of its range.
        DataError: `root` is not empty or cannot be written.
    """
    chosen, root = DemoSettings(**settings), Path(root)
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise DataError(
            f"demo dataset: {root} is not empty; expected a new or empty folder; choose another one or remove it first."
        )
    _remove_leftovers(root.absolute())
    partial_root = root.absolute().with_name(f".{root.absolute().name}.{socket.gethostname()}.{os.getpid()}.partial")
    try:
        (partial_root / "info").mkdir(parents=True)
        _write(partial_root, chosen, workers, progress)
        os.replace(partial_root, root)
    except OSError as error:
        raise DataError(
            f"demo dataset: cannot write {root}: {error}; choose another folder or free some space."
        ) from error
    finally:
        shutil.rmtree(partial_root, ignore_errors=True)
    return root


def _remove_leftovers(root: Path) -> None:
    """Delete the temporary folders beside the dataset that killed processes of this machine left behind."""
    pattern = re.compile(rf"\.{re.escape(root.name)}\.{re.escape(socket.gethostname())}\.(\d+)\.partial")
    for left in root.parent.iterdir() if root.parent.is_dir() else ():
        if (match := pattern.fullmatch(left.name)) and not lives(int(match[1])):
            shutil.rmtree(left, ignore_errors=True)


def load_truth(root: Path) -> DemoTruth:
    """Read the ground truth of a demo dataset.

    Raises:
        DataError: the file is missing, damaged, or of another schema.
    """
    path = Path(root) / TRUTH_FILE
    if not path.is_file():
        raise DataError(f"demo dataset: {path} is missing; expected a dataset written by robust-reid render.")
    try:
        with open(path, "rb") as file:
            check_zip(file)
        with np.load(path, allow_pickle=False) as stored:
            found = {name: stored[name] for name in stored.files}
        settings = json.loads(str(found["settings"]))
        version = int(found["schema"]), settings.pop("generator")
        arrays = {field.name: found[field.name] for field in dataclasses.fields(DemoTruth) if field.name != "settings"}
    except (*NPY_ERRORS, AttributeError) as error:
        raise DataError(f"demo dataset: {path} is damaged: {error}; remove the folder and render it again") from None
    if version != (SCHEMA, GENERATOR):
        raise DataError(
            f"demo dataset: {path} has schema and generator {version}, expected {(SCHEMA, GENERATOR)}; remove the "
            "folder and render it again"
        )
    return DemoTruth(**arrays, settings=DemoSettings(**settings))


@dataclass(frozen=True)
class _Job:
    """One tracklet for a worker: its parameters, and the prefix of its file names."""

    stem: str
    number: int
    camid: int
    length: int
    looks: int
    intruder: int
    slip: float


def _write(root: Path, settings: DemoSettings, workers: int, progress: Callable[..., Iterable[Any]]) -> None:
    train_pids, test_pids = draw_pids(settings)
    train = plan_identities(settings, train_pids, subset=0)
    test = plan_test(settings, test_pids)
    label_T = np.searchsorted(train_pids, train.pid)
    noisy_T = train_pids[uniform_others(label_T, len(train_pids), settings.label_noise, settings.noise_seed)]
    train_row, train_stem, train_table = _file(noisy_T, train, "bbox_train")
    test_row, test_stem, test_table = _file(test.pid, test, "bbox_test")
    jobs = [*_jobs(train, train_row, train_stem), *_jobs(test, test_row, test_stem)]
    for folder in {Path(job.stem).parent for job in jobs}:
        (root / folder).mkdir(parents=True)
    draw = partial(_draw_tracklet, root, settings.seed, settings.intruders)
    kinds = list(progress(_each(draw, jobs, workers), total=len(jobs)))
    _write_tables(root, train_table, test_table)
    for name, rows in (("train", jobs[: len(train_row)]), ("test", jobs[len(train_row) :])):
        names = [f"{Path(job.stem).name}F{frame:03d}.jpg\n" for job in rows for frame in range(1, job.length + 1)]
        (root / f"info/{name}_name.txt").write_text("".join(names), encoding="ascii")
    np.savez_compressed(
        root / TRUTH_FILE,
        schema=SCHEMA,
        settings=json.dumps({"generator": GENERATOR} | dataclasses.asdict(settings)),
        true_pid=train.pid[train_row],
        true_row=train_row,
        train_frame_kind=np.concatenate(kinds[: len(train_row)]),
        test_frame_kind=np.concatenate(kinds[len(train_row) :]),
    )


def _file(pid_T: Ints, plan: DemoPlan, folder: str) -> tuple[Ints, list[str], NDArray[np.int32]]:
    """Order a plan's tracklets as on disk, under the given pids, and name their files.

    Returns:
        (T,) the plan's row for each row on disk; the T file name stems; the (T, 4) table [start, end, pid, cam], 1-based inclusive.
    """
    row_T = np.lexsort((plan.camid, pid_T))
    pid_T, camid_T, length_T = pid_T[row_T], plan.camid[row_T], plan.length[row_T]
    first_T = np.r_[True, (np.diff(pid_T) != 0) | (np.diff(camid_T) != 0)]
    number_T = np.arange(len(row_T)) - np.maximum.accumulate(np.where(first_T, np.arange(len(row_T)), 0)) + 1
    stop_T = np.cumsum(length_T)
    table = np.stack([stop_T - length_T + 1, stop_T, pid_T, camid_T], axis=1).astype(np.int32)
    texts = ["00-1" if pid == -1 else f"{pid:04d}" for pid in pid_T]
    stems = [
        f"{folder}/{text}/{text}C{cam}T{number:04d}" for text, cam, number in zip(texts, camid_T, number_T, strict=True)
    ]
    return row_T, stems, table


def _jobs(plan: DemoPlan, row_T: Ints, stems: list[str]) -> Iterator[_Job]:
    columns = (plan.number, plan.camid, plan.length, plan.looks, plan.intruder, plan.slip)
    return map(_Job, stems, *(column[row_T].tolist() for column in columns))


def _each(draw: Callable[[_Job], Item], jobs: list[_Job], workers: int) -> Iterator[Item]:
    """Yield the results in the order of the jobs."""
    if workers <= 1:
        yield from map(draw, jobs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent) as pool:
        yield from pool.map(draw, jobs, chunksize=8)


def _draw_tracklet(root: Path, seed: int, intruders: float, job: _Job) -> NDArray[np.uint8]:
    """Write one tracklet's images; returns the (F,) kind of each frame."""
    rng = np.random.default_rng([seed, TRACKLET, job.number])
    kind_F = _frame_kinds(job.length, intruders, rng)
    if job.looks < 0:
        kind_F[:] = BACKGROUND
    walk = start_walk(job.camid, rng)
    seen = {RIGHT_PERSON: job.looks, OTHER_PERSON: job.intruder}
    people = {
        kind: make_person(np.random.default_rng([seed, LOOKS, looks])) for kind, looks in seen.items() if looks >= 0
    }
    frames = [draw_frame(walk, people.get(int(kind)), step, rng, job.slip) for step, kind in enumerate(kind_F)]
    for step, pixels in enumerate(expose(frames, walk, rng)):
        Image.fromarray(pixels).save(root / f"{job.stem}F{step + 1:03d}.jpg", quality=90)
    return kind_F


def _frame_kinds(length: int, share: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw the kind of each frame: sometimes the tracker loses its person for a run of up to a third of the frames."""
    kind_F = np.full(length, RIGHT_PERSON, np.uint8)
    longest = max(1, length // 3)
    if rng.random() < share * length / ((1 + longest) / 2):
        run = int(rng.integers(1, longest + 1))
        start = int(rng.integers(0, length - run + 1))
        kind_F[start : start + run] = OTHER_PERSON if rng.random() < 0.7 else BACKGROUND
    return kind_F


def _write_tables(root: Path, train: NDArray[np.int32], test: NDArray[np.int32]) -> None:
    from scipy.io import savemat

    new_T = np.r_[np.any(np.diff(test[:, 2:], axis=0) != 0, axis=1), True]
    query = 1 + np.flatnonzero(new_T & (test[:, 2] > 0))  # as in MARS: the last tracklet of each person and camera
    query_IDX = query[None].astype(np.uint16 if len(test) <= np.iinfo(np.uint16).max else np.int32)
    savemat(root / "info/tracks_train_info.mat", {"track_train_info": train}, do_compression=True)
    savemat(root / "info/tracks_test_info.mat", {"track_test_info": test}, do_compression=True)
    savemat(root / "info/query_IDX.mat", {"query_IDX": query_IDX}, do_compression=True)
