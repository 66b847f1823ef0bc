"""The study's report: the paper's own tables through every rule, hand-worked numbers, drawings that show their data, the page."""

import csv
import io
import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image
from scipy.special import erf

from reid.errors import ConfigError, DataError
from reid.report import charts, study_plots
from reid.report.study_claims import claims, claims_table
from reid.report.study_page import study_html, write_study_page
from reid.report.study_records import gather
from reid.report.study_tables import (
    accuracy_table,
    choice_table,
    to_csv,
    to_markdown,
    variance_table,
    weighting_variance,
)
from tests.report.test_html import HOSTILE, Walk

KEYS = ("best", "final", "train_corrupted", "train_intact")
TABLE2 = """20 0.2 cce 87.1 83.2 85.1 90.6 | 20 0.2 mae 87.8 87.8 78.2 93.0 | 20 0.2 imae 88.0 84.6 76.6 90.2
20 0.5 cce 79.7 69.5 62.4 74.0 | 20 0.5 mae 75.6 75.3 48.8 79.0 | 20 0.5 imae 83.0 80.9 56.8 85.6
20 0.8 cce 56.1 38.5 42.0 40.9 | 20 0.8 mae 45.3 45.1 20.3 46.1 | 20 0.8 imae 71.5 62.8 34.9 65.3
32 0.2 cce 87.6 81.2 85.5 88.3 | 32 0.2 mae 80.6 80.4 71.7 85.0 | 32 0.2 imae 87.8 85.3 77.7 91.2
32 0.5 cce 79.9 62.8 71.2 66.7 | 32 0.5 mae 61.6 61.6 40.3 64.0 | 32 0.5 imae 84.1 80.4 57.9 84.7
32 0.8 cce 57.6 32.7 50.9 35.1 | 32 0.8 mae 43.8 43.7 19.1 44.3 | 32 0.8 imae 71.0 68.7 31.9 71.2"""
TABLE1 = {20: (91.0, 89.9, 91.4), 32: (92.5, 82.4, 92.1), 56: (92.5, 89.0, 92.7)}
CELLS = [cell.split() for cell in TABLE2.replace("\n", " | ").split(" | ")]
PAPER = {(int(d), float(r), name): dict(zip(KEYS, map(float, v), strict=True)) for d, r, name, *v in CELLS}
PAPER |= {
    (d, 0.0, name): {"final": v}
    for d, row in TABLE1.items()
    for name, v in zip(("cce", "mae", "imae"), row, strict=True)
}


def record(name="cce", rate=0.5, depth=20, seed=0, T=None, points=5, **changes):
    """One cell's record; ``changes`` are per cent of best, final, train_corrupted, train_intact, holdout_*, or replace keys."""
    loss = {"name": name} | ({"T": T if T is not None else (8.0 if rate else 0.5)} if name == "imae" else {})
    share = {key: changes.pop(key, None) for key in (*KEYS, "holdout_noisy", "holdout_clean")}
    final = {key: v / 100 for key, v in share.items() if v is not None and key not in ("best", "final")}
    ramp = np.linspace(0.1, 1, points)
    names = ("train_corrupted", "train_intact", "max_logit", "head_norm", "saturated", "batch_gap")
    return {
        "dataset": "cifar10",
        "depth": depth,
        "loss": loss,
        "loss_label": f"{name.upper()} (T = {loss['T']:g})" if "T" in loss else name.upper(),
        "noise": {"name": "symmetric", "rate": rate, "seed": seed} if rate else None,
        "noise_label": f"{100 * rate:g} % symmetric" if rate else "clean labels",
        "seed": seed,
        "realised_rate": 0.9 * rate,
        "iterations": 64000,
        "num_train": 50000,
        "curve": {"step": [100 * i for i in range(1, points + 1)], "test": list(ramp * (share["final"] or 60) / 100)}
        | {key: list(ramp) for key in names},
        "best": {"test": (share["best"] or 70) / 100},
        "final": {"test": (share["final"] or 60) / 100, **final},
    } | changes


