"""The demo dataset: layout, tables, truth, and that pixels depend on nothing but the seed."""

import re
from dataclasses import replace
from hashlib import sha256
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat

from reid.datasets import demo, demo_plan, scenes
from reid.datasets.demo import load_truth, write_demo
from reid.datasets.demo_settings import DemoSettings
from reid.datasets.figures import make_person
from reid.datasets.noise import uniform_others
from reid.errors import ConfigError, DataError
from reid.verbs.render import main

SIZES = dict(
    train_ids=6, test_ids=4, tracklets_per_id=4, min_frames=2, max_frames=5, distractors=6, junk=3, intruders=0.15
)
NAME = re.compile(r"(00-1|\d{4})C([1-6])T(\d{4})F(\d{3})\.jpg")


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    return write_demo(tmp_path_factory.mktemp("demo") / "noisy", label_noise=0.5, **SIZES)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return write_demo(tmp_path_factory.mktemp("demo") / "clean", label_noise=0.0, **SIZES)


def tables(root):
    train = loadmat(root / "info/tracks_train_info.mat")["track_train_info"]
    test = loadmat(root / "info/tracks_test_info.mat")["track_test_info"]
    return {"train": train, "test": test}, loadmat(root / "info/query_IDX.mat")["query_IDX"]


def names(root, subset):
    return (root / f"info/{subset}_name.txt").read_text().splitlines()


def tracklet_pixels(root):
    """The digest of each training tracklet's files, in the order of the table."""
    files, (table, _) = names(root, "train"), tables(root)
    spans = [files[start - 1 : end] for start, end, _, _ in table["train"]]
    return [
        sha256(b"".join((root / "bbox_train" / name[:4] / name).read_bytes() for name in span)).hexdigest()
        for span in spans
    ]


@pytest.mark.parametrize("subset", ["train", "test"])
def test_name_list_is_the_sorted_folders(noisy, subset):
    on_disk = sorted(path.name for path in (noisy / f"bbox_{subset}").rglob("*.jpg"))
    assert names(noisy, subset) == on_disk
    assert all((noisy / f"bbox_{subset}" / name[:4] / name).is_file() for name in on_disk)


@pytest.mark.parametrize("subset", ["train", "test"])
def test_table_agrees_with_every_name(noisy, subset):
    files, table = names(noisy, subset), tables(noisy)[0][subset]
    assert table.dtype == np.int32 and table[0, 0] == 1 and table[-1, 1] == len(files)
    assert all(before[1] + 1 == after[0] for before, after in pairwise(table))
    counted = {}
    for start, end, pid, camid in table.tolist():
        counted[pid, camid] = counted.get((pid, camid), 0) + 1
        parts = [NAME.fullmatch(name).groups() for name in files[start - 1 : end]]
        text = "00-1" if pid == -1 else f"{pid:04d}"
        assert parts == [
            (text, str(camid), f"{counted[pid, camid]:04d}", f"{i + 1:03d}") for i in range(end - start + 1)
        ]


def test_test_set_has_junk_distractors_and_clean_people(noisy):
    pid_T = tables(noisy)[0]["test"][:, 2]
    assert (np.sum(pid_T == -1), np.sum(pid_T == 0)) == (3, 6)
    assert len(set(pid_T[pid_T > 0])) == 4
    assert not set(pid_T) & set(tables(noisy)[0]["train"][:, 2])


def test_queries_are_one_tracklet_per_person_and_camera_with_a_match_elsewhere(noisy):
    subsets, query = tables(noisy)
    assert query.dtype == np.uint16 and query.shape == (1, query.size)
    seen = [tuple(subsets["test"][row - 1, 2:]) for row in query[0]]
    assert sorted(seen) == sorted({(pid, camid) for _, _, pid, camid in subsets["test"].tolist() if pid > 0})
    assert all(any(pid == other and camid != there for other, there in seen) for pid, camid in seen)


