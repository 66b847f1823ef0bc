"""Compare: test whether the difference between two sets of features of the same tracklets is significant."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reid.errors import DataError
from reid.evaluation.evaluate import evaluate_all
from reid.evaluation.intervals import compare
from reid.features import SCHEMA, FeatureSet
from reid.files import atomic
from reid.gallery import store
from reid.protocol import EvalProtocol
from reid.report.tables import comparison_text
from reid.rundir import RunDirectory


def run(a: Path, b: Path, protocols: Sequence[EvalProtocol], *, json_file: Path | None = None) -> None:
    """Compares A with B under each protocol; prints a table, and a sentence on mAP under the first protocol with results.

    Args:
        a: a run directory, a feature file or a feature folder.
        b: likewise, with features of the same queries and gallery.
        protocols: one comparison each.
        json_file: file to write the comparisons to as well.

    Raises:
        DataError: features are missing or damaged, or have other queries or another gallery; no query counts under any protocol.
    """
    tested_a, tested_b = (read_features(source) for source in (a, b))
    if tested_a.keys() != tested_b.keys():
        several, of = (a, tested_a) if None not in tested_a else (b, tested_b)
        raise DataError(
            f"{a} and {b}: tested on different datasets; pass the feature files to compare, such as "
            f"{RunDirectory(several).features_on(next(iter(of)))}"
        )
    comparisons: list[dict[str, Any]] = []
    for dataset, features in tested_a.items():
        found = _compared(features, tested_b[dataset], protocols)
        if not found:
            raise DataError(f"{a}: no query counts under any protocol, so there is nothing to compare")
        of_dataset = {} if dataset is None else {"dataset": dataset}
        found = [{"schema": SCHEMA, **of_dataset, "a": str(a), "b": str(b), **one} for one in found]
        print(("" if dataset is None else f"== {dataset} ==\n") + comparison_text(str(a), str(b), found))
        comparisons += found
    if json_file is not None:
        with atomic(json_file) as temporary:
            temporary.write_text(json.dumps(comparisons, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _compared(a: FeatureSet, b: FeatureSet, protocols: Sequence[EvalProtocol]) -> list[dict[str, Any]]:
    results = zip(*(evaluate_all(features, protocols) for features in (a, b)), strict=True)
    return [
        {"protocol": one.protocol.name, **compare((a, one), (b, other)).to_json()}
        for one, other in results
        if len(protocols) == 1 or one.num_queries or other.num_queries
    ]


def read_features(source: Path) -> dict[str | None, FeatureSet]:
    """Reads the test features of a finished run, or those of a feature folder or feature file.

    Returns:
        Features by dataset if the run tests several, else under the key None.

    Raises:
        DataError: the features are missing or damaged, or have no queries.
    """
    directory = RunDirectory(source)
    files = directory.tested()
    if directory.config_file.is_file() and not files:
        raise DataError(f"{source}: this run has no {directory.features.name} yet; finish it with --resume auto")
    if files:
        tested = {dataset: FeatureSet.load(file) for dataset, file in files.items()}
    else:
        tested = {None: store.read(source) if source.is_dir() else FeatureSet.load(source)}
    for features in tested.values():
        if not len(features.query):
            raise DataError(f"{source}: no query rows, so nothing to compare; extract a dataset with queries")
    return tested
