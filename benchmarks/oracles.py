"""Compare the evaluation with independent code: torchreid's source, scikit-learn, and a literal port of MARS' evaluation.

    python benchmarks/oracles.py --peer-path DIR [--seeds 200] [--json FILE]

DIR is a checkout of deep-person-reid, or the content of `pip download torchreid --no-deps`; if its Cython has been built in place, it is
compared too. Every seed makes another dataset, with junk, distractors, several cameras and queries without a match. torchreid's metrics
depend on the order of near ties, so no two similarities of a query are equal. Its re-ranking works in float32; datasets in which the
distances of a match and a wrong row differ by less than float32 resolves are left out. The largest difference is printed.
"""

import argparse
import logging
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from evaluation import load
from record import keep
from sklearn.metrics import average_precision_score, roc_curve

from reid.evaluation.evaluate import evaluate
from reid.evaluation.masks import find_matches, searched_rows
from reid.evaluation.metrics import average_precision, hit_ranks
from reid.evaluation.reranking import count_nearer_reranked
from reid.evaluation.verification import FINE, verification
from reid.features import FeatureSet
from reid.protocol import MARKET1501, MARS_HIT_AP, MARS_OFFICIAL, MARS_TORCHREID, EvalProtocol

RANKS = 20
NEAREST = 1e-6  # smaller differences of the final distances in torchreid's re-ranking do not determine the order
RATES = (0.2, 0.1, 0.05, 0.02)  # false-match rates
Figures = Iterator[tuple[str, float]]  # the metric compared, and its difference


