"""Drawing in this project's style: canvas, lines and legend keys, and the way from a figure to inline SVG.

Colours are CSS variables of the page, so one drawing serves light and dark. No text from data enters a drawing: names
stand in the legend, which the page writes (and escapes) as HTML. P points of a curve.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")

# Each role is drawn in a colour of its own that to_svg() then turns into the page's CSS variable of that name.
COLOUR = {role: f"#0102{10 + i}" for i, role in enumerate(("ink", "line", "c1", "c2", "c3", "c4", "right", "wrong"))}
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.2, 1.4), (6, 2, 1.2, 2))
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.sans-serif": ["DejaVu Sans"],  # measured with; the page then sets its own
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": COLOUR["line"],
    "axes.labelcolor": COLOUR["ink"],
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLOUR["line"],
    "xtick.color": COLOUR["ink"],
    "ytick.color": COLOUR["ink"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.major.pad": 6,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "text.color": COLOUR["ink"],
}
_WIDTH = 4.9  # inches; the page scales the drawing to its card


@dataclass(frozen=True)
class Key:
    """One legend entry: its text and how its mark is drawn."""

    label: str
    role: str
    dash: tuple[float, ...] = ()
    bar: bool = False


@dataclass(frozen=True)
class Plot:
    """A drawing with what a page needs to say beside it: a text for those who cannot see it, and the legend."""

    svg: str
    alt: str
    legend: tuple[Key, ...] = ()


def styled(chart: Callable[_Args, _Result]) -> Callable[_Args, _Result]:
    """Draw under this file's style, whatever style the user's own matplotlib has, and leave that as it was."""

    @functools.wraps(chart)
    def wrapper(*args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
        import matplotlib

        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update({**_RC, "svg.hashsalt": chart.__name__})  # ids stay distinct between drawings
            return chart(*args, **kwargs)

    return wrapper


def series_key(i: int, name: str) -> Key:
    """The legend entry of curve number ``i``; the first sixteen differ in colour or dash."""
    return Key(name, f"c{i % 4 + 1}", DASHES[(i + i // 4) % 4])


def draw_line(ax: Axes, x: np.ndarray, y: np.ndarray, key: Key, marker: str = "") -> None:
    """One curve, drawn as its legend entry says."""
    style: Any = (0, key.dash) if key.dash else "-"
    width = 2.0 if key.role == "c1" else 1.5
    ax.plot(x, y, color=COLOUR[key.role], linestyle=style, linewidth=width, marker=marker, markersize=3)


def general(value: float, _position: object = None) -> str:
    """A tick's label without offsets or mathematical markup."""
    return f"{value:.6g}"


def canvas(heights: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """A figure with panels of these heights (inches) under one another on one x axis; no pyplot, nothing to close."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, sum(heights)), layout="constrained")
    grid = figure.subplots(len(heights), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": list(heights)})
    axes = list(grid[:, 0])
    for ax in axes:
        ax.yaxis.set_major_formatter(general)
        ax.yaxis.get_major_locator().set_params(nbins=6 if len(axes) == 1 or ax is axes[0] else 3)
    return figure, axes


def to_svg(figure: Figure) -> str:
    """The figure as an ``<svg>`` element: roles for colours, no date, no outer reference."""
    figure.align_ylabels()
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
    )
    svg = buffer.getvalue()
    svg = re.sub(r"^.*?<svg[^>]*(viewBox=\"[^\"]*\")[^>]*>", r"<svg \1>", svg, flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*<style.*?</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg).replace("xlink:href", "href")
    for role, colour in COLOUR.items():
        svg = svg.replace(f": {colour}", f": var(--{role})")
    return re.sub(r"\s*\n\s*", "\n", svg).strip()
