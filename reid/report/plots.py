"""The report's charts: each function draws records and arrays, with a legend and an alternative text.

Shapes: T log steps, P points of a curve, N training samples, Q queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reid.features import EvalResult
from reid.report.drawing import (
    COLOUR,
    DASHES,
    Key,
    Plot,
    canvas,
    draw_line,
    scale_y,
    series_key,
    styled,
    to_svg,
    weight_scale,
)
from reid.report.tables import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_POINTS = 500
_ACCURACIES = (
    ("accuracy", "all images"),
    ("accuracy_intact", "right labels"),
    ("accuracy_corrupted", "wrong labels"),
    ("accuracy_true", "against the truth"),
)


@styled
def training_curves(metrics: Sequence[Mapping[str, Any]]) -> Plot | None:
    """Loss, gradient L1 norm, weights of samples and learning rate over steps, one panel for each metric that was logged.

    Args:
        metrics: rows of ``metrics.jsonl``. The keys ``step``, ``loss``, ``loss_NAME`` of each term of a sum, ``grad_l1``,
            ``effective_samples``, ``weight_corrupted`` and ``lr`` are read; any may be missing.

    Returns:
        None if no row has any of them.
    """
    parts = sorted({key for row in metrics for key in row if key.startswith("loss_")})
    wanted = (
        ("loss", "loss", 1.6),
        *((part, f"of which {part.removeprefix('loss_')}, before its weight", 1.15) for part in parts),
        ("grad_l1", "gradient L1 norm", 1.15),
        ("effective_samples", "effective share of samples", 1.05),
        ("weight_corrupted", "share of the weight on wrong labels", 1.05),
        ("lr", "learning rate", 1.05),
    )
    panels = [(label, height, *series) for key, label, height in wanted if (series := _series(metrics, key))]
    if not panels:
        return None
    figure, axes = canvas([height for _, height, _, _ in panels])
    for ax, (label, _, step_T, value_T) in zip(axes, panels, strict=True):
        _trend(ax, step_T, value_T, "c1", smooth=label != "learning rate")
        ax.set_title(
            label, loc="left", fontsize="medium"
        )  # as y labels, the names of neighbouring low panels would overlap
    _step_axis(axes[-1])
    ends = ", ".join(f"{label} from {value_T[0]:.4g} to {value_T[-1]:.4g}" for label, _, _, value_T in panels)
    return Plot(to_svg(figure), f"Training over steps: {ends}.")


@styled
def accuracy_curves(metrics: Sequence[Mapping[str, Any]]) -> Plot | None:
    """Training accuracy against the given labels (all, intact, corrupted), and against the true labels if they are known.

    Args:
        metrics: rows of ``metrics.jsonl``. The keys ``step``, and as fractions ``accuracy``, ``accuracy_intact``, ``accuracy_corrupted``
            and ``accuracy_true`` are read; any may be missing.

    Returns:
        None if no row has any of them.
    """
    found = [(i, label, *series) for i, (key, label) in enumerate(_ACCURACIES) if (series := _series(metrics, key))]
    if not found:
        return None
    figure, (ax,) = canvas([3.3])
    legend = tuple(Key(label, ("c1", "right", "wrong", "ink")[i], DASHES[i]) for i, label, _, _ in found)
    for key, (_, _, step_T, value_T) in zip(legend, found, strict=True):
        _trend(ax, step_T, 100 * value_T, key.role, key.dash)
    ax.set_ylim(0, 100)
    ax.set_ylabel("training accuracy, %")
    _step_axis(ax)
    ends = ", ".join(f"{label} {percent(value_T[-1])}" for _, label, _, value_T in found)
    return Plot(to_svg(figure), f"Training accuracy; at the last step: {ends}.", legend)


@styled
def cmc_curve(entries: Sequence[tuple[str, EvalResult]], ranks: int = 20) -> Plot | None:
    """CMC curves (cumulative match characteristic) from rank 1; the first entry is the run itself.

    Args:
        entries: (name, result); results without a valid query are left out.
        ranks: the last rank drawn, >= 2.

    Returns:
        None if no result has a valid query.
    """
    k_P = np.arange(1, ranks + 1)
    curves = [(name, [result.at_rank(int(k)) for k in k_P]) for name, result in entries]
    defined = [(name, 100 * np.array(cmc, float)) for name, cmc in curves if None not in cmc]
    if not defined:
        return None
    figure, (ax,) = canvas([2.9])
    legend = tuple(series_key(i, name) for i, (name, _) in enumerate(defined))
    for key, (_, cmc_P) in zip(legend, defined, strict=True):
        draw_line(ax, k_P, cmc_P, key, marker="o" if key is legend[0] else "")
    lowest = min(cmc_P.min() for _, cmc_P in defined)
    ax.set_ylim(max(0, 10 * np.floor(lowest / 10 - 0.5)), 101)
    ax.set_xlim(0.5, ranks + 0.5)
    ax.set_xticks([1, *range(5, ranks + 1, 5)])
    ax.set_xlabel("rank")
    ax.set_ylabel("queries with a match by this rank, %")
    ends = "; ".join(f"{name} {cmc_P[0]:.1f}% at rank 1, {cmc_P[-1]:.1f}% at rank {ranks}" for name, cmc_P in defined)
    return Plot(to_svg(figure), f"CMC curve: {ends}.", legend)


@styled
def ap_histogram(result: EvalResult) -> Plot | None:
    """Histogram of the queries' average precision, with the mean marked; None without a valid query."""
    ap_Q = np.asarray(result.ap, float)
    ap_Q = ap_Q[np.isfinite(ap_Q)]
    if not len(ap_Q) or result.mAP is None:
        return None
    figure, (ax,) = canvas([2.9])
    count_P, edge_P = np.histogram(ap_Q, bins=20, range=(0, 1))
    ax.bar(edge_P[:-1], count_P, width=0.05, align="edge", color=COLOUR["c1"], alpha=0.75, linewidth=0)
    ax.axvline(result.mAP, color=COLOUR["c2"], linewidth=1.6, linestyle=(0, DASHES[1]))
    ax.grid(axis="x", visible=False)
    ax.set_xlim(0, 1)
    ax.set_xlabel("average precision of a query")
    ax.set_ylabel("queries")
    legend = (Key("queries", "c1", bar=True), Key(f"mean, mAP {percent(result.mAP)}", "c2", DASHES[1]))
    low, high = percent(float(np.mean(ap_Q < 0.1))), percent(float(np.mean(ap_Q >= 0.9)))
    alt = f"Average precision over queries: {low} of them below 0.1, {high} at 0.9 or more; mean {percent(result.mAP)}."
    return Plot(to_svg(figure), alt, legend)


