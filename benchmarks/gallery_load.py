"""Processes that open and search a gallery again and again while another adds rows to it: every answer is checked.

    python benchmarks/gallery_load.py [--rows 100000] [--dim 128] [--searchers 16] [--adds 20] [--add 1000] [--json FILE]

A searcher opens the gallery as `robust-reid search` does (every row is read and compared with its checksum), draws ten rows of those that
are there, and searches for each: the nearest must be the row itself, and the number of rows one that the writer has made. A state that
is half of one change and half of another would show in either. The writer adds rows as `robust-reid extract --add` does.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
from dataclasses import replace
from itertools import chain
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

import numpy as np
from record import keep

from reid.errors import DataError
from reid.features import FeatureSet
from reid.gallery import change, store
from reid.gallery.search import search
from reid.gallery.store import Gallery
from reid.tracklets import Split

PAUSE = 1.0  # seconds between two changes


def unit_rows(count: int, dim: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dim), np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def made(folder: Path, first: int, features: np.ndarray) -> tuple[Gallery, Split]:
    """Rows numbered from `first`, each with a key of its own."""
    number = first + np.arange(len(features))
    keys = np.char.add("t", number.astype(str))
    names = np.char.add(keys.astype("S"), b".jpg")
    split = Split(folder, names, np.arange(len(keys)), np.arange(len(keys)) + 1, number % 5000 + 1, number % 6, keys)
    everything = np.arange(len(keys))
    rows = FeatureSet(features, split.pid, split.camid, np.arange(0), everything, keys, "f00")
    about = {"run": "none", "checkpoint": "last", "source": f"rows from {first}"}
    return Gallery(folder, rows, split.lengths, np.char.add(keys, ".jpg"), about), split


def add(folder: Path, features: np.ndarray) -> None:
    with store.changing(folder):
        held = store.open_gallery(folder)
        count = len(held.features.pid)
        new, _ = made(folder, count, features)
        whole = store.draft(
            folder, chain(store.blocks(held.features.features), [features]), (count + len(features), features.shape[1])
        )
        rows = replace(new.features, features=whole[count:])
        store.commit(change.joined(held, replace(new, features=rows), whole))


def search_on(
    folder: Path, seed: int, sizes: set[int], stop: Event, ready: Barrier, answers: multiprocessing.SimpleQueue
) -> None:
    rng, searches, openings, slowest, seen = np.random.default_rng(seed), 0, 0, 0.0, set[int]()
    problem = ""
    ready.wait()
    while not stop.is_set() and not problem:
        began = time.monotonic()
        try:
            rows = store.open_gallery(folder).features
            asked = rng.integers(len(rows.pid), size=10)
            hits = search(rows, np.asarray(rows.features[asked]), top_k=3)
        except DataError as error:
            problem = f"refused: {error}"
            break
        if len(rows.pid) not in sizes or hits.rows[:, 0].tolist() != asked.tolist():
            problem = f"wrong: {len(rows.pid)} rows, {asked.tolist()} gave {hits.rows[:, 0].tolist()}"
        assert rows.key is not None
        if rows.key[asked].tolist() != [f"t{row}" for row in asked.tolist()]:
            problem = "wrong: keys of other rows"
        openings, searches, slowest = openings + 1, searches + 10, max(slowest, time.monotonic() - began)
        seen.add(len(rows.pid))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    answers.put((openings, searches, slowest, len(seen), memory, problem))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"rows": 100_000, "dim": 128, "searchers": 16, "adds": 20, "add": 1000}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    folder = Path(tempfile.mkdtemp()) / "gallery"
    first, split = made(folder, 0, unit_rows(flags.rows, flags.dim, 0))
    store.write(folder, first.features, split, dict(first.about))
    sizes = {flags.rows + flags.add * number for number in range(flags.adds + 1)}
    context = multiprocessing.get_context("spawn")
    stop, answers, ready = context.Event(), context.SimpleQueue(), context.Barrier(flags.searchers + 1)
    searchers = [
        context.Process(target=search_on, args=(folder, i, sizes, stop, ready, answers)) for i in range(flags.searchers)
    ]
    for process in searchers:
        process.start()
    ready.wait()
    began = time.monotonic()
    for number in range(flags.adds):
        add(folder, unit_rows(flags.add, flags.dim, 1 + number))
        time.sleep(PAUSE)
    seconds = time.monotonic() - began
    stop.set()
    told = [answers.get() for _ in searchers]
    for process in searchers:
        process.join()
    problems = [one[-1] for one in told if one[-1]]
    openings, searches, slowest, states, memory, _ = zip(*told, strict=True)
    report = {
        "rows": [flags.rows, len(store.open_gallery(folder).features.pid)],
        "dimensions": flags.dim,
        "searchers": flags.searchers,
        "openings": sum(openings),
        "searches": sum(searches),
        "slowest_seconds": round(max(slowest), 1),
        "most_states_seen_by_one": max(states),
        "most_memory_of_one_mib": round(max(memory)),
        "seconds": round(seconds),
        "problems": problems,
        "cores": os.cpu_count(),
    }
    shutil.rmtree(folder.parent)
    for name, value in report.items():
        print(f"{name}: {value}")
    keep(flags.json, report)
    raise SystemExit(bool(problems))


if __name__ == "__main__":
    main()
