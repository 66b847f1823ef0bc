"""Charts as data: curves on axes, drawn as inline SVG for a page or saved as a standalone image file.

Shapes: P points of a curve.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reid.errors import ConfigError
from reid.files import atomic
from reid.report.drawing import COLOUR, PAPER, Key, Plot, canvas, general, on_paper, scale_y, styled, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 3.6  # inches of one chart
_UNDATED: dict[str, dict[str, Any]] = {".svg": {"Date": None, "Creator": None}, ".png": {"Software": None}}


@dataclass(frozen=True, eq=False)
class Line:
    """One curve: x (P,), y (P,), and for a mean curve the curves (P,) that it averages."""

    key: Key
    x: np.ndarray
    y: np.ndarray
    parts: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True, eq=False)
class Panel:
    """Curves on one pair of axes; ``limits`` of the y axis, by default those of the curves; ``log`` for a logarithmic y axis."""

    ylabel: str
    lines: tuple[Line, ...]
    limits: tuple[float, float] | None = None
    log: bool = False


@dataclass(frozen=True, eq=False)
class Chart:
    """Panels stacked over one x axis, with a title and an alternative text."""

    title: str
    alt: str
    panels: tuple[Panel, ...]
    xlabel: str = "iteration"
    xlim: tuple[float, float] | None = None


def legend_keys(charts: Iterable[Chart]) -> tuple[Key, ...]:
    """The legend entries of all these charts, without duplicates."""
    return tuple(dict.fromkeys(line.key for chart in charts for panel in chart.panels for line in panel.lines))


@styled
def draw(chart: Chart) -> Plot:
    """Draw the chart for a page, which adds the title and the legend."""
    figure, axes = canvas(_heights(chart), _WIDTH)
    for ax, panel in zip(axes, chart.panels, strict=True):
        _draw_panel(ax, panel, COLOUR)
    _x_axis(axes[-1], chart)
    return Plot(to_svg(figure, ascii(chart.title + chart.panels[0].ylabel)), chart.alt, legend_keys([chart]))


def save(path: str | Path, charts: Sequence[Chart], columns: int = 3) -> None:
    """Save the charts as one standalone image: light background, titles, one legend on top.

    Args:
        path: ends in ``.svg`` or ``.png``, which selects the format; the same charts give the same bytes.
        charts: one or more, all with the same number of panels.
        columns: charts side by side.

    Raises:
        ConfigError: the file has another suffix, or there is no chart.
        DataError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in _UNDATED:
        raise ConfigError(f"{path}: expected a file name that ends in .svg or .png, got '{path.suffix}'; rename it")
    if not charts:
        raise ConfigError(f"{path}: expected at least one chart to draw, got none; the records contain nothing to show")
    with on_paper(ascii(path.stem)), atomic(path) as temporary:
        figure = _sheet(charts, min(columns, len(charts)))
        figure.savefig(temporary, format=path.suffix[1:], dpi=150, metadata=_UNDATED[path.suffix])


def _sheet(charts: Sequence[Chart], columns: int) -> Figure:
    """Draw all charts in a grid, row by row, below their legend."""
    from matplotlib.figure import Figure

    keys = legend_keys(charts)
    entries = max(1, int(_WIDTH * columns / (0.55 + 0.075 * max(len(key.label) for key in keys))))
    heights = [height + 0.3 * (i == 0) for i, height in enumerate(_heights(charts[0]))]
    rows, panels = -(-len(charts) // columns), len(heights)
    size = (_WIDTH * columns, rows * sum(heights) + 0.2 * -(-len(keys) // entries) + 0.1)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    grid = figure.subplots(rows * panels, columns, squeeze=False, gridspec_kw={"height_ratios": heights * rows})
    for i, chart in enumerate(charts):
        top = i // columns * panels
        _draw_titled(list(grid[top : top + panels, i % columns]), chart)
    for ax in grid[-panels:, (len(charts) - 1) % columns + 1 :].flat:
        ax.remove()
    figure.align_ylabels()
    figure.legend(handles=_marks(keys), loc="outside upper left", ncols=entries, frameon=False, handlelength=2.6)
    return figure


def _draw_titled(axes: Sequence[Axes], chart: Chart) -> None:
    for ax, panel in zip(axes, chart.panels, strict=True):
        _draw_panel(ax, panel, PAPER)
        ax.tick_params(labelbottom=ax is axes[-1])
    axes[0].set_title(chart.title, fontsize=9.5, loc="left")
    _x_axis(axes[-1], chart)


def _draw_panel(ax: Axes, panel: Panel, colours: Mapping[str, str]) -> None:
    for line in panel.lines:
        colour, style = colours[line.key.role], _dash(line.key)
        for part_P in line.parts:
            ax.plot(line.x, part_P, color=colour, linewidth=0.7, alpha=0.35)
        marker = "o" if np.isfinite(line.y).sum() == 1 else ""  # a line through a single point is invisible
        ax.plot(line.x, line.y, color=colour, linestyle=style, linewidth=1.5, marker=marker, markersize=3)
    ax.set_ylabel(panel.ylabel)
    ax.yaxis.set_major_formatter(general)
    ax.locator_params(axis="y", nbins=6 if panel.limits else 4)
    scale_y(ax, panel.limits, panel.log)


def _marks(keys: Sequence[Key]) -> list[Any]:
    from matplotlib.lines import Line2D

    return [Line2D([], [], color=PAPER[k.role], linestyle=_dash(k), linewidth=1.5, label=k.label) for k in keys]


def _dash(key: Key) -> Any:
    return (0, key.dash) if key.dash else "-"


def _x_axis(ax: Axes, chart: Chart) -> None:
    ax.set_xlabel(chart.xlabel)
    ax.locator_params(axis="x", nbins=5)
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:,.6g}")
    if chart.xlim:
        ax.set_xlim(*chart.xlim)


def _heights(chart: Chart) -> list[float]:
    return [2.6] if len(chart.panels) == 1 else [1.15] * len(chart.panels)
