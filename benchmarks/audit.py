"""Accuracy of the audit on the demo data with deliberate label noise: by kind and rate of noise, loss and seed.

Every cell is `robust-reid train demo` on the true labels with `data.noise`, then the audit of that run, compared with its noise manifest.
Baselines are a small-loss ranking (mean p of the annotated label over training) and cleanlab's label quality on leave-one-out
probabilities from the same features. Finished cells are skipped, and an interrupted one resumes from its checkpoint. Needs the demo
data (`robust-reid render`), and `pip install cleanlab`.

    python benchmarks/audit.py --json benchmarks/results/audit.json
    python benchmarks/audit.py --cells imae/uniform_others/0.3/0 cce/uniform_others/0.3/0

With `--calibration`, whether a label with a probability of 0.8 to be right is right in 80 % of cases, in the cells that are finished.

    python benchmarks/audit.py --calibration --json benchmarks/results/calibration.json
"""

import argparse
import contextlib
import csv
import json
import shlex
import signal
import subprocess
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean
from typing import Any
from unittest import mock

import numpy as np
from record import keep
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold

from reid.audit.labels import blocks, fit_of, persons_of, unit
from reid.audit.ranking import Audit
from reid.audit.records import write_audit
from reid.commands.audit import Audited, Options, judged, of_run
from reid.datasets.demo import load_truth
from reid.datasets.mars import load_mars
from reid.rundir import RunDirectory
from reid.runtime import start

ROOT = Path(__file__).parents[1]
RATES = {
    "uniform_others": (0.0, 0.1, 0.3, 0.5),
    "nearest": (0.1, 0.3, 0.5),
    "switches": (0.1, 0.3, 0.5),
    "merged_identities": (0.1, 0.3, 0.5),
    "split_identities": (0.1, 0.3, 0.5),
}
LOSSES = {"imae": ["loss.name=imae", "loss.T=8.0"], "cce": ["loss.name=cce"]}
Probabilities = Callable[[Audited, np.ndarray, np.ndarray], np.ndarray]
BINS = (0.0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0 + 1e-9)  # of probabilities
TEMPERATURE = 0.05  # of the softmax over centroids


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", metavar="LOSS/KIND/RATE/SEED", help="cells to run (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of noise and training")
    parser.add_argument("--data-root", type=Path, default=ROOT / "data", metavar="DIR", help="folder with demo/")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/audit", help="folder for the run directories")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to this file")
    parser.add_argument(
        "--calibration", action="store_true", help="measure the calibration of finished runs; trains nothing"
    )
    flags = parser.parse_args()
    cells = flags.cells or [
        f"{loss}/{kind}/{rate}/{seed}"
        for seed in flags.seeds
        for loss in LOSSES
        for kind, rates in RATES.items()
        for rate in rates
    ]
    if flags.calibration:
        return calibrations(cells, flags)
    found = []
    for cell in cells:
        found.append(run_cell(cell, flags))
        keep(flags.json, {"cells": found})
        print(json.dumps(found[-1]), flush=True)
    print(table(found))
    return 0


def run_cell(cell: str, flags: argparse.Namespace) -> dict[str, Any]:
    """Train and audit one cell unless its results exist; returns its metrics."""
    loss, kind, rate, seed = cell.split("/")
    run = flags.runs / cell.replace("/", "_")
    kept = run / "audit_judged.json"
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    noise = f"{{name: {kind}, rate: {rate}, seed: {seed}}}"
    mean_ap = train(run, [*LOSSES[loss], f"data.noise={noise}", f"seed={seed}"], flags.data_root)
    audited = embedded(run)
    began = time.perf_counter()
    result = judged(audited)
    seconds = time.perf_counter() - began
    mean_ap = next(
        one["mAP"] for one in json.loads((run / "eval.json").read_text()) if one["protocol"] == "mars-official"
    )
    figures = {"cell": cell, "mAP": mean_ap, **judge(audited, result, run, flags.data_root), "audit_seconds": seconds}
    write_audit(run / "audit.csv", result.findings, audited.split, audited.names)
    kept.write_text(json.dumps(figures))
    return figures


def train(run: Path, settings: list[str], data_root: Path) -> float:
    """Train on the demo's true labels with the settings unless the run is finished; returns the mAP under `mars-official`."""
    if not (run / "report.html").exists():
        command = [sys.executable, "-m", "reid", "train", "demo", "--resume", "auto", "--output-dir", str(run)]
        command += [
            "--data-root",
            str(data_root),
            "data.labels=truth",
            *settings,
            "test.baselines=false",
            "machine.workers=0",
        ]
        print(shlex.join(command), flush=True)
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as training:
            signal.signal(signal.SIGTERM, lambda *_: training.terminate())  # it saves a checkpoint first; wait for it
        if training.returncode:
            raise SystemExit(training.returncode)
    results = json.loads((run / "eval.json").read_text())
    return float(next(one["mAP"] for one in results if one["protocol"] == "mars-official"))


