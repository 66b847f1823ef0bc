"""The drawings: they show the data they were given, in the page's colours, and leave nothing behind."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from reid.features import EvalResult
from reid.protocol import MARS_OFFICIAL
from reid.report import plots
from reid.report.drawing import COLOUR, series_key
from reid.report.style import CSS


def result(cmc=(0.5, 0.6, 0.9), ap=(0.2, 0.4, 0.9, 1.0)):
    mAP = float(np.mean(ap)) if len(ap) else None
    return EvalResult(MARS_OFFICIAL, mAP, np.array(cmc, float), np.array(ap, float), np.arange(len(ap)), 0, 9)


def metrics(steps=100, **constant):
    return [{"step": 10 * i, "loss": 2 - i / 100, "lr": 0.01, "accuracy": i / 200, **constant} for i in range(steps)]


P_P = np.linspace(0, 1, 51)
CURVES = [("IMAE", P_P, np.exp(8 * P_P * (1 - P_P))), ("CCE", P_P, 2 * (1 - P_P))]
GROUPS = [("right", np.full(30, 0.9)), ("wrong", np.full(10, 0.1))]


def every_plot():
    return {
        "training": plots.training_curves(metrics(10, grad_l1=1.0)),  # few enough to be marked as the CMC is
        "accuracy": plots.accuracy_curves(metrics(accuracy_intact=0.9, accuracy_corrupted=0.1)),
        "cmc": plots.cmc_curve([("run", result()), ("other", result(cmc=(0.1, 0.2)))]),
        "ap": plots.ap_histogram(result()),
        "weights": plots.weight_curves(CURVES, GROUPS),
    }


def lines(svg, role):
    """The points (P, 2) of every drawn path in this role's colour, in the drawing's coordinates."""
    found = re.findall(rf'<path d="([^"]*)"[^>]*stroke: var\(--{role}\)[^>]*>', svg)
    return [np.array(re.findall(r"[ML] (\S+) (\S+)", path), float) for path in found]


def assert_draws(points, x, y):
    """The drawn points are the data up to one scale and shift per axis; straight runs may be thinned out."""
    assert points[0, 0] < points[-1, 0]
    px = np.interp(points[:, 0], points[[0, -1], 0], [x[0], x[-1]])
    expected = np.interp(px, x, y)
    slope, shift = np.polyfit(expected, points[:, 1], 1)
    assert slope < 0  # SVG counts downwards
    np.testing.assert_allclose(slope * expected + shift, points[:, 1], atol=0.2)


def test_cmc_draws_its_values_and_repeats_the_last_rank():
    cmc = np.array([0.5, 0.6, 0.9])
    plot = plots.cmc_curve([("run", result(cmc))])
    (points,) = [line for line in lines(plot.svg, "c1") if len(line) > 3 and np.ptp(line[:, 0]) > 50]
    assert_draws(points, np.arange(1, 21), np.array([*cmc, *[0.9] * 17]))
    assert plot.alt == "CMC curve: run 50.0% at rank 1, 90.0% at rank 20."


def test_weight_curve_draws_w_of_p():
    plot = plots.weight_curves(CURVES)
    (points,) = lines(plot.svg, "c1")
    assert_draws(points, *CURVES[0][1:])
    assert [(key.label, key.role) for key in plot.legend] == [("IMAE", "c1"), ("CCE", "c2")]


def test_weight_curve_of_a_large_T_does_not_flatten_the_others():
    plot = plots.weight_curves([("IMAE", P_P, np.exp(16 * P_P * (1 - P_P))), ("CCE", P_P, 2 * (1 - P_P))])
    (points,) = lines(plot.svg, "c1")
    heights = np.interp([0, 0.5], np.linspace(0, 1, len(points)), points[:, 1])
    (other,) = lines(plot.svg, "c2")
    assert np.ptp(other[:, 1]) > 0.3 * (heights[0] - heights[1])


def test_histogram_fits_its_panel_and_counts_in_the_legend():
    plot = plots.weight_curves(CURVES, [("right", np.full(7, 0.95)), ("wrong", np.linspace(0, 1, 1000))])
    assert [key.label for key in plot.legend[2:]] == ["right: 7", "wrong: 1,000"]
    top = min(line[:, 1].min() for line in lines(plot.svg, "right"))
    clips = [float(y) for y in re.findall(r'<clipPath.*?<rect x="\S+" y="(\S+)"', plot.svg, re.DOTALL)]
    assert top > max(clips)  # the tall first group is not cut by the low second one


@pytest.mark.parametrize(
    ("rows", "panels"),
    [
        ([], None),
        ([{"step": 1}], None),
        ([{"step": 1, "loss": None}], None),
        ([{"step": 1, "loss": 2.0}], ["loss"]),
        ([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "grad_l1": 0.5}], ["loss", "gradient L1 norm"]),
        ([{"step": 1, "lr": 0.1}, {"step": 2, "lr": float("nan")}], ["learning rate"]),
    ],
)
def test_training_draws_what_was_logged(rows, panels):
    plot = plots.training_curves(rows)
    drawn = (
        None
        if plot is None
        else [name for name in ("loss", "gradient L1 norm", "learning rate") if f">{name}<" in plot.svg]
    )
    assert drawn == panels


def test_the_running_mean_of_a_straight_line_is_that_line():
    svg = plots.training_curves([{"step": 10 * i, "loss": 5 - 0.01 * i} for i in range(400)]).svg
    logged, mean = (line for line in lines(svg, "c1") if len(line) > 1)
    np.testing.assert_allclose(np.interp(mean[:, 0], *logged.T), mean[:, 1], atol=0.05)
    assert np.ptp(mean[:, 0]) == pytest.approx(np.ptp(logged[:, 0]) * (400 - 10) / 399, rel=0.01)  # 10 steps a mean


def test_the_running_mean_calms_noise_and_keeps_its_level():
    noise = np.random.default_rng(0).normal(size=400)
    svg = plots.training_curves([{"step": i, "loss": float(value)} for i, value in enumerate(noise)]).svg
    logged, mean = (line for line in lines(svg, "c1") if len(line) > 1)
    assert mean[:, 1].std() < 0.5 * logged[:, 1].std()
    assert abs(mean[:, 1].mean() - logged[:, 1].mean()) < 0.2 * logged[:, 1].std()


def test_a_loss_that_is_not_finite_leaves_a_gap():
    rows = [{"step": i, "loss": float("inf") if i == 5 else 1.0 + i % 2} for i in range(12)]
    svg = plots.training_curves(rows).svg
    (path,) = re.findall(r'<path d="([^"]*)"[^>]*fill: none; stroke: var\(--c1\)', svg)
    assert path.count("M ") == 2


def test_accuracy_keeps_each_curve_to_its_own_style_when_others_lack():
    plot = plots.accuracy_curves([{"step": 1, "accuracy_corrupted": 0.25}, {"step": 2, "accuracy_corrupted": 0.5}])
    assert [(key.label, key.role) for key in plot.legend] == [("wrong labels", "wrong")]
    assert "wrong labels 50.0%" in plot.alt
    assert plots.accuracy_curves([{"step": 1, "loss": 1.0}]) is None


def test_ap_histogram_needs_a_query():
    assert plots.ap_histogram(result(ap=())) is None
    alt = plots.ap_histogram(result(ap=(0.05, 0.5, 0.95, 1.0))).alt
    assert "25.0% of them below 0.1, 50.0% at 0.9 or more; mean 62.5%" in alt


def test_cmc_leaves_out_results_without_queries():
    empty = result(cmc=(), ap=())
    assert plots.cmc_curve([("run", empty)]) is None
    assert [key.label for key in plots.cmc_curve([("empty", empty), ("run", result())]).legend] == ["run"]


@pytest.mark.parametrize("count", [1, 499, 500, 501, 1234])
def test_thinning_takes_means_of_consecutive_blocks(count):
    value_T = np.random.default_rng(0).normal(size=count)
    size = next(size for size in range(1, count + 1) if size * 500 >= count)
    expected = [np.mean(value_T[i : i + size]) for i in range(0, count, size)]
    np.testing.assert_allclose(plots._thin(value_T), expected, rtol=1e-12, atol=1e-12)
    assert len(expected) <= 500


def test_a_long_run_stays_small():
    assert len(plots.training_curves(metrics(20000)).svg) < 3 * len(plots.training_curves(metrics(500)).svg)


def test_drawings_are_xml_in_the_pages_colours_with_ids_of_their_own():
    defined = [set(re.findall(r"--([a-z0-9]+):", block)) for block in re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)]
    assert len(defined) == 2  # light, dark
    ids: list[str] = []
    for name, plot in every_plot().items():
        ET.fromstring(plot.svg)
        used = set(re.findall(r"var\(--([a-z0-9]+)\)", plot.svg))
        assert {"ink", "line"} < used, name
        assert all(used <= block for block in defined), name
        assert not any(colour in plot.svg for colour in COLOUR.values()), name
        assert set(re.findall(r"(?:fill|stroke): (#\w+)", plot.svg)) == set(), name
        assert not re.search(r"http|<style|<metadata", plot.svg), name
        ids += re.findall(r' id="([^"]*)"', plot.svg)
        assert set(re.findall(r'"#([^"]*)"|url\(#([^)]*)\)', plot.svg)) <= {(i, "") for i in ids} | {
            ("", i) for i in ids
        }
    assert len(ids) == len(set(ids))


def test_sixteen_curves_can_be_told_apart():
    assert len({(key.role, key.dash) for key in (series_key(i, "") for i in range(16))}) == 16


def test_drawing_ignores_and_keeps_the_readers_own_style():
    import matplotlib

    plain = every_plot()
    with matplotlib.rc_context({"font.size": 30, "axes.grid": False, "svg.fonttype": "path"}):
        assert every_plot() == plain
        assert matplotlib.rcParams["font.size"] == 30


def test_importing_and_drawing_need_no_pyplot():
    code = (
        "import sys; from reid.report import plots, run_page; assert 'matplotlib' not in sys.modules;"
        "plots.training_curves([{'step': 1, 'loss': 2.0}]); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_each_part_of_a_sum_of_losses_has_a_panel() -> None:
    rows = [{"step": i, "loss": 3.0 - 0.1 * i, "loss_imae": 1.0, "loss_triplet": 2.0 - 0.1 * i} for i in range(5)]
    plot = plots.training_curves(rows)
    assert "of which imae, before its weight from 1 to 1, of which triplet, before its weight from 2 to 1.6" in plot.alt
    assert "of which" not in plots.training_curves([{"step": 1, "loss": 2.0}]).alt
