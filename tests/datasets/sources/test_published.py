"""Public datasets, each on a small tree in its exact layout: who is who, what is junk, which rows are queries; published counts."""

import json
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from reid.datasets.decoding import decode
from reid.datasets.sources import cuhk03, ilids_vid, ls_vid, market1501, mars, msmt17, prid2011, registry, veri776
from reid.datasets.sources.base import Options
from reid.errors import ConfigError, DataError
from reid.tracklets import Benchmark


def touch(root: Path, *names: str) -> None:
    """Empty files: an index opens no image."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def create(file: Path) -> None:
    """An empty file, quickly."""
    os.close(os.open(file, os.O_CREAT | os.O_WRONLY))


def of(benchmark: Benchmark, part: str) -> list[tuple[str, int, int]]:
    """First frame, person and camera of each tracklet of a part."""
    split = benchmark.train if part == "train" else benchmark.test.select(getattr(benchmark, part))
    return [
        (track.paths[0].relative_to(split.root).as_posix(), track.pid, track.camid)
        for track in (split[i] for i in range(len(split)))
    ]


def market(root: Path) -> Path:
    touch(
        root / "bounding_box_train",
        "0002_c1s1_000451_03.jpg",
        "0007_c3s3_077419_03.jpg",
        "0007_c2s3_070952_01.jpg",
        "Thumbs.db",
    )
    touch(root / "query", "0001_c1s1_001051_00.jpg", "0003_c4s6_015641_00.jpg", "Thumbs.db")
    touch(
        root / "bounding_box_test",
        "-1_c1s1_000401_03.jpg",
        "0000_c1s1_000151_01.jpg",
        "0001_c2s1_000301_00.jpg",
        "0003_c1s6_015971_02.jpg",
        "Thumbs.db",
    )
    touch(root, "readme.txt", "gt_query/0001_c1s1_001051_00_good.mat", "gt_bbox/0001_c1s1_001051_00.jpg")
    return root


@pytest.mark.parametrize("inner", ["", "Market-1501-v15.09.15"])
def test_market1501_keeps_junk_and_distractors_in_the_gallery(tmp_path, inner):
    market(tmp_path / inner)
    found = market1501.load_market1501(tmp_path)
    assert found.name == "market1501-subset"
    assert [row[1:] for row in of(found, "train")] == [(2, 1), (7, 2), (7, 3)]
    assert of(found, "query") == [("query/0001_c1s1_001051_00.jpg", 1, 1), ("query/0003_c4s6_015641_00.jpg", 3, 4)]
    assert [row[1:] for row in of(found, "gallery")] == [(-1, 1), (0, 1), (1, 2), (3, 1)]
    assert found.test.lengths.tolist() == [1] * 6
    assert found.test.key(0) == "query/0001_c1s1_001051_00"
    rows = market1501.read(tmp_path, Options())
    assert rows.column("role") == [None] * 3 + ["query"] * 2 + ["gallery"] * 4
    assert rows.column("split") == ["train"] * 3 + ["test"] * 6
    assert rows.column("pid")[-4] == -1


def test_market1501_names_what_does_not_belong_there(tmp_path):
    touch(market(tmp_path) / "query", "holiday.jpg")
    with pytest.raises(DataError, match=r"query: expected names such as 0002_c1s1.*, got holiday\.jpg"):
        market1501.load_market1501(tmp_path)
    (tmp_path / "query").rename(tmp_path / "probe")
    with pytest.raises(DataError, match=r"query: expected this folder .*bounding_box_train"):
        market1501.load_market1501(tmp_path)


def test_a_whole_market1501_is_called_so(tmp_path):
    """Made up in the real shape: 751 and 750 persons, 3,368 queries, 19,732 gallery rows of which 3,819 are junk and 2,798 distractors."""
    persons = [2 * i + 2 for i in range(751)]
    others = [2 * i + 1 for i in range(750)]
    for part, count, pids in (
        ("bounding_box_train", 12_936, persons),
        ("query", 3_368, others),
        ("bounding_box_test", 13_115, others),
    ):
        (tmp_path / part).mkdir()
        for i in range(count):
            create(tmp_path / part / f"{pids[i % len(pids)]:04d}_c{i % 6 + 1}s1_{i:06d}_00.jpg")
    for pid, count in (("-1", 3_819), ("0000", 2_798)):
        for i in range(count):
            create(tmp_path / "bounding_box_test" / f"{pid}_c{i % 6 + 1}s1_{i:06d}_00.jpg")
    found = market1501.load_market1501(tmp_path)
    assert found.name == "market1501"
    assert (len(found.query), len(found.gallery)) == (3_368, 19_732)
    assert found.summary()[1] == ("query", 750, 3_368, 3_368, 6)
    assert found.summary()[2] == ("gallery", 750, 19_732, 19_732, 6)


def msmt(root: Path, folders: tuple[str, str]) -> Path:
    lists = {
        "train": ["0000/0000_000_01_0303morning_0015_0.jpg 0", "0001/0001_000_05_0303noon_0015_1.jpg 1"],
        "val": ["0000/0000_001_02_0303morning_0016_0.jpg 0"],
        "query": ["0000/0000_000_04_0113afternoon_0001_0.jpg 0"],
        "gallery": ["0000/0000_005_14_0113afternoon_0002_0.jpg 0", "0002/0002_005_15_0113afternoon_0002_0.jpg 2"],
    }
    for part, lines in lists.items():
        folder = folders[0] if part in ("train", "val") else folders[1]
        touch(root / folder, *(line.split()[0] for line in lines))
        (root / f"list_{part}.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize(
    ("inner", "folders"),
    [("MSMT17_V1", ("train", "test")), ("MSMT17_V2", ("mask_train_v2", "mask_test_v2")), ("", ("train", "test"))],
)
def test_msmt17_person_0_is_a_person_and_not_the_same_in_train_and_test(tmp_path, inner, folders):
    msmt(tmp_path / inner, folders)
    found = msmt17.load_msmt17(tmp_path)
    assert [row[1:] for row in of(found, "train")] == [(1, 1), (2, 5), (1, 2)]
    assert of(found, "query") == [(f"{folders[1]}/0000/0000_000_04_0113afternoon_0001_0.jpg", 3, 4)]
    assert [row[1:] for row in of(found, "gallery")] == [(3, 14), (5, 15)]
    assert all(path.is_file() for split in (found.train, found.test) for track in split for path in track.paths)


def test_msmt17_rearranged_as_market(tmp_path):
    root = tmp_path / "MSMT17"
    touch(root / "bounding_box_train", "0000_c1_0002.jpg", "0001_c15_0004.jpg")
    touch(root / "query", "0000_c3_0001.jpg")
    touch(root / "bounding_box_test", "0000_c4_0001.jpg")
    found = msmt17.load_msmt17(root)
    assert [row[1:] for row in of(found, "train")] == [(1, 1), (2, 15)]
    assert [row[1:] for row in of(found, "query") + of(found, "gallery")] == [(3, 3), (3, 4)]
    assert registry.recognise(root).name == "msmt17"


def test_msmt17_names_the_line(tmp_path):
    msmt(tmp_path, ("train", "test"))
    with open(tmp_path / "list_query.txt", "a") as file:
        file.write("somewhere.jpg\n")
    with pytest.raises(DataError, match=r"list_query\.txt: line 2: expected a line such as .*got 'somewhere\.jpg'"):
        msmt17.load_msmt17(tmp_path)


def cuhk(root: Path, boxes: str) -> Path:
    names = ["1_001_1_01.png", "1_001_2_06.png", "1_002_1_01.png", "1_002_2_07.png", "5_003_2_08.png"]
    touch(root / f"images_{boxes}", *names)
    cells = np.empty((len(names), 1), object)
    cells[:, 0] = names
    split = {"filelist": cells, "labels": np.array([[1], [1], [2], [2], [3]]), "train_idx": [[1], [2]]}
    savemat(root / f"cuhk03_new_protocol_config_{boxes}.mat", {**split, "query_idx": [[3]], "gallery_idx": [[4], [5]]})
    return root


@pytest.mark.parametrize("boxes", ["detected", "labeled"])
def test_cuhk03_new_protocol_counts_rows_from_1(tmp_path, boxes):
    found = cuhk03.load_cuhk03(cuhk(tmp_path, boxes), boxes)
    assert of(found, "train") == [(f"images_{boxes}/1_001_1_01.png", 1, 1), (f"images_{boxes}/1_001_2_06.png", 1, 2)]
    assert of(found, "query") == [(f"images_{boxes}/1_002_1_01.png", 2, 1)]
    assert [row[1:] for row in of(found, "gallery")] == [(2, 2), (3, 2)]
    assert found.name == ("cuhk03-subset" if boxes == "detected" else "cuhk03-labeled-subset")
    assert cuhk03.read(tmp_path, Options()).said == [
        f"boxes: {'detected' if boxes == 'detected' else 'labeled by hand'}"
    ]


def test_cuhk03_an_image_that_the_split_names_is_missing(tmp_path):
    (cuhk(tmp_path, "detected") / "images_detected/1_002_2_07.png").unlink()
    with pytest.raises(DataError, match=r"1_002_2_07\.png: .* names this image, but it is missing"):
        cuhk03.load_cuhk03(tmp_path)


def cuhk_archive(root: Path, file: str = "cuhk-03.mat") -> dict[str, np.ndarray]:
    """`cuhk-03.mat` as MATLAB 7.3 writes it, axes the other way round; returns name -> (H, W, 3) pixels of the images of `detected`."""
    rng, expected = np.random.default_rng(0), {}
    persons = {1: 2, 2: 0, 3: 0, 4: 0, 5: 3}  # of each camera pair
    kept = {
        (1, 1, 1),
        (1, 1, 6),
        (1, 2, 1),
        (1, 2, 7),
        (5, 3, 8),
    }  # camera pair, person, image; all other cells are empty
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(root / file, "w", userblock_size=512) as content:
        held = content.create_group("#refs#")
        empty = held.create_dataset("empty", data=np.array([0, 0], np.uint64))
        empty.attrs["MATLAB_empty"] = np.uint8(1)
        for boxes in ("detected", "labeled"):
            pairs = content.create_dataset(boxes, (1, 5), h5py.ref_dtype)
            for pair, count in persons.items():
                cell = held.create_dataset(f"{boxes}{pair}", (10, count), h5py.ref_dtype)
                for person in range(count):
                    for number in range(10):
                        cell[number, person] = empty.ref
                        if (pair, person + 1, number + 1) in kept:
                            pixels = rng.integers(0, 256, (6 + number, 3, 3), np.uint8)
                            cell[number, person] = held.create_dataset(
                                f"{boxes}{pair}_{person}_{number}", data=pixels.T
                            ).ref
                            name = f"{pair}_{person + 1:03d}_{1 if number < 5 else 2}_{number + 1:02d}.png"
                            expected |= {name: pixels} if boxes == "detected" else {}
                pairs[0, pair - 1] = cell.ref
    return expected


@pytest.mark.parametrize("file", ["cuhk-03.mat", "cuhk03_release/cuhk-03.mat"])
def test_cuhk03_is_unpacked_from_its_archive(tmp_path, file):
    shutil.rmtree(cuhk(tmp_path, "detected") / "images_detected")
    expected = cuhk_archive(tmp_path, file)
    with pytest.raises(DataError, match=r"images_detected: is missing; robust-reid import .* unpacks it"):
        cuhk03.read(tmp_path, Options())
    half = tmp_path / "images_detected.unfinished"  # a first try was stopped
    half.mkdir()
    Image.fromarray(expected["1_001_1_01.png"]).save(half / "1_001_1_01.png")
    (half / "1_001_2_06.png").touch()
    rows = cuhk03.read(tmp_path, Options(unpack=True))
    images = tmp_path / "images_detected"
    assert rows.said[0] == f"5 images unpacked from cuhk-03.mat to {images}"
    assert not half.exists() and not (tmp_path / "images_labeled").exists()
    assert {image.name for image in images.iterdir()} == expected.keys()
    for name, pixels in expected.items():
        np.testing.assert_array_equal(decode(images / name), pixels)
    assert sorted(Path(path).name for path in rows.columns["path"]) == sorted(expected)
    assert cuhk03.read(tmp_path, Options(unpack=True)).said == ["boxes: detected"]  # once
    assert cuhk03.recognise(tmp_path) == "cuhk03_new_protocol_config_detected.mat"


def test_cuhk03_archives_that_are_none(tmp_path):
    cuhk_archive(tmp_path)
    with pytest.raises(DataError, match=r"cuhk03_new_protocol_config_detected\.mat: expected this file"):
        cuhk03.read(tmp_path, Options(unpack=True))
    shutil.rmtree(cuhk(tmp_path, "detected") / "images_detected")
    content = (tmp_path / "cuhk-03.mat").read_bytes()
    for damaged in (content[: len(content) // 2], b"no file of MATLAB", b""):
        (tmp_path / "cuhk-03.mat").write_bytes(damaged)
        with pytest.raises(DataError, match=r"cuhk-03\.mat: expected cuhk-03\.mat with detected"):
            cuhk03.read(tmp_path, Options(unpack=True))
    with h5py.File(tmp_path / "cuhk-03.mat", "w") as other:
        other["labeled"] = np.zeros((1, 5))
    with pytest.raises(DataError, match=r"cuhk-03\.mat: expected cuhk-03\.mat with detected"):
        cuhk03.read(tmp_path, Options(unpack=True))
    assert not (tmp_path / "images_detected").exists()


def test_cuhk03_np_in_the_layout_of_market(tmp_path):
    touch(
        tmp_path / "detected",
        "bounding_box_train/0001_c1_1.png",
        "query/0003_c1_22.png",
        "bounding_box_test/0003_c2_26.png",
    )
    found = cuhk03.load_cuhk03(tmp_path)
    assert of(found, "query") == [("detected/query/0003_c1_22.png", 3, 1)]


def ilids(root: Path, order: list[int]) -> Path:
    for person in (1, 2, 4, 9):  # the numbers of persons have gaps; the split counts folders
        for camera in (1, 2):
            frames = [f"cam{camera}_person{person:03d}_{frame:05d}.png" for frame in (317, 318)]
            touch(root / f"i-LIDS-VID/sequences/cam{camera}/person{person:03d}", *frames, "Thumbs.db")
    (root / "train-test people splits").mkdir()
    table = [order] * 9 + [order[::-1]]
    savemat(root / "train-test people splits/train_test_splits_ilidsvid.mat", {"ls_set": np.array(table)})
    return root


def test_ilids_vid_tests_on_the_first_half_and_has_ten_splits(tmp_path):
    ilids(tmp_path, [3, 1, 4, 2])
    found = ilids_vid.load_ilids_vid(tmp_path)
    assert [row[1:] for row in of(found, "train")] == [(2, 1), (9, 1), (2, 2), (9, 2)]
    assert [row[1:] for row in of(found, "query")] == [(1, 1), (4, 1)]
    assert [row[1:] for row in of(found, "gallery")] == [(1, 2), (4, 2)]
    assert found.train.lengths.tolist() == [2] * 4
    last = ilids_vid.load_ilids_vid(tmp_path, split=9)
    assert [row[1:] for row in of(last, "query")] == [(2, 1), (9, 1)]
    with pytest.raises(ConfigError, match="a split from 0 to 9, got 10"):
        ilids_vid.load_ilids_vid(tmp_path, split=10)


def test_ilids_vid_refuses_a_split_of_other_persons(tmp_path):
    ilids(tmp_path, [3, 1, 5, 2])
    with pytest.raises(DataError, match=r"each order the 4 persons"):
        ilids_vid.load_ilids_vid(tmp_path)


def test_prid2011_takes_the_persons_that_its_splits_name(tmp_path):
    for person in (1, 2, 3, 200):
        for camera in "ab":
            touch(
                tmp_path / f"prid_2011/multi_shot/cam_{camera}/person_{person:04d}", "0001.png", "0002.png", "0010.png"
            )
    splits = [{"train": ["person_0002"], "test": ["person_0001"]}] * 9 + [
        {"train": ["person_0001"], "test": ["person_0002"]}
    ]
    (tmp_path / "splits_prid2011.json").write_text(json.dumps(splits))
    found = prid2011.load_prid2011(tmp_path)
    assert [row[1:] for row in of(found, "train") + of(found, "query") + of(found, "gallery")] == [
        (2, 1),
        (2, 2),
        (1, 1),
        (1, 2),
    ]
    assert [row[1] for row in of(prid2011.load_prid2011(tmp_path, 9), "query")] == [2]
    (tmp_path / "splits_prid2011.json").write_text("{}")
    with pytest.raises(DataError, match=r"splits_prid2011\.json: expected a list of 10 objects"):
        prid2011.load_prid2011(tmp_path)


def lsvid(root: Path, store: str) -> Path:
    frames = {
        "tracklet_train/0000": ["0000_0000_01_0001.jpg", "0000_0000_01_0002.jpg", "0000_0001_02_0001.jpg"],
        "tracklet_test/0000": [
            "0000_0000_03_0001.jpg",
            "0000_00001_07_0001.jpg",
            "0000_0001_15_0001.jpg",
            "0000_0001_15_0010.jpg",
        ],
        "tracklet_test/0001": ["0001_0000_04_0001.jpg"],
    }
    for folder, names in frames.items():
        touch(root / folder, *names, ".DS_Store")
    (root / "list_sequence").mkdir()
    (root / "list_sequence/list_seq_train.txt").write_text(
        "tracklet_train/0000/0000_0000 0\ntracklet_train/0000/0000_0001 0\n"
    )
    test = ["tracklet_test/0000/0000_0000 0", "tracklet_test/0000/0000_0001 0", "tracklet_test/0001/0001_0000 1"]
    (root / "list_sequence/list_seq_test.txt").write_text("\n".join(test) + "\n")
    (root / "test/data").mkdir(parents=True)
    if store == "hdf5":
        with h5py.File(root / "test/data/info_test.mat", "w") as file:
            file["query"] = np.array([[2.0]])
    else:
        np.save(root / "test/query.npy", np.array([[2]]))
    return root


@pytest.mark.parametrize("store", ["hdf5", "npy"])
def test_ls_vid_queries_count_from_1_and_are_in_the_gallery(tmp_path, store):
    found = ls_vid.load_ls_vid(lsvid(tmp_path, store))
    assert of(found, "train") == [
        ("tracklet_train/0000/0000_0000_01_0001.jpg", 1, 1),
        ("tracklet_train/0000/0000_0001_02_0001.jpg", 1, 2),
    ]
    assert of(found, "query") == [("tracklet_test/0000/0000_0001_15_0001.jpg", 1, 15)]
    assert [row[1:] for row in of(found, "gallery")] == [(1, 3), (1, 15), (2, 4)]
    assert found.test.lengths.tolist() == [1, 2, 1]  # 0000_0001 is not the beginning of 0000_00001
    assert ls_vid.read(tmp_path, Options()).column("role") == [None] * 3 + ["gallery", "both", "both", "gallery"]


def test_ls_vid_names_the_line_of_missing_frames_and_queries_out_of_range(tmp_path):
    lsvid(tmp_path, "npy")
    np.save(tmp_path / "test/query.npy", np.array([0]))
    with pytest.raises(DataError, match=r"query\.npy: expected rows of the test list, 1 to 3"):
        ls_vid.load_ls_vid(tmp_path)
    (tmp_path / "tracklet_test/0001/0001_0000_04_0001.jpg").unlink()
    with pytest.raises(DataError, match=r"list_seq_test\.txt: line 3: expected frames"):
        ls_vid.load_ls_vid(tmp_path)


def test_veri776_queries_stand_in_the_gallery_too(tmp_path):
    touch(tmp_path / "image_train", "0001_c001_00016450_0.jpg", "0003_c020_00016450_0.jpg")
    touch(tmp_path / "image_query", "0002_c002_00030600_0.jpg")
    touch(tmp_path / "image_test", "0002_c002_00030600_0.jpg", "0005_c003_00084280_0.jpg")
    touch(tmp_path, "train_label.xml", "name_train.txt", "jk_index.txt")
    found = veri776.load_veri776(tmp_path)
    assert [row[1:] for row in of(found, "train")] == [(1, 1), (3, 20)]
    assert [row[1:] for row in of(found, "query") + of(found, "gallery")] == [(2, 2), (2, 2), (5, 3)]
    assert found.test.key(0) != found.test.key(1)


# Figures as published; a whole copy is told by them.
@pytest.mark.parametrize(
    ("published", "figures"),
    [
        (market1501.PUBLISHED, (751, 12_936, 3_368, 15_913 + 3_819)),
        (msmt17.PUBLISHED, (1_041, 30_248 + 2_373, 11_659, 82_161)),
        (cuhk03.PUBLISHED, (767, 7_365, 1_400, 5_332)),
        (cuhk03.PUBLISHED_LABELED, (767, 7_368, 1_400, 5_328)),
        (ilids_vid.PUBLISHED, (150, 300, 150, 150)),
        (prid2011.PUBLISHED, (89, 178, 89, 89)),
        (ls_vid.PUBLISHED, (842, 2_831, 3_504, 11_310)),
        (veri776.PUBLISHED, (576, 37_778, 1_678, 11_579)),
        (mars.PUBLISHED, (625, 8_298, 1_980, 12_180)),
    ],
)
def test_published_counts(published, figures):
    assert published[:4] == figures
    assert published.source


def test_auto_tells_the_datasets_apart_and_says_why(tmp_path):
    market(tmp_path / "a")
    msmt(tmp_path / "b", ("train", "test"))
    cuhk(tmp_path / "c", "labeled")
    ilids(tmp_path / "d", [3, 1, 4, 2])
    touch(tmp_path / "e/prid_2011/multi_shot/cam_a/person_0001", "0001.png")
    lsvid(tmp_path / "f", "npy")
    touch(
        tmp_path / "g", "image_train/0001_c001_1_0.jpg", "image_query/0002_c002_1_0.jpg", "image_test/0002_c003_1_0.jpg"
    )
    names = ["market1501", "msmt17", "cuhk03", "ilids-vid", "prid2011", "ls-vid", "veri776"]
    found = [registry.recognise(tmp_path / folder) for folder in "abcdefg"]
    assert [kind for kind, _ in found] == names
    assert all(why for _, why in found)


def test_duke_is_refused_with_the_reason_by_name_and_by_its_files(tmp_path):
    for name in ("dukemtmc", "dukemtmcreid", "DukeMTMC-VideoReID", "duke"):
        with pytest.raises(ConfigError, match="withdrawn by its authors in 2019"):
            registry.kind(name)
    for part in ("bounding_box_train", "query", "bounding_box_test"):
        touch(tmp_path / part, "0005_c2_f0046985.jpg")
    with pytest.raises(DataError, match="DukeMTMC-reID's; DukeMTMC was withdrawn"):
        registry.recognise(tmp_path)


def test_a_dataset_one_level_deeper_is_pointed_at(tmp_path):
    market(tmp_path / "downloads/Market")
    with pytest.raises(DataError, match=r"it contains a dataset: use .*downloads/Market instead"):
        registry.recognise(tmp_path / "downloads")
    with pytest.raises(ConfigError, match=r"markt1501: no such kind"):
        registry.kind("markt1501")


def test_every_kind_has_a_module_with_its_parts():
    for name in registry.KINDS:
        kind = registry.kind(name)
        assert kind.SHAPE
        assert callable(kind.recognise)
        assert callable(kind.read)
