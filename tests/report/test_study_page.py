"""The study's drawings show the data of its records; its page shows all parts and stands alone."""

import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from reid.errors import ConfigError, DataError
from reid.report import charts, study_plots
from reid.report.study_page import study_html, write_study_page
from tests.report.conftest import PAPER, imae, record
from tests.report.test_run_page import HOSTILE, Walk


def test_curves_are_the_records_in_per_cent_and_seeds_are_averaged_where_they_share_steps():
    first, second = record(final=60), record(final=40, seed=1, points=6)
    second["curve"]["test"][2] = None
    (chart,) = study_plots.loss_curves([first, second], "test", "test accuracy")
    (line,) = chart.panels[0].lines
    np.testing.assert_array_equal(line.x, [100, 200, 300, 400, 500])
    expected = 100 * (np.array(first["curve"]["test"]) + np.array(second["curve"]["test"][:5], float)) / 2
    np.testing.assert_allclose(line.y, expected)
    assert np.isnan(line.y[2]) and len(line.parts) == 2


def test_the_scale_leaves_out_the_first_tenth_of_training():
    rising = record(final=90, points=21)
    rising["curve"]["test"] = [0.05, *np.linspace(0.42, 0.87, 20)]
    assert [c.panels[0].limits for c in study_plots.loss_curves([rising], "test", "y")] == [(40, 90)]
    rising["curve"]["test"][10] = 0.05  # a collapse later on is shown
    assert [c.panels[0].limits for c in study_plots.loss_curves([rising], "test", "y")] == [(0, 90)]


def test_one_loss_has_one_look_and_IMAE_appears_with_the_papers_T():
    records = [record(), record("mae"), record("imae"), record("imae", T=2), record("imae", rate=0.2, T=2)]
    found = study_plots.loss_curves([*records, record(rate=0.2), record("zz")], "test", "y")
    labels = [[key.label for key in charts.legend_keys([chart])] for chart in found]
    assert labels == [["CCE", "IMAE (T = 2)"], ["CCE", "MAE", "IMAE (T = 8)", "ZZ"]]
    keys = charts.legend_keys(found)
    assert [key.role for key in charts.legend_keys(found[1:])] == ["c1", "c2", "c4", "c5"]  # in the order of tables
    assert len(keys) == 5 == len({(key.role, key.dash) for key in keys})
    many = study_plots.loss_curves([record(f"loss{i}") for i in range(8)], "test", "y")
    assert len({key.role for key in charts.legend_keys(many)}) == 8


def test_figures_of_T_need_two_of_them():
    records = [record("imae", rate, T=T) for rate in (0, 0.5) for T in (16, 2, 8)] + [record("cce")]
    both = study_plots.option_curves(records, "test", "test accuracy")
    assert [chart.title for chart in both] == ["IMAE, ResNet20, clean labels", "IMAE, ResNet20, 50 % symmetric"]
    assert [key.label for key in charts.legend_keys(both)] == ["IMAE (T = 2)", "IMAE (T = 8)", "IMAE (T = 16)"]
    assert len(study_plots.option_curves(records, "train_intact", "y", noisy_only=True)) == 1
    assert study_plots.option_curves([record("imae")], "test", "y") == []
    assert study_plots.loss_curves([record(curve={})], "test", "y") == []


def test_telemetry_shows_what_was_logged():
    bare = record("mae", curve={"step": [1, 2], "max_logit": [1.0, 9.0]})
    (chart,) = study_plots.telemetry([record(), bare])
    assert [len(panel.lines) for panel in chart.panels] == [2, 1, 1, 1]
    assert "batch − running at the end: CCE 100" in chart.alt
    (chart,) = study_plots.telemetry([bare])
    assert len(chart.panels) == 1 and chart.panels[0].log
    assert study_plots.telemetry([record(curve={"step": [1], "test": [0.5]})]) == []


WEIGHTS = {
    "Figure 1": [("CCE", lambda p_P: 2 * (1 - p_P), None), ("IMAE (T = 8)", imae(8), 4.546)],
    "Figure 5": [("IMAE (T = 8)", imae(8), 4.546)],
}


def test_weight_charts_draw_w_and_share_their_look():
    one, five = study_plots.weight_charts(WEIGHTS)
    cce, imae_8 = one.panels[0].lines
    np.testing.assert_allclose(cce.y, 2 - 2 * cce.x)
    assert imae_8.y.max() == pytest.approx(math.exp(2)) and five.panels[0].lines[0].key == imae_8.key
    (large,) = study_plots.weight_charts({"x": [("T = 16", imae(16), None)]})
    assert large.panels[0].log and large.panels[0].limits[0] < 1
    assert study_plots.weight_charts({}) == []