def embedded(run: Path) -> Audited:
    """Embed the run's training tracklets; features are stored in the run, so that re-evaluating the audit takes seconds."""
    kept = run / "audit_features.npy"
    stored = mock.patch("reid.commands.audit.extract_shards", lambda *_, **__: iter([np.load(kept)]))
    with start("auto", "float32") as runtime, stored if kept.exists() else contextlib.nullcontext():
        audited = of_run(run, RunDirectory(run).config(["machine.workers=0"]), Options(), runtime)
    if not kept.exists():
        np.save(kept, audited.features)
    return audited


def judge(audited: Audited, result: Audit, run: Path, data_root: Path) -> dict[str, Any]:
    """Compare the audit with the ground truth; metrics that are undefined for a cell are left out."""
    split, rows = audited.split, audited.rows
    by_row = {found.row: found for found in result.findings}
    found = [by_row[row] for row in rows.tolist()]
    place = {one.row: rank for rank, one in enumerate(result.findings)}  # ties in suspicion are broken by the margin
    relabelled, switched = read_manifest(RunDirectory(run).noise)
    wrong = np.array([relabelled.get(split.key(row), False) for row in rows.tolist()])
    figures: dict[str, Any] = {"wrong": float(wrong.mean()), "estimated": result.rate.value}
    figures["interval"] = [result.rate.low, result.rate.high]
    if wrong.any():
        figures["audit"] = ranked(wrong, -np.array([place[row] for row in rows.tolist()], float))
        figures["margin"] = ranked(wrong, -np.array([one.evidence["margin"] for one in found]))
        figures["neighbours"] = ranked(wrong, -np.array([one.evidence["neighbours"] for one in found]))
        for name in ("neighbours", "confidence"):  # added at a quarter of the weight, by rank
            other = np.array([one.evidence[name] for one in found])
            both = (
                rankdata([one.evidence["margin"] for one in found])
                + rankdata(np.nan_to_num(other, nan=np.nanmedian(other))) / 4
            )
            figures[f"margin_and_{name}"] = ranked(wrong, -both)
        figures["small_loss"] = ranked(wrong, -audited.evidence["confidence"])
        figures["area_under_margin"] = ranked(wrong, -audited.evidence["area_under_margin"])
        for name, probabilities in (("cleanlab", leave_one_out), ("cleanlab_cross_validated", cross_validated)):
            quality, seconds, issues = by_cleanlab(audited, probabilities)
            figures[name] = {**ranked(wrong, -quality), "estimated": issues, "seconds": seconds}
    names = {os_name: kind for os_name, kind in frame_kinds(data_root)}
    assert audited.lengths is not None and audited.positions is not None
    truth, told = [], []
    for one, row in zip(found, rows.tolist(), strict=True):
        inside = set().union(*(range(first, last + 1) for first, last in one.frames)) if one.frames else set()
        for position in range(split.lengths[row]):
            name = bytes(split.names[split.start[row] + position])
            truth.append((split.key(row), position) in switched or names[name] > 0)
            told.append(position in inside)
    truth_F, told_F = np.array(truth), np.array(told)
    figures["foreign_frames"] = {
        "share": float(truth_F.mean()),
        "precision": float(truth_F[told_F].mean()) if told_F.any() else None,
        "recall": float(told_F[truth_F].mean()),
    }
    if switched:
        keys = {key for key, _ in switched}
        hit = [bool(one.frames) for one in found if split.key(one.row) in keys]
        figures["switched_tracklets_found"] = float(np.mean(hit))
        # Frames alone do not tell which of two persons a switched tracklet belongs to: the cut counts, whichever side is called foreign.
        parts = np.split(truth_F == told_F, np.cumsum([split.lengths[row] for row in rows])[:-1])
        agree = [
            max(part.mean(), 1 - part.mean())
            for part, one in zip(parts, found, strict=True)
            if split.key(one.row) in keys
        ]
        figures["frames_on_the_right_side"] = float(np.mean(agree))
    figures["named"] = {kind: sum(one.kind == kind for one in found) for kind in ("wrong", "switch", "merge", "split")}
    for kind in ("merge", "split"):  # persons, not tracklets
        persons = {int(split.pid[one.row]) for one in found if one.kind == kind}
        figures[f"{kind}_pids"] = sorted(persons)
    figures["changed_pids"] = changed_pids(RunDirectory(run).noise)
    return figures


