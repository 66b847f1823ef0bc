"""Build and search indexes of a large gallery, compared with exact search: time, memory, recall.

    OMP_NUM_THREADS=1 python benchmarks/gallery.py [--rows 1000000] [--dim 128] [--json FILE]
    OMP_NUM_THREADS=1 python benchmarks/gallery.py --dim 512 --hnsw-rows 0 --index IVF1024,PQ256x4fs      # fewer indexes, sooner

The gallery is a memory-mapped file of synthetic identities, as tools/extract.py would write it; queries are rows of it, each excluded
from its own result. Times are CPU times of all threads together, because the machine may be shared. HNSW is built of the first
`--hnsw-rows` rows only, because building it is slow.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import faiss
import numpy as np
from record import keep

from reid.features import FeatureSet
from reid.gallery import tune

LATENT, ROWS_EACH = 64, 10  # dimensions that contain the variance of identities; rows per identity
NOISE = 0.7  # standard deviation of a row's noise; that of identities is 1
BLOCK = 2**16
PROBES = ["nprobe=4", "nprobe=16", "nprobe=64", "nprobe=256"]


def main(argv: list[str] | None = None) -> None:
    """Print a Markdown table, one line per index and setting."""
    arguments = parse(argv)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        features = made_up_gallery(Path(folder) / "features.npy", arguments.rows, arguments.dim)
        report = {"rows": arguments.rows, "dim": arguments.dim, "queries": tune.QUERIES}
        report |= {"faiss": faiss.__version__, "faiss_threads": faiss.omp_get_max_threads()}
        plan = [(features, {factory: PROBES for factory in arguments.index or indexes(arguments.dim)})]
        if arguments.hnsw_rows:
            plan.append((first_rows(features, arguments.hnsw_rows), {"HNSW32": ["efSearch=16", "efSearch=64"]}))
        report["trials"] = [trial for rows, factories in plan for trial in measured(rows, factories)]
    report["seconds"] = round(time.perf_counter() - start, 1)
    print(table(report["trials"]))
    keep(arguments.json, report, argv)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument(
        "--index", action="append", metavar="FACTORY", help="an IVF index to try (default: IVF1024 Flat, PQ)"
    )
    parser.add_argument("--hnsw-rows", type=int, default=100_000, help="rows of the HNSW index; 0: none")
    parser.add_argument("--scratch", metavar="DIR", help="temporary folder for the features (default: of the system)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args(argv)


def indexes(dim: int) -> list[str]:
    """The indexes in the table of docs/scale.md."""
    return ["IVF1024,Flat", f"IVF1024,PQ{dim // 2}x4fs"]


def made_up_gallery(file: Path, num_rows: int, dim: int) -> FeatureSet:
    """Draw identities and noise per row in few dimensions, mapped to `dim`, as unit rows in random order."""
    rng = np.random.default_rng(0)
    pid = rng.permutation(num_rows) // ROWS_EACH + 1
    centre = rng.standard_normal((num_rows // ROWS_EACH + 2, LATENT), dtype=np.float32)
    spread = rng.standard_normal((LATENT, dim), dtype=np.float32)
    out = np.lib.format.open_memmap(file, "w+", np.float32, shape=(num_rows, dim))
    for first in range(0, num_rows, BLOCK):
        part = pid[first : first + BLOCK]
        rows = (centre[part] + NOISE * rng.standard_normal((len(part), LATENT), dtype=np.float32)) @ spread
        out[first : first + BLOCK] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    out.flush()
    return gallery_of(np.load(file, mmap_mode="r"), pid)


def gallery_of(features: np.ndarray, pid: np.ndarray) -> FeatureSet:
    """Make a gallery without queries."""
    rows = np.arange(len(pid))
    return FeatureSet(features, pid, np.zeros_like(pid), rows[:0], rows)


def first_rows(features: FeatureSet, num_rows: int) -> FeatureSet:
    """Make a gallery of the first rows."""
    return gallery_of(features.features[:num_rows], features.pid[:num_rows])


def measured(features: FeatureSet, factories: dict[str, list[str]]) -> list[dict[str, object]]:
    """Make one record per trial; `anonymous_bytes` is the process's memory outside mapped files, including the index."""
    records = []
    for trial in tune.tune(features, factories, clock=time.process_time):
        records.append({"rows": len(features.pid), **asdict(trial), "anonymous_bytes": anonymous_bytes()})
        print(records[-1], file=sys.stderr, flush=True)
    return records


def anonymous_bytes() -> int | None:
    """Memory of this process outside mapped files, in bytes (Linux only)."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def table(trials: list[dict[str, object]]) -> str:
    """Format as Markdown."""
    lines = [
        "| rows | index | recall@10 | CPU ms/query | queries/s and core | bytes/row | build CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    for t in trials:
        speed = f"{t['milliseconds']:.2f} | {1000 / t['milliseconds']:.0f}"
        cost = f"{t['bytes_per_row']:.0f} | {t['build_seconds']:.0f}"
        lines.append(f"| {t['rows']:,} | {t['factory']} | {t['recall']:.3f} | {speed} | {cost} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