def of_paper():
    noisy = [record(name, rate, depth, **PAPER[depth, rate, name]) for depth, rate, name in PAPER if rate]
    clean = [record(n, 0, d, best=99, **PAPER[d, 0.0, n]) for d, r, n in PAPER if not r]
    return noisy + clean


def table(header_rows):
    header, rows = header_rows
    return [dict(zip(header, row, strict=True)) for row in rows]


def verdicts(records):
    return [claim.verdict for claim in claims(records)]


def test_the_papers_own_tables_differ_by_nothing_from_the_paper():
    rows = table(accuracy_table(of_paper()[::-1], PAPER))
    assert len(rows) == 27
    assert [(row["backbone"], row["noise"], row["loss"]) for row in rows[:4]] == [
        ("ResNet20", "clean labels", "CCE"),
        ("ResNet20", "clean labels", "MAE"),
        ("ResNet20", "clean labels", "IMAE (T = 0.5)"),
        ("ResNet20", "20 % symmetric", "CCE"),
    ]
    deltas = [row[key] for row in rows for key in row if key.endswith("Δ")]
    assert deltas.count("+0.0") == 18 * 4 + 9 and set(deltas) == {"+0.0", ""}
    row = rows[11]
    assert (row["wrong labels (%)"], row["test best: paper"], row["train intact (%)"]) == ("72.0", "71.5", "65.3")


def test_every_claim_of_the_paper_is_seen_in_its_own_tables_as_far_as_they_say_so():
    judged = claims(of_paper())
    assert [claim.verdict for claim in judged] == ["seen"] * 6 + ["not seen", "seen", "not tested", "not tested"]
    assert judged[6].held == "5 of 6 settings"  # ResNet20 at 20 %: MAE 87.8 ends above IMAE 84.6
    assert judged[6].evidence[0] == (False, "ResNet20, 20 % symmetric: final test CCE 83.2, MAE 87.8, IMAE 84.6")
    assert judged[2].evidence == (
        (True, "ResNet20, symmetric noise: 3.9 at 20 %, 10.2 at 50 %, 17.6 at 80 %"),
        (True, "ResNet32, symmetric noise: 6.4 at 20 %, 17.1 at 50 %, 24.9 at 80 %"),
    )
    assert len(judged[4].evidence) == 4  # 20 % is not high noise
    assert claims_table(judged)[1][6][1:3] == ["not seen", "5 of 6 settings"]


@pytest.mark.parametrize(
    ("broken", "change"),
    [
        (0, lambda r: r["noise"] is None and r["loss"]["name"] == "imae" and {"final": {"test": 0.89}}),
        (0, lambda r: r["noise"] is None and r["loss"]["name"] == "mae" and {"final": {"test": 0.95}}),
        (1, lambda r: r["loss"]["name"] == "mae" and {"best": {"test": 0.99}}),
        (
            2,
            lambda r: (r["noise"] or {}).get("rate") == 0.5 and r["loss"]["name"] == "cce" and {"best": {"test": 0.70}},
        ),
        (3, lambda r: r["loss"]["name"] == "imae" and {"final": {"test": 0.8, "train_corrupted": 0.9}}),
        (4, lambda r: r["loss"]["name"] == "mae" and {"final": {"test": 0.4, "train_corrupted": 0.6}}),
        (4, lambda r: r["loss"]["name"] == "mae" and {"best": {"test": 0.85}}),
        (5, lambda r: r["loss"]["name"] == "imae" and {"best": {"test": 0.70}}),
        (6, lambda r: r["loss"]["name"] == "imae" and {"final": {"test": 0.30}}),
        (
            7,
            lambda r: (
                (r["noise"] or {}).get("rate") == 0.8 and r["loss"]["name"] == "imae" and {"final": {"test": 0.5}}
            ),
        ),
    ],
)
def test_each_claim_can_fail(broken, change):
    changed = [old | (change(old) or {}) for old in of_paper()]
    assert verdicts(changed)[broken] == "not seen"


