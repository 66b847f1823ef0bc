"""What `audit --folds` adds on the demo data: the ranking of an audit with and without networks that have not seen the label.

A cell is named as in `benchmarks/audit.py`, which trains its run first; then `folds` further networks are trained. Everything resumes.

    python benchmarks/folds.py imae/nearest/0.3/0 --json benchmarks/results/folds.json
    python benchmarks/folds.py imae/merged_identities/0.3/0 --folds 2 --of persons --json benchmarks/results/folds_persons.json
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from audit import LOSSES, ROOT, changed_pids, ranked, read_manifest, train
from record import keep

from reid.commands.audit import Audited, Options, judged, of_run
from reid.rundir import RunDirectory
from reid.runtime import start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="+", metavar="LOSS/KIND/RATE/SEED")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--of", choices=["tracklets", "persons"], default="tracklets")
    parser.add_argument("--data-root", type=Path, default=ROOT / "data", metavar="DIR", help="folder with demo/")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/audit", help="folder for the run directories")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to this file")
    flags = parser.parse_args()
    found = []
    for cell in flags.cells:
        loss, kind, rate, seed = cell.split("/")
        run = flags.runs / cell.replace("/", "_")
        noise = f"data.noise={{name: {kind}, rate: {rate}, seed: {seed}}}"
        train(run, [*LOSSES[loss], noise, f"seed={seed}"], flags.data_root)
        config = RunDirectory(run).config(["machine.workers=0"])
        with start(config.machine.device, config.machine.dtype) as runtime:
            audited = of_run(run, config, Options(folds=flags.folds, folds_of=flags.of), runtime)
        figures = {"cell": cell, "folds": flags.folds, "of": flags.of, **judge(audited, RunDirectory(run))}
        found.append(figures)
        print(json.dumps(figures), flush=True)
        keep(flags.json, {"cells": found})
    return 0


def judge(audited: Audited, run: RunDirectory) -> dict[str, object]:
    """The ranking of whole tracklets whose label is wrong, by the run's network alone and with the others; pids that hold two."""
    relabelled, _ = read_manifest(run.noise)
    keys = [audited.split.key(row) for row in audited.rows.tolist()]
    wrong = np.array([relabelled.get(key, False) for key in keys])
    pairs = changed_pids(run.noise)
    merged = {pid for pair in pairs for pid in pair}
    assert audited.out_of_fold is not None
    figures: dict[str, object] = {"wrong": float(wrong.mean()), "two_persons_under_one_pid": len(pairs)}
    for name, one in (("alone", replace(audited, out_of_fold=None)), ("with_folds", audited)):
        result = judged(one)
        place = {found.row: rank for rank, found in enumerate(result.findings)}
        if wrong.any():
            figures[name] = ranked(wrong, -np.array([place[row] for row in audited.rows.tolist()], float))
        figures[f"{name}_estimated"] = [result.rate.value, result.rate.low, result.rate.high]
        named = {int(audited.split.pid[found.row]) for found in result.findings if found.kind == "split"}
        figures[f"{name}_two_persons"] = {
            "found": sum(bool(named & set(pair)) for pair in pairs),
            "others": len(named - merged),
        }
    return figures


if __name__ == "__main__":
    raise SystemExit(main())
