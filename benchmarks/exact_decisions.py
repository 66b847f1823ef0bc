"""Count the (match, row) pairs that float32 cannot order and that are decided in float64, and time the whole count.

    python benchmarks/exact_decisions.py --mars-info DIR [--parts 96 256 4096] [--json FILE]
    python benchmarks/exact_decisions.py --queries 3368 --gallery 519505 --dim 512 [--json FILE]

`--parts`: dimensions multiplied at once (`reid.evaluation.ranking.PART`). More dimensions give a wider proven bound on rounding errors and
so more decisions, fewer give more passes over memory. Data as in benchmarks/evaluation.py.
"""

import argparse
import sys
import time

import evaluation
from record import keep

from reid.evaluation import ranking
from reid.evaluation.masks import find_matches
from reid.protocol import MARS_HIT_AP


def main(argv: list[str]) -> None:
    """Print a line for each size of a part."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--parts", type=int, nargs="+", default=[ranking.PART])
    own, rest = parser.parse_known_args(argv)
    arguments = evaluation.parse(rest)
    features = evaluation.made_up_features(arguments)
    matches = find_matches(features, MARS_HIT_AP)
    rows, decisions = [], []
    add = ranking._Pending.add
    ranking._Pending.add = lambda self, pair, rows: (decisions.append(len(rows)), add(self, pair, rows))[1]
    for part in own.parts:
        ranking.PART = part
        decisions.clear()
        start = time.perf_counter()
        ranking.count_nearer(features, matches)
        seconds = time.perf_counter() - start
        bound = ranking.product_error(arguments.dim)
        rows.append({"part": part, "bound": bound, "decisions": sum(decisions), "seconds": seconds})
        print(f"part {part}: bound {bound:.1e}, {sum(decisions)} exact decisions, {seconds:.2f} s", flush=True)
    keep(arguments.json, {"pairs": len(matches.column), "rows": rows})


if __name__ == "__main__":
    main(sys.argv[1:])
