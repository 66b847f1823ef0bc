"""Input records of a report; the page draws them without further checks.

Shapes: P points of a curve, N training samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from reid.errors import DataError
from reid.features import EvalResult

Kind = Literal["query", "match", "wrong", "distractor", "hit", "suspect"]
_SIGNATURES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}


@dataclass(frozen=True)
class Thumbnail:
    """One image of a tracklet.

    Args:
        image: bytes of a JPEG or PNG file.
        caption: a few words, in lines of about twelve characters, such as ``pid 12\\ncam 3\\n0.83``.
        kind: ``query``; ``match`` (same identity); ``wrong`` (another identity); ``distractor`` (pid 0, matches no query); ``hit`` (a
            hit of a query of unknown identity); ``suspect`` (a training tracklet whose label may be wrong).

    Raises:
        DataError: the bytes are neither JPEG nor PNG.
    """

    image: bytes
    caption: str
    kind: Kind

    def __post_init__(self) -> None:
        if not any(self.image.startswith(signature) for signature in _SIGNATURES):
            raise DataError(f"thumbnail '{self.caption}': expected the bytes of a JPEG or PNG, got {self.image[:8]!r}")

    @property
    def media_type(self) -> str:
        """``image/jpeg`` or ``image/png``, by the first bytes."""
        return next(name for signature, name in _SIGNATURES.items() if self.image.startswith(signature))


@dataclass(frozen=True)
class RankedList:
    """A query and its ranked list, nearest first, without junk.

    Args:
        title: name of the query.
        ap: its average precision in [0, 1]; None if it has no match.
        query: thumbnail of kind ``query``.
        hits: the first ranks, in order.
    """

    title: str
    ap: float | None
    query: Thumbnail
    hits: Sequence[Thumbnail]


@dataclass(frozen=True)
class ReportInput:
    """All content of a report page; empty parts are left out of the page.

    Args:
        title: the page's heading.
        subtitle: one line below it.
        facts: short facts for the top, such as dataset, loss, realised noise, device, command.
        results: the run's results; the first one is the headline.
        baselines: (name, result) to compare with.
        metrics: rows of ``metrics.jsonl``, as in `plots.training_curves` and `plots.accuracy_curves`; any key may be missing.
        weight_curves: (name, p (P,), w (P,)), the run's own loss first.
        probability_histogram: (name, p (N,)) of the training samples, intact labels first, then corrupted ones.
        best: the queries with the highest average precision.
        worst: the queries with the lowest average precision.
        suspects: the training tracklets whose label has the lowest predicted probability.
        settings: the resolved config as YAML text.
        environment: versions and hardware.
        commands: (command, what it does), suggested next steps.
    """

    title: str
    subtitle: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    results: Sequence[EvalResult] = ()
    baselines: Sequence[tuple[str, EvalResult]] = ()
    metrics: Sequence[Mapping[str, Any]] = ()
    weight_curves: Sequence[tuple[str, np.ndarray, np.ndarray]] = ()
    probability_histogram: Sequence[tuple[str, np.ndarray]] = ()
    best: Sequence[RankedList] = ()
    worst: Sequence[RankedList] = ()
    suspects: Sequence[Thumbnail] = ()
    settings: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    commands: Sequence[tuple[str, str]] = ()