RANKINGS = {
    "audit": "audit",
    "margin alone": "margin",
    "margin and neighbours": "margin_and_neighbours",
    "margin and confidence": "margin_and_confidence",
    "neighbours": "neighbours",
    "small loss": "small_loss",
    "area under the margin": "area_under_margin",
    "cleanlab, leave one out": "cleanlab",
    "cleanlab, cross-validated": "cleanlab_cross_validated",
}


def table(cells: list[dict[str, Any]]) -> str:
    """Format as Markdown: wrong labels of whole tracklets by loss, kind and rate, means over seeds; then frames and persons by cell."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for cell in cells:
        loss, kind, rate, _ = cell["cell"].split("/")
        if kind in ("uniform_others", "nearest"):
            groups[loss, kind, rate].append(cell)
    lines = [
        "| loss, noise | seeds | wrong, estimated | ranking | AUROC | AP | first 50 | first 10 % |",
        "|---" * 8 + "|",
    ]
    for (loss, kind, rate), group in groups.items():
        rates = " / ".join(f"{100 * mean(cell[key] for cell in group):.1f}" for key in ("wrong", "estimated"))
        for name, key in RANKINGS.items():
            if all(key in cell for cell in group):
                columns = ("auroc", "ap", "first_50", "first_10_percent")
                values = [f"{mean(cell[key][column] for cell in group):.3f}" for column in columns]
                lines.append(
                    "| " + " | ".join([f"{loss}, {kind} {rate}", str(len(group)), rates, name, *values]) + " |"
                )
    for cell in cells:
        frames = cell["foreign_frames"]
        told = [f"foreign frames: precision {frames['precision']:.2f}, recall {frames['recall']:.2f}"]
        if "switched_tracklets_found" in cell:
            told.append(f"switched tracklets found: {cell['switched_tracklets_found']:.2f}")
            told.append(f"their frames on the right side of the cut: {cell['frames_on_the_right_side']:.2f}")
        for kind, noise in (("split", "merged_identities"), ("merge", "split_identities")):
            named = set(cell[f"{kind}_pids"])
            pairs = cell["changed_pids"] if noise in cell["cell"] else []
            hits = [pair for pair in pairs if named & set(pair)]
            others = len(named - {pid for pair in pairs for pid in pair})
            told.append(f"{kind}: {len(hits)} of {len(pairs)} found, {others} others named")
        lines.append(f"- {cell['cell']}: mAP {100 * cell['mAP']:.1f}; " + "; ".join(told))
    return "\n".join(lines)


def ranked(wrong: np.ndarray, score: np.ndarray) -> dict[str, float]:
    score = np.nan_to_num(score, nan=float(np.nanmedian(score)))
    order = np.argsort(-score, kind="stable")
    return {
        "auroc": float(roc_auc_score(wrong, score)),
        "ap": float(average_precision_score(wrong, score)),
        "first_50": float(wrong[order[:50]].mean()),
        "first_10_percent": float(wrong[order[: len(wrong) // 10]].mean()),
    }


def calibrations(cells: list[str], flags: argparse.Namespace) -> int:
    """Write the calibration of the finished cells."""
    found = []
    for cell in cells:
        run = flags.runs / cell.replace("/", "_")
        if not (run / "report.html").exists():
            continue
        audited = embedded(run)
        found.append({"cell": cell, **calibration(audited, judged(audited), run, flags.data_root)})
        keep(flags.json, {"cells": found})
        print(json.dumps(found[-1]), flush=True)
    return 0


def calibration(audited: Audited, result: Audit, run: Path, data_root: Path) -> dict[str, Any]:
    """Compare the probability that a label is right with how many are, and the weight with the share of frames that show the person.

    Their error is the mean square of the difference; for a probability, that is the Brier score. `error_of_mean` is that of the true mean
    for every tracklet.
    """
    split, names = audited.split, dict(frame_kinds(data_root))
    relabelled, switched = read_manifest(RunDirectory(run).noise)
    intact, shown = [], []
    for one in result.findings:
        key, first = split.key(one.row), int(split.start[one.row])
        foreign = [
            (key, position) in switched or names[bytes(split.names[first + position])] > 0
            for position in range(split.lengths[one.row])
        ]
        intact.append(not relabelled.get(key, False))
        shown.append(intact[-1] * (1 - float(np.mean(foreign))))
    return {
        "labels": compared(np.array([1 - one.suspicion for one in result.findings]), np.array(intact, float)),
        "frames": compared(np.array([one.label_right for one in result.findings]), np.array(shown)),
    }


def compared(p: np.ndarray, true: np.ndarray) -> dict[str, Any]:
    place = np.searchsorted(BINS, p, side="right")
    bins = [
        {
            "from": BINS[i - 1],
            "tracklets": int((place == i).sum()),
            "estimated": float(p[place == i].mean()),
            "true": float(true[place == i].mean()),
        }
        for i in range(1, len(BINS))
        if (place == i).any()
    ]
    error, of_mean = float(((p - true) ** 2).mean()), float(true.var())
    return {
        "estimated": float(p.mean()),
        "true": float(true.mean()),
        "error": error,
        "error_of_mean": of_mean,
        "bins": bins,
    }


def read_manifest(file: Path) -> tuple[dict[str, bool], set[tuple[str, int]]]:
    """Read a manifest: key -> whether the whole tracklet's label is wrong; (key, position) of exchanged frames."""
    relabelled, switched = {}, set()
    for row in manifest(file):
        if row["frame"] and row["source_key"]:
            switched.add((row["key"], int(row["frame"])))
        elif not row["frame"]:
            relabelled[row["key"]] = row["true_pid"] != row["given_pid"]
    return relabelled, switched


