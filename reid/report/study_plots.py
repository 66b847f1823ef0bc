"""Figures of the label-noise study: charts of the paper's figures, and of telemetry, from cell records.

Each function returns one chart per setting, and none if no record has the data. `charts.draw` puts a chart on a page, `charts.save`
saves charts to a file. A loss has the same style in all charts of a figure. Shapes: P points of a curve.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reid.report.charts import Chart, Line, Panel
from reid.report.drawing import DASHES, Key, series_key, weight_scale
from reid.report.study_records import FORMS, Cell, Record, Setting, by_setting, gather, paper_name, titles, varied
from reid.report.study_tables import Weighting

# key of the curve, axis label, factor, whether the axis is logarithmic
_TELEMETRY = (
    ("max_logit", "largest\n|logit|", 1.0, True),
    ("head_norm", "norm of\nthe head", 1.0, False),
    ("saturated", "p < 0.0001,\n%", 100.0, False),
    ("batch_gap", "batch −\nrunning", 100.0, False),
)


@dataclass(frozen=True)
class Printed:
    """A published curve of CIFAR-10 with symmetric noise, to be drawn beside ours.

    Args:
        label: for the legend.
        curves: {(depth, noise rate): {share of training done: accuracy as a fraction, None for a gap}}.
    """

    label: str
    curves: Mapping[tuple[int, float], Mapping[float, float | None]]

    def line(self, setting: Setting) -> tuple[Line, ...]:
        """The curve scaled to the setting's steps; empty unless the setting is all of CIFAR-10 with a published network and noise."""
        curve = self.curves.get((setting.depth, setting.rate), {})
        if not curve or (setting.dataset, setting.noise, setting.num_train) != ("cifar10", "symmetric", 50000):
            return ()
        values = [np.nan if value is None else 100 * value for value in curve.values()]
        return (Line(Key(self.label, "ink", DASHES[2]), setting.iterations * np.array(list(curve)), np.array(values)),)


def loss_curves(records: Iterable[Record], key: str, ylabel: str, printed: Printed | None = None) -> list[Chart]:
    """Figures 3 and 4: one chart per setting, one curve per loss; IMAE only with the paper's T if the setting has it.

    Args:
        records: of cells; for several seeds, each is a thin curve, and their mean over the iterations they share a thick one.
        key: key of the records' ``curve``, holding fractions: ``train_corrupted`` (Figure 3), ``test`` (Figure 4).
        ylabel: label of the y axis with its unit, per cent.
        printed: the paper's curves of the same.
    """
    groups = by_setting(_compared(gather(records)))
    return _curves(list(groups.values()), key, ylabel, name_loss=False, printed=printed)


def option_curves(records: Iterable[Record], key: str, ylabel: str, noisy_only: bool = False) -> list[Chart]:
    """Figures 6, 7 and 8: one chart per setting and loss that was trained with several options, one curve per T.

    Args:
        records: as in `loss_curves`.
        key: ``test`` (Figure 6), ``train_corrupted`` (Figure 7), ``train_intact`` (Figure 8).
        ylabel: as in `loss_curves`.
        noisy_only: leave out clean labels.
    """
    groups = [group for group in varied(gather(records)) if group[0].setting.noise or not noisy_only]
    return _curves(groups, key, ylabel, name_loss=True)


def telemetry(records: Iterable[Record]) -> list[Chart]:
    """Largest |logit|, norm of the head, share of p < 1e-4, and test accuracy with batch statistics minus that with running statistics.

    Args:
        records: as in `loss_curves`; panels without any data are left out.
    """
    groups = by_setting(_compared(gather(records)))
    keys, named = _keys(groups.values()), titles(groups)
    table = [
        (ylabel, log, [_lines(group, keys, name, factor) for group in groups.values()])
        for name, ylabel, factor, log in _TELEMETRY
    ]
    table = [row for row in table if any(row[2])]
    charts = []
    for i, setting in enumerate(groups):
        panels = tuple(Panel(ylabel, lines[i], log=log) for ylabel, log, lines in table)
        if any(panel.lines for panel in panels):
            ends = "; ".join(
                f"{' '.join(panel.ylabel.split())} at the end: {_ends(panel.lines)}" for panel in panels if panel.lines
            )
            charts.append(Chart(named[setting], f"{named[setting]}. {ends}.", panels))
    return charts


