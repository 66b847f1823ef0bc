"""Evaluation of features under protocols: mAP, CMC and mINP, and further analyses of the results."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from reid.errors import DataError
from reid.evaluation.camera_pairs import camera_pairs
from reid.evaluation.intervals import bootstrap
from reid.evaluation.masks import Matches, explain_without_match, find_matches, searched_rows
from reid.evaluation.metrics import average_precision, cmc_curve, hit_ranks, inverse_negative_penalty
from reid.evaluation.ranking import BLOCK_SIZE, count_nearer
from reid.evaluation.reranking import count_nearer_expanded, count_nearer_reranked
from reid.evaluation.verification import verification
from reid.features import EvalResult, FeatureSet
from reid.protocol import EvalProtocol

logger = logging.getLogger(__name__)

NUM_RANKS = 50  # length of the CMC curve
AFTER_STEPS: dict[str, Callable[[FeatureSet, EvalProtocol, Matches], np.ndarray]] = {
    "rerank": count_nearer_reranked,
    "expand": count_nearer_expanded,
}


def evaluate(
    features: FeatureSet,
    protocol: EvalProtocol,
    *,
    block_size: int = BLOCK_SIZE,
    device: str | torch.device = "cpu",
    workers: int | None = None,
) -> EvalResult:
    """mAP and CMC under one protocol, exact at any size.

    Args:
        features: the features with their query and gallery.
        protocol: defines the gallery, junk, and the computation of AP.
        block_size: queries compared at once, >= 1; affects memory, not the result.
        device: where similarities are computed; does not affect the result.
        workers: threads, >= 1; None = as many as torch uses; does not affect the result.

    Raises:
        DataError: no query or no gallery row, or a query without a match under `without_match: error`.
        ConfigError: `block_size` or `workers` is below 1.
    """
    matches = find_matches(features, protocol)
    nearer = count_nearer(features, matches, block_size=block_size, device=device, workers=workers)
    return _result(features, protocol, matches, nearer)


def evaluate_all(
    features: FeatureSet,
    protocols: Iterable[EvalProtocol],
    *,
    block_size: int = BLOCK_SIZE,
    device: str | torch.device = "cpu",
    workers: int | None = None,
    after: str | None = None,
) -> list[EvalResult]:
    """`evaluate` under several protocols; protocols with the same gallery and junk share one ranking.

    A protocol that leaves no gallery row, such as `without_queries` when every row is a query, is skipped with a
    warning, and its result has no figures. It is an error only if no protocol has a gallery row.

    Args:
        features: as for `evaluate`.
        protocols: one result each, in this order.
        block_size: as for `evaluate`.
        device: as for `evaluate`.
        workers: as for `evaluate`.
        after: a key of `AFTER_STEPS`, a step applied to the ranking before the metrics; its name is appended to the protocols' names.

    Raises:
        DataError: as for `evaluate`.
    """
    protocols = list(protocols)
    searched = [len(searched_rows(features, protocol)) > 0 for protocol in protocols]
    ranked: dict[tuple[str, bool], tuple[Matches, np.ndarray]] = {}
    results = []
    for protocol, has_gallery in zip(protocols, searched, strict=True):
        if any(searched) and not has_gallery:
            results.append(_skipped(features, protocol))
            continue
        alike = (protocol.gallery, protocol.camera_filter)
        if alike not in ranked:
            matches = find_matches(features, protocol)
            if after is None:
                nearer = count_nearer(features, matches, block_size=block_size, device=device, workers=workers)
            else:
                nearer = AFTER_STEPS[after](features, protocol, matches)
            ranked[alike] = matches, nearer
        named = protocol if after is None else replace(protocol, name=f"{protocol.name}+{after}")
        results.append(_result(features, named, *ranked[alike]))
    return results


def analyse(
    features: FeatureSet,
    results: Sequence[EvalResult],
    *,
    block_size: int = BLOCK_SIZE,
    device: str | torch.device = "cpu",
    workers: int | None = None,
) -> list[dict[str, Any]]:
    """Further analyses of results: `interval`, `camera_pairs` and `verification`, as the public JSON objects.

    Args:
        features: the features that were evaluated.
        results: from `evaluate`, or from `evaluate_all` without `after`; for a skipped protocol, all three are None.
        block_size: as for `evaluate`.
        device: as for `evaluate`.
        workers: as for `evaluate`.
    """
    options: dict[str, Any] = {"block_size": block_size, "device": device, "workers": workers}
    pairs: dict[tuple[str, str], dict[str, Any]] = {}
    checks: dict[tuple[str, bool], dict[str, Any]] = {}
    analyses: list[dict[str, Any]] = []
    for result in results:
        protocol = result.protocol
        if not result.num_gallery:
            analyses.append({"interval": None, "camera_pairs": None, "verification": None})
            continue
        pair, check = (protocol.gallery, protocol.ap), (protocol.gallery, protocol.camera_filter)  # cache keys
        if pair not in pairs:
            pairs[pair] = camera_pairs(features, protocol, **options).to_json()
        if check not in checks:
            checks[check] = verification(features, protocol, **options).to_json()
        interval = bootstrap(result, features.pid).to_json()
        analyses.append({"interval": interval, "camera_pairs": pairs[pair], "verification": checks[check]})
    return analyses


def _skipped(features: FeatureSet, protocol: EvalProtocol) -> EvalResult:
    """The result of a protocol without a gallery row: no figures, all queries without a match."""
    logger.warning(
        "%s: skipped: gallery: %s leaves none of %d rows to search (%d queries); its results are null",
        protocol.name,
        protocol.gallery,
        len(features.gallery),
        len(features.query),
    )
    none = np.zeros(0, np.int64)
    empty = np.zeros(0)
    return EvalResult(protocol, None, empty, empty, none, len(features.query), 0, inp=empty, first_rank=none)


def _result(features: FeatureSet, protocol: EvalProtocol, matches: Matches, nearer: np.ndarray) -> EvalResult:
    count = np.diff(matches.start)
    has_match = count > 0
    _report(features, protocol, matches, has_match)
    start = np.concatenate([[0], np.cumsum(count[has_match])])
    rank = hit_ranks(nearer, start)
    ap, inp, first_rank = np.zeros(len(count)), np.zeros(len(count)), np.zeros(len(count), np.int64)
    ap[has_match] = average_precision(rank, start, protocol.ap)
    inp[has_match] = inverse_negative_penalty(rank, start)
    first_rank[has_match] = rank[start[:-1]]
    counted = has_match | (protocol.without_match == "zero")
    num_queries = int(counted.sum())
    return EvalResult(
        protocol=protocol,
        mAP=float(ap[counted].mean()) if num_queries else None,
        cmc=cmc_curve(rank[start[:-1]], num_queries, NUM_RANKS),
        ap=ap[counted],
        query=features.query[counted],
        num_without_match=len(count) - num_queries,
        num_gallery=matches.num_gallery,
        inp=inp[counted],
        first_rank=first_rank[counted],
    )


def _report(features: FeatureSet, protocol: EvalProtocol, matches: Matches, has_match: np.ndarray) -> None:
    """Logs queries without a match and queries that match themselves.

    Raises:
        DataError: a query has no match, under `without_match: error`.
    """
    if not has_match.all():
        why = explain_without_match(features, protocol, matches)
        if protocol.without_match == "error":
            raise DataError(why)
        logger.log(logging.INFO if has_match.any() else logging.WARNING, "%s", why)
    of_query = np.repeat(features.query, np.diff(matches.start))
    itself = int((matches.columns[matches.column] == of_query).sum())
    if itself:
        logger.warning(
            "%s: %d queries of unknown camera are in the gallery and match themselves; use the protocol "
            "mars-torchreid or --any-camera to leave them out",
            protocol.name,
            itself,
        )