def changed_pids(file: Path) -> list[list[int]]:
    """List the distinct (true, given) pids of tracklets relabelled by merged or split identities."""
    pairs: dict[tuple[int, int], int] = defaultdict(int)
    for row in manifest(file):
        if not row["frame"] and row["kind"] in ("merged_identities", "split_identities"):
            pairs[int(row["true_pid"]), int(row["given_pid"])] += 1
    return [list(pair) for pair in pairs]


def manifest(file: Path) -> Iterator[dict[str, str]]:
    if file.exists():
        with open(file, encoding="utf-8", newline="") as stream:
            yield from csv.DictReader(stream)


def frame_kinds(data_root: Path) -> Iterator[tuple[bytes, int]]:
    """Yield name and kind of every training frame of the demo: 0 for its tracklet's person, else another person or background."""
    names = load_mars(data_root / "demo", "demo").train.names
    return zip(map(bytes, names), load_truth(data_root / "demo").train_frame_kind.tolist(), strict=True)


def by_cleanlab(audited: Audited, probabilities: Probabilities) -> tuple[np.ndarray, float, float]:
    """Run cleanlab: its label quality, the seconds taken including the probabilities, and the share of labels it flags."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores
    began = time.perf_counter()
    features, label = pooled(audited)
    probability = probabilities(audited, features, label)
    quality = get_label_quality_scores(label, probability)
    issues = find_label_issues(label, probability, n_jobs=1)  # forked workers deadlock with threads
    return quality, time.perf_counter() - began, float(np.mean(issues))


def pooled(audited: Audited) -> tuple[np.ndarray, np.ndarray]:
    """Pool the features to (N, D) unit rows, with the (N,) labels of the tracklets."""
    assert audited.lengths is not None
    first = np.cumsum(audited.lengths) - audited.lengths
    x = unit(np.add.reduceat(audited.features.astype(np.float32), first, axis=0)).astype(np.float32)
    return x, np.unique(audited.split.pid[audited.rows], return_inverse=True)[1]


def cross_validated(audited: Audited, x: np.ndarray, label: np.ndarray) -> np.ndarray:
    """(N, K) probabilities by five-fold logistic regression, as in cleanlab's tutorials on features of a network."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about persons with fewer than five tracklets
        model = LogisticRegression(C=10, max_iter=200)
        probability = np.zeros((len(x), label.max() + 1))
        for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(x, label):
            model.fit(x[train], label[train])
            probability[np.ix_(test, model.classes_)] = model.predict_proba(x[test])
    return probability


def leave_one_out(audited: Audited, x: np.ndarray, label: np.ndarray) -> np.ndarray:
    """(N, K) softmax over similarities to the audit's centroids, each tracklet excluded from its own person's centroid."""
    persons = persons_of(x, label, audited.split.camid[audited.rows])
    own = fit_of(persons, draws=0).own
    logits = np.concatenate([x[rows] @ persons.centroid.T for rows in blocks(len(x))])
    logits[np.arange(len(x)), label] = np.where(np.isnan(own), -1, own)
    scaled = np.exp((logits - logits.max(1, keepdims=True)) / TEMPERATURE)
    return scaled / scaled.sum(1, keepdims=True)


if __name__ == "__main__":
    sys.exit(main())