def test_a_picture_stands_alone_and_says_its_names(tmp_path):
    records = [record(), record("mae", loss_label="a $x_1$ <b>"), record("mae", 0.2)]
    found = study_plots.loss_curves(records, "test", "test (%)")
    for name in ("a.svg", "b.svg", "c.png"):
        charts.save(tmp_path / name, found)
    text = (tmp_path / "a.svg").read_text()
    words = {element.text.strip() for element in ET.fromstring(text).iter() if element.tag.endswith("text")}
    assert {"CCE", "a $x_1$ <b>", "ResNet20, 20 % symmetric", "ResNet20, 50 % symmetric", "test (%)"} <= words
    assert "var(--" not in text and "#0102" not in text and "<dc:date" not in text
    again = tmp_path / "again"
    again.mkdir()
    charts.save(again / "a.svg", found)
    assert (again / "a.svg").read_text() == text
    picture = np.asarray(Image.open(tmp_path / "c.png").convert("RGB"))
    assert (picture[0, 0] == 255).all() and picture.shape[1] == 2 * 3.6 * 150
    assert (picture == (0x1F, 0x5F, 0xBF)).all(axis=2).sum() > 50  # CCE in the page's own light colour
    with pytest.raises(ConfigError, match=r"a\.jpg: expected a file name that ends in \.svg or \.png"):
        charts.save(tmp_path / "a.jpg", found)
    with pytest.raises(ConfigError, match="expected at least one chart"):
        charts.save(tmp_path / "a.png", [])


def study():
    return [
        *(record(name, seed=seed, **PAPER[20, 0.5, name]) for name in ("cce", "mae", "imae") for seed in (0, 1)),
        record("imae", T=2, final=60, train_intact=50, note="data_batch_1: checksum differs"),
    ]


def test_the_page_shows_all_parts_once_and_fetches_nothing(tmp_path):
    write_study_page(tmp_path / "study.html", "the study", {"command": "x"}, study(), PAPER, WEIGHTS)
    page = (tmp_path / "study.html").read_text()
    walk = Walk(page)
    text = " ".join(" ".join(walk.text).split())
    assert "data_batch_1: checksum differs" in text and text.count("Table 4") == 1
    assert "seen 1 of 1 setting CCE over-fits wrong labels" in text
    assert "ResNet20 50 % symmetric 45.0 CCE 2 (± half range) 79.7 ± 0.0 79.7 +0.0 69.5 ± 0.0 69.5 +0.0" in text
    assert "T = 2 · T = 8 test set T = 8 80.9 ± 0.0 0.0" in text
    drawings = [svg for svg in walk.all("svg") if svg.get("role") == "img"]
    assert len(drawings) == 8 and all(len(svg["aria-label"]) > 20 for svg in drawings)
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids)) > 8
    assert not re.search(r"https?:|<script|#0102", page)


def test_whatever_comes_from_records_is_escaped():
    hostile = [record(name, loss_label=HOSTILE, noise_label=HOSTILE, note=HOSTILE) for name in ("cce", "mae", "imae")]
    page = study_html(HOSTILE, {HOSTILE: HOSTILE}, hostile, {}, {HOSTILE: [(HOSTILE, imae(1), None)]})
    assert "<script" not in page and "<b>" not in page
    assert Walk(page).text.count(HOSTILE) >= 8


def test_a_study_without_records_is_a_title_and_an_unwritable_page_is_one_line(tmp_path):
    walk = Walk(study_html("empty", {}, [], PAPER, {}))
    assert not {"section", "figure", "table"} & {tag for tag, _, _ in walk.elements}
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write this file"):
        write_study_page(tmp_path / "file" / "x.html", "x", {}, [], {}, {})


def test_the_papers_curve_lies_under_ours_where_the_setting_is_its():
    printed = study_plots.Printed("the paper", {(20, 0.5): {0.25: 0.4, 0.5: None, 1.0: 0.8}})
    records = [record(rate=r, depth=d) for r, d in ((0.5, 20), (0.5, 32), (0.2, 20))]
    charts = study_plots.loss_curves([*records, record(num_train=2500)], "test", "y", printed)
    drawn = [line for chart in charts for line in chart.panels[0].lines if line.key.label == "the paper"]
    assert [list(line.x) for line in drawn] == [[16000, 32000, 64000]]
    np.testing.assert_allclose(drawn[0].y, [40, np.nan, 80])