def test_images_are_128_by_64_jpegs(noisy):
    for path in (noisy / "bbox_test").rglob("*F001.jpg"):
        with Image.open(path) as image:
            assert (image.format, image.size, image.mode) == ("JPEG", (64, 128), "RGB")


def test_labels_on_disk_are_the_noise_functions(noisy):
    truth, table = load_truth(noisy), tables(noisy)[0]["train"]
    pids = np.unique(truth.true_pid)
    in_true_order = np.argsort(truth.true_row)
    label_T = np.searchsorted(pids, truth.true_pid[in_true_order])
    assert (np.diff(label_T) >= 0).all()
    noisy_T = uniform_others(label_T, len(pids), 0.5, truth.settings.noise_seed)
    np.testing.assert_array_equal(pids[noisy_T], table[in_true_order, 2])
    assert np.sum(table[:, 2] != truth.true_pid) == round(0.5 * len(table))


def test_true_order_is_the_table_of_a_noiseless_dataset(noisy, clean):
    truth, true_table, table = load_truth(noisy), tables(clean)[0]["train"], tables(noisy)[0]["train"]
    np.testing.assert_array_equal(load_truth(clean).true_row, np.arange(len(true_table)))
    np.testing.assert_array_equal(load_truth(clean).true_pid, true_table[:, 2])
    np.testing.assert_array_equal(true_table[truth.true_row, 2], truth.true_pid)
    np.testing.assert_array_equal(true_table[truth.true_row, 3], table[:, 3])


def test_pixels_do_not_depend_on_the_noise(noisy, clean):
    true_pixels = tracklet_pixels(clean)
    assert tracklet_pixels(noisy) == [true_pixels[row] for row in load_truth(noisy).true_row]
    assert len(set(true_pixels)) == len(true_pixels)
    test_files = [
        [(path.name, path.read_bytes()) for path in sorted((root / "bbox_test").rglob("*.jpg"))]
        for root in (noisy, clean)
    ]
    assert test_files[0] == test_files[1]


def test_pixels_depend_on_the_seed_and_not_on_the_number_of_workers(clean, tmp_path):
    parallel = write_demo(tmp_path / "parallel", label_noise=0.0, workers=2, **SIZES)
    other = write_demo(tmp_path / "other", label_noise=0.0, seed=1, **SIZES)
    assert tracklet_pixels(parallel) == tracklet_pixels(clean)
    assert not set(tracklet_pixels(other)) & set(tracklet_pixels(clean))


def test_the_test_set_does_not_depend_on_the_number_of_training_people():
    plans = [demo_plan.plan_test(DemoSettings(train_ids=n), np.arange(1, 51)) for n in (5, 80)]
    for field in ("number", "pid", "camid", "length", "looks"):
        np.testing.assert_array_equal(getattr(plans[0], field), getattr(plans[1], field))


def test_every_tracklet_has_its_own_number():
    settings = DemoSettings()
    train_pids, test_pids = demo_plan.draw_pids(settings)
    train, test = demo_plan.plan_identities(settings, train_pids, 0), demo_plan.plan_test(settings, test_pids)
    numbers = np.concatenate([train.number, test.number])
    assert len(np.unique(numbers)) == len(numbers)
    assert not set(train_pids) & set(test_pids)
    assert (train.intruder != train.looks).all()
    seen_by = [len(set(train.camid[train.pid == pid])) for pid in train_pids]
    assert min(seen_by) >= 2 and max(seen_by) == 6