def test_a_claim_needs_its_records():
    assert verdicts([]) == verdicts([record("cce")]) == ["not tested"] * 10
    two = [record("cce"), record("imae"), record("mae", T=8)]
    assert verdicts(two[:2])[1] == "not tested" and verdicts(two)[1] != "not tested"
    other_T = [record("cce"), record("mae"), record("imae", T=4.0)]
    assert verdicts(other_T)[1] == "not tested"  # the paper compares T = 8 there
    human = [{**r, "noise": {"name": "human", "kind": "worse"}, "realised_rate": 0.402} for r in two]
    random = [{**r, "noise": {"name": "human", "kind": "random"}, "noise_label": "human, random"} for r in two]
    assert [verdicts(human + random)[i] for i in (2, 4, 7)] == ["not tested"] * 3  # human labels have no nominal rate


def test_what_stays_the_same_does_not_grow():
    same = [record("cce", rate, best=70, final=60) for rate in (0.2, 0.5)]
    assert verdicts(same)[2] == "not seen"
    assert verdicts([same[0], record("cce", best=70.1, final=60)])[2] == "seen"


def test_claims_about_T():
    noisy = [record("imae", T=T, best=b, final=f) for T, b, f in ((2, 75, 60), (8, 80, 70), (16, 78, 77))]
    clean = [record("imae", 0, T=T, final=f, train_corrupted=c) for T, f, c in ((0, 91, 99), (8, 90, 98), (16, 86, 91))]
    assert verdicts(noisy + clean)[8:] == ["seen", "seen"]
    assert verdicts(noisy[::-1] + clean[:2])[8:] == ["seen", "not tested"]
    assert verdicts(noisy[:2] + [record("imae", T=16, best=70, final=59)])[8] == "not seen"  # loses less, of less
    assert verdicts(noisy[:2] + [record("imae", T=16, best=90, final=70)])[8] == "not seen"  # ends higher, loses more
    assert verdicts(clean[:2] + [record("imae", 0, T=16, final=95, train_corrupted=91)])[9] == "not seen"
    assert verdicts(clean[:2] + [record("imae", 0, T=16, final=86, train_corrupted=99)])[9] == "not seen"


def test_several_seeds_give_mean_and_the_spread_that_is_named():
    two = [record(seed=s, final=f, best=80) for s, f in ((0, 70.0), (1, 73.0))]
    three = [record("mae", seed=s, final=f, best=80) for s, f in ((0, 50.0), (1, 51.0), (2, 55.0))]
    cce, mae = table(accuracy_table(two + three, {(20, 0.5, "cce"): {"final": 70.0}}))
    assert (cce["seeds"], cce["test final (%)"], cce["test final: Δ"]) == ("2 (± half range)", "71.5 ± 1.5", "+1.5")
    assert (mae["seeds"], mae["test final (%)"]) == ("3 (± s.d.)", "52.0 ± 2.6")  # sqrt((4 + 1 + 9) / 2) = 2.65
    assert "test best: paper" not in cce and cce["train intact (%)"] == "n/a"


def test_only_what_the_paper_measured_has_a_paper_value():
    others = [record(dataset="cifar100"), record("imae", T=4.0), record("gce"), record("imae", 0, T=8.0)]
    others.append(record(noise={"name": "asymmetric", "rate": 0.5}))
    header, rows = accuracy_table(others, PAPER)
    assert len(rows) == 5 and not any("paper" in title for title in header)
    assert accuracy_table([record()], {})[0] == [
        *("backbone", "noise", "wrong labels (%)", "loss", "seeds"),
        *("test best (%)", "test final (%)", "train corrupted (%)", "train intact (%)"),
    ]


def test_records_that_differ_in_more_than_seeds_stay_apart():
    assert len(gather([record(), record(seed=3), record(T=1)])) == 1
    assert len(gather([record("imae"), record("imae", T=8)])) == 1  # 8 and 8.0
    apart = [
        record(),
        record(num_train=5000),
        record(iterations=100),
        record(depth=32),
        record(rate=0.2),
        record("mae"),
    ]
    assert len(gather(apart)) == 6
    assert {row["training"] for row in table(accuracy_table(apart, {}))} == {
        "50,000 images, 64,000 steps",
        "5,000 images, 64,000 steps",
        "50,000 images, 100 steps",
    }
    zero = record(rate=0) | {"noise": {"name": "symmetric", "rate": 0.0, "seed": 0}}
    assert len(gather([zero, record(rate=0)])) == 1


