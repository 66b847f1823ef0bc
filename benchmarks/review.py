"""Gain of one review of an audit's suspects: train on the demo with 30 % wrong labels, audit, correct, train again.

For each loss: with all noise, without the first n suspects, with the first n corrected by a reviewer who makes no mistakes, and with
true labels only. Uses the runs and audits of `benchmarks/audit.py`, and makes them if missing.

    python benchmarks/review.py --json benchmarks/results/review.json

With `--no-review`, what an audit gives without a person instead: with its weights.csv, and without the first n suspects, where n is the
number of wrong labels that it estimates.

    python benchmarks/review.py --no-review --json benchmarks/results/no_review.json
"""

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any

from audit import LOSSES, RATES, ROOT, calibration, embedded, read_manifest, run_cell, train
from record import keep

from reid.commands.audit import judged, write_drops, write_label_weights
from reid.datasets.demo import load_truth
from reid.datasets.mars import load_mars

TRAININGS = ("run", "weighted", "dropped", "true")
SECONDS = 3.0  # per decision by keyboard: assumed, not measured


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", nargs="+", default=list(LOSSES), choices=LOSSES)
    parser.add_argument("--kind", default="uniform_others", choices=RATES, help="kind of noise (with --no-review)")
    parser.add_argument("--no-review", action="store_true", help="compare trainings that need no review")
    parser.add_argument(
        "--trainings", nargs="+", default=TRAININGS, choices=TRAININGS, help="trainings to run (with --no-review)"
    )
    parser.add_argument("--rate", default="0.3", help="fraction of wrong labels")
    parser.add_argument("--first", type=int, default=300, metavar="N", help="suspects to review")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--data-root", type=Path, default=ROOT / "data", metavar="DIR", help="folder with demo/")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/audit", help="folder for the run directories")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to this file")
    flags = parser.parse_args()
    if flags.no_review:
        return without_review(flags)
    results = []
    for loss in flags.losses:
        results.append(reviewed(loss, flags))
        keep(flags.json, {"first": flags.first, "minutes": flags.first * SECONDS / 60, "losses": results})
        print(json.dumps(results[-1]), flush=True)
    return 0


def reviewed(loss: str, flags: argparse.Namespace) -> dict[str, Any]:
    """Compute the mAP of the four trainings, and how many of the first n suspects were wrong."""
    cell = f"{loss}/uniform_others/{flags.rate}/{flags.seed}"
    run = flags.runs / cell.replace("/", "_")
    noisy = run_cell(cell, flags)["mAP"]
    with open(run / "audit.csv", encoding="utf-8", newline="") as stream:
        suspects = [row["key"] for row in csv.DictReader(stream)][: flags.first]
    wrong = {key for key, changed in read_manifest(run / "noise.csv")[0].items() if changed}
    split, truth = load_mars(flags.data_root / "demo", "demo").train, load_truth(flags.data_root / "demo").true_pid
    true_pid = {split.key(row): int(truth[row]) for row in range(len(split))}
    decisions = {
        "dropped": [("drop", key, "") for key in suspects],
        "put_right": [("relabel", key, true_pid[key]) if key in wrong else ("keep", key, "") for key in suspects],
    }
    noise = f"data.noise={{name: uniform_others, rate: {flags.rate}, seed: {flags.seed}}}"
    found: dict[str, Any] = {
        "loss": loss,
        "wrong_among_first": sum(key in wrong for key in suspects),
        "wrong": len(wrong),
    }
    found["mAP"] = {"noisy": noisy}
    for name, rows in decisions.items():
        again = run.with_name(f"{run.name}_{name}_{flags.first}")
        file = again.with_name(f"{again.name}.csv")
        with open(file, "w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([("action", "key", "pid"), *rows])
        settings = [*LOSSES[loss], noise, f"seed={flags.seed}", f"data.corrections={file}"]
        found["mAP"][name] = train(again, settings, flags.data_root)
    clean = run.with_name(f"{loss}_uniform_others_0.0_{flags.seed}")
    none = f"data.noise={{name: uniform_others, rate: 0.0, seed: {flags.seed}}}"
    found["mAP"]["true"] = train(clean, [*LOSSES[loss], none, f"seed={flags.seed}"], flags.data_root)
    return found


def without_review(flags: argparse.Namespace) -> int:
    """Write mAP and Rank-1 of the four trainings of each loss, and how far the weights can be trusted."""
    results = [] if flags.json is None or not flags.json.exists() else json.loads(flags.json.read_text())["cells"]
    for loss in flags.losses:
        cell = f"{loss}/{flags.kind}/{flags.rate}/{flags.seed}"
        results = [one for one in results if one["cell"] != cell] + [unreviewed(cell, flags)]
        keep(flags.json, {"cells": results})
        print(json.dumps(results[-1]), flush=True)
    return 0


def unreviewed(cell: str, flags: argparse.Namespace) -> dict[str, Any]:
    """Compute the figures of one cell; finished trainings are not repeated."""
    loss, kind, rate, seed = cell.split("/")
    run = flags.runs / cell.replace("/", "_")
    run_cell(cell, flags)
    audited = embedded(run)
    result = judged(audited)
    n = round(result.rate.value * len(result.findings))
    dropped, weights = (run.with_name(f"{run.name}_{name}.csv") for name in ("estimated_dropped", "weighted"))
    keys = [audited.split.key(found.row) for found in result.findings[:n]]
    write_drops(dropped, audited, result)
    write_label_weights(weights, audited, result)
    wrong = {key for key, changed in read_manifest(run / "noise.csv")[0].items() if changed}
    runs = {
        "run": (run, rate, []),
        "weighted": (weights.with_suffix(""), rate, [f"data.weights={weights}"]),
        "dropped": (dropped.with_suffix(""), rate, [f"data.corrections={dropped}"]),
        "true": (run.with_name(f"{loss}_uniform_others_0.0_{seed}"), "0.0", []),
    }
    found: dict[str, Any] = {"cell": cell, "wrong": len(wrong), "estimated": n}
    found["wrong_among_estimated"] = sum(key in wrong for key in keys)
    for name in flags.trainings:
        folder, share, more = runs[name]
        noise = f"data.noise={{name: {'uniform_others' if name == 'true' else kind}, rate: {share}, seed: {seed}}}"
        train(folder, [*LOSSES[loss], noise, f"seed={seed}", *more], flags.data_root)
        results = json.loads((folder / "eval.json").read_text())
        official = next(one for one in results if one["protocol"] == "mars-official")
        found[name] = {"mAP": official["mAP"], "rank1": official["cmc"]["1"]}
    return found | {"calibration": calibration(audited, result, run, flags.data_root)}


if __name__ == "__main__":
    sys.exit(main())
