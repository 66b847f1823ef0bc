"""Results as plain text: the block for scripts to parse, and aligned tables over protocols, cameras, thresholds and comparisons.

Shapes: P points of a curve, N training samples.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reid.features import RANKS, EvalResult

_POINT = {"threshold": "{:.6f}".format, "fmr": "{:.4g}".format, "fnmr": "{:.1%}".format, "tpr": "{:.1%}".format}
_NUMBER = re.compile(r"[-+]?[\d.,]+(e-?\d+)?%?|n/a|-")


def percent(fraction: float | None) -> str:
    """A fraction in [0, 1] as per cent with one decimal; ``n/a`` for None.

    >>> percent(0.7521), percent(None)
    ('75.2%', 'n/a')
    """
    return "n/a" if fraction is None else f"{100 * fraction:.1f}%"


def results_table(results: Sequence[EvalResult]) -> str:
    """One block per protocol: a line with the protocol and its counts, then mAP, CMC ranks and mINP, one per line."""
    return "\n\n".join(_block(result) for result in results)


def _block(result: EvalResult) -> str:
    dataset = "" if result.dataset is None else f"dataset {result.dataset}, "
    counts = (
        f"{dataset}protocol {result.protocol.name}: {result.num_queries} valid queries, "
        f"{result.num_without_match} lost (no match), {result.num_gallery} gallery rows"
    )
    ranks = [f"{f'Rank-{k}':<8}: {percent(result.at_rank(k))}" for k in RANKS]
    further = [] if result.inp is None else [f"mINP: {percent(result.mINP)}"]
    return "\n".join([counts, f"mAP: {percent(result.mAP)}", *ranks, *further])


def protocols_table(results: Sequence[EvalResult]) -> str:
    """All protocols in one aligned table, one column each so that four fit 80 characters; counts the queries without a match too."""
    shares = ("mAP", *(f"Rank-{k}" for k in RANKS), "mINP")
    columns = [
        [
            *(percent(share) for share in (result.mAP, *(result.at_rank(k) for k in RANKS), result.mINP)),
            str(result.num_queries),
            str(result.num_without_match),
            str(result.num_gallery),
        ]
        for result in results
    ]
    header = ["figure", *(result.protocol.name for result in results)]
    return text_table(header, list(zip((*shares, "queries", "lost", "gallery"), *columns, strict=True)))


def markdown_row(name: str, result: EvalResult) -> str:
    """One row of a Markdown table: name, protocol, mAP, Rank-1, -5, -10, -20."""
    cells = [name, result.protocol.name, percent(result.mAP), *(percent(result.at_rank(k)) for k in RANKS)]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def analysis_text(
    result: EvalResult, analysis: Mapping[str, Any], camera_names: Mapping[int, str] | None = None
) -> str:
    """The analyses of one result: intervals, camera pairs, verification.

    Args:
        result: the result that was analysed.
        analysis: the JSON objects `interval`, `camera_pairs` and `verification`; each may be None.
        camera_names: number -> name, of cameras that have one.
    """
    parts = (
        ("interval", lambda interval: _interval_table(result, interval)),
        ("camera_pairs", lambda pairs: _camera_tables(pairs, camera_names or {})),
        ("verification", _verification_table),
    )
    given = [write(analysis[name]) for name, write in parts if analysis[name] is not None]
    return "\n\n".join([f"== {result.title} ==", *(given or ["no rows to search, no results"])])


def _interval_table(result: EvalResult, interval: Mapping[str, Any]) -> str:
    values = (("mAP", "mAP", result.mAP), ("Rank-1", "rank1", result.at_rank(1)), ("mINP", "mINP", result.mINP))
    rows = [[name, percent(value), *map(percent, interval[key] or (None, None))] for name, key, value in values]
    title = f"{100 * interval['level']:g} % intervals, {interval['num_identities']} identities resampled"
    return f"{title}\n{text_table(['figure', 'value', 'low', 'high'], rows)}"


def _camera_tables(pairs: Mapping[str, Any], names: Mapping[int, str]) -> str:
    tables, cameras = [], [names.get(camera, str(camera)) for camera in pairs["cameras"]]
    for name, key in (("mAP", "mAP"), ("Rank-1", "rank1")):
        header = [r"query \ match", *cameras]
        rows = [[camera, *map(percent, row)] for camera, row in zip(cameras, pairs[key], strict=True)]
        title = (
            f"{name} by camera of the query and camera of its matches; across cameras {percent(pairs[f'{key}_across'])}"
        )
        tables.append(f"{title}\n{text_table(header, rows)}")
    if pairs["num_unknown_camera"]:
        tables.append(f"{pairs['num_unknown_camera']} queries of unknown camera are in no pair")
    return "\n\n".join(tables)


def _verification_table(check: Mapping[str, Any]) -> str:
    wanted = {float(rate) for rate in check["tpr_at_fpr"]}
    rows = [
        [f"{p['fpr']:g}", *("n/a" if p[k] is None else form(p[k]) for k, form in _POINT.items())]
        for p in check["roc"]
        if p["fpr"] in wanted
    ]
    title = f"verification: {check['num_genuine']} genuine and {check['num_impostor']} impostor pairs"
    at = "n/a" if check["eer"] is None else f"{percent(check['eer'])} at similarity {check['eer_threshold']:.6f}"
    return f"{title}\nequal error rate {at}\n{text_table(['at FPR', 'similarity', 'FMR', 'FNMR', 'TPR'], rows)}"


def comparison_text(a: str, b: str, comparisons: Sequence[Mapping[str, Any]]) -> str:
    """A table over protocols and metrics, and one sentence on mAP under the first protocol.

    Args:
        a: name of the first result.
        b: name of the second.
        comparisons: the JSON objects of `robust-reid compare`.
    """
    header = ["protocol", "figure", "A", "B", "A - B", "low", "high", "p", "real"]
    rows = [
        [
            one["protocol"],
            name,
            *(percent(one[key][side]) for side in ("a", "b", "difference")),
            *map(percent, one[key]["interval"] or (None, None)),
            f"{one[key]['p']:.4f}",
            "yes" if one[key]["real"] else "no",
        ]
        for one in comparisons
        for name, key in (("mAP", "mAP"), ("Rank-1", "rank1"), ("mINP", "mINP"))
    ]
    return f"A = {a}\nB = {b}\n{text_table(header, rows)}\n\n{verdict(a, b, comparisons[0])}"


def verdict(a: str, b: str, comparison: Mapping[str, Any]) -> str:
    """One sentence on the difference in mAP."""
    figure, counts = (
        comparison["mAP"],
        f"{comparison['num_queries']} queries of {comparison['num_identities']} identities",
    )
    where = f"{counts} ({comparison['protocol']})"
    if figure["interval"] is None:
        return f"no difference between {a} and {b} can be shown: {where} are too few"
    low, high = (100 * end for end in figure["interval"])
    if not figure["difference"]:
        return f"no difference between {a} and {b} can be shown: {a} and {b} have the same mAP, on {where}"
    better, worse, sign = (a, b, 1) if figure["difference"] > 0 else (b, a, -1)
    low, high = sorted((sign * low, sign * high))
    points = f"{100 * abs(figure['difference']):.1f} points mAP, {100 * comparison['level']:g} % interval {low:.1f} to {high:.1f}"
    points += f", p = {figure['p']:.4f}"
    if figure["real"]:
        return f"{better} is better than {worse} by {points}: significant, on {where}"
    return f"no difference between {a} and {b} can be shown: {better} is ahead by {points}, on {where}"


def weight_table(
    curves: Sequence[tuple[str, np.ndarray, np.ndarray]], histogram: Sequence[tuple[str, np.ndarray]] = ()
) -> tuple[list[str], list[list[str]]]:
    """Header and rows: each loss's weight at p = 0, 1/2 and 1, and each group's share of the total weight.

    Args:
        curves: (name, p (P,) ascending in [0, 1], w (P,) >= 0) per loss; interpolated linearly.
        histogram: (name, p (N,)) per group of training samples; shares need two or more groups, and then a last row gives them for equal
            weights.
    """
    groups = [(name, np.asarray(p_N, float)) for name, p_N in histogram if len(p_N)]
    groups = groups if len(groups) > 1 else []
    header = ["loss", "w(0)", "w(½)", "w(1)", *(f"share of {name}" for name, _ in groups)]
    equal = [("equal weights", np.array([0.0, 1.0]), np.ones(2))] if groups else []
    rows = []
    for name, p_P, w_P in [*curves, *equal]:
        pulls = np.array([np.interp(p_N, p_P, w_P).sum() for _, p_N in groups])
        shares = [percent(float(pull / pulls.sum())) if pulls.sum() > 0 else "n/a" for pull in pulls]
        rows.append([name, *(f"{weight:.2f}" for weight in np.interp((0, 0.5, 1), p_P, w_P)), *shares])
    return header, rows


def text_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns aligned as ``a | b | c`` with a rule below the header; columns of numbers are aligned to the right.

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