def weight_charts(weights: Mapping[str, Sequence[Weighting]]) -> list[Chart]:
    """Figures 1 and 5: the weight w(p) that each loss gives a sample, one chart per title.

    Args:
        weights: {title of a chart: its losses, as in `study_tables.variance_table`}.
    """
    labels = dict.fromkeys(label for losses in weights.values() for label, _, _ in losses)
    keys = {label: series_key(i, label) for i, label in enumerate(labels)}
    p_P = np.linspace(0, 1, 201)
    charts = []
    for title, losses in weights.items():
        lines = tuple(Line(keys[label], p_P, np.asarray(w(p_P), float)) for label, w, _ in losses)
        scale = weight_scale(max(line.y.max() for line in lines), min(line.y.min() for line in lines))
        ends = "; ".join(f"{line.key.label} {line.y[0]:.3g} at p = 0, at most {line.y.max():.3g}" for line in lines)
        panel = Panel("weight w(p)", lines, *scale)
        charts.append(
            Chart(title, f"Weight of a sample against p: {ends}.", (panel,), "p of the label as given", (0, 1))
        )
    return charts


def _compared(cells: Sequence[Cell]) -> list[Cell]:
    """All cells, except IMAE with a T other than the paper's in settings that also have it with the paper's."""
    there = {(cell.setting, cell.name) for cell in cells if cell.name in FORMS and paper_name(cell)}
    return [cell for cell in cells if paper_name(cell) or (cell.setting, cell.name) not in there]


def _curves(
    groups: Sequence[Sequence[Cell]], key: str, ylabel: str, name_loss: bool, printed: Printed | None = None
) -> list[Chart]:
    """One chart per group of cells."""
    keys, named = _keys(groups), titles(group[0].setting for group in groups)
    charts = []
    for group in groups:
        lines = _lines(group, keys, key, 100.0)
        if not lines:
            continue
        title = named[group[0].setting]
        title = f"{group[0].label.partition(' (')[0]}, {title}" if name_loss else title
        lines += printed.line(group[0].setting) if printed else ()
        alt = f"{title}: {ylabel} over iterations, at the end {_ends(lines)}."
        charts.append(Chart(title, alt, (Panel(ylabel, lines, _limits(lines)),)))
    return charts


def _keys(groups: Iterable[Sequence[Cell]]) -> dict[str, Key]:
    """One legend entry per label, in the order of the tables, independent of the setting in which it first occurs."""
    cells = {cell.label: cell for group in groups for cell in group}
    ordered = sorted(cells.values(), key=lambda cell: cell.loss_order)
    return {cell.label: series_key(i, cell.label) for i, cell in enumerate(ordered)}


def _lines(cells: Sequence[Cell], keys: dict[str, Key], name: str, factor: float) -> tuple[Line, ...]:
    found = [(cell, [r["curve"] for r in cell.records if r.get("curve", {}).get(name)]) for cell in cells]
    lines = [_mean_line(keys[cell.label], curves, name, factor) for cell, curves in found if curves]
    return tuple(line for line in lines if len(line.x))


def _mean_line(key: Key, curves: Sequence[dict[str, list[float]]], name: str, factor: float) -> Line:
    """Mean over seeds at the iterations that they share; a missing or non-finite value becomes a gap."""
    step_P = functools.reduce(np.intersect1d, [np.array(curve["step"]) for curve in curves])
    parts = []
    for curve in curves:
        value_P = factor * np.array(curve[name], float)[np.isin(curve["step"], step_P)]
        parts.append(np.where(np.isfinite(value_P), value_P, np.nan))
    return Line(key, step_P, np.mean(parts, axis=0), tuple(parts) if len(parts) > 1 else ())


def _limits(lines: Sequence[Line]) -> tuple[float, float] | None:
    """Limits in whole tens of per cent around all curves, without the first tenth of training, where curves may start lower."""
    values = [
        y
        for line in lines
        for y_P in (line.y, *line.parts)
        for y in y_P[(line.x >= line.x[-1] / 10) & np.isfinite(y_P)]
    ]
    if not values:
        return None
    low = 10 * np.floor(min(values) / 10)
    return low, max(10 * np.ceil(max(values) / 10), low + 10)


def _ends(lines: Sequence[Line]) -> str:
    return ", ".join(f"{line.key.label} {line.y[-1]:.3g}" for line in lines)
