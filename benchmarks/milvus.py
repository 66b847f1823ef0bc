"""Cost of a vector database compared with a feature folder: time to load, latency of a single query, recall, disk, memory.

    OMP_NUM_THREADS=1 python benchmarks/milvus.py [--rows 20000] [--dim 512] [--json FILE]
    OMP_NUM_THREADS=1 python benchmarks/milvus.py --uri http://HOST:19530 --index HNSW:M=16,efConstruction=200

Without --uri the database is milvus-lite, in a scratch folder. Rows are those of benchmarks/gallery.py; queries are rows, each excluded
from its own result. Seconds are wall time, since a server works in other processes; each ratio is of one run. The folder, already open,
is searched exactly by `reid.gallery.search`. A collection that exists already at --uri is refused.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pymilvus  # noqa: F401  first, so that its memory is not counted
from gallery import anonymous_bytes, made_up_gallery
from record import keep

from reid.features import FeatureSet
from reid.gallery import milvus, store
from reid.gallery.search import Hits, search
from reid.tracklets import Split

QUERIES = 100
TOP_K = 10


def main(argv: list[str] | None = None) -> None:
    """Print a Markdown table, one line per engine."""
    arguments = parse(argv)
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        gallery = folder_of(Path(scratch), arguments.rows, arguments.dim)
        features = gallery.features
        own = np.sort(np.random.default_rng(0).permutation(arguments.rows)[:QUERIES])
        seconds, exact = one_by_one(
            lambda row: [search(features, features.features[[row]], top_k=TOP_K, own=np.array([row]))], own
        )
        lines = [record("folder, exact", seconds, 1.0, bytes=folder_bytes(gallery.folder) / arguments.rows)]
        for kind in arguments.index or ["FLAT", "HNSW:M=16,efConstruction=200"]:
            database = arguments.uri or str(Path(scratch) / f"{kind.partition(':')[0].lower()}.db")
            where = milvus.Address(database, f"benchmark_{kind.partition(':')[0].lower()}")
            lines.append(trial(gallery, where, kind, own, exact))
    print(table(lines))
    report = {"rows": arguments.rows, "dim": arguments.dim, "queries": QUERIES}
    report |= {"pymilvus": version("pymilvus"), "milvus_lite": None if arguments.uri else version("milvus-lite")}
    keep(arguments.json, {**report, "trials": lines}, argv)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--index", action="append", metavar="KIND", help="Milvus index (default: FLAT and HNSW)")
    parser.add_argument("--uri", metavar="URI", help="a server, http://HOST:19530")
    parser.add_argument("--scratch", metavar="DIR", help="temporary folder (default: of the system)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args(argv)


def folder_of(scratch: Path, num_rows: int, dim: int) -> store.Gallery:
    """Write a feature folder of synthetic rows."""
    made = made_up_gallery(scratch / "features.npy", num_rows, dim)
    count = np.arange(num_rows)
    key = np.array([f"{pid:06}C1T{row:07}" for row, pid in enumerate(made.pid.tolist())])
    rows = FeatureSet(made.features, made.pid, made.camid, made.query, made.gallery, key, "benchmark")
    names = np.array([f"{text}/frame_00001.jpg".encode() for text in key.tolist()])
    store.write(
        scratch / "gallery",
        rows,
        Split("/data", names, count, count + 1, made.pid, made.camid, key),
        {"source": "made up"},
    )
    return store.open_gallery(scratch / "gallery")


def one_by_one(ask: Callable[[int], list[Any]], own: np.ndarray) -> tuple[np.ndarray, list[Any]]:
    """Time each query alone in seconds, and collect the results; an untimed query comes first as warm-up."""
    ask(int(own[0]))
    seconds, found = [], []
    for row in own.tolist():
        start = time.perf_counter()
        found += ask(row)
        seconds.append(time.perf_counter() - start)
    return np.array(seconds), found


def trial(
    gallery: store.Gallery, where: milvus.Address, kind: str, own: np.ndarray, exact: list[Hits]
) -> dict[str, Any]:
    """Load a new collection and search it."""
    before, start = anonymous_bytes(), time.perf_counter()
    pushed = milvus.push(gallery, where, index=kind)
    loaded = time.perf_counter() - start
    if pushed.total != pushed.written:
        sys.exit(f"{where} already exists; drop it, or choose another database")
    features, start = gallery.features.features, time.perf_counter()
    with milvus.opened(where) as collection:
        opened, keys = time.perf_counter() - start, gallery.features.key
        held = collection.rows([str(keys[row]) for row in own])

        def ask(row: int) -> list[milvus.Found]:
            return [milvus.nearest(collection, features[[row]], top_k=TOP_K, own=[held[str(keys[row])]])]

        seconds, found = one_by_one(ask, own)
        after = anonymous_bytes()
    rows = [one.row[one.hits.rows[0]] for one in found]
    recall = float(np.mean([np.isin(hits.rows[0], near).mean() for hits, near in zip(exact, rows, strict=True)]))
    same = [hits.rows[0].tolist() == near.tolist() for hits, near in zip(exact, rows, strict=True)]
    apart = [
        np.abs(hits.similarity - one.hits.similarity).max()
        for hits, one, s in zip(exact, found, same, strict=True)
        if s
    ]
    size = folder_bytes(Path(where.database)) / len(keys) if where.embedded else None
    memory = None if before is None or after is None else (after - before) / len(keys)
    name = f"{'milvus-lite' if where.embedded else 'Milvus'}, {kind}"
    more = {
        "load_ms_per_row": 1000 * loaded / len(keys),
        "open_s": opened,
        "memory_per_row": memory if where.embedded else None,
    }
    return record(
        name, seconds, recall, bytes=size, **more, same_order=float(np.mean(same)), apart=float(max(apart, default=0))
    )


def record(name: str, seconds: np.ndarray, recall: float, **more: Any) -> dict[str, Any]:
    """Record the measurements of one engine; latencies in milliseconds."""
    median, slow = (float(1000 * np.quantile(seconds, q)) for q in (0.5, 0.95))
    line = {"engine": name, "ms_median": median, "ms_95": slow, "recall": recall, **more}
    print(line, file=sys.stderr, flush=True)
    return line


def folder_bytes(folder: Path) -> int:
    """Total bytes of all files."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def table(lines: list[dict[str, Any]]) -> str:
    """Format as Markdown."""
    out = [
        "| engine | load, ms/row | open, s | one query, ms (95 %) | recall@10 | disk, bytes/row |",
        "|---|---|---|---|---|---|",
    ]
    for line in lines:
        load, opened, size = (
            f"{line[key]:.2f}" if line.get(key) is not None else "" for key in ("load_ms_per_row", "open_s", "bytes")
        )
        latency = f"{line['ms_median']:.1f} ({line['ms_95']:.1f})"
        out.append(
            f"| {line['engine']} | {load} | {opened} | {latency} | {line['recall']:.3f} | {size.split('.')[0]} |"
        )
    return "\n".join(out)


if __name__ == "__main__":
    main()