def test_frame_kinds_are_runs_and_keep_their_share():
    rng = np.random.default_rng(0)
    drawn = [demo._frame_kinds(int(length), 0.08, rng) for length in rng.integers(2, 30, size=20_000)]
    flat = np.concatenate(drawn)
    assert np.mean(flat != 0) == pytest.approx(0.08, abs=0.004)
    assert set(flat) == {0, 1, 2}
    for kind_F in drawn:
        wrong = np.flatnonzero(kind_F)
        assert len(wrong) <= max(1, len(kind_F) // 3)
        assert len(set(kind_F[wrong])) <= 1 and (np.diff(wrong) == 1).all()


def test_frame_kinds_cover_every_frame(noisy):
    truth = load_truth(noisy)
    assert len(truth.train_frame_kind) == len(names(noisy, "train"))
    assert len(truth.test_frame_kind) == len(names(noisy, "test"))
    assert truth.settings == DemoSettings(label_noise=0.5, **SIZES)


@pytest.mark.parametrize("camid", scenes.CAMERAS)
def test_a_person_covers_the_middle_of_the_street_and_not_its_corners(camid):
    walk = replace(scenes.start_walk(camid, np.random.default_rng(0)), obstacle="none", yaw=0.0)
    person = make_person(np.random.default_rng(1))
    empty, seen = (np.asarray(scenes.draw_frame(walk, who, 0, np.random.default_rng(2))) for who in (None, person))
    changed = (empty != seen).any(axis=2)
    assert changed[40:90, 28:36].mean() > 0.9
    assert not changed[:20, :10].any() and not changed[:20, -10:].any()
    assert 0.15 < changed.mean() < 0.6


@pytest.mark.parametrize("occupied", ["folder", "file"])
def test_an_occupied_target_is_refused_and_left_alone(tmp_path, occupied):
    target = tmp_path / "demo"
    keep = target / "keep.txt" if occupied == "folder" else target
    keep.parent.mkdir(exist_ok=True)
    keep.write_text("mine")
    with pytest.raises(DataError, match="not empty"):
        write_demo(target, **SIZES)
    assert keep.read_text() == "mine"


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("stop")

    monkeypatch.setattr(demo, "_write_tables", fail)
    with pytest.raises(RuntimeError, match="stop"):
        write_demo(tmp_path / "demo", **SIZES)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place_is_a_data_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        write_demo(tmp_path / "file" / "demo", **SIZES)


@pytest.mark.parametrize(
    "wrong",
    [{"train_ids": 1}, {"test_ids": 9999}, {"min_frames": 1}, {"min_frames": 9, "max_frames": 8}, {"max_frames": 1000}, {"intruders": 0.2},
     {"label_noise": 1.5}, {"seed": -1}, {"tracklets_per_id": 1}, {"junk": -1}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        replace(DemoSettings(), **wrong)


def test_truth_of_something_else_is_refused(tmp_path):
    with pytest.raises(DataError, match="missing"):
        load_truth(tmp_path)
    (tmp_path / "info").mkdir()
    (tmp_path / demo.TRUTH_FILE).write_bytes(b"PK damaged")
    with pytest.raises(DataError, match="is damaged"):
        load_truth(tmp_path)
    others = {name: np.zeros(0) for name in ("true_pid", "true_row", "train_frame_kind", "test_frame_kind")}
    np.savez(tmp_path / demo.TRUTH_FILE, schema=2, settings='{"generator": 1}', **others)
    with pytest.raises(DataError, match=r"schema and generator \(2, 1\), expected \(1, 1\)"):
        load_truth(tmp_path)


def test_the_tool_writes_once_then_reuses_and_refuses_other_settings(tmp_path, capsys):
    command = ["--out", str(tmp_path / "demo"), "--workers", "1"]
    command += [text for name, size in SIZES.items() for text in (f"--{name.replace('_', '-')}", str(size))]
    assert main(command) == 0
    first = capsys.readouterr().out
    table, query = tables(tmp_path / "demo")
    assert f"wrote {tmp_path / 'demo'}" in first
    assert [line.split("|")[0].strip() for line in first.splitlines() if "|" in line] == [
        "subset",
        "train",
        "query",
        "gallery",
    ]
    assert [int(line.split("|")[2]) for line in first.splitlines()[3:]] == [
        len(table["train"]),
        query.size,
        len(table["test"]),
    ]
    assert main(command) == 0
    assert capsys.readouterr().out == first.replace("wrote", "reusing")
    with pytest.raises(DataError, match="not empty"):
        main([*command, "--label-noise", "0.1"])
