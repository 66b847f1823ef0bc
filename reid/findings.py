"""What an audit of labels comes out with: one record for each tracklet. Shapes: T tracklets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Kind = Literal["", "wrong", "switch", "merge", "split", "duplicate", "background"]
KINDS: tuple[str, ...] = get_args(Kind)
"""``wrong``: the whole tracklet carries another person's label. ``switch``: some of its frames show somebody else. ``merge``: its person
goes by a second pid. ``split``: its pid holds two persons. ``duplicate``: its pictures are those of another tracklet. ``background``:
nobody is there. Empty: nothing stands out."""


@dataclass(frozen=True)
class Exemplar:
    """A tracklet to compare a suspect with: its row, 0-based, and the cosine similarity of the two, in [-1, 1]."""

    row: int
    similarity: float


@dataclass(frozen=True)
class Finding:
    """What speaks against one tracklet's label.

    Args:
        row: the tracklet's row, 0 <= row < T.
        suspicion: in [0, 1], how likely the label is wrong against the other tracklets'; it ranks them.
        kind: what seems to be wrong.
        suggested_pid: the person that fits better, None where none stands out.
        frames: spans (first, last) of positions inside the tracklet, counted from 0, end included, rising; where in it a ``switch`` is.
        evidence: kind of evidence -> value; NaN where it cannot be told.
        own: tracklets of its own person that are nearest to it, nearest first.
        other: likewise of the person that fits best among the others.
    """

    row: int
    suspicion: float
    kind: Kind = ""
    suggested_pid: int | None = None
    frames: tuple[tuple[int, int], ...] = ()
    evidence: Mapping[str, float] = field(default_factory=dict)
    own: tuple[Exemplar, ...] = ()
    other: tuple[Exemplar, ...] = ()

    def __post_init__(self) -> None:
        assert 0 <= self.suspicion <= 1, self.suspicion
        assert self.kind in KINDS, self.kind
