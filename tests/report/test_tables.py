"""The texts people read and scrape: exact to the character."""

import numpy as np
import pytest

from reid.features import EvalResult
from reid.protocol import MARS_OFFICIAL, MARS_TORCHREID
from reid.report.tables import (
    analysis_text,
    comparison_text,
    markdown_row,
    percent,
    protocols_table,
    results_table,
    text_table,
    verdict,
    weight_table,
)


def result(protocol=MARS_OFFICIAL, mAP=0.7521, cmc=(0.811, 0.85, 0.86, 0.87, 0.9), queries=1980, lost=0, **more):
    return EvalResult(
        protocol=protocol,
        mAP=mAP,
        cmc=np.array(cmc, float),
        ap=np.full(queries, np.nan if mAP is None else mAP),
        query=np.arange(queries),
        num_without_match=lost,
        **{"num_gallery": 12180, **more},
    )


EMPTY = result(MARS_TORCHREID, mAP=None, cmc=(), queries=0, lost=140, num_gallery=10200)
WITH_INP = result(inp=np.full(1980, 0.401))


def test_results_table_is_the_block_that_scripts_scrape():
    assert results_table([result(), EMPTY]) == (
        "protocol mars-official: 1980 valid queries, 0 lost (no match), 12180 gallery rows\n"
        "mAP: 75.2%\n"
        "Rank-1  : 81.1%\n"
        "Rank-5  : 90.0%\n"
        "Rank-10 : 90.0%\n"
        "Rank-20 : 90.0%\n"
        "\n"
        "protocol mars-torchreid: 0 valid queries, 140 lost (no match), 10200 gallery rows\n"
        "mAP: n/a\n"
        "Rank-1  : n/a\n"
        "Rank-5  : n/a\n"
        "Rank-10 : n/a\n"
        "Rank-20 : n/a"
    )


def test_inp_stands_below_the_lines_that_are_scraped():
    assert results_table([WITH_INP]) == results_table([result()]) + "\nmINP: 40.1%"


def test_protocols_table_counts_the_lost_queries():
    assert protocols_table([WITH_INP, EMPTY]).splitlines() == [
        "figure  | mars-official | mars-torchreid",
        "--------+---------------+---------------",
        "mAP     |         75.2% |            n/a",
        "Rank-1  |         81.1% |            n/a",
        "Rank-5  |         90.0% |            n/a",
        "Rank-10 |         90.0% |            n/a",
        "Rank-20 |         90.0% |            n/a",
        "mINP    |         40.1% |            n/a",
        "queries |          1980 |              0",
        "lost    |             0 |            140",
        "gallery |         12180 |          10200",
    ]


def test_markdown_row_names_its_protocol_and_keeps_its_columns():
    assert markdown_row("a|b", result()) == r"| a\|b | mars-official | 75.2% | 81.1% | 90.0% | 90.0% | 90.0% |"
    assert markdown_row("x", EMPTY) == "| x | mars-torchreid | n/a | n/a | n/a | n/a | n/a |"


def test_text_table_aligns_words_left_and_numbers_right():
    rows = [["train", 625, 8298], ["a long name", 1, "n/a"]]
    assert text_table(["subset", "ids", "tracklets"], rows) == (
        "subset      | ids | tracklets\n"
        "------------+-----+----------\n"
        "train       | 625 |      8298\n"
        "a long name |   1 |       n/a"
    )


def test_text_table_leaves_no_blanks_at_line_ends_and_stands_without_rows():
    assert text_table(["a", "long"], [["x", "y"]]).splitlines()[2] == "x | y"
    assert text_table(["a", "long"], []) == "a | long\n--+-----"
    with pytest.raises(AssertionError):
        text_table(["a"], [["x", "y"]])


@pytest.mark.parametrize(("fraction", "text"), [(0.0, "0.0%"), (1.0, "100.0%"), (0.70949, "70.9%"), (None, "n/a")])
def test_percent(fraction, text):
    assert percent(fraction) == text


def test_weight_table_shares_the_weight_as_summed_by_hand():
    p_P = np.linspace(0, 1, 101)
    curves = [("CCE", p_P, 2 * (1 - p_P)), ("nothing", p_P, 0 * p_P)]
    # CCE: right 2(0.2) + 2(0.4) = 1.2, wrong 2(0.9) = 1.8
    header, rows = weight_table(curves, [("right", np.array([0.8, 0.6])), ("wrong", np.array([0.1]))])
    assert header == ["loss", "w(0)", "w(½)", "w(1)", "share of right", "share of wrong"]
    assert rows == [
        ["CCE", "2.00", "1.00", "0.00", "40.0%", "60.0%"],
        ["nothing", "0.00", "0.00", "0.00", "n/a", "n/a"],
        ["equal weights", "1.00", "1.00", "1.00", "66.7%", "33.3%"],
    ]


@pytest.mark.parametrize("histogram", [(), [("all", np.array([0.5]))], [("a", np.array([0.5])), ("b", np.array([]))]])
def test_weight_table_has_no_shares_without_two_groups(histogram):
    header, rows = weight_table([("flat", np.array([0.0, 1.0]), np.array([3.0, 3.0]))], histogram)
    assert header == ["loss", "w(0)", "w(½)", "w(1)"]
    assert rows == [["flat", "3.00", "3.00", "3.00"]]


