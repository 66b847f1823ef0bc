"""The texts people read and scrape: exact to the character."""

import numpy as np
import pytest

from reid.features import EvalResult
from reid.protocol import MARS_OFFICIAL, MARS_TORCHREID
from reid.report.tables import markdown_row, percent, protocols_table, results_table, text_table, weight_table


def result(protocol=MARS_OFFICIAL, mAP=0.7521, cmc=(0.811, 0.85, 0.86, 0.87, 0.9), queries=1980, lost=0, gallery=12180):
    return EvalResult(
        protocol=protocol,
        mAP=mAP,
        cmc=np.array(cmc, float),
        ap=np.full(queries, np.nan if mAP is None else mAP),
        query=np.arange(queries),
        num_without_match=lost,
        num_gallery=gallery,
    )


EMPTY = result(MARS_TORCHREID, mAP=None, cmc=(), queries=0, lost=140, gallery=10200)


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


def test_protocols_table_counts_the_lost_queries():
    assert protocols_table([result(), EMPTY]).splitlines() == [
        "protocol       |   mAP | Rank-1 | Rank-5 | Rank-10 | Rank-20 | queries | lost | gallery",
        "---------------+-------+--------+--------+---------+---------+---------+------+--------",
        "mars-official  | 75.2% |  81.1% |  90.0% |   90.0% |   90.0% |    1980 |    0 |   12180",
        "mars-torchreid |   n/a |    n/a |    n/a |     n/a |     n/a |       0 |  140 |   10200",
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


def test_weight_table_shares_the_pull_as_summed_by_hand():
    p_P = np.linspace(0, 1, 101)
    curves = [("CCE", p_P, 2 * (1 - p_P)), ("nothing", p_P, 0 * p_P)]
    # CCE: right 2(0.2) + 2(0.4) = 1.2, wrong 2(0.9) = 1.8
    header, rows = weight_table(curves, [("right", np.array([0.8, 0.6])), ("wrong", np.array([0.1]))])
    assert header == ["loss", "w(0)", "w(½)", "w(1)", "pull of right", "pull of wrong"]
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