def imae(T):
    return lambda p_P: np.exp(T * p_P * (1 - p_P))


@pytest.mark.parametrize(
    ("T", "printed"), [(16, 354.113), (8, 4.546), (4, 0.299), (2, 0.040), (1, 0.007), (0.5, 0.002)]
)
def test_the_weighting_variance_of_IMAE_is_equation_26_and_table_4(T, printed):
    exact = math.sqrt(math.pi) * erf(math.sqrt(2 * T) / 2) * math.exp(T / 2) / math.sqrt(2 * T)
    exact -= math.pi * erf(math.sqrt(T) / 2) ** 2 * math.exp(T / 2) / T
    assert weighting_variance(imae(T)) == pytest.approx(exact, rel=1e-9, abs=1e-12)
    assert variance_table([("x", imae(T), printed)])[1] == [["x", f"{printed:.3f}", f"{printed:g}", "+0.000"]]


def test_the_other_weighting_variances():
    assert weighting_variance(lambda p_P: 4 * p_P * (1 - p_P)) == pytest.approx(4 / 45, abs=1e-12)
    assert weighting_variance(lambda p_P: 2 * (1 - p_P)) == pytest.approx(1 / 3, abs=1e-12)
    assert weighting_variance(imae(0)) == 0
    _, rows = variance_table([("CCE", lambda p_P: 2 * (1 - p_P), None), ("MAE", lambda p_P: 4 * p_P * (1 - p_P), 0.09)])
    assert rows == [["CCE", "0.333", "", ""], ["MAE", "0.089", "0.09", "-0.001"]]
    assert variance_table([("IMAE", imae(0), None)]) == (["loss", "variance of w(p)"], [["IMAE", "0.000"]])


def test_the_choice_of_T_and_what_it_costs():
    shares = {  # T: test, held-out noisy, held-out clean, training set with true labels
        2: (60.0, 35.0, 61.0, 70.0),
        8: (65.5, 34.0, 66.0, 69.0),
        16: (64.0, 35.0, 60.0, 71.0),
    }
    records = [
        record("imae", T=T, final=test, holdout_noisy=n, holdout_clean=c, train_intact=i)
        for T, (test, n, c, i) in shares.items()
    ]
    rows = table(choice_table([*records, record("cce")]))
    assert [(row["chosen by"], row["choice"], row["test final (%)"], row["cost (points)"]) for row in rows] == [
        ("test set", "T = 8", "65.5", "0.0"),
        ("held-out noisy labels", "T = 2", "60.0", "5.5"),  # a tie with 16: the first
        ("held-out clean labels", "T = 8", "65.5", "0.0"),
        ("the training set's true labels (as in the paper)", "T = 16", "64.0", "1.5"),
    ]
    assert {row["candidates"] for row in rows} == {"T = 2 · T = 8 · T = 16"}
    del records[0]["final"]["holdout_noisy"]
    assert table(choice_table(records))[1]["choice"] == "not tested"
    assert choice_table([record("imae"), record("cce")])[1] == []


def test_markdown_and_csv_keep_their_cells():
    header, rows = ["a", "b, c"], [["1|2", 'x "y"\nz'], ["", "ü"]]
    assert to_markdown(header, rows) == '| a | b, c |\n| --- | --- |\n| 1\\|2 | x "y" z |\n|  | ü |\n'
    assert list(csv.reader(io.StringIO(to_csv(header, rows)))) == [header, *rows]


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
    found = study_plots.loss_curves(
        [record(), record("mae", loss_label="a $x_1$ <b>"), record("mae", 0.2)], "test", "test (%)"
    )
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
    with pytest.raises(ConfigError, match=r"a\.jpg: a picture's name ends in \.svg or \.png"):
        charts.save(tmp_path / "a.jpg", found)
    with pytest.raises(ConfigError, match="expected one chart or more"):
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
