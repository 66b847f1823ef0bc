"""Audit: find training tracklets of a run, or rows of a gallery, with a wrong label.

Shapes: T tracklets, N of them audited, F frames embedded, D feature dimensions.
"""

from __future__ import annotations

import json
import logging
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from reid import experiment
from reid.audit.labels import OutOfFold
from reid.audit.ranking import Audit, audit, judged_by
from reid.audit.records import write_audit, write_fiftyone, write_foreign_frames, write_label_issues
from reid.commands.folds import folds_of, train_folds
from reid.config import Config
from reid.datasets.corrections import write_corrections
from reid.datasets.damaged import read_list
from reid.datasets.decoding import decode
from reid.datasets.weights import write_weights
from reid.engine import checkpoint, evidence
from reid.engine.extract import extract_shards
from reid.errors import ConfigError, DataError, counted, in_range
from reid.features import FeatureSet
from reid.files import atomic
from reid.findings import Finding
from reid.gallery import store
from reid.models.pooling import POOLINGS
from reid.report.audit_page import write_audit_page
from reid.report.tables import text_table
from reid.rundir import RunDirectory
from reid.runtime import Runtime, start
from reid.tracklets import IdNames, Split

logger = logging.getLogger(__name__)

SHOWN = 10  # findings printed
UNFIT = 0.5  # share of tracklets nearer to another person above which findings may be meaningless
WEIGHTS, DROPS = "weights.csv", "drop.csv"
SHARD = 2**13  # frames extracted before their features are converted to float16
MEANING = {
    "wrong": "another person's label",
    "switch": "some frames show somebody else",
    "merge": "this person has a second pid",
    "split": "this pid contains two persons",
    "duplicate": "the images of another tracklet",
    "background": "fits no person",
}


@dataclass(frozen=True)
class Options:
    """Options of an audit; fields as the flags of robust-reid audit.

    Args:
        out: folder for the results; by default the run directory, or a folder next to the features.
        checkpoint: `last`, `best`, or a checkpoint's path.
        frames: number of evenly spaced frames to embed per tracklet; 0 for all.
        page: also write the HTML page.
        folds: number of networks to train, each without a part of the tracklets, which it then judges; 0 for none.
        folds_of: what these parts are made of, `tracklets` or `persons`.
    """

    out: Path | None = None
    checkpoint: str = "last"
    frames: int = 0
    page: bool = True
    folds: int = 0
    folds_of: str = "tracklets"


@dataclass(frozen=True, eq=False)
class Audited:
    """Input of an audit.

    Args:
        name: of the dataset or feature source.
        split: T tracklets with their given labels.
        rows: (N,) row numbers of the audited tracklets.
        features: (F, D) of frames, or (N, D) of tracklets if `lengths` is None.
        lengths: (N,) number of frames embedded of each tracklet.
        positions: (F,) position of each embedded frame in its tracklet.
        names: of persons and cameras.
        evidence: columns recorded in training, (N,) each.
        retrain: command that trains on the corrected labels; empty if there is none.
        before: (T,) weights >= 0 that the run was trained with and that do not come from an audit; None without a run.
        reweigh: command that trains with `weights.csv`; empty without a run.
        drop: command that trains without the tracklets in `drop.csv`; empty without a run.
        out_of_fold: what networks say that have not been trained on these tracklets, if there are any.
    """

    name: str
    split: Split
    rows: np.ndarray
    features: np.ndarray
    lengths: np.ndarray | None
    positions: np.ndarray | None
    names: IdNames
    evidence: Mapping[str, np.ndarray]
    retrain: str = ""
    before: np.ndarray | None = None
    reweigh: str = ""
    drop: str = ""
    out_of_fold: OutOfFold | None = None


def run(source: Path, overrides: list[str], options: Options) -> None:
    """Writes audit.csv, audit.json, label_issues.csv, foreign_frames.csv, fiftyone/ and audit/index.html, and prints the top findings.

    Of a run, also weights.csv and drop.csv, for a training without a review.

    Args:
        source: a run directory, a feature folder, or a feature file (.npz).
        overrides: overrides of the run's config for this machine, such as data root, device and workers.
        options: options of the audit.

    Raises:
        DataError: the source is missing or damaged, has no labels, or overrides are given without a run.
    """
    in_range("frames", options.frames, 0)
    if options.folds:
        in_range("folds", options.folds, 2)
    elif options.folds_of != "tracklets":
        raise ConfigError(f"--folds-of {options.folds_of}: needs --folds N as well")
    if not source.exists():
        raise DataError(
            f"{source}: not found; expected a run directory, a feature folder of robust-reid extract, or an .npz file"
        )
    if (source / "config.yaml").is_file():
        out = options.out or source
        config = RunDirectory(source).config(overrides)
        with start(config.machine.device, config.machine.dtype) as runtime:
            audited = of_run(source, config, options, runtime)
            if not runtime.is_main:
                return
    else:
        if overrides:
            raise DataError(f"{source}: not a run directory, so {overrides[0]!r} has no config to change; remove it")
        if options.folds:
            raise DataError(f"{source}: not a run directory, so --folds has no config to train with; remove it")
        out = options.out or source.with_name(f"{source.stem}-audit")
        audited = _of_features(source)
    _write(out, audited, judged(audited), page=options.page)


