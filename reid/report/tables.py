"""Results as plain text: the block that scripts scrape, one table over protocols, a Markdown row, aligned columns.

Shapes: P points of a curve, N training samples.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from reid.features import RANKS, EvalResult

_NUMBER = re.compile(r"[-+]?[\d.,]+%?|n/a|-")


def percent(fraction: float | None) -> str:
    """A fraction in [0, 1] as per cent with one decimal; ``n/a`` where the number is undefined.

    >>> percent(0.7521), percent(None)
    ('75.2%', 'n/a')
    """
    return "n/a" if fraction is None else f"{100 * fraction:.1f}%"


def results_table(results: Sequence[EvalResult]) -> str:
    """One block per protocol: a line with the protocol and its counts, then mAP and CMC ranks, one per line."""
    return "\n\n".join(_block(result) for result in results)


def _block(result: EvalResult) -> str:
    counts = (
        f"protocol {result.protocol.name}: {result.num_queries} valid queries, "
        f"{result.num_without_match} lost (no match), {result.num_gallery} gallery rows"
    )
    ranks = [f"{f'Rank-{k}':<8}: {percent(result.at_rank(k))}" for k in RANKS]
    return "\n".join([counts, f"mAP: {percent(result.mAP)}", *ranks])


def protocols_table(results: Sequence[EvalResult]) -> str:
    """All protocols in one aligned table, the queries lost to each counted."""
    header = ["protocol", "mAP", *(f"Rank-{k}" for k in RANKS), "queries", "lost", "gallery"]
    rows = [
        [
            result.protocol.name,
            percent(result.mAP),
            *(percent(result.at_rank(k)) for k in RANKS),
            str(result.num_queries),
            str(result.num_without_match),
            str(result.num_gallery),
        ]
        for result in results
    ]
    return text_table(header, rows)


def markdown_row(name: str, result: EvalResult) -> str:
    """One row of a Markdown table: name, protocol, mAP, Rank-1, -5, -10, -20."""
    cells = [name, result.protocol.name, percent(result.mAP), *(percent(result.at_rank(k)) for k in RANKS)]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def weight_table(
    curves: Sequence[tuple[str, np.ndarray, np.ndarray]], histogram: Sequence[tuple[str, np.ndarray]] = ()
) -> tuple[list[str], list[list[str]]]:
    """Header and rows: each loss's weight at p = 0, 1/2 and 1, and each group's share of all the weight.

    Args:
        curves: (name, p (P,) rising in [0, 1], w (P,) >= 0) per loss; read between its points by straight lines.
        histogram: (name, p (N,)) per group of training samples; shares need two groups or more,
            and then a last row says what equal weights would give.
    """
    groups = [(name, np.asarray(p_N, float)) for name, p_N in histogram if len(p_N)]
    groups = groups if len(groups) > 1 else []
    header = ["loss", "w(0)", "w(½)", "w(1)", *(f"pull of {name}" for name, _ in groups)]
    equal = [("equal weights", np.array([0.0, 1.0]), np.ones(2))] if groups else []
    rows = []
    for name, p_P, w_P in [*curves, *equal]:
        pulls = np.array([np.interp(p_N, p_P, w_P).sum() for _, p_N in groups])
        shares = [percent(float(pull / pulls.sum())) if pulls.sum() > 0 else "n/a" for pull in pulls]
        rows.append([name, *(f"{weight:.2f}" for weight in np.interp((0, 0.5, 1), p_P, w_P)), *shares])
    return header, rows


def text_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns aligned as ``a | b | c`` under a rule; columns of numbers are flushed right.

    Args:
        header: one title per column.
        rows: as many cells each as the header; anything that ``str`` turns into one line.

    >>> print(text_table(["subset", "ids"], [["train", 625], ["query", 1980]]))
    subset |  ids
    -------+-----
    train  |  625
    query  | 1980
    """
    cells = [[str(cell) for cell in row] for row in rows]
    assert all(len(row) == len(header) for row in cells), "every row has as many cells as the header"
    columns = list(zip(header, *cells, strict=True))
    aligned = [_align(column) for column in columns]
    lines = [" | ".join(line).rstrip() for line in zip(*aligned, strict=True)]
    rule = "-+-".join("-" * len(column[0]) for column in aligned)
    return "\n".join([lines[0], rule, *lines[1:]])


def _align(column: Sequence[str]) -> list[str]:
    width = max(map(len, column))
    numeric = len(column) > 1 and all(_NUMBER.fullmatch(cell) for cell in column[1:])
    return [cell.rjust(width) if numeric else cell.ljust(width) for cell in column]