INTERVAL = {"level": 0.95, "num_identities": 626, "mAP": [0.7321, 0.7722], "rank1": [0.79, 0.83], "mINP": [0.38, 0.42]}
CAMERAS = {
    "cameras": [1, 3],
    "mAP": [[0.5, 0.25], [None, 0.75]],
    "rank1": [[1.0, 0.0], [None, 0.5]],
    "mAP_across": 0.25,
    "rank1_across": None,
    "num_unknown_camera": 2,
}
VERIFICATION = {
    "num_genuine": 100,
    "num_impostor": 50_000,
    "tpr_at_fpr": {"0.1": 0.9, "1e-05": None},
    "eer": 0.0512,
    "eer_threshold": 0.25,
    "roc": [
        {"fpr": 0.1, "threshold": 0.125, "fmr": 0.09998, "fnmr": 0.1, "tpr": 0.9},
        {"fpr": 0.05, "threshold": 0.15, "fmr": 0.05, "fnmr": 0.2, "tpr": 0.8},
        {"fpr": 1e-05, "threshold": None, "fmr": None, "fnmr": None, "tpr": None},
    ],
}


def test_analysis_text_to_the_character():
    text = analysis_text(WITH_INP, {"interval": INTERVAL, "camera_pairs": CAMERAS, "verification": VERIFICATION})
    assert text == (
        "== mars-official ==\n"
        "\n"
        "95 % intervals, 626 identities resampled\n"
        "figure | value |   low |  high\n"
        "-------+-------+-------+------\n"
        "mAP    | 75.2% | 73.2% | 77.2%\n"
        "Rank-1 | 81.1% | 79.0% | 83.0%\n"
        "mINP   | 40.1% | 38.0% | 42.0%\n"
        "\n"
        "mAP by camera of the query and camera of its matches; across cameras 25.0%\n"
        "query \\ match |     1 |     3\n"
        "--------------+-------+------\n"
        "            1 | 50.0% | 25.0%\n"
        "            3 |   n/a | 75.0%\n"
        "\n"
        "Rank-1 by camera of the query and camera of its matches; across cameras n/a\n"
        "query \\ match |      1 |     3\n"
        "--------------+--------+------\n"
        "            1 | 100.0% |  0.0%\n"
        "            3 |    n/a | 50.0%\n"
        "\n"
        "2 queries of unknown camera are in no pair\n"
        "\n"
        "verification: 100 genuine and 50000 impostor pairs\n"
        "equal error rate 5.1% at similarity 0.250000\n"
        "at FPR | similarity |     FMR |  FNMR |   TPR\n"
        "-------+------------+---------+-------+------\n"
        "   0.1 |   0.125000 | 0.09998 | 10.0% | 90.0%\n"
        " 1e-05 |        n/a |     n/a |   n/a |   n/a"
    )


def test_analysis_text_of_what_is_undefined():
    nothing = {"interval": None, "camera_pairs": None, "verification": None}
    assert analysis_text(EMPTY, nothing) == "== mars-torchreid ==\n\nno rows to search, no results"
    one_person = {**nothing, "interval": {**INTERVAL, "num_identities": 1, "mAP": None, "rank1": None, "mINP": None}}
    assert "mAP    | 75.2% | n/a |  n/a" in analysis_text(WITH_INP, one_person)


def comparison(a, b, interval, p, real):
    figure = {"a": a, "b": b, "difference": a - b, "interval": interval, "p": p, "real": real}
    about = {"protocol": "mars-official", "level": 0.95, "num_queries": 1980, "num_identities": 626}
    return {**about, "mAP": figure, "rank1": figure, "mINP": figure}


def test_verdict_is_one_plain_sentence():
    assert verdict("x", "y", comparison(0.531, 0.5, [0.012, 0.05], 0.0004, True)) == (
        "x is better than y by 3.1 points mAP, 95 % interval 1.2 to 5.0, p = 0.0004: significant, "
        "on 1980 queries of 626 identities (mars-official)"
    )
    assert verdict("x", "y", comparison(0.5, 0.531, [-0.05, -0.012], 0.0004, True)).startswith(
        "y is better than x by 3.1 points mAP, 95 % interval 1.2 to 5.0, p = 0.0004: significant"
    )
    assert verdict("x", "y", comparison(0.5, 0.51, [-0.03, 0.01], 0.3, False)) == (
        "no difference between x and y can be shown: y is ahead by 1.0 points mAP, 95 % interval -1.0 to 3.0, "
        "p = 0.3000, on 1980 queries of 626 identities (mars-official)"
    )
    assert verdict("x", "y", comparison(0.5, 0.5, [0.0, 0.0], 1.0, False)).startswith(
        "no difference between x and y can be shown: x and y have the same mAP"
    )
    assert "are too few" in verdict("x", "y", comparison(0.5, 0.51, None, 1.0, False))


def test_comparison_text_has_a_row_per_figure():
    text = comparison_text("x", "y", [comparison(0.531, 0.5, [0.012, 0.05], 0.0004, True)])
    assert text.splitlines()[:5] == [
        "A = x",
        "B = y",
        "protocol      | figure |     A |     B | A - B |  low | high |      p | real",
        "--------------+--------+-------+-------+-------+------+------+--------+-----",
        "mars-official | mAP    | 53.1% | 50.0% |  3.1% | 1.2% | 5.0% | 0.0004 | yes",
    ]
    assert len(text.splitlines()) == 9