def judged(audited: Audited) -> Audit:
    """Runs the audit and converts frame spans to positions in the tracklets."""
    pid, camid = audited.split.pid[audited.rows], audited.split.camid[audited.rows]
    result = audit(
        audited.features,
        audited.lengths,
        pid,
        camid,
        rows=audited.rows,
        evidence=audited.evidence,
        out_of_fold=audited.out_of_fold,
    )
    if audited.positions is None:
        return result
    return replace(result, findings=_at_positions(result.findings, audited))


def of_run(source: Path, config: Config, options: Options, runtime: Runtime) -> Audited:
    """Returns the training tracklets of a run with features of their frames; every process gets the same result."""
    directory = RunDirectory(source)
    file, data = directory.checkpoint(options.checkpoint), experiment.data_as_trained(config, directory)
    split = data.train.split
    frames, lengths, positions = _looked_at(split, options.frames, set(read_list(directory.damaged)))
    rows = np.flatnonzero(lengths)
    each = Split(
        split.root,
        split.names,
        frames,
        frames + 1,
        np.repeat(split.pid, lengths),
        np.repeat(split.camid, lengths),
        np.array([split.path(frame).as_posix() for frame in frames]),
    )
    features = _embedded(experiment.OfRun(source, options.checkpoint), config, each, runtime)
    out_of_fold = None
    if options.folds:
        fold_T = folds_of(split.pid, options.folds, config.seed, options.folds_of)
        folder = (options.out or source) / "folds" / f"{options.folds}-of-{options.folds_of}"
        runs = train_folds(source, config, data, fold_T, folder, runtime)
        unseen = ((fold, _embedded(experiment.OfRun(run), config, each, runtime)) for fold, run in runs.items())
        pid, camid = split.pid[rows], split.camid[rows]
        out_of_fold = judged_by(unseen, fold_T[rows], lengths[rows], pid, camid, persons=options.folds_of == "persons")
    before = directory.corrections(len(data.corrections))
    train = ["robust-reid", "train", f"{source}/config.yaml"]
    retrain = [*train, _corrected_by([*before, Path("corrections.csv")]), "--output-dir", f"{source}-corrected"]
    reweigh = [
        *train,
        f"data.weights={(options.out or source) / WEIGHTS}",
        *([_corrected_by(before)] if before else []),
    ]
    drop = [*train, _corrected_by([*before, (options.out or source) / DROPS]), "--output-dir", f"{source}-dropped"]
    return Audited(
        data.benchmark.name,
        split,
        rows,
        features,
        lengths[rows],
        positions,
        data.benchmark.names,
        _from_training(file, data, rows),
        retrain=shlex.join(retrain),
        before=np.ones(len(split)) if data.before_T is None else data.before_T,
        reweigh=shlex.join([*reweigh, "--output-dir", f"{source}-weighted"]),
        drop=shlex.join(drop),
        out_of_fold=out_of_fold,
    )


def _corrected_by(files: list[Path]) -> str:
    """Returns the setting that trains on the corrections of these files."""
    return f"data.corrections={files[0] if len(files) == 1 else json.dumps([*map(str, files)])}"


def _embedded(source: experiment.OfRun, config: Config, each: Split, runtime: Runtime) -> np.ndarray:
    """Returns (F, D) float16 unit rows, which take half the memory and keep cosines to 1e-3, of F single frames."""
    trained = source.load(config, runtime)
    extracted = extract_shards(
        trained.embedding,
        trained.preprocess,
        each,
        runtime,
        [np.arange(first, min(first + SHARD, len(each))) for first in range(0, len(each), SHARD)],
        dim=trained.embedding.num_features,
        pooling=POOLINGS["mean"],
        batch_size=config.test.batch_size,
        workers=config.machine.workers,
        progress="embedding" if runtime.is_main else "",
    )
    return np.concatenate([part.astype(np.float16) for part in extracted])


