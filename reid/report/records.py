"""What a report is made of: plain records that the page draws and does not question.

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
    """One picture of a tracklet.

    Args:
        image: bytes of a JPEG or PNG file.
        caption: a few words, in lines of about twelve characters, such as ``pid 12\\ncam 3\\n0.83``.
        kind: ``query``; ``match`` (same identity); ``wrong`` (another one); ``distractor`` (pid 0, matches nobody).

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
        """``image/jpeg`` or ``image/png``, told by the first bytes."""
        return next(name for signature, name in _SIGNATURES.items() if self.image.startswith(signature))


@dataclass(frozen=True)
class RankedList:
    """A query and what came nearest to it, nearest first, junk left out.

    Args:
        title: names the query.
        ap: its average precision in [0, 1]; None where it has no match.
        query: kind ``query``.
        hits: the first ranks, in order.
    """

    title: str
    ap: float | None
    query: Thumbnail
    hits: Sequence[Thumbnail]


@dataclass(frozen=True)
class ReportInput:
    """All that one page shows; an empty part is left out of it.

    Args:
        title: the page's heading.
        subtitle: one line under it.
        facts: short facts for the top, such as dataset, loss, realised noise, device, command.
        results: the run's results, the first one being the headline.
        baselines: (name, result) to compare with.
        metrics: rows of ``metrics.jsonl``; read are ``step``, ``loss``, ``grad_l1``, ``lr``, and as fractions
            ``accuracy``, ``accuracy_intact``, ``accuracy_corrupted``. Missing keys are fine.
        weight_curves: (name, p (P,), w (P,)), the run's own loss first.
        probability_histogram: (name, p (N,)) of the training samples, right labels first, then wrong ones.
        best: the queries with the highest average precision.
        worst: those with the lowest.
        suspects: training tracklets whose label the network believed least.
        settings: the resolved config as YAML text.
        environment: versions and hardware.
        commands: (command, what it does) to go on with.
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
