"""Compare: is the difference between two sets of features of the same tracklets real?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

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
    """Compares A with B under each protocol and prints a table, and a sentence on the first protocol that both have.

    Args:
        a: a run directory, a feature file or a feature folder.
        b: what to compare it with: features of the same queries and gallery.
        protocols: one comparison each.
        json_file: gets the comparisons too.

    Raises:
        DataError: features are missing or damaged, or are not of the same queries and gallery; no query counts.
    """
    features_a, features_b = (read_features(source) for source in (a, b))
    results = zip(*(evaluate_all(features, protocols) for features in (features_a, features_b)), strict=True)
    comparisons = [
        {
            "schema": SCHEMA,
            "protocol": one.protocol.name,
            "a": str(a),
            "b": str(b),
            **compare((features_a, one), (features_b, other)).to_json(),
        }
        for one, other in results
        if len(protocols) == 1 or one.num_queries or other.num_queries
    ]
    if not comparisons:
        raise DataError(f"{a}: no query counts under any protocol, so there is nothing to compare")
    print(comparison_text(str(a), str(b), comparisons))
    if json_file is not None:
        with atomic(json_file) as temporary:
            temporary.write_text(json.dumps(comparisons, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_features(source: Path) -> FeatureSet:
    """The features of a finished run, of a feature folder or of a feature file.

    Raises:
        DataError: there are none, they are damaged, or they name no queries.
    """
    directory = RunDirectory(source)
    if directory.config_file.is_file() and not directory.features.is_file():
        raise DataError(f"{source}: this run has no {directory.features.name} yet; finish it with --resume auto")
    if directory.features.is_file():
        features = FeatureSet.load(directory.features)
    else:
        features = store.read(source) if source.is_dir() else FeatureSet.load(source)
    if not len(features.query):
        raise DataError(f"{source}: no query rows, so nothing to compare; extract a dataset with queries")
    return features
