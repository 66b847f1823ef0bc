"""The whole evaluation on MARS' own tables with synthetic features: every protocol and every metric at full size.

    python benchmarks/mars_tables.py --info DIR [--protocol all] [--dim 1024] [--after] [--json FILE]

DIR holds MARS' three .mat tables; the name lists are rebuilt from them by the dataset's naming rule, and the index is read
and checked by the dataset's own loader. Features are drawn from a seed: identity, camera shift and tracklet noise. Counts are therefore
those of MARS, and metrics are not those of any model.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from itertools import zip_longest
from pathlib import Path

import numpy as np
from evaluation import Costs
from mars_index import write_layout
from record import keep

from reid.datasets.mars import load_mars
from reid.evaluation.evaluate import AFTER_STEPS, analyse, evaluate_all
from reid.features import EvalResult, FeatureSet
from reid.protocol import get_protocols
from reid.report.tables import analysis_text, protocols_table, text_table
from reid.tracklets import Benchmark

LATENT = 64  # dimensions that contain the variance of identities, cameras and tracklets


def read_tables(info: Path) -> Benchmark:
    """Load MARS' index from its three tables, through the layout that its loader reads."""
    with tempfile.TemporaryDirectory() as folder:
        write_layout(info, Path(folder) / "mars")
        return load_mars(Path(folder) / "mars")


def made_up_features(benchmark: Benchmark, dim: int, noise: float, seed: int) -> FeatureSet:
    """Draw one row per test tracklet: identities cluster, cameras shift them, distractors and junk have no identity."""
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
    """Tabulate the counts that matter to the protocols."""
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
    """Evaluate and print; returns the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--info", type=Path, required=True, help="folder with MARS' three .mat tables")
    parser.add_argument("--protocol", default="all", metavar="NAME|all")
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument(
        "--noise", type=float, default=1.0, help="noise of a tracklet, relative to the norm 1 of its identity"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--after", action="store_true", help="also re-ranking and query expansion, under each protocol")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    benchmark = read_tables(options.info)
    features = made_up_features(benchmark, options.dim, options.noise, options.seed)
    protocols, costs = get_protocols(options.protocol), Costs()
    results = costs.of("figures", lambda: evaluate_all(features, protocols))
    analyses = costs.of("intervals, camera pairs, verification", lambda: analyse(features, results))
    for step in AFTER_STEPS if options.after else ():
        results += costs.of(step, lambda step=step: evaluate_all(features, protocols, after=step))
    for result, analysis in zip(results, analyses, strict=False):
        print(analysis_text(result, analysis), end="\n\n")
    print(counts_table(benchmark), protocols_table(results), costs.table(), sep="\n\n")
    records = [one.to_json() | more for one, more in zip_longest(results, analyses, fillvalue={})]
    size = {"queries": len(features.query), "rows": len(features.pid), "dim": options.dim, "seed": options.seed}
    keep(options.json, {**size, "costs": costs.rows, "results": records}, argv)
    return results


if __name__ == "__main__":
    main()
