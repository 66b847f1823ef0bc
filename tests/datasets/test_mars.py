"""The MARS index on a small folder in its layout, and every inconsistency."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from reid.datasets.mars import find_dataset, load_mars
from reid.errors import DataError
from reid.tracklets import Benchmark
from tests.datasets.conftest import frame_names

# (pid, camera, frames) of each tracklet, in the order of the tables.
TRAIN = [(1, 1, 3), (1, 2, 2), (40, 6, 4)]
TEST = [(-1, 1, 2), (0, 3, 3), (2, 1, 4), (2, 5, 2)]


def table_of(rows: list[tuple[int, int, int]]) -> np.ndarray:
    end = np.cumsum([frames for _, _, frames in rows])
    return np.array(
        [[e - n + 1, e, pid, camera] for e, (pid, camera, n) in zip(end, rows, strict=True)], dtype=np.int32
    )


def save(folder: Path, file: str, **variables: np.ndarray) -> None:
    savemat(folder / "info" / f"{file}.mat", variables)


def save_table(folder: Path, part: str, table: np.ndarray) -> None:
    save(folder, f"tracks_{part}_info", **{f"track_{part}_info": table})


@pytest.fixture
def mars(tmp_path: Path) -> Path:
    folder = tmp_path / "mars"
    (folder / "info").mkdir(parents=True)
    for part, rows in (("train", TRAIN), ("test", TEST)):
        for name in frame_names(rows):
            image = folder / f"bbox_{part}" / name[:4] / name
            image.parent.mkdir(parents=True, exist_ok=True)
            image.touch()
        (folder / "info" / f"{part}_name.txt").write_text("\n".join(frame_names(rows)) + "\n")
        save_table(folder, part, table_of(rows))
    save(folder, "query_IDX", query_IDX=np.array([[3]], dtype=np.uint16))
    return folder


def same(one: Benchmark, other: Benchmark) -> bool:
    def content(benchmark: Benchmark) -> list[object]:
        splits = [list(benchmark.train), list(benchmark.test)]
        return [*splits, benchmark.query.tolist(), benchmark.gallery.tolist()]

    return content(one) == content(other)


def test_ranges_become_half_open_and_0_based(mars):
    benchmark = load_mars(mars)
    train, test = benchmark.train, benchmark.test
    assert list(zip(train.start, train.stop, strict=True)) == [(0, 3), (3, 5), (5, 9)]
    assert train.pid.tolist() == [1, 1, 40] and train.camid.tolist() == [1, 2, 6]
    assert test.pid.tolist() == [-1, 0, 2, 2]
    assert [path.relative_to(mars).as_posix() for path in test[0].paths] == [
        "bbox_test/00-1/00-1C1T0001F001.jpg",
        "bbox_test/00-1/00-1C1T0001F002.jpg",
    ]
    assert all(path.is_file() for split in (train, test) for tracklet in split for path in tracklet.paths)
    assert test[3].key == "0002C5T0002"


def test_every_test_row_is_in_the_gallery_and_query_is_0_based(mars):
    benchmark = load_mars(mars)
    assert benchmark.query.tolist() == [2] and benchmark.gallery.tolist() == [0, 1, 2, 3]


def test_a_subset_is_named_and_logged_as_one(mars, caplog):
    caplog.set_level(logging.INFO)
    assert load_mars(mars).name == "mars-subset"
    assert "3 train tracklets, 9 train frames, 4 test tracklets, 11 test frames, 1 queries" in caplog.text
    assert load_mars(mars, name="demo").name == "demo"


@pytest.mark.parametrize("text", ["{}", "{}\r\n", "{}\n\n \n", "{}\r\n\r\n"])
def test_line_ends_do_not_matter(mars, text):
    expected = load_mars(mars)
    for part, rows in (("train", TRAIN), ("test", TEST)):
        eol = "\r\n" if "\r" in text else "\n"
        content = text.format(eol.join(frame_names(rows)))
        (mars / "info" / f"{part}_name.txt").write_bytes(content.encode())
    assert same(load_mars(mars), expected)


def test_missing_name_lists_are_rebuilt_from_the_folders(mars, caplog):
    caplog.set_level(logging.INFO)
    expected = load_mars(mars)
    for part in ("train", "test"):
        (mars / "info" / f"{part}_name.txt").unlink()
    for rubbish in (
        "bbox_test/0002/Thumbs.db",
        "bbox_test/0002/._x.jpg",
        "bbox_train/.DS_Store",
        "bbox_train/__MACOSX/a.jpg",
    ):
        (mars / rubbish).parent.mkdir(exist_ok=True)
        (mars / rubbish).touch()
    assert same(load_mars(mars), expected)
    assert "train_name.txt is missing; rebuilt 9 names" in caplog.text


@pytest.mark.parametrize("suffix", [".png", ".jpeg", ".JPG"])
def test_other_extensions_and_lengths_load_alike(mars, suffix):
    names = frame_names([(1, 1, 3), (1, 2, 2)], suffix) + ["0040C6T0001F0998.jpg", "0040C6T0001F0999.jpg"]
    names += ["0040C6T0001F1000.jpg", "0040C6T0001F1001.jpg"]
    (mars / "info" / "train_name.txt").write_text("\n".join(names))
    train = load_mars(mars).train
    assert [path.name for tracklet in train for path in tracklet.paths] == names
    assert [tracklet.key for tracklet in train] == ["0001C1T0001", "0001C2T0002", "0040C6T0001"]
    assert train.pid.tolist() == [1, 1, 40]


def test_the_two_parsers_agree(mars):
    fast = load_mars(mars)
    names = frame_names(TEST)
    (mars / "info" / "test_name.txt").write_text("\n".join([*names, "0002C5T0003F0001.jpg"]))  # one long, unused name
    slow = load_mars(mars)
    assert same(slow, fast) and len(slow.test.names) == len(fast.test.names) + 1


def test_rows_may_leave_names_out(mars, caplog):
    caplog.set_level(logging.INFO)
    save_table(mars, "train", table_of(TRAIN)[[0, 2]])
    assert [len(tracklet.paths) for tracklet in load_mars(mars).train] == [3, 4]
    assert "leaves 2 of 9 listed names out" in caplog.text


def test_a_table_of_whole_doubles_is_fine(mars):
    expected = load_mars(mars)
    save_table(mars, "train", table_of(TRAIN).astype(float))
    assert same(load_mars(mars), expected)


@pytest.mark.parametrize("empty", [np.zeros((0, 4), np.int32), np.zeros((0, 0))], ids=["no rows", "MATLAB's []"])
@pytest.mark.parametrize("keep_images", [False, True])
def test_a_test_set_may_be_empty(mars, caplog, empty, keep_images):
    expected = load_mars(mars).train
    save_table(mars, "test", empty)
    save(mars, "query_IDX", query_IDX=np.zeros((0, 0)))
    if not keep_images:
        (mars / "info/test_name.txt").unlink()
        (mars / "bbox_test").rename(mars / "away")
    benchmark = load_mars(mars)
    assert list(benchmark.train) == list(expected)
    assert len(benchmark.test) == len(benchmark.query) == len(benchmark.gallery) == 0
    assert (
        "has no row, so no test set, but" in caplog.text and "bbox_test has 11 images" in caplog.text
    ) == keep_images
    save(mars, "query_IDX", query_IDX=np.array([[3]]))
    with pytest.raises(DataError, match="row 1: expected no query, as the test table has no row, got 3"):
        load_mars(mars)


def edit_table(row: int, column: int, value: float) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        table = table_of(TRAIN).astype(float if isinstance(value, float) else int)
        table[row, column] = value
        save_table(folder, "train", table)

    return edit


def edit_name(line: int, value: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        names = frame_names(TRAIN)
        names[line - 1] = value
        (folder / "info" / "train_name.txt").write_text("\n".join(names))

    return edit


def queries(*index: int) -> Callable[[Path], None]:
    return lambda folder: save(folder, "query_IDX", query_IDX=np.array([index]))


def rebuilt(name: str) -> Callable[[Path], None]:
    """The list of names is missing; the folder of person 40 holds one image more."""

    def edit(folder: Path) -> None:
        (folder / "info" / "train_name.txt").unlink()
        (folder / "bbox_train" / "0040" / name).touch()

    return edit


def wrap(folder: Path, inner: str) -> None:
    """Put a folder into another of the same name: x -> x/x."""
    moved = folder.rename(folder.with_name("moved"))
    folder.mkdir()
    moved.rename(folder / inner)


def flatten(folder: Path) -> None:
    """Images without folders of persons."""
    moved = folder.rename(folder.with_name("moved"))
    folder.mkdir()
    for image in sorted(moved.rglob("*.jpg")):
        image.rename(folder / image.name)


def empty(folder: Path) -> None:
    (folder / "bbox_train").rename(folder / "away")
    (folder / "bbox_train").mkdir()


INCONSISTENT = {
    "missing table": (lambda f: (f / "info/tracks_test_info.mat").unlink(), "tracks_test_info.mat: is missing"),
    "missing query": (lambda f: (f / "info/query_IDX.mat").unlink(), "query_IDX.mat: is missing"),
    "damaged table": (lambda f: (f / "info/tracks_train_info.mat").write_bytes(b"no"), "not a readable MATLAB file"),
    "other variable": (
        lambda f: save(f, "tracks_train_info", tracks=table_of(TRAIN)),
        "tracks_train_info.mat: expected a variable track_train_info, got tracks",
    ),
    "three columns": (
        lambda f: save_table(f, "train", table_of(TRAIN)[:, :3]),
        r"shape \(tracklets, 4\).*got \(3, 3\)",
    ),
    "empty table": (lambda f: save_table(f, "train", np.zeros((0, 4), dtype=int)), r"got \(0, 4\)"),
    "text": (lambda f: save_table(f, "train", np.array(["abcd"])), "to hold whole numbers"),
    "fractions": (edit_table(0, 1, 2.5), "to hold whole numbers"),
    "not a number": (edit_table(0, 1, float("nan")), "to hold whole numbers"),
    "past the list": (edit_table(2, 1, 10), "tracks_train_info.mat: row 3: frames 6-10 run past the 9 names"),
    "before the list": (edit_table(0, 0, 0), "row 1: frames 0-3 start before 1"),
    "backwards": (edit_table(1, 0, 6), "row 2: start 6 is after end 5"),
    "overlap": (edit_table(1, 0, 3), "row 2: frames 3-5 belong to another row as well"),
    "other pid": (edit_table(2, 2, 41), "row 3: the table says pid 41, its first name 0040/0040C6T.* says 40"),
    "other camera": (edit_table(2, 3, 5), "row 3: the table says camera 5, .* says 6"),
    "mixed pid": (edit_name(8, "0041C6T0001F003.jpg"), "row 3: mixes .* 0040C6T0001F002.jpg then 0041C6T0001F003.jpg"),
    "mixed camera": (edit_name(2, "0001C2T0001F002.jpg"), r"row 1: mixes .* \(names 1 and 2 of the list\)"),
    "mixed tracklet": (edit_name(5, "0001C2T0003F002.jpg"), "row 2: mixes .* then 0001C2T0003F002.jpg"),
    "malformed name": (edit_name(4, "0001_C2T0002.jpg"), "train_name.txt: line 4: expected .* got '0001_C2T0002.jpg'"),
    "letters for a frame": (edit_name(2, "0001C1T0001Fxyz.jpg"), "line 2: expected .* got '0001C1T0001Fxyz.jpg'"),
    "no F": (edit_name(2, "0001C1T0001G002.jpg"), "line 2: expected .* got '0001C1T0001G002.jpg'"),
    "letters for a pid": (edit_name(4, "00a1C2T0002F001.jpg"), "line 4: expected .* got '00a1C2T0002F001.jpg'"),
    "other suffix": (edit_name(2, "0001C1T0001F002.bmp"), "line 2: expected"),
    "blank line": (edit_name(4, ""), "train_name.txt: line 4: expected .* got ''"),
    "path in a name": (edit_name(4, "0001/0001C2T0002F001.jpg"), "line 4: expected"),
    "empty list": (lambda f: (f / "info/train_name.txt").write_text("\n"), "train_name.txt: .* got none"),
    "query 0": (queries(1 + 2, 0), "query_IDX.mat: row 2: expected a row of the test table, 1 to 4, got 0"),
    "query past": (queries(5), "query_IDX.mat: row 1: .* 1 to 4, got 5"),
    "query twice": (queries(4, 3, 4), "query_IDX.mat: row 3: test row 4 is a query already"),
    "query junk": (queries(1), "test row 1 is junk"),
    "several bad rows": (
        lambda f: save_table(f, "train", table_of(TRAIN) + [0, 0, 0, 1]),
        r"row 1: .*\(2 more rows like it\)",
    ),
    "rebuilt, too many": (rebuilt("0040C6T0001F005.jpg"), "table covers 9 frames, but the folders hold 10 images"),
    "rebuilt, another's": (
        rebuilt("0041C6T0001F005.jpg"),
        "0040: expected names that begin with 0040C, got 0041C6T0001F005.jpg",
    ),
    "one folder too deep": (
        lambda f: wrap(f, "mars"),
        "expected a folder info.*found .*mars/mars/info instead: move it up one level",
    ),
    "doubled folder": (lambda f: wrap(f / "bbox_train", "bbox_train"), "bbox_train: .* got another bbox_train in it"),
    "no person folders": (
        lambda f: flatten(f / "bbox_test"),
        r"bbox_test: .* got files such as .*\.jpg directly in it",
    ),
    "no image folder": (
        lambda f: (f / "bbox_train").rename(f / "away"),
        "expected a folder bbox_train in it, got none",
    ),
    "empty image folder": (empty, "bbox_train: .* got an empty folder"),
}


@pytest.mark.parametrize(("spoil", "message"), INCONSISTENT.values(), ids=INCONSISTENT)
def test_what_does_not_fit_is_one_clear_error(mars, spoil, message):
    spoil(mars)
    with pytest.raises(DataError, match=message) as error:
        load_mars(mars)
    assert len(error.value.problems) == 1 and "\n" not in str(error.value)


@pytest.mark.parametrize("spelling", ["mars", "MARS", "Mars"])
def test_the_dataset_is_found_in_its_spellings(tmp_path, spelling):
    (tmp_path / spelling).mkdir()
    assert find_dataset(tmp_path, "mars").samefile(tmp_path / spelling)


def test_a_missing_dataset_says_where_it_belongs(tmp_path):
    with pytest.raises(DataError) as error:
        find_dataset(tmp_path / "none", "mars")
    (line,) = error.value.problems
    where = ("--data-root", "REID_DATA", "data.root", "data/README.md")
    for part in ("mars, MARS or Mars", "none, which is not a folder", "mars/{bbox_train,bbox_test,info}", *where):
        assert part in line


def test_a_data_root_that_is_the_dataset_itself_is_said(mars):
    with pytest.raises(DataError, match="looks like the dataset itself"):
        find_dataset(mars, "mars")
