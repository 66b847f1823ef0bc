"""Processor time and memory of an audit of many tracklets: `robust-reid audit FILE.npz` on made-up features, 10 % of the labels wrong.

OMP_NUM_THREADS=1 python benchmarks/audit_size.py --tracklets 100000 --json benchmarks/results/audit_size.json
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from record import keep


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracklets", type=int, default=100_000)
    parser.add_argument("--per-person", type=int, default=20)
    parser.add_argument("--dimensions", type=int, default=256)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to this file")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "features.npz"
        wrong = write(file, flags.tracklets, flags.tracklets // flags.per_person, flags.dimensions)
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "reid", "audit", str(file), "--out", folder], check=True)
        seconds, used = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        summary = json.loads((Path(folder) / "audit.json").read_text())
    figures = {
        "tracklets": flags.tracklets,
        "persons": flags.tracklets // flags.per_person,
        "dimensions": flags.dimensions,
        "wrong": wrong,
        "estimated": summary["wrong_labels"],
        "seconds": seconds,
        "processor_seconds": used.ru_utime + used.ru_stime,
        "peak_gb": used.ru_maxrss / 2**20,
    }
    print(json.dumps(figures, indent=1))
    keep(flags.json, figures)
    return 0


def write(file: Path, tracklets: int, persons: int, dimensions: int) -> float:
    """Features in clusters, one per person; returns the share of wrong labels."""
    rng = np.random.default_rng(0)
    centre = rng.standard_normal((persons, dimensions)).astype(np.float32)
    true = rng.integers(persons, size=tracklets)
    features = centre[true] + 1.1 * rng.standard_normal((tracklets, dimensions)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    pid, change = true.copy(), rng.random(tracklets) < 0.1
    pid[change] = rng.integers(persons, size=int(change.sum()))
    camid = rng.integers(6, size=tracklets)
    np.savez(file, features=features, pid=pid + 1, camid=camid, query=np.arange(1))
    return float((pid != true).mean())


if __name__ == "__main__":
    raise SystemExit(main())
