"""Time of the evaluation, compared with the bare matrix product that it needs, and with torchreid's evaluator.

    python benchmarks/evaluation.py --mars-info DIR [--peer-path DIR] [--json FILE]
    python benchmarks/evaluation.py --queries 3368 --gallery 519505 --dim 512 --repeat 1
    python benchmarks/evaluation.py --queries 3368 --gallery 519505 --dim 512 --parts figures verification

The contenders take turns, `--repeat` times, and medians are compared, because the machine may be shared. torchreid is imported
from a checkout of deep-person-reid whose Cython has been built in place; it gets the same float32 features.
Identities are synthetic unless --mars-info names the folder of MARS' own tables; features are always synthetic.
"""

import argparse
import importlib.util
import logging
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss  # noqa: F401  (loaded before the threads are limited, so that it is limited too)
import numpy as np
import torch
from record import keep
from scipy.io import loadmat
from threadpoolctl import threadpool_limits

from reid.evaluation.camera_pairs import camera_pairs
from reid.evaluation.evaluate import evaluate, evaluate_all
from reid.evaluation.intervals import bootstrap
from reid.evaluation.verification import verification
from reid.features import FeatureSet
from reid.protocol import MARS_HIT_AP
from reid.report.tables import text_table

LATENT = 64  # dimensions that contain the variance of identities, cameras and tracklets
PARTS: dict[str, Callable[[FeatureSet], object]] = {  # choices of --parts
    "figures": lambda features: evaluate(features, MARS_HIT_AP),
    "intervals": lambda features: bootstrap(evaluate(features, MARS_HIT_AP), features.pid),
    "camera-pairs": lambda features: camera_pairs(features, MARS_HIT_AP),
    "verification": lambda features: verification(features, MARS_HIT_AP),
    "rerank": lambda features: evaluate_all(features, [MARS_HIT_AP], after="rerank"),
    "expand": lambda features: evaluate_all(features, [MARS_HIT_AP], after="expand"),
}


def main(argv: list[str] | None = None) -> None:
    """Measure what is asked on the threads that are asked."""
    arguments = parse(argv)
    torch.set_num_threads(arguments.threads)
    logging.disable(logging.WARNING)
    with threadpool_limits(arguments.threads):  # numpy's BLAS and faiss do not ask torch
        measure(arguments, argv)


def measure(arguments: argparse.Namespace, argv: list[str] | None) -> None:
    """Time the contenders in turns and print a Markdown table."""
    features = made_up_features(arguments)
    report = {"repeat": arguments.repeat, "threads": arguments.threads, "features_bytes": features.features.nbytes}
    if arguments.parts:
        costs = Costs()
        for part in arguments.parts:
            costs.of(part, lambda part=part: PARTS[part](features))
        report["parts"] = costs.rows
        print(costs.table())
    else:
        report |= beside_others(features, arguments)
        print(table(report))
    keep(arguments.json, report, argv)


def beside_others(features: FeatureSet, arguments: argparse.Namespace) -> dict[str, object]:
    """Measure our memory and result, and the seconds of all contenders."""
    contenders = {
        "matrix product": lambda: product(features),
        "this evaluation": lambda: evaluate(features, MARS_HIT_AP),
    }
    found: dict[str, object] = {}
    if arguments.peer_path:
        contenders["torchreid, distance + Cython rank"] = peer(features, arguments.peer_path)
        found["peer_mAP"] = contenders["torchreid, distance + Cython rank"]()
    found["extra_peak_bytes"], found["result"] = extra_memory(lambda: evaluate(features, MARS_HIT_AP).to_json())
    return {**found, "seconds": take_turns(contenders, arguments.repeat) if arguments.repeat else {}}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=1980)
    parser.add_argument("--gallery", type=int, default=12180, help="rows, the queries among them")
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--repeat", type=int, default=7, help="0: one run of ours, for its memory")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--noise", type=float, default=0.5, help="of a tracklet, beside its identity's 1; `inf`: only noise"
    )
    parser.add_argument("--mars-info", metavar="DIR", help="folder of tracks_test_info.mat and query_IDX.mat")
    parser.add_argument("--peer-path", metavar="DIR", help="a built checkout of deep-person-reid")
    parser.add_argument("--parts", nargs="+", default=[], choices=PARTS, help="instead, measure these, once each")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args(argv)


