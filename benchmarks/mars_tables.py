"""The whole evaluation on MARS' own tables with made-up features: every protocol and every figure at full size.

    python benchmarks/mars_tables.py --info DIR [--protocol all] [--dim 1024] [--json FILE]

DIR holds MARS' three .mat tables; the name lists are rebuilt from them by the dataset's naming rule, and the index is read
and checked by the dataset's own loader. Features are drawn from a seed: an identity, a shift by camera, a tracklet's own
noise. So counts are MARS' own, and figures say nothing of any model.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
from mars_index import write_layout

from reid.datasets.mars import load_mars
from reid.evaluation.evaluate import analyse, evaluate_all
from reid.features import EvalResult, FeatureSet, save_results
from reid.protocol import get_protocols
from reid.report.tables import analysis_text, protocols_table, text_table
from reid.tracklets import Benchmark

LATENT = 64  # dimensions in which identities, cameras and tracklets differ


def read_tables(info: Path) -> Benchmark:
    """MARS' index from its three tables, through the layout that its loader reads."""
    with tempfile.TemporaryDirectory() as folder:
        write_layout(info, Path(folder) / "mars")
        return load_mars(Path(folder) / "mars")


def made_up_features(benchmark: Benchmark, dim: int, noise: float, seed: int) -> FeatureSet:
    """One row per test tracklet: identities cluster, cameras shift them, distractors and junk are nobody."""
    pid, camid = benchmark.test.pid, benchmark.test.camid
    rng = np.random.default_rng(seed)
    person = rng.standard_normal((pid.max() + 1, LATENT), dtype=np.float32)
    shift = 0.5 * rng.standard_normal((camid.max() + 1, LATENT), dtype=np.float32)
    own = rng.standard_normal((len(pid), LATENT), dtype=np.float32) * rng.gamma(2, noise / 2, (len(pid), 1))
    latent = own + shift[camid] + np.where(pid[:, None] > 0, person[pid], rng.standard_normal(own.shape))
    features = latent.astype(np.float32) @ rng.standard_normal((LATENT, dim), dtype=np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return FeatureSet(features, pid, camid, benchmark.query, benchmark.gallery)


def counts_table(benchmark: Benchmark) -> str:
    """What the tables hold, as the protocols see it."""
    pid = benchmark.test.pid
    rows = [
        ["queries", len(benchmark.query)],
        ["identities among them", len(np.unique(pid[benchmark.query]))],
        ["gallery", len(benchmark.gallery)],
        ["junk (pid -1)", int((pid < 0).sum())],
        ["distractors (pid 0)", int((pid == 0).sum())],
    ]
    return text_table(["MARS", "number"], rows)


def main(argv: list[str] | None = None) -> list[EvalResult]:
    """Evaluates and prints; gives the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--info", type=Path, required=True, help="folder with MARS' three .mat tables")
    parser.add_argument("--protocol", default="all", metavar="NAME|all")
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--noise", type=float, default=1.0, help="of a tracklet, beside its identity's 1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="as tools/test.py --full --json")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    begin = perf_counter()
    benchmark = read_tables(options.info)
    features = made_up_features(benchmark, options.dim, options.noise, options.seed)
    ready = perf_counter()
    results = evaluate_all(features, get_protocols(options.protocol))
    evaluated = perf_counter()
    analyses = analyse(features, results)
    done = perf_counter()
    for result, analysis in zip(results, analyses, strict=True):
        print(analysis_text(result, analysis), end="\n\n")
    print(counts_table(benchmark), protocols_table(results), sep="\n\n")
    times = f"index and features {ready - begin:.1f}, figures {evaluated - ready:.1f}, the rest {done - evaluated:.1f}"
    print(f"\nseconds: {times} ({len(results)} protocols, {options.dim} dimensions, {os.cpu_count()} cores)")
    if options.json:
        save_results(options.json, results, analyses)
    return results


if __name__ == "__main__":
    main()
