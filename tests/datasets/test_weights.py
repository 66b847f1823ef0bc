"""Weights of training tracklets: what is read, what is refused and where."""

from pathlib import Path

import numpy as np
import pytest

from reid.datasets.manifest import load_manifest
from reid.datasets.weights import in_words, read_before, read_weights, scaled, write_weights
from reid.errors import DataError
from reid.tracklets import Split
from tests.engine.conftest import make_split


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return make_split(tmp_path)


def written(split: Split, text: str) -> Path:
    file = split.root / "weights.csv"
    file.write_text(text)
    return file


def test_keys_find_their_tracklets_and_the_others_weigh_1(split: Split) -> None:
    keys = [split.key(i) for i in range(6)]
    file = written(split, f"key,note,weight\n{keys[4]},blurred,0.25\n{keys[0]},,0\n")
    assert read_weights(file, split).tolist() == [0, 1, 1, 1, 0.25, 1]
    assert read_weights(written(split, f"\ufeffkey,weight\n{keys[1]},1e1\n"), split).tolist() == [1, 10, 1, 1, 1, 1]


@pytest.mark.parametrize(
    "text, words",
    [
        (
            "key,weight\n{0},1\nnobody,1\n",
            "line 3: no training tracklet has the key 'nobody'; expected one such as {0}",
        ),
        ("key,weight\n{0},1\n{0},2\n", "line 3: the key '{0}' appears twice"),
        ("key,weight\n{0},-1\n", "line 2, column weight: expected a number >= 0, got '-1'"),
        ("key,weight\n{0},\n", "line 2, column weight: expected a number >= 0, got ''"),
        ("key,weight\n{0},inf\n", "expected a number >= 0, got 'inf'"),
        ("key,weight\n{0}\n", "line 2, column weight: expected a number >= 0, got ''"),
        ("tracklet,w\n{0},1\n", "no column key; expected key,weight in the first line, got tracklet, w"),
        ("", "no column key; expected key,weight in the first line, got no header"),
    ],
)
def test_what_is_wrong_is_told(split: Split, text: str, words: str) -> None:
    key = split.key(0)
    file = written(split, text.replace("{0}", key))
    with pytest.raises(DataError) as caught:
        read_weights(file, split)
    assert words.replace("{0}", key) in str(caught.value)
    assert str(file) in str(caught.value)


def test_files_that_cannot_be_read(split: Split) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_weights(split.root / "none.csv", split)
    (split.root / "weights.csv").write_bytes(b"key,weight\n\xff\xfe,1\n")
    with pytest.raises(DataError, match="not a CSV file in UTF-8"):
        read_weights(split.root / "weights.csv", split)


def test_scaled_weights_have_the_mean_1() -> None:
    weight = scaled(np.array([0.0, 1, 3]), "w.csv")
    assert weight.tolist() == [0, 0.75, 2.25]
    assert in_words(weight) == "0 to 2.25, mean 1; 1 of 3 tracklets have weight 0 and are ignored"
    with pytest.raises(DataError, match=r"w\.csv: every training tracklet has weight 0"):
        scaled(np.zeros(3), "w.csv")


def test_a_table_may_have_a_column(split: Split) -> None:
    lines = [f"{i:02d}.png,t{i // 4},{i // 8 + 1},{i // 4 % 2},train" for i in range(24)]
    weight = ["0.5"] * 4 + [""] * 4 + ["2"] * 16
    rows = [f"{line},{one}" for line, one in zip(lines, weight, strict=True)]
    (split.root / "t.csv").write_text("\n".join(["path,tracklet,pid,camid,split,weight", *rows]))
    assert load_manifest(split.root / "t.csv").weight.tolist() == [0.5, 1, 2, 2, 2, 2]
    (split.root / "t.csv").write_text("\n".join(["path,tracklet,pid,camid,split", *lines]))
    assert load_manifest(split.root / "t.csv").weight is None
    rows[1] = rows[1].replace("0.5", "0.6")
    (split.root / "t.csv").write_text("\n".join(["path,tracklet,pid,camid,split,weight", *rows]))
    with pytest.raises(
        DataError, match=r"tracklet t0: expected '0\.5' as in row 2, got '0\.6'; all rows of a tracklet"
    ):
        load_manifest(split.root / "t.csv")


def test_weights_of_tracklets_that_corrections_dropped_are_passed_over(split: Split) -> None:
    file = written(split, f"key,weight\n{split.key(0)},0.5\n{split.key(3)},2\n")
    kept = split.select([1, 2, 3])
    assert read_weights(file, kept, {split.key(0)}).tolist() == [1, 1, 2]
    with pytest.raises(DataError, match="no training tracklet has the key"):
        read_weights(file, kept)
    file.write_text(f"key,weight\n{split.key(0)},much\n")
    with pytest.raises(DataError, match="expected a number"):
        read_weights(file, kept, {split.key(0)})


def test_the_file_of_an_audit_tells_what_it_is_made_of(split: Split) -> None:
    file = split.root / "weights.csv"
    write_weights(file, [(split.key(1), 0.25, 2.0), (split.key(4), 1e-7, 1 / 3)])
    assert read_weights(file, split) == pytest.approx([1, 0.5, 1, 1, 1e-7 / 3, 1], rel=1e-5)
    before = read_before(file, split)
    assert before is not None and before[[1, 4]].tolist() == [2.0, 1 / 3] and np.isnan(before[[0, 2, 3, 5]]).all()
    assert (
        read_before(written(split, f"key,weight,before\n{split.key(0)},1,last year\n"), split) is None
    )  # a person's own column
    file.write_text(f"key,weight,label_right,before\n{split.key(0)},1,1,much\n")
    with pytest.raises(DataError, match="line 2, column before: expected a number >= 0, got 'much'"):
        read_before(file, split)
