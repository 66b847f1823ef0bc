"""Tables, lists and annotations that people and other programs write: changed bytes, and cells and values that nobody expects.

Each is read as its command reads it; an import goes on to its table and its crops, which must lie in the folder named.
"""

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from reid.commands import importing
from reid.commands.importing import Crops
from reid.datasets import corrections, damaged, mars, splitting, weights
from reid.datasets.changes import Noisy
from reid.datasets.manifest import load_manifest
from reid.datasets.noise_manifest import NOISES, Manifest, write_noise
from reid.datasets.sources import cuhk03, ilids_vid, ls_vid, msmt17
from reid.datasets.sources.base import Options
from reid.datasets.table import write_table
from reid.tracklets import IdNames
from tests.datasets.test_tracklet_noise import CLEAN, WITH_NAMES, world
from tests.faults.mutation import Kind, try_cells, try_changed, try_values, written
from tests.gallery.conftest import split_of

pytestmark = [pytest.mark.faults, pytest.mark.filterwarnings("ignore")]
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 8, 3), dtype=np.uint8))
SPLIT = split_of([f"t{i}" for i in range(8)], np.arange(8) % 4 + 1, np.arange(8) % 3)
NAMES = IdNames({1: "alice", 2: "bob", 3: "carol", 4: "dave"})