def main(argv: list[str] | None = None) -> None:
    """Compare and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-path", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    peer = Peer(options.peer_path)
    found: dict[str, list[float]] = defaultdict(list)
    lost = junk = 0
    for seed in range(options.seeds):
        features = made_up(seed)
        lost += evaluate(features, MARS_TORCHREID).num_without_match
        junk += int((features.pid < 0).sum())
        for what, difference in [
            *evaluated(features, peer),
            *reranked(made_up(seed, apart=True), peer),
            *others(features),
        ]:
            found[what].append(difference)
    rows = {what: {"sets": len(all_of), "largest_difference": max(all_of)} for what, all_of in found.items()}
    lines = [f"| {what} | {one['sets']} | {one['largest_difference']:.1e} |" for what, one in rows.items()]
    print("| figure | data sets | largest difference |", "|---|---|---|", *lines, sep="\n")
    print(f"\n{lost} queries without a match under mars-torchreid, {junk} rows of junk in all")
    keep(options.json, {"peer": peer.version, "lost_queries": lost, "junk_rows": junk, "figures": rows})


def made_up(seed: int, n: int = 220, dim: int = 24, *, apart: bool = False) -> FeatureSet:
    """Draw persons of a few rows each; `apart`: no query is in the gallery, as required by torchreid's re-ranking."""
    rng = np.random.default_rng(seed)
    pid, camid = rng.integers(-1, n // 5, n), rng.integers(0, 5, n)
    pid[rng.random(n) < 0.15] = 0
    features = rng.standard_normal((n // 5 + 1, dim))[pid] * (pid[:, None] > 0) + rng.standard_normal((n, dim))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    query = np.sort(rng.choice(np.flatnonzero(pid > 0), n // 5, replace=False))
    gallery = np.setdiff1d(np.arange(n), query) if apart else np.arange(n)
    return FeatureSet(features.astype(np.float32), pid, camid, query, gallery)


class Peer:
    """torchreid's ranking and re-ranking modules, loaded without its package, which has further dependencies."""

    def __init__(self, path: Path) -> None:
        package = path / "torchreid"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the warning that Cython was not found beside this file
            self.rank = load(package / "metrics" / "rank.py").evaluate_py
        built = list((package / "metrics" / "rank_cylib").glob("rank_cy.*.so"))
        self.cython = load(built[0]).evaluate_cy if built else None
        self.re_ranking = load(package / "utils" / "rerank.py").re_ranking
        text = (package / "__init__.py").read_text()
        self.version = "torchreid " + next(line.split("'")[1] for line in text.splitlines() if "__version__" in line)


def similarity(features: FeatureSet, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Compute the (len(left), len(right)) similarities in float64."""
    wide = features.features.astype(np.float64)
    return wide[left] @ wide[right].T


def ids(features: FeatureSet, gallery: np.ndarray) -> list[np.ndarray]:
    """Arguments of torchreid's evaluators besides the distances: pids and cameras of queries and gallery."""
    return [array[rows] for array in (features.pid, features.camid) for rows in (features.query, gallery)]


def evaluated(features: FeatureSet, peer: Peer) -> Figures:
    """Compare mAP and CMC with torchreid's, which has no junk and gets the gallery without it."""
    for protocol in (MARKET1501, MARS_TORCHREID):
        gallery = searched_rows(features, protocol)
        gallery = gallery[features.pid[gallery] >= 0]
        distance, ours = 1 - similarity(features, features.query, gallery), evaluate(features, protocol)
        cmc, mAP = peer.rank(distance, *ids(features, gallery), RANKS, False)
        yield f"mAP, {protocol.name}, torchreid", abs(mAP - ours.mAP)
        yield f"CMC 1-{RANKS}, {protocol.name}, torchreid", largest(cmc, ours.cmc[:RANKS])
        if peer.cython:
            cmc, mAP = peer.cython(distance.astype(np.float32), *ids(features, gallery), RANKS, False)
            yield f"mAP, {protocol.name}, torchreid's Cython (float32)", abs(mAP - ours.mAP)
            yield f"CMC 1-{RANKS}, {protocol.name}, torchreid's Cython (float32)", largest(cmc, ours.cmc[:RANKS])


def reranked(features: FeatureSet, peer: Peer) -> Figures:
    """Compare mAP after k-reciprocal re-ranking in the variant of the authors' code, which torchreid copies."""
    query, gallery = features.query, features.gallery
    parts = [(query, gallery), (query, query), (gallery, gallery)]
    near = [np.sqrt(np.maximum(0, 2 - 2 * similarity(features, *part))) for part in parts]
    for own in near[1:]:
        np.fill_diagonal(own, 0)
    final = peer.re_ranking(*near)
    kept = features.pid[gallery] >= 0
    final, gallery = final[:, kept], gallery[kept]
    matches = find_matches(features, MARKET1501)
    if gap(features, gallery, final) < NEAREST:
        return
    mAP = peer.rank(final, *ids(features, gallery), RANKS, False)[1]
    nearer = count_nearer_reranked(features, MARKET1501, matches, variant="code")
    start = np.unique(matches.start)  # start positions of queries with a match
    yield (
        "mAP, re-ranked, torchreid (float32)",
        abs(mAP - average_precision(hit_ranks(nearer, start), start, "hit").mean()),
    )


def gap(features: FeatureSet, gallery: np.ndarray, final: np.ndarray) -> float:
    """The smallest difference between a query's distances to a match and to a wrong row."""
    match = features.pid[features.query][:, None] == features.pid[gallery]
    return min(
        (float(np.abs(row[own][:, None] - row[~own]).min()) for row, own in zip(final, match, strict=True) if own.any())
    )


def others(features: FeatureSet) -> Figures:
    """Compare AP with scikit-learn and the MARS code, and ROC and equal error rate with scikit-learn."""
    for protocol in (MARKET1501, MARS_HIT_AP, MARS_TORCHREID):
        ours = evaluate(features, protocol)
        theirs = [average_precision_score(match, near) for near, match in compared(features, protocol) if match.any()]
        yield f"AP, {protocol.name}, scikit-learn", largest(theirs, ours.ap)
    ours, walked = (
        evaluate(features, MARS_OFFICIAL),
        [mars_code(*one, RANKS) for one in compared(features, MARS_OFFICIAL)],
    )
    yield "AP, mars-official, port of the MARS code", largest([ap for ap, _ in walked], ours.ap)
    yield (
        f"CMC 1-{RANKS}, mars-official, port of the MARS code",
        largest(np.mean([c for _, c in walked], 0), ours.cmc[:RANKS]),
    )
    check = verification(features, MARKET1501, rates=RATES)
    near, match = map(np.concatenate, zip(*compared(features, MARKET1501), strict=True))
    false, true, _ = roc_curve(match, np.floor(near * FINE), drop_intermediate=False)
    yield "TPR at FPR, scikit-learn", largest([true[false <= rate].max() for rate in RATES], 1 - check.fnmr)
    apart, mean = np.abs(false - (1 - true)), (false + 1 - true) / 2
    tied = apart <= apart.min() + 1e-12  # two thresholds may tie: either mean is an equal error rate
    yield "equal error rate, scikit-learn", float(np.abs(mean[tied] - check.eer).min())


def compared(features: FeatureSet, protocol: EvalProtocol) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each query: its similarity to every row that is not junk for it, and which of these rows match."""
    lists, pid, camid = [], features.pid, features.camid
    for query in features.query:
        rows = searched_rows(features, protocol)
        rows = rows[(pid[rows] >= 0) & ~((pid[rows] == pid[query]) & (camid[rows] == camid[query]))]
        lists.append((similarity(features, np.array([query]), rows)[0], pid[rows] == pid[query]))
    return lists


def mars_code(near: np.ndarray, match: np.ndarray, ranks: int) -> tuple[float, np.ndarray]:
    """Compute AP and CMC of one query as the MARS code does, which stops at the last match."""
    area, old_recall, old_precision, hits = 0.0, 0.0, 1.0, 0
    cmc = np.zeros(ranks)
    for place, row in enumerate(np.argsort(-near)):
        if match[row]:
            cmc[place:] = 1
            hits += 1
        recall, precision = hits / max(1, match.sum()), hits / (place + 1)
        area += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
        if hits == match.sum():
            break
    return area, cmc


def largest(one: object, other: object) -> float:
    """The largest absolute difference between two lists."""
    return float(np.abs(np.subtract(one, other)).max())


if __name__ == "__main__":
    main()
