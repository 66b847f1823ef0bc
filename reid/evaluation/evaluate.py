"""Features and a protocol in, one number with its definition out."""

import logging
from collections.abc import Iterable

import numpy as np
import torch

from reid.errors import DataError
from reid.evaluation.masks import Matches, explain_without_match, find_matches
from reid.evaluation.metrics import average_precision, cmc_curve, hit_ranks
from reid.evaluation.ranking import BLOCK_SIZE, count_nearer
from reid.features import EvalResult, FeatureSet
from reid.protocol import EvalProtocol

logger = logging.getLogger(__name__)

NUM_RANKS = 50  # length of the CMC curve


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
        protocol: what is searched, what is junk, how AP is computed.
        block_size: queries compared at once, >= 1; memory grows with it, the result does not depend on it.
        device: where similarities are computed; the result does not depend on it.
        workers: threads, >= 1; None = as many as torch uses; the result does not depend on it.

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
) -> list[EvalResult]:
    """`evaluate` under several protocols; those that rank alike are ranked once.

    Args:
        features: as for `evaluate`.
        protocols: one result each, in this order.
        block_size: as for `evaluate`.
        device: as for `evaluate`.
        workers: as for `evaluate`.
    """
    ranked: dict[tuple[str, bool], tuple[Matches, np.ndarray]] = {}
    results = []
    for protocol in protocols:
        alike = (protocol.gallery, protocol.camera_filter)
        if alike not in ranked:
            matches = find_matches(features, protocol)
            nearer = count_nearer(features, matches, block_size=block_size, device=device, workers=workers)
            ranked[alike] = matches, nearer
        results.append(_result(features, protocol, *ranked[alike]))
    return results


def _result(features: FeatureSet, protocol: EvalProtocol, matches: Matches, nearer: np.ndarray) -> EvalResult:
    count = np.diff(matches.start)
    has_match = count > 0
    _report(features, protocol, matches, has_match)
    start = np.concatenate([[0], np.cumsum(count[has_match])])
    rank = hit_ranks(nearer, start)
    ap = np.zeros(len(count))
    ap[has_match] = average_precision(rank, start, protocol.ap)
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
    )


def _report(features: FeatureSet, protocol: EvalProtocol, matches: Matches, has_match: np.ndarray) -> None:
    """Says what a reader of the number must know: queries without a match, and queries that match themselves."""
    if not has_match.all():
        why = explain_without_match(features, protocol, matches)
        if protocol.without_match == "error":
            raise DataError(why)
        logger.log(logging.INFO if has_match.any() else logging.WARNING, "%s", why)
    of_query = np.repeat(features.query, np.diff(matches.start))
    itself = int((matches.columns[matches.column] == of_query).sum())
    if itself:
        logger.warning(
            "%s: %d queries of unknown camera are in the gallery and match themselves; "
            "protocol mars-torchreid, or --any-camera, leaves them out",
            protocol.name,
            itself,
        )