def pictures(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        PICTURE.save(folder / name)


def corrected(names: IdNames) -> Callable[[Path], Any]:
    def read(file: Path) -> None:
        done = corrections.apply_corrections(corrections.read_corrections(file), SPLIT, names)
        assert len(done.split) == len(done.source) and (done.split.pid > 0).all()
        assert not names or {*done.split.pid.tolist()} <= {*done.names.pid}

    return read


CORRECTIONS = """action,key,pid,frames,note
relabel,t0,2,,
drop,t1,,,"no, one"
drop_frames,t2,,0-1,
split,t3,,1,
keep,t4,,,
merge,3,4,,
"""


def weighed(file: Path) -> None:
    scaled = weights.scaled(weights.read_weights(file, SPLIT), str(file))
    assert np.isfinite(scaled).all() and (scaled >= 0).all() and abs(scaled.mean() - 1) < 1e-9


def noise(kind: str, names: IdNames) -> Kind:
    def make(folder: Path) -> Path:
        made = NOISES[kind](rate=0.1, seed=7).apply(Noisy.of(CLEAN, names), world())
        write_noise(folder / "noise.csv", made.changes[:8] if kind != "fragments" else made.changes, made.names)
        return folder / "noise.csv"

    return Kind(make, lambda file: Manifest(str(file)).apply(Noisy.of(CLEAN, names), world()))


def drawn(folder: Path) -> Path:
    splitting.write_parts(folder / "split.csv", {"alice": "train", "bob": "val", "3": "test"})
    return folder / "split.csv"


def left_out(folder: Path) -> Path:
    damaged.write_list(folder / "damaged.csv", {"a/1.jpg": "cut short", "a/2.jpg": "empty"})
    return folder / "damaged.csv"


def table(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        pictures(folder, *(f"{i}.png" for i in range(8)))
        columns = {"path": [f"{i}.png" for i in range(8)], "tracklet": [f"t{i // 2}" for i in range(8)]}
        columns |= {"pid": [1, 1, 2, 2, 1, 1, 2, 2], "camid": [0, 0, 1, 1, 1, 1, 0, 0], "weight": [1.5] * 8}
        write_table(folder / f"a{suffix}", columns | {"split": ["train"] * 4 + ["test"] * 4})
        return folder / f"a{suffix}"

    return make


@pytest.mark.parametrize("named", [False, True])
def test_corrections(named: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    kind = Kind(written("corrections.csv", CORRECTIONS), corrected(NAMES if named else IdNames()))
    if named:
        kind = kind._replace(
            make=written("corrections.csv", CORRECTIONS.replace("3,4", "carol,dave").replace("t0,2", "t0,bob"))
        )
    try_cells("corrections (CSV)", kind, tmp_path_factory)
    try_changed("corrections (CSV)", kind, tmp_path_factory)


TABLES = {
    "weights (CSV)": Kind(written("w.csv", "key,weight\n" + "".join(f"t{i},{i / 4}\n" for i in range(8))), weighed),
    "split as drawn (CSV)": Kind(drawn, splitting.read_parts),
    "damaged images (CSV)": Kind(left_out, damaged.read_list),
    **{f"noise (CSV): {kind}": noise(kind, IdNames()) for kind in ("switches", "fragments", "symmetric")},
    "noise (CSV): split persons": noise("split_identities", WITH_NAMES),
    "manifest (CSV)": Kind(table(".csv"), load_manifest),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    try_cells(name, TABLES[name], tmp_path_factory)
    try_changed(name, TABLES[name], tmp_path_factory)


def test_parquet(tmp_path_factory: pytest.TempPathFactory) -> None:
    try_changed("manifest (Parquet)", Kind(table(".parquet"), load_manifest), tmp_path_factory)


def imported(kind: str, whole: Callable[[Path], Path] = lambda file: file, **options: Any) -> Callable[[Path], None]:
    """Reads a source, cuts its crops and writes its table; nothing may lie outside of the output folder."""

    def read(file: Path) -> None:
        out = file.parent.with_name(f"{file.parent.name}-out")
        shutil.rmtree(out, ignore_errors=True)  # crops that are there are not cut again
        crops = Crops(out / "crops", "png", 95) if kind in ("mot", "coco", "jsonl", "video") else None
        with contextlib.redirect_stdout(io.StringIO()):
            importing.run([whole(file)], kind, Options(**options), out / "tracks.csv", crops, overwrite=True)
        load_manifest(out / "tracks.csv", to_train=False)

    return read


FRAMES = [f"img1/{i:06d}.png" for i in range(1, 5)]
MOT = "".join(f"{frame},{track},{2 * track},1,5,9,1,1,0.8\n" for frame in range(1, 5) for track in (1, 2))
INI = "[Sequence]\nname=MOT\nimDir=img1\nframeRate=30\nseqLength=4\n"
COCO = {
    "images": [{"id": i, "file_name": FRAMES[i], "video_id": 1, "frame_id": i} for i in range(4)],
    "videos": [{"id": 1, "name": "north"}],
    "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}],
    "annotations": [
        {
            "id": i,
            "image_id": i,
            "bbox": [1, 1, 5.5, 9],
            "track_id": i // 2,
            "category_id": 1,
            "attributes": {"pid": "alice"},
        }
        for i in range(4)
    ],
}
LINES = [
    {
        "path": FRAMES[i],
        "tracklet": i // 2,
        "pid": "alice",
        "camid": "gate 3",
        "bbox": [1, 1, 5, 9],
        "frame": i,
        "score": 0.5,
    }
    for i in range(4)
]


def beside_frames(name: str, content: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        pictures(folder, *FRAMES)
        if name == "seqinfo.ini":
            beside_frames("gt/gt.txt", MOT)(folder)
        (folder / name).parent.mkdir(exist_ok=True)
        return written(name, content)(folder)

    return make


def video(folder: Path) -> Path:
    av = pytest.importorskip("av")
    with av.open(str(folder / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for i in range(4):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 60 * i, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (folder / "a.csv").write_text("frame,track,x,y,w,h,pid\n" + "".join(f"{i},7,1,1,9,20,5\n" for i in range(4)))
    return folder / "a.csv"


def of_video(file: Path) -> Path:
    return file.with_suffix(".mp4")


IMPORTS = {
    "import: MOT": Kind(beside_frames("gt/gt.txt", MOT), imported("mot", lambda file: file.parents[1])),
    "import: boxes (CSV)": Kind(video, imported("video", of_video)),
    "import: table (CSV)": Kind(table(".csv"), imported("table")),
}
JSON = {
    "import: COCO": Kind(beside_frames("a.json", json.dumps(COCO)), imported("coco")),
    "import: JSON lines": Kind(beside_frames("a.jsonl", "\n".join(map(json.dumps, LINES))), imported("jsonl")),
}


@pytest.mark.parametrize("name", IMPORTS)
def test_imports_of_tables(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    try_cells(name, IMPORTS[name], tmp_path_factory, share=2)
    try_changed(name, IMPORTS[name], tmp_path_factory, share=2)


@pytest.mark.parametrize("name", JSON)
def test_imports_of_json(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    try_values(name, JSON[name], tmp_path_factory, share=2)
    try_changed(name, JSON[name], tmp_path_factory, share=2)


def test_mot_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    kind = Kind(beside_frames("seqinfo.ini", INI), imported("mot", lambda file: file.parent))
    try_changed("import: MOT seqinfo.ini", kind, tmp_path_factory, share=2)


def test_videos(tmp_path_factory: pytest.TempPathFactory) -> None:
    kind = Kind(lambda folder: of_video(video(folder)), imported("video"))
    try_changed("import: video (MP4)", kind, tmp_path_factory, share=4)


def mars_list(folder: Path) -> Path:
    names = [f"{pid:04d}C{camera}T0001F{frame:03d}.jpg" for pid in (1, 2) for camera in (1, 2) for frame in (1, 2)]
    (folder / "info").mkdir()
    tracks = np.array([[2 * i + 1, 2 * i + 2, i // 2 + 1, i % 2 + 1] for i in range(4)])
    for part in ("train", "test"):
        (folder / f"bbox_{part}" / "0001").mkdir(parents=True)
        (folder / "info" / f"{part}_name.txt").write_text("\n".join(names) + "\n")
        savemat(folder / "info" / f"tracks_{part}_info.mat", {f"track_{part}_info": tracks})
    savemat(folder / "info" / "query_IDX.mat", {"query_IDX": np.array([[1, 3]])})
    return folder / "info" / "train_name.txt"


def msmt_list(folder: Path) -> Path:
    lines = [f"{p:04d}/{p:04d}_000_{c:02d}_0303morning_0015_0.jpg {p}" for p in range(3) for c in (1, 2)]
    for part in ("train", "val", "query", "gallery"):
        (folder / f"list_{part}.txt").write_text("\n".join(lines) + "\n")
    for part in ("train", "test"):
        (folder / part).mkdir()
    return folder / "list_train.txt"


def ls_vid_lists(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "list_sequence").mkdir()
        for part in ("train", "test"):
            (folder / f"tracklet_{part}" / "0000").mkdir(parents=True)
            for tracklet in range(2):
                (folder / f"tracklet_{part}/0000/0000_{tracklet:04d}_01_0001.jpg").touch()
            lines = [f"tracklet_{part}/0000/0000_{tracklet:04d} 0" for tracklet in range(2)]
            (folder / "list_sequence" / f"list_seq_{part}.txt").write_text("\n".join(lines) + "\n")
        (folder / "test/data").mkdir(parents=True)
        if name.endswith(".mat"):
            with pytest.importorskip("h5py").File(folder / "test/data/info_test.mat", "w") as file:
                file["query"] = np.array([[1.0, 2.0]])
        else:
            np.save(folder / "test/query.npy", np.array([1, 2]))
        return folder / name

    return make


def cuhk_split(folder: Path) -> Path:
    names = [f"1_{i:03d}_{view}_01.png" for i in range(4) for view in (1, 2)]
    pictures(folder, *(f"images_detected/{name}" for name in names))
    cells = np.array(names, object).reshape(-1, 1)
    parts = {"train_idx": [1, 2, 3, 4], "query_idx": [5, 7], "gallery_idx": [6, 8]}
    file = folder / "cuhk03_new_protocol_config_detected.mat"
    savemat(file, {"filelist": cells, "labels": np.arange(8) // 2 + 1, **{k: np.array(v) for k, v in parts.items()}})
    return file


def ilids_splits(folder: Path) -> Path:
    for camera in ("cam1", "cam2"):
        pictures(folder, *(f"i-LIDS-VID/sequences/{camera}/person{i:03d}/{camera}_1.png" for i in range(1, 5)))
    file = folder / "train-test people splits" / "train_test_splits_ilidsvid.mat"
    file.parent.mkdir()
    savemat(file, {"ls_set": np.tile(np.arange(1, 5), (10, 1))})
    return file


DATASETS = {
    "MARS name list": (Kind(mars_list, lambda file: mars.load_mars(file.parents[1])), 1),
    "MSMT17 list": (Kind(msmt_list, lambda file: msmt17.load_msmt17(file.parent)), 1),
    "LS-VID list": (
        Kind(ls_vid_lists("list_sequence/list_seq_test.txt"), lambda file: ls_vid.load_ls_vid(file.parents[1])),
        1,
    ),
    "LS-VID query.npy": (Kind(ls_vid_lists("test/query.npy"), lambda file: ls_vid.load_ls_vid(file.parents[1])), 1),
    "LS-VID info_test.mat (HDF5)": (
        Kind(ls_vid_lists("test/data/info_test.mat"), lambda file: ls_vid.load_ls_vid(file.parents[2])),
        20,
    ),
    "CUHK03 split (MATLAB)": (Kind(cuhk_split, lambda file: cuhk03.load_cuhk03(file.parent)), 20),
    "iLIDS-VID splits (MATLAB)": (
        Kind(ilids_splits, lambda file: ilids_vid.load_ilids_vid(file.parents[1])),
        20,
    ),
}


@pytest.mark.parametrize("name", DATASETS)
def test_lists_of_datasets(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    kind, share = DATASETS[name]
    try_changed(name, kind, tmp_path_factory, share)