def _looked_at(split: Split, most: int, damaged: set[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Selects evenly spaced frames of each tracklet, without the images that training left out as damaged.

    Returns:
        (F,) frame numbers, (T,) number of frames of each tracklet, (F,) positions of the frames in their tracklets.
    """
    frames, positions = [], []
    for first, last in zip(split.start.tolist(), split.stop.tolist(), strict=True):
        place = np.arange(last - first)
        if damaged:
            readable = [split.path(first + i).as_posix() not in damaged for i in place.tolist()]
            place = place[np.array(readable)]
        if most and len(place) > most:
            place = place[np.linspace(0, len(place) - 1, most).round().astype(int)]
        frames.append(first + place)
        positions.append(place)
    return np.concatenate(frames), np.array([len(part) for part in frames]), np.concatenate(positions)


def _from_training(file: Path, data: experiment.LabelledData, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the evidence that training recorded for the tracklets; empty if an earlier version trained or the data have changed."""
    saved, split = checkpoint.load(file, "pids"), data.train.split
    state, sizes = saved.get("evidence"), (len(split), split.num_frames)
    if (
        state is None
        or not state.keys() >= set(evidence.STATE)
        or sizes != (len(state["count_TP"]), len(state["count_F"]))
        or saved["pids"] != data.train.pids.tolist()
    ):
        logger.warning("%s: no evidence from training for these tracklets; using features only", file)
        return {}
    seen = evidence.means(state)
    count = seen["tracklet_count"]
    total = np.maximum(count.sum(1), 1)
    means = {
        name: np.where(count.sum(1) > 0, np.nansum(seen[f"tracklet_{name}"] * count, axis=1) / total, np.nan)
        for name in ("margin", "p", "weight")
    }
    return {
        "area_under_margin": means["margin"][rows],
        "confidence": means["p"][rows],
        "training_weight": means["weight"][rows],
    }


def _of_features(source: Path) -> Audited:
    names = IdNames()
    if source.is_dir():
        gallery = store.open_gallery(source)
        features, names, paths = gallery.features, gallery.names, gallery.path
    else:
        features = FeatureSet.load(source, leave_one_out=True)  # an audit needs no queries
        paths = np.full(len(features.pid), "", object)
    assert features.pid is not None
    rows = np.flatnonzero(features.pid > 0)
    if not len(rows):
        raise DataError(
            f"{source}: no row has a pid above 0, so there is no label to audit; set `pid` to the persons' ids"
        )
    return Audited(
        source.name,
        _split_of(features, paths),
        rows,
        features.features[rows],
        None,
        None,
        names,
        {},
    )


def _split_of(features: FeatureSet, paths: np.ndarray) -> Split:
    """Converts rows of a gallery to tracklets of one frame, the image at the row's path."""
    N = len(features.features)
    key = features.key if features.key is not None else np.array([f"row {row}" for row in range(N)])
    names = np.array([str(path).lstrip("/").encode() or b"?" for path in paths])
    return Split(Path("/"), names, np.arange(N), np.arange(N) + 1, features.pid, features.camid, key)


def _at_positions(findings: list[Finding], audited: Audited) -> list[Finding]:
    """Converts spans of embedded frames to spans of positions; skipped frames inside a foreign span count as foreign too."""
    assert audited.lengths is not None and audited.positions is not None
    first = dict(zip(audited.rows.tolist(), (np.cumsum(audited.lengths) - audited.lengths).tolist(), strict=True))
    moved = []
    for found in findings:
        at = first[found.row]
        frames = tuple((int(audited.positions[at + a]), int(audited.positions[at + b])) for a, b in found.frames)
        moved.append(replace(found, frames=frames))
    return moved


def _write(out: Path, audited: Audited, result: Audit, *, page: bool) -> None:
    findings, rate = result.findings, result.rate
    kinds = Counter[str](found.kind for found in findings if found.kind)
    counts = {kind: kinds[kind] for kind in MEANING if kinds[kind]}
    summary: dict[str, Any] = {
        "schema": 1,
        "source": audited.name,
        "tracklets": len(findings),
        "persons": len(np.unique(audited.split.pid[audited.rows])),
        "wrong_labels": {"estimate": rate.value, "low": rate.low, "high": rate.high},
        "nearer_to_another_person": rate.contradicted,
        "findings": counts,
    }
    write_audit(out / "audit.csv", findings, audited.split, audited.names)
    write_foreign_frames(out / "foreign_frames.csv", findings, audited.split)
    write_label_issues(out / "label_issues.csv", findings, audited.split, audited.names)
    write_fiftyone(out / "fiftyone", findings, audited.split, audited.names)
    unreviewed = []
    if dropped := write_drops(out / DROPS, audited, result):
        unreviewed.append((audited.drop, f"without a review, drop the {dropped} most suspicious"))
    if write_label_weights(out / WEIGHTS, audited, result):
        unreviewed.append((audited.reweigh, "without a review, weight each label by the probability that it is right"))
    with atomic(out / "audit.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    percent = f"{100 * rate.value:.1f} % ({100 * rate.low:.1f} to {100 * rate.high:.1f})"
    logger.info(
        "%s: %s of %s; labels wrong at random: about %s",
        audited.name,
        counted(summary["tracklets"], "tracklet"),
        counted(summary["persons"], "person"),
        percent,
    )
    if caution := _caution(rate.contradicted):
        logger.warning("%s: %s", audited.name, caution)
    for kind, count in counts.items():
        logger.info("%5d %-10s %s", count, kind, MEANING[kind])
    logger.info("the most suspicious:\n%s", _table(findings[:SHOWN], audited))
    if page:
        commands = [(audited.retrain, "train on the corrected labels")] if audited.retrain else []
        commands += unreviewed
        about = {
            "title": f"Which labels of {audited.name} are wrong?",
            "Labels wrong at random": f"about {percent}",
            "Fit another person better": f"{100 * rate.contradicted:.1f} %",
            "Found": counts,
            **({"Caution": caution} if caution else {}),
            **({"commands": commands} if commands else {}),
        }
        written = write_audit_page(
            out / "audit",
            audited.split,
            findings,
            audited.names,
            lambda frame: decode(audited.split.path(frame)),
            about,
        )
        logger.info("page: %s", written)
    if audited.retrain:
        logger.info("then train on the corrected labels: %s", audited.retrain)
    for command, what in unreviewed:
        logger.info("or, %s: %s", what, command)


def write_drops(file: Path, audited: Audited, result: Audit) -> int:
    """Writes corrections that drop as many of the most suspicious tracklets of a run as labels are estimated to be wrong.

    Returns:
        Their number. If it is 0, there is no file, and that of an earlier audit is removed; likewise for tracklets that share a key.
    """
    found = [] if audited.before is None else result.findings[: round(result.rate.value * len(result.findings))]
    keys = [audited.split.key(row) for row in range(len(audited.split))] if found else []
    if not found or len(set(keys)) < len(keys):
        file.unlink(missing_ok=True)
        return 0
    write_corrections(file, [("drop", keys[one.row]) for one in found])
    return len(found)


def write_label_weights(file: Path, audited: Audited, result: Audit) -> bool:
    """Writes a training weight for each tracklet of a run: the probability that its label is right, times the weight from elsewhere.

    Tracklets without a readable image were not audited; for them, this probability is that of any label.

    Returns:
        Whether there is a file. If there can be none, that of an earlier audit is removed, because it would contradict this one.
    """
    split, before = audited.split, audited.before
    if before is None:
        return False
    right = np.full(len(split), 1 - result.rate.value)
    right[[found.row for found in result.findings]] = [found.label_right for found in result.findings]
    keys, why = [split.key(row) for row in range(len(split))], ""
    if len(set(keys)) < len(keys):
        why = f"{counted(len(keys) - len(set(keys)), 'tracklet has', 'tracklets have')} the key of another one; give each a key of its own"
    elif not (right * before).any():
        why = "every weight would be 0, so nothing could be learned"
    if why:
        file.unlink(missing_ok=True)
        logger.warning("%s: not written: %s", file, why)
        return False
    write_weights(file, zip(keys, right.tolist(), before.tolist(), strict=True))
    return True


def _caution(contradicted: float) -> str:
    """Returns a warning if most tracklets fit another person better than their own; else an empty text."""
    if contradicted <= UNFIT:
        return ""
    return (
        f"{100 * contradicted:.0f} % of the tracklets look more like another person than like their own: either most labels are wrong, or "
        "this network cannot tell these persons apart; check its mAP before you act on a finding; it may need longer training"
    )


def _table(findings: list[Finding], audited: Audited) -> str:
    split, names = audited.split, audited.names
    lines = [
        (
            split.key(found.row),
            names.person(split.pid[found.row]),
            f"{found.suspicion:.2f}",
            found.kind,
            "" if found.suggested_pid is None else names.person(found.suggested_pid),
        )
        for found in findings
    ]
    return text_table(["tracklet", "labelled", "suspicion", "kind", "fits better"], lines)
