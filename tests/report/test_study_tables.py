"""The study's numbers: the paper's own tables through every rule, the claims judged by them, hand-worked figures."""

import csv
import io
import math

import pytest
from scipy.special import erf

from reid.report.study_claims import claims, claims_by_form, claims_table
from reid.report.study_records import gather
from reid.report.study_tables import (
    accuracy_table,
    choice_table,
    to_csv,
    to_markdown,
    variance_table,
    weighting_variance,
)
from tests.report.conftest import PAPER, imae, record


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
    lead, numbers = judged[6].evidence[0]
    assert (round(lead, 6), numbers) == (-3.2, "ResNet20, 20 % symmetric: final test CCE 83.2, MAE 87.8, IMAE 84.6")
    assert [(round(lead, 6), numbers) for lead, numbers in judged[2].evidence] == [
        (6.3, "ResNet20, symmetric noise: 3.9 at 20 %, 10.2 at 50 %, 17.6 at 80 %"),
        (7.8, "ResNet32, symmetric noise: 6.4 at 20 %, 17.1 at 50 %, 24.9 at 80 %"),
    ]
    assert len(judged[4].evidence) == 4  # 20 % is not high noise
    row = claims_table(judged)[1][6]
    assert row[1:3] == ["not seen", "5 of 6 settings"] and row[4].startswith("no, by 3.2: ResNet20, 20 % symmetric")


@pytest.mark.parametrize(
    ("broken", "loss", "rate", "change"),
    [
        (0, "imae", 0, {"final": {"test": 0.89}}),
        (0, "mae", 0, {"final": {"test": 0.95}}),
        (1, "mae", None, {"best": {"test": 0.99}}),
        (2, "cce", 0.5, {"best": {"test": 0.70}}),
        (3, "imae", None, {"final": {"test": 0.8, "train_corrupted": 0.9}}),
        (4, "mae", None, {"final": {"test": 0.4, "train_corrupted": 0.6}}),
        (4, "mae", None, {"best": {"test": 0.85}}),
        (5, "imae", None, {"best": {"test": 0.70}}),
        (6, "imae", None, {"final": {"test": 0.30}}),
        (7, "imae", 0.8, {"final": {"test": 0.5}}),
    ],
)
def test_each_claim_can_fail(broken, loss, rate, change):
    """The records of a loss, at one rate where it is given, say something else."""

    def meant(one):
        return one["loss"]["name"] == loss and rate in (None, (one["noise"] or {"rate": 0})["rate"])

    assert verdicts([old | change if meant(old) else old for old in of_paper()])[broken] == "not seen"


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


def test_each_form_of_imae_is_judged_by_itself():
    """The paper's tables with its IMAE under the released form's name, and a useless Eq. 22 beside it."""

    def renamed(one):
        return one | {"loss": record("imae_released", rate=0.5 if one["noise"] else 0)["loss"]}

    released = [renamed(one) if one["loss"]["name"] == "imae" else one for one in of_paper()]
    useless = [record("imae", rate, best=10, final=10, train_corrupted=10, train_intact=10) for rate in (0.2, 0.5, 0.8)]
    assert claims(released, "imae_released") == claims(of_paper())
    assert claims(released + useless, "imae_released") == claims(of_paper())
    assert [claim.verdict for claim in claims(released, "imae")[:2]] == ["not tested"] * 2
    forms = claims_by_form(released + useless)
    assert list(forms) == ["IMAE as its authors released it", "IMAE as printed, Eq. 22"]
    assert [found[5].verdict for found in forms.values()] == ["seen", "not seen"]
    assert list(claims_by_form(of_paper())) == ["IMAE as printed, Eq. 22"]
    rows = table(accuracy_table(released, PAPER))
    deltas = [row[key] for row in rows for key in row if key.endswith("Δ")]
    assert deltas.count("+0.0") == 18 * 4 + 9
    guard = record("imae_released") | {
        "loss": {"name": "imae_released", "T": 8.0, "epsilon": 0.1, "normalise": "weights"}
    }
    assert "paper" not in " ".join(accuracy_table([guard], PAPER)[0])  # another guard than theirs


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
        record(train=record()["train"] | {"lr": 0.02}),
    ]
    assert len(gather(apart)) == 7
    assert {row["training"] for row in table(accuracy_table(apart, {}))} == {
        "50,000 images, 64,000 steps, lr 0.1",
        "5,000 images, 64,000 steps, lr 0.1",
        "50,000 images, 100 steps, lr 0.1",
        "50,000 images, 64,000 steps, lr 0.02",
    }
    zero = record(rate=0) | {"noise": {"name": "symmetric", "rate": 0.0, "seed": 0}}
    assert len(gather([zero, record(rate=0)])) == 1


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
    kinds = ("final", "holdout_noisy", "holdout_clean", "train_intact")
    shares = {2: (60.0, 35.0, 61.0, 70.0), 8: (65.5, 34.0, 66.0, 69.0), 16: (64.0, 35.0, 60.0, 71.0)}
    records = [record("imae", T=T, **dict(zip(kinds, values, strict=True))) for T, values in shares.items()]
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
