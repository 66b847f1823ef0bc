"""A page of search hits: each query with its nearest results. A single file without external resources, like the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reid.report.pages import render, write_page
from reid.report.records import Thumbnail


@dataclass(frozen=True)
class HitList:
    """A query and its hits.

    Args:
        title: name of the query.
        note: short text beside it.
        query: thumbnail of kind ``query``.
        hits: nearest first; those of kind ``match``, ``wrong`` and ``distractor`` are marked as such, those of other kinds are not.
    """

    title: str
    note: str
    query: Thumbnail
    hits: Sequence[Thumbnail]


def write_hits(path: str | Path, title: str, facts: Mapping[str, str], lists: Sequence[HitList]) -> None:
    """Writes the page atomically.

    Raises:
        DataError: the file cannot be written.
    """
    write_page(path, hits_html(title, facts, lists))


def hits_html(title: str, facts: Mapping[str, str], lists: Sequence[HitList]) -> str:
    """The page as HTML."""
    judged = any(hit.kind in ("match", "wrong", "distractor") for ranked in lists for hit in ranked.hits)
    return render("hits.html", title=title, facts=facts, lists=lists, judged=judged)
