"""Time to index a dataset of Market-1501's size, made of empty files: 12,936 training images, 3,368 queries, 19,732 gallery rows.

    python benchmarks/market_index.py [--repeat 5] [--json FILE]

The names are read from the folders and parsed; no image is opened.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from statistics import median

from record import keep

from reid.datasets.sources.market1501 import load_market1501

# Names as in the archive; the gallery has persons, junk (-1) and distractors (0000).
PARTS = {
    "bounding_box_train": [(f"{2 * (i % 751) + 2:04d}", i) for i in range(12_936)],
    "query": [(f"{2 * (i % 750) + 1:04d}", i) for i in range(3_368)],
    "bounding_box_test": [
        *((f"{2 * (i % 750) + 1:04d}", i) for i in range(13_115)),
        *(("-1", i) for i in range(3_819)),
        *(("0000", i) for i in range(2_798)),
    ],
}


def make(root: Path) -> None:
    """Create the folders with empty files."""
    for part, images in PARTS.items():
        (root / part).mkdir()
        for person, i in images:
            os.close(os.open(root / part / f"{person}_c{i % 6 + 1}s1_{i:06d}_00.jpg", os.O_CREAT | os.O_WRONLY))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    seconds, cpu_seconds = [], []
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        for _ in range(flags.repeat):
            start, cpu_start = time.perf_counter(), time.process_time()
            held = load_market1501(Path(folder))
            seconds.append(round(time.perf_counter() - start, 3))
            cpu_seconds.append(round(time.process_time() - cpu_start, 3))
    assert held.name == "market1501"  # the counts are the published ones
    print("| training images | queries | gallery | median s | worst s | median s of CPU |\n|---|---|---|---|---|---|")
    sizes = f"{len(held.train):,} | {len(held.query):,} | {len(held.gallery):,}"
    print(f"| {sizes} | {median(seconds)} | {max(seconds)} | {median(cpu_seconds)} |")
    counts = {"train": len(held.train), "query": len(held.query), "gallery": len(held.gallery)}
    keep(flags.json, {"counts": counts, "seconds": seconds, "cpu_seconds": cpu_seconds})


if __name__ == "__main__":
    main()
