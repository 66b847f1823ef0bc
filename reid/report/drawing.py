"""Drawing in this project's style: canvas, curves, legend entries, and the conversion of a figure to inline SVG.

Colours are CSS variables of the page, so one drawing serves light and dark mode. A drawing contains no text from data: names are in the
legend, which the page writes (and escapes) as HTML. P points of a curve.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from reid.report.style import CSS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")

# Each role is drawn in a unique colour, which to_svg() replaces by the page's CSS variable of that name.
_CURVES = tuple(f"c{i}" for i in range(1, 9))
COLOUR = {role: f"#0102{10 + i}" for i, role in enumerate(("ink", "line", *_CURVES, "right", "wrong"))}
# The page's light colours, for standalone drawings.
PAPER = {role: colour for role, colour in re.findall(r"--(\w+): (#\w+)", CSS.partition("@media")[0]) if role in COLOUR}
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.2, 1.4), (6, 2, 1.2, 2))
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.sans-serif": ["DejaVu Sans"],  # for the layout of text; the page sets its own font
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
_WIDTH = 4.4  # inches; the page scales the drawing to its card


@dataclass(frozen=True)
class Key:
    """One legend entry: its text, and the colour and style of its mark."""

    label: str
    role: str
    dash: tuple[float, ...] = ()
    bar: bool = False


@dataclass(frozen=True)
class Plot:
    """A drawing with its alternative text and its legend."""

    svg: str
    alt: str
    legend: tuple[Key, ...] = ()


def styled(chart: Callable[_Args, _Result]) -> Callable[_Args, _Result]:
    """Decorator: draw in this module's style, independent of the user's matplotlib settings, which are restored afterwards."""

    @functools.wraps(chart)
    def wrapper(*args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
        import matplotlib

        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update({**_RC, "svg.hashsalt": chart.__name__})  # ids differ between drawings
            return chart(*args, **kwargs)

    return wrapper


@contextlib.contextmanager
def on_paper(salt: str) -> Iterator[None]:
    """Context manager: draw for a standalone file, in this module's style and the page's light colours, without math markup in text.

    Like `styled`, it restores the user's matplotlib settings afterwards.

    Args:
        salt: name of the drawing; it makes the SVG ids unique and reproducible.
    """
    import matplotlib

    light = {COLOUR[role]: colour for role, colour in PAPER.items()}
    style = {name: light.get(value, value) if isinstance(value, str) else value for name, value in _RC.items()}
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**style, "text.parse_math": False, "svg.hashsalt": salt})
        yield


def series_key(i: int, name: str) -> Key:
    """The legend entry of curve number ``i``; the first thirty-two differ in colour or dash."""
    return Key(name, _CURVES[i % 8], DASHES[(i + i // 8) % 4])


def draw_line(ax: Axes, x: np.ndarray, y: np.ndarray, key: Key, marker: str = "") -> None:
    """Draw one curve in the style of its legend entry."""
    style: Any = (0, key.dash) if key.dash else "-"
    width = 2.0 if key.role == "c1" else 1.5
    ax.plot(x, y, color=COLOUR[key.role], linestyle=style, linewidth=width, marker=marker, markersize=3)


def general(value: float, _position: object = None) -> str:
    """Format a tick label without offset or math markup."""
    return f"{value:.6g}"


def weight_scale(highest: float, lowest: float = 0) -> tuple[tuple[float, float], bool]:
    """Limits of the y axis for weights w(p) between ``lowest`` and ``highest``, and whether it is logarithmic."""
    if highest > 20:  # on a linear axis, IMAE at a large T would flatten every other curve
        return (max(0.05, 0.7 * lowest), 1.3 * highest), True
    return (0, 1.05 * highest), False


def scale_y(ax: Axes, limits: tuple[float, float] | None, log: bool) -> None:
    """Set the y axis: linear, or logarithmic with plain numbers, and its limits if given."""
    if log:
        from matplotlib.ticker import LogLocator

        ax.set_yscale("log")
        low, high = limits or ax.get_ylim()
        few = high < 300 * low  # decades alone would give only one or two labels
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 3) if few else (1,), numticks=5))
        ax.yaxis.set_major_formatter(general)
        ax.minorticks_off()
    if limits:
        ax.set_ylim(*limits)


def canvas(heights: Sequence[float], width: float = _WIDTH) -> tuple[Figure, list[Axes]]:
    """Create a figure with panels of these heights (inches) stacked over one x axis; without pyplot, so there is nothing to close."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, sum(heights)), layout="constrained")
    grid = figure.subplots(len(heights), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": list(heights)})
    axes = list(grid[:, 0])
    for ax in axes:
        ax.yaxis.set_major_formatter(general)
        ax.yaxis.get_major_locator().set_params(nbins=6 if len(axes) == 1 or ax is axes[0] else 3)
    return figure, axes


def to_svg(figure: Figure, salt: str = "") -> str:
    """Convert the figure to an ``<svg>`` element: roles as CSS variables, no date, no external reference.

    Args:
        figure: drawn by a `styled` chart.
        salt: distinguishes several drawings of one chart on one page, so that their ids differ.
    """
    import matplotlib

    figure.align_ylabels()
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": f"{matplotlib.rcParams['svg.hashsalt']}{salt}"}):
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