def made_up_features(arguments: argparse.Namespace) -> FeatureSet:
    """Draw features: identity + camera shift + tracklet noise, in few dimensions, mapped to `--dim`."""
    pid, camid, query = identities(arguments)
    rng = np.random.default_rng(0)
    n = len(pid)
    latent = rng.standard_normal((n, LATENT), dtype=np.float32) * rng.gamma(2, 0.5, (n, 1)).astype(np.float32)
    if np.isfinite(arguments.noise):
        latent *= arguments.noise
        centre = rng.standard_normal((pid.max() + 1, LATENT), dtype=np.float32)
        shift = 0.8 * rng.standard_normal((7 * (pid.max() + 1), LATENT), dtype=np.float32)
        latent += np.where(pid[:, None] > 0, centre[pid], 0) + shift[np.maximum(pid, 0) * 7 + camid]
        features = latent @ rng.standard_normal((LATENT, arguments.dim), dtype=np.float32)
    else:
        features = rng.standard_normal((n, arguments.dim), dtype=np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return FeatureSet(features, pid, camid, query, np.arange(n))


def identities(arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read MARS' identities, or make synthetic ones: 16 rows each over 6 cameras, the rest distractors."""
    if arguments.mars_info:
        folder = Path(arguments.mars_info)
        tracks = loadmat(folder / "tracks_test_info.mat")["track_test_info"].astype(np.int64)
        return tracks[:, 2], tracks[:, 3], loadmat(folder / "query_IDX.mat")["query_IDX"].ravel().astype(np.int64) - 1
    rng = np.random.default_rng(1)
    known = min(arguments.gallery, 6 * arguments.queries)
    pid = np.zeros(arguments.gallery, np.int64)
    pid[:known] = 1 + np.arange(known) // 16
    return pid, rng.integers(1, 7, arguments.gallery), np.sort(rng.choice(known, arguments.queries, replace=False))


def product(features: FeatureSet) -> np.ndarray:
    """Compute all similarities at once, the minimum for any exact evaluation."""
    return features.features[features.query] @ features.features[features.gallery].T


def peer(features: FeatureSet, path: str) -> Callable[[], float]:
    """Return a function that runs torchreid's cosine distance and Cython ranking on the gallery without junk, and returns its mAP."""
    folder = Path(path) / "torchreid" / "metrics"
    sys.path.insert(0, str(folder / "rank_cylib"))
    distance, ranking = (load(folder / name) for name in ("distance.py", "rank_cylib/rank_cy"))
    gallery = features.gallery[features.pid[features.gallery] >= 0]
    rows = torch.from_numpy(features.features)
    ids = [array[rows_of] for array in (features.pid, features.camid) for rows_of in (features.query, gallery)]

    def run() -> float:
        distmat = distance.cosine_distance(rows[features.query], rows[gallery]).numpy()
        return float(ranking.evaluate_cy(distmat, *ids, 50, False)[1])

    return run


def load(path: Path):
    """Import one module of torchreid without importing its package and the dependencies of that."""
    if not path.suffix:
        path = next(path.parent.glob(f"{path.name}.*.so"))
    spec = importlib.util.spec_from_file_location(path.name.split(".")[0], path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def take_turns(contenders: dict[str, Callable[[], object]], repeat: int) -> dict[str, list[float]]:
    """Time every run in seconds; the first, cold round is dropped if there are several."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeat + (repeat > 1)):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: runs[-repeat:] for name, runs in seconds.items()}


def extra_memory(run: Callable[[], object]) -> tuple[int | None, object]:
    """Measure the largest growth of the process in bytes during a run (Linux only); also returns the run's result."""
    if not Path("/proc/self/clear_refs").exists():
        return None, run()
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark to the current size
    before = high_water_mark()
    result = run()
    return high_water_mark() - before, result


def high_water_mark() -> int:
    """The largest resident memory of this process so far, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


class Costs:
    """Costs of each part: wall seconds, CPU seconds, and peak bytes in addition to the features."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}

    def of(self, name: str, run: Callable[[], Any]) -> Any:
        """Run a part and record its costs."""
        start, worked = time.perf_counter(), time.process_time()
        extra, result = extra_memory(run)
        seconds, processor = time.perf_counter() - start, time.process_time() - worked
        self.rows[name] = {"seconds": seconds, "processor_seconds": processor, "extra_peak_bytes": extra}
        return result

    def table(self) -> str:
        """Format the costs as text."""
        rows = []
        for name, one in self.rows.items():
            extra = one["extra_peak_bytes"]
            memory = "?" if extra is None else f"{extra / 2**20:.0f}"
            rows.append([name, f"{one['seconds']:.1f}", f"{one['processor_seconds']:.1f}", memory])
        return text_table(["part", "seconds", "processor seconds", "MiB beside the features"], rows)


def table(report: dict) -> str:
    """Format medians and ratios as Markdown."""
    medians = {name: statistics.median(runs) for name, runs in report["seconds"].items()}
    bare = medians.get("matrix product")
    lines = ["| | seconds (median) | x product | slowest / fastest run |", "|---|---|---|---|"]
    for name, median in medians.items():
        runs, ratio = report["seconds"][name], f"{median / bare:.2f}" if bare else "-"
        lines.append(f"| {name} | {median:.3f} | {ratio} | {max(runs) / min(runs):.2f} |")
    extra = "not measured" if report["extra_peak_bytes"] is None else f"{report['extra_peak_bytes'] / 2**20:.0f} MiB"
    memory = f"memory beside {report['features_bytes'] / 2**20:.0f} MiB of features: {extra}"
    result = report["result"]
    size = f"mAP {result['mAP']:.4f}, {result['num_queries']} queries, {result['num_gallery']} rows"
    size += f"; the peer's mAP {report['peer_mAP']:.4f}" if "peer_mAP" in report else ""
    return "\n".join([*lines, "", f"{memory}; {size}"])


if __name__ == "__main__":
    main()
