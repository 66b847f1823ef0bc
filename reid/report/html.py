"""``report.html``: one file that shows a run. It loads nothing and runs no script; same input, same bytes.

Everything that comes from data passes through ``escape`` on its way into the page.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from reid.features import RANKS, EvalResult
from reid.files import atomic
from reid.report import plots
from reid.report.drawing import Key, Plot
from reid.report.records import RankedList, ReportInput, Thumbnail
from reid.report.style import CSS
from reid.report.tables import percent, weight_table

__all__ = ["RankedList", "ReportInput", "Thumbnail", "report_html", "write_report"]

_SIGNS = {
    "match": ("✓", "match: the query's identity"),
    "wrong": ("✗", "wrong: another identity"),
    "distractor": ("○", "distractor (pid 0): matches nobody, and counts as wrong"),
}
_NUMBER = re.compile(r"[-+−]?[\d.,]+( ± [\d.,]+)?%?")
# The browser itself is told to fetch nothing, whatever the data holds.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_report(path: str | Path, report: ReportInput) -> None:
    """Write the page; whoever reads ``path`` meanwhile sees the old page or the new one, never half of one.

    Raises:
        DataError: the file cannot be written.
    """
    page = report_html(report).encode("utf-8", "replace")
    with atomic(Path(path)) as temporary:
        temporary.write_bytes(page)


def report_html(report: ReportInput) -> str:
    """The whole page as text."""
    parts = [
        _heading(report),
        _headline(report),
        _curves(report),
        _weights(report),
        _ranked_lists(report),
        _settings(report),
    ]
    return document(report.title, parts)


def document(title: str, parts: Sequence[str]) -> str:
    """A whole page of this style from its parts, which are HTML; empty ones are left out."""
    body = "\n".join(part for part in parts if part)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>{CSS}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def _heading(report: ReportInput) -> str:
    subtitle = f'<p class="muted">{escape(report.subtitle)}</p>' if report.subtitle else ""
    return f"<header><h1>{escape(report.title)}</h1>{subtitle}{facts_list(report.facts)}</header>"


def facts_list(facts: Mapping[str, str]) -> str:
    """Short facts side by side, long ones on lines of their own; nothing where there are none."""
    if not facts:
        return ""
    items = [
        f'<div class="{"wide" if len(value) > 60 else "short"}"><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>'
        for name, value in facts.items()
    ]
    return f'<dl class="facts">{"".join(items)}</dl>'


def _headline(report: ReportInput) -> str:
    if not report.results:
        return ""
    first = report.results[0]
    same = [(name, result) for name, result in report.baselines if result.protocol == first.protocol]
    tiles = [
        _tile("mAP", percent(first.mAP), first, [f"{name} {percent(result.mAP)}" for name, result in same]),
        _tile("Rank-1", percent(first.at_rank(1)), first, [f"{name} {percent(r.at_rank(1))}" for name, r in same]),
        _tile("queries", f"{first.num_queries:,}", first, [f"{first.num_without_match:,} left out: no match"]),
        _tile("gallery", f"{first.num_gallery:,}", first, ["rows searched, junk included"]),
    ]
    entries = [*(("this run", result) for result in report.results), *report.baselines]
    titles = ["features and protocol", "mAP", *(f"Rank-{k}" for k in RANKS), "queries", "lost", "gallery"]
    rows = [_result_row(name, result, is_run=i < len(report.results)) for i, (name, result) in enumerate(entries)]
    table = _table("Table of results", titles, rows)
    return f'<section aria-label="Results">\n<div class="tiles">{"".join(tiles)}</div>\n{table}\n</section>'


def _tile(name: str, value: str, result: EvalResult, notes: Sequence[str]) -> str:
    lines = "".join(f'<p class="muted">{escape(note)}</p>' for note in notes)
    return (
        f'<div class="card tile"><div class="name">{name} <code>{escape(result.protocol.name)}</code></div>'
        f'<div class="value">{value}</div>{lines}</div>'
    )


def plain_table(label: str, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain text; the first column heads its rows, and columns without a number are flushed left."""
    words = [not any(_NUMBER.fullmatch(cell) for cell in column) for column in zip(*rows, strict=True)]
    body = []
    for name, *values in rows:
        cells = [f"<td{_class(word)}>{escape(v)}</td>" for v, word in zip(values, words[1:], strict=True)]
        body.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
    return _table(label, titles, body, words)


def _class(word: bool) -> str:
    return ' class="words"' if word else ""


