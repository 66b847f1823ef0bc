"""Tables of the label-noise study: accuracies beside the paper's, variance of weights, and the T that each set of labels selects.

A table is a header and rows of text. Accuracies are printed in per cent, differences in points.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from reid.report.study_records import Cell, Record, gather, paper_name, training, varied

Table = tuple[list[str], list[list[str]]]
Paper = Mapping[tuple[int, float, str], Mapping[str, float]]
Weighting = tuple[str, Callable[[np.ndarray], np.ndarray], "float | None"]
_Column = tuple[str, Callable[[Cell], str]]

_FIGURES = (
    ("test best", ("best", "test"), "best"),
    ("test final", ("final", "test"), "final"),
    ("train corrupted", ("final", "train_corrupted"), "train_corrupted"),
    ("train intact", ("final", "train_intact"), "train_intact"),
)
_CHOOSERS = (
    ("test set", "test"),
    ("held-out noisy labels", "holdout_noisy"),
    ("held-out clean labels", "holdout_clean"),
    ("the training set's true labels (as in the paper)", "train_intact"),
)


def accuracy_table(records: Iterable[Record], paper: Paper) -> Table:
    """The layout of the paper's Table 2: one row per backbone, noise and loss, with four accuracies and the paper's beside them.

    Several seeds give mean ± spread, and the column of seeds names the spread: half the range for two, standard deviation for more. Δ is
    ours minus the paper's, in points.

    Args:
        records: of cells; missing values read ``n/a``.
        paper: {(depth, nominal noise rate, loss name): {"best" | "final" | "train_corrupted" | "train_intact": per cent}};
            rate 0 for clean labels, for which Table 1 gives only the final test accuracy. The values are for CIFAR-10 with symmetric
            noise, and for IMAE with T = 0.5 on clean labels and 8 on noisy ones; other cells have no paper value.

    Returns:
        Header and rows. Empty columns are left out: those of the paper without paper values, and ``training`` if all rows share it.
    """
    cells = gather(records)
    trained = training(cell.setting for cell in cells)
    columns: list[_Column] = [
        ("backbone", lambda cell: cell.setting.backbone),
        ("training", lambda cell: trained[cell.setting]),
        ("noise", lambda cell: cell.setting.noise_label),
        ("wrong labels (%)", lambda cell: _percent(cell, "realised_rate", spread=False)),
        ("loss", lambda cell: cell.label),
        ("seeds", lambda cell: f"{len(cell.records)} (± {cell.spread_name})" if cell.spread_name else "1"),
    ]
    for title, path, key in _FIGURES:
        columns += _beside_paper(title, path, key, paper)
    table = [[value(cell) for cell in cells] for _, value in columns]
    shown = [i for i, column in enumerate(table) if any(column) or columns[i][0] in ("backbone", "noise")]
    return [columns[i][0] for i in shown], [[table[i][row] for i in shown] for row in range(len(cells))]


def _beside_paper(title: str, path: tuple[str, str], key: str, paper: Paper) -> list[_Column]:
    def theirs(cell: Cell) -> str:
        value = _paper_value(cell, key, paper)
        return "" if value is None else f"{value:.1f}"

    def difference(cell: Cell) -> str:
        value, mean = _paper_value(cell, key, paper), cell.mean(*path)
        return "" if value is None or mean is None else _signed(100 * mean - value, 1)

    return [
        (f"{title} (%)", lambda cell: _percent(cell, *path)),
        (f"{title}: paper", theirs),
        (f"{title}: Δ", difference),
    ]


def _paper_value(cell: Cell, key: str, paper: Paper) -> float | None:
    s = cell.setting
    if s.dataset != "cifar10" or s.noise not in ("", "symmetric"):
        return None
    return paper.get((s.depth, s.rate, paper_name(cell)), {}).get(key)


def variance_table(weightings: Sequence[Weighting]) -> Table:
    """The paper's Table 4: variance of w(p) with p uniform in [0, 1] (Eq. 23-24), by numerical quadrature.

    Args:
        weightings: (label, w, paper's variance or None); ``w`` maps p (P,) float64 in [0, 1] to weights (P,).
    """
    with_paper = any(theirs is not None for _, _, theirs in weightings)
    rows = []
    for label, w, theirs in weightings:
        ours = weighting_variance(w)
        beside = ["", ""] if theirs is None else [f"{theirs:g}", _signed(ours - theirs, 3)]
        rows.append([label, f"{ours:.3f}", *(beside if with_paper else [])])
    return ["loss", "variance of w(p)", *(["paper", "Δ"] if with_paper else [])], rows


def weighting_variance(w: Callable[[np.ndarray], np.ndarray]) -> float:
    """Integral of (w(p) - mean)^2 over p in [0, 1]: Eq. 23-24, in the form that cannot become negative."""
    from scipy.integrate import quad

    def integral(f: Callable[[float], float]) -> float:
        return float(quad(f, 0, 1, epsabs=1e-12, epsrel=1e-10, limit=200)[0])

    def at(p: float) -> float:
        return float(np.asarray(w(np.array([p])))[0])

    mean = integral(at)
    return integral(lambda p: (at(p) - mean) ** 2)


def choice_table(records: Iterable[Record]) -> Table:
    """Which option of a loss (IMAE's T) each set of labels selects, and how much test accuracy that selection costs.

    Candidates are cells that differ only in the options of one loss. Each set of labels selects the candidate with the highest final
    accuracy on it, mean over seeds; in a tie, the first one. The cost is the final test accuracy, in points, by which this candidate is
    below the one that the test set itself would select: 0.0 if they agree. If a candidate lacks the labels, the row reads
    ``not tested``.
    """
    groups = [
        group for group in varied(gather(records)) if all(cell.mean("final", "test") is not None for cell in group)
    ]
    trained = training(group[0].setting for group in groups)
    header = [
        "backbone",
        "training",
        "noise",
        "loss",
        "candidates",
        "chosen by",
        "choice",
        "test final (%)",
        "cost (points)",
    ]
    rows = [
        [*_choice_head(group, trained[group[0].setting]), title, *_choice(group, key)]
        for group in groups
        for title, key in _CHOOSERS
    ]
    if not any(row[1] for row in rows):
        header, rows = [header[0], *header[2:]], [[row[0], *row[2:]] for row in rows]
    return header, rows


def _choice_head(group: Sequence[Cell], trained: str) -> list[str]:
    setting = group[0].setting
    loss = group[0].label.partition(" (")[0]
    return [setting.backbone, trained, setting.noise_label, loss, " · ".join(_options(group))]


def _choice(group: Sequence[Cell], key: str) -> list[str]:
    """The option that the labels ``key`` select, its final test accuracy, and its cost."""
    judged = [cell.mean("final", key) for cell in group]
    if None in judged:
        return ["not tested", "", ""]
    test = np.array([cell.mean("final", "test") for cell in group], float)
    chosen = int(np.argmax(np.array(judged, float)))
    return [
        _options(group)[chosen],
        _percent(group[chosen], "final", "test"),
        f"{100 * (test.max() - test[chosen]):.1f}",
    ]


def _options(group: Sequence[Cell]) -> list[str]:
    """The options in which each candidate differs from the others, such as ``T = 8``."""
    keys = sorted({key for cell in group for key in cell.options})
    differ = [key for key in keys if len({repr(cell.options.get(key)) for cell in group}) > 1]
    return [", ".join(f"{key} = {_plain(cell.options.get(key))}" for key in differ) for cell in group]


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def to_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; characters that would break a cell are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(_markdown_cell, line)) + " |" for line in lines) + "\n"


def _markdown_cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def to_csv(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table as CSV with LF line ends."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([header, *rows])
    return buffer.getvalue()


def _percent(cell: Cell, *path: str, spread: bool = True) -> str:
    mean, around = cell.mean(*path), cell.spread(*path)
    if mean is None:
        return "n/a"
    return f"{100 * mean:.1f}" + (f" ± {100 * around:.1f}" if spread and around is not None else "")


def _signed(value: float, digits: int) -> str:
    """A number with its sign, but no negative zero."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"
