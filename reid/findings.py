"""Result of a label audit: one record per tracklet. Shapes: T tracklets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Kind = Literal["", "wrong", "switch", "merge", "split", "duplicate", "background"]
KINDS: tuple[str, ...] = get_args(Kind)
"""``wrong``: the whole tracklet carries another person's label. ``switch``: some of its frames show another person. ``merge``: its person
has a second pid. ``split``: its pid contains two persons. ``duplicate``: its images are those of another tracklet. ``background``: its
images show no person. Empty: no error stands out."""


@dataclass(frozen=True)
class Exemplar:
    """A tracklet to compare a suspect with: its row, 0-based, and the cosine similarity of the two, in [-1, 1]."""

    row: int
    similarity: float


@dataclass(frozen=True)
class Finding:
    """How suspicious one tracklet's label is, and the evidence.

    Args:
        row: the tracklet's row, 0 <= row < T.
        suspicion: in [0, 1], how likely the label is wrong relative to those of other tracklets; findings are ranked by it.
        kind: suspected error, one of `KINDS`.
        suggested_pid: the person that fits better; None if no person stands out.
        frames: spans (first, last) of positions in the tracklet, 0-based, end included, ascending: where a ``switch`` is.
        evidence: kind of evidence -> value; NaN if it cannot be computed.
        own: nearest tracklets with the same pid, nearest first.
        other: nearest tracklets of the best-fitting other person, nearest first.
    """

    row: int
    suspicion: float
    kind: Kind = ""
    suggested_pid: int | None = None
    frames: tuple[tuple[int, int], ...] = ()
    evidence: Mapping[str, float] = field(default_factory=dict)
    own: tuple[Exemplar, ...] = ()
    other: tuple[Exemplar, ...] = ()

    @property
    def label_right(self) -> float:
        """The probability, in [0, 1], that a frame drawn from the tracklet shows the person of its label.

        That is: the label is right, and the frame is not one of the tracklet's foreign frames, if those are known.
        """
        return (1 - self.suspicion) * (1 - self.evidence.get("foreign_frames", 0.0))

    def __post_init__(self) -> None:
        assert 0 <= self.suspicion <= 1, self.suspicion
        assert self.kind in KINDS, self.kind