def _table(label: str, titles: Sequence[str], rows: Sequence[str], words: Sequence[bool] = ()) -> str:
    flags = [*words, *[False] * (len(titles) - len(words))]
    head = "".join(
        f'<th scope="col"{_class(word)}>{escape(title)}</th>' for title, word in zip(titles, flags, strict=True)
    )
    body = "\n".join(rows)
    return (
        f'<div class="card scroll" role="region" aria-label="{label}" tabindex="0"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _result_row(name: str, result: EvalResult, is_run: bool) -> str:
    shares = [result.mAP, *(result.at_rank(k) for k in RANKS)]
    numbers = "".join(f'<td class="bar" style="--to: {100 * (v or 0):.1f}%">{percent(v)}</td>' for v in shares)
    counts = (result.num_queries, result.num_without_match, result.num_gallery)
    return (
        f'<tr class="{"run" if is_run else "baseline"}"><th scope="row">{escape(name)} '
        f"<code>{escape(result.protocol.name)}</code></th>{numbers}"
        f"{''.join(f'<td>{count:,}</td>' for count in counts)}</tr>"
    )


def _curves(report: ReportInput) -> str:
    entries = [(f"this run, {r.protocol.name}", r) for r in report.results[:1]]
    entries += [(f"{name}, {r.protocol.name}", r) for name, r in report.baselines]
    figures = [
        figure("Training", plots.training_curves(report.metrics), "Thin: as logged. Thick: running mean."),
        figure(
            "Training accuracy",
            plots.accuracy_curves(report.metrics),
            "Against the labels as given: on samples with a wrong label, a rising curve is memorised noise.",
        ),
        figure("CMC", plots.cmc_curve(entries), "Share of the queries with a match at this rank or nearer."),
        *(
            figure("Average precision", plots.ap_histogram(r), f"Spread over the queries, {r.protocol.name}.")
            for r in report.results[:1]
        ),
    ]
    return _grid("Curves", figures)


def _weights(report: ReportInput) -> str:
    plot = plots.weight_curves(report.weight_curves, report.probability_histogram)
    if plot is None:
        return ""
    where = " Below: where the training samples lie." if report.probability_histogram else ""
    note = f"w(p) is the L1 norm of the loss's gradient: how hard a sample with probability p pulls.{where}"
    titles, rows = weight_table(report.weight_curves, report.probability_histogram)
    table = plain_table("Weights of the losses", titles, rows)
    pull = "Pull: a group's share of the summed weight, were each loss applied to this model as it is."
    explained = f'<p class="muted note">{escape(pull)}</p>' if len(titles) > 4 else ""
    return _grid("What the loss listens to", [figure("Weight curve", plot, note), f"<div>{table}{explained}</div>"])


def _grid(title: str, figures: Sequence[str]) -> str:
    shown = "\n".join(figure for figure in figures if figure)
    return f'<section>\n<h2>{title}</h2>\n<div class="grid">\n{shown}\n</div>\n</section>' if shown else ""


def figure(title: str, plot: Plot | None, note: str = "") -> str:
    """A card with a drawing, its legend and a note below; nothing where there is no drawing."""
    if plot is None:
        return ""
    svg = plot.svg.replace("<svg ", f'<svg role="img" aria-label="{escape(plot.alt)}" ', 1)
    caption = f"\n<figcaption>{escape(note)}</figcaption>" if note else ""
    return f'<figure class="card plot"><h3>{escape(title)}</h3>{legend(plot.legend)}\n{svg}{caption}</figure>'


def legend(keys: Sequence[Key]) -> str:
    """The marks of curves beside their names."""
    items = "".join(f"<li>{_mark(key)}{escape(key.label)}</li>" for key in keys)
    return f'<ul class="legend">{items}</ul>' if items else ""


def _mark(key: Key) -> str:
    if key.bar:
        return _key_svg(f'<rect y="1" width="26" height="8" style="fill: var(--{key.role}); opacity: .5"/>')
    dash = f' stroke-dasharray="{" ".join(f"{2 * length:g}" for length in key.dash)}"' if key.dash else ""
    return _key_svg(f'<path d="M0 5H26"{dash} style="stroke: var(--{key.role}); stroke-width: 2.5"/>')


def _key_svg(shape: str) -> str:
    return f'<svg viewBox="0 0 26 10" aria-hidden="true">{shape}</svg>'


def _ranked_lists(report: ReportInput) -> str:
    groups = [("Best queries", report.best), ("Worst queries", report.worst)]
    shown = [(title, "\n".join(map(_ranked_list, lists))) for title, lists in groups if lists]
    return "\n".join(f"<section>\n<h2>{title}</h2>\n{signs()}\n{articles}\n</section>" for title, articles in shown)


def signs() -> str:
    meanings = [f'<li class="{kind}"><span class="sign">{s}</span>{text}</li>' for kind, (s, text) in _SIGNS.items()]
    return f'<ul class="signs">{"".join(meanings)}</ul>'


def _ranked_list(ranked: RankedList) -> str:
    hits = "\n".join(f"<li>{thumbnail_figure(hit, rank)}</li>" for rank, hit in enumerate(ranked.hits, start=1))
    return f"""<article class="card ranked">
<header><h3>{escape(ranked.title)}</h3><span class="muted">AP {percent(ranked.ap)}</span></header>
<div class="row"><div class="asked">{thumbnail_figure(ranked.query)}</div>
<ol tabindex="0" aria-label="Nearest in the gallery">
{hits}
</ol></div>
</article>"""


def thumbnail_figure(thumbnail: Thumbnail, rank: int | None = None) -> str:
    """A framed picture; the frame's meaning is also a sign and a word, for those who cannot tell its colour."""
    sign = _SIGNS[thumbnail.kind][0] if thumbnail.kind in _SIGNS else ""
    alt = ", ".join(["query" if rank is None else f"rank {rank}, {thumbnail.kind}", *thumbnail.caption.splitlines()])
    source = f"data:{thumbnail.media_type};base64,{base64.b64encode(thumbnail.image).decode('ascii')}"
    mark = f'<span class="sign" aria-hidden="true">{sign}</span>' if sign else ""
    return (
        f'<figure class="thumb {thumbnail.kind}"><div class="frame">'
        f'<img src="{source}" alt="{escape(alt)}">{mark}</div>'
        f'<figcaption><span class="rank">{"query" if rank is None else rank}</span>'
        f'<span class="caption">{escape(thumbnail.caption)}</span></figcaption></figure>'
    )


def _settings(report: ReportInput) -> str:
    settings = f"<pre>{escape(report.settings)}</pre>" if report.settings else ""
    environment = facts_list(report.environment)
    blocks = [("Settings", settings), ("Environment", environment)]
    shown = "\n".join(
        f'<details class="card"><summary>{title}</summary>{block}</details>' for title, block in blocks if block
    )
    return f"<section>\n<h2>How it was made</h2>\n{shown}\n</section>" if shown else ""
