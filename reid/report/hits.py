"""A sheet of hits: each query beside what came nearest to it. One file that loads nothing, like the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from reid.files import atomic
from reid.report.html import document, facts_list, signs, thumbnail_figure
from reid.report.records import Thumbnail


@dataclass(frozen=True)
class HitList:
    """A query and its hits.

    Args:
        title: names the query.
        note: a few words beside it.
        query: kind ``query``.
        hits: nearest first; ``match``, ``wrong`` and ``distractor`` are marked as such, other kinds are not.
    """

    title: str
    note: str
    query: Thumbnail
    hits: Sequence[Thumbnail]


def write_hits(path: str | Path, title: str, facts: Mapping[str, str], lists: Sequence[HitList]) -> None:
    """Writes the sheet, whole or not at all.

    Raises:
        DataError: the file cannot be written.
    """
    page = hits_html(title, facts, lists).encode("utf-8", "replace")
    with atomic(Path(path)) as temporary:
        temporary.write_bytes(page)


def hits_html(title: str, facts: Mapping[str, str], lists: Sequence[HitList]) -> str:
    """The whole page as text."""
    judged = any(hit.kind in ("match", "wrong", "distractor") for ranked in lists for hit in ranked.hits)
    heading = f"<header><h1>{escape(title)}</h1>{facts_list(facts)}</header>"
    articles = "\n".join(map(_hit_list, lists))
    return document(title, [heading, f"<section>\n<h2>Hits</h2>\n{signs() if judged else ''}\n{articles}\n</section>"])


def _hit_list(ranked: HitList) -> str:
    items = "\n".join(f"<li>{thumbnail_figure(hit, rank)}</li>" for rank, hit in enumerate(ranked.hits, start=1))
    row = (
        f'<ol style="flex-wrap: wrap" aria-label="Nearest in the gallery">\n{items}\n</ol>'
        if items
        else "<p>No hit.</p>"
    )
    return f"""<article class="card ranked">
<header><h3>{escape(ranked.title)}</h3><span class="muted">{escape(ranked.note)}</span></header>
<div class="row"><div class="asked">{thumbnail_figure(ranked.query)}</div>
{row}</div>
</article>"""