@styled
def weight_curves(
    curves: Sequence[tuple[str, np.ndarray, np.ndarray]], histogram: Sequence[tuple[str, np.ndarray]] = ()
) -> Plot | None:
    """The weight w(p) of a sample under each loss, above a histogram of the training samples over the same axis.

    Args:
        curves: (name, p (P,) in [0, 1], w (P,) >= 0), the run's own loss first.
        histogram: (name, p (N,) in [0, 1]) of each group of training samples: intact labels, then corrupted ones.

    Returns:
        None without curves.
    """
    if not curves:
        return None
    groups = [(name, np.asarray(p_N, float)) for name, p_N in histogram if len(p_N)]
    figure, axes = canvas([2.9, 1.3] if groups else [2.9])
    legend = [series_key(i, name) for i, (name, _, _) in enumerate(curves)]
    for key, (_, p_P, w_P) in zip(legend, curves, strict=True):
        draw_line(axes[0], p_P, w_P, key)
    _weight_axis(axes[0], max(float(np.max(w_P)) for _, _, w_P in curves))
    legend += [
        Key(f"{name}: {len(p_N):,}", ("right", "wrong")[i % 2], bar=True) for i, (name, p_N) in enumerate(groups)
    ]
    for i, (_, p_N) in enumerate(groups):
        _share(axes[1], p_N, ("right", "wrong")[i % 2])
    if groups:
        axes[1].set_ylim(bottom=0)
    axes[-1].set_xlabel("p of the label as given")
    ends = "; ".join(f"{name} {w_P[0]:.3g} at p = {p_P[0]:.2g}, at most {np.max(w_P):.3g}" for name, p_P, w_P in curves)
    means = "".join(f" Mean p of {name}: {p_N.mean():.2f}." for name, p_N in groups)
    return Plot(to_svg(figure), f"Weight of a sample against p: {ends}.{means}", tuple(legend))


def _series(metrics: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Steps (T,) and values (T,) of the rows that have the key; values that are not finite become gaps."""
    rows = [(row["step"], row[key]) for row in metrics if row.get(key) is not None and row.get("step") is not None]
    if not rows:
        return None
    step_T, value_T = np.array(rows, float).T
    value_T[~np.isfinite(value_T)] = np.nan
    return step_T, value_T


def _trend(
    ax: Axes, step_T: np.ndarray, value_T: np.ndarray, role: str, dash: tuple[float, ...] = (), smooth: bool = True
) -> None:
    """The values, and on top their running mean if there are enough of them."""
    window = len(value_T) // 40 if smooth else 0
    if window < 2:
        draw_line(ax, _thin(step_T), _thin(value_T), Key("", role, dash), marker="o" if len(value_T) < 15 else "")
        return
    ax.plot(_thin(step_T), _thin(value_T), color=COLOUR[role], alpha=0.25, linewidth=1)
    mean = np.convolve(value_T, np.full(window, 1 / window), mode="valid")
    middle = np.convolve(step_T, np.full(window, 1 / window), mode="valid")
    draw_line(ax, _thin(middle), _thin(mean), Key("", role, dash))


def _thin(value_T: np.ndarray) -> np.ndarray:
    """Means of consecutive blocks, so that the page of a long run stays small."""
    size = -(-len(value_T) // _MOST_POINTS)
    starts = np.arange(0, len(value_T), size)
    return np.add.reduceat(value_T, starts) / np.diff([*starts, len(value_T)])


def _share(ax: Axes, p_N: np.ndarray, role: str) -> None:
    count_P, edge_P = np.histogram(p_N, bins=40, range=(0, 1))
    ax.stairs(100 * count_P / len(p_N), edge_P, fill=True, color=COLOUR[role], alpha=0.3, linewidth=0)
    ax.stairs(100 * count_P / len(p_N), edge_P, color=COLOUR[role], linewidth=1.2)
    ax.set_ylabel("images, %")


def _weight_axis(ax: Axes, highest: float) -> None:
    ax.set_xlim(0, 1)
    ax.set_ylabel("weight w(p)")
    scale_y(ax, *weight_scale(highest))


def _step_axis(ax: Axes) -> None:
    ax.set_xlabel("step")
    ax.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
