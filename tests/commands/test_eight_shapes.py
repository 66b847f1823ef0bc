"""From what people have to a search hit, by the commands of the README alone: the same rendered people in each of the eight shapes.

Shapes of arrays: H, W, 3 uint8 pictures.
"""

import configparser
import csv
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from reid.datasets.decoding import decode
from reid.datasets.mars import load_mars
from tests.commands.conftest import call
from tests.commands.test_import import table

PEOPLE, CAMERAS = ["alice", "bob", "carol", "dave", "erin", "frank"], ["gate", "yard"]
FRAMES = 2
WIDTH, HEIGHT = 32, 64  # of a crop
# What makes it quick; the README's own command needs the network, and minutes.
SHORT = ["model.name=resnet10t", "model.pretrained=false", "augment.resize=[36,20]", "augment.crop=[32,16]"]
SHORT += ["train.iterations=2", "train.schedule.warmup=1", "train.batch_size=4", "machine.workers=0", "--device=cpu"]

World = dict[tuple[str, str], list[np.ndarray]]  # person, camera -> crops


@pytest.fixture(scope="module")
def world(data_root: Path) -> World:
    """Six persons of the demo in two cameras each, made small."""
    demo, seen = load_mars(data_root / "demo", "demo"), dict[int, list[list[np.ndarray]]]()
    for track in (*demo.train, *demo.test):
        if track.pid > 0:
            pictures = [Image.fromarray(decode(path)).resize((WIDTH, HEIGHT)) for path in track.paths[:FRAMES]]
            seen.setdefault(track.pid, []).append([np.asarray(picture) for picture in pictures])
    found = [tracks[:2] for tracks in seen.values() if len(tracks) > 1]
    return {
        (person, camera): frames
        for person, tracks in zip(PEOPLE, found, strict=False)
        for camera, frames in zip(CAMERAS, tracks, strict=True)
    }


def save(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def scene(world: World, camera: str, frame: int) -> np.ndarray:
    """What a camera sees: everybody side by side."""
    picture = np.full((HEIGHT + 16, (WIDTH + 8) * len(PEOPLE), 3), 100, np.uint8)
    for place, person in enumerate(PEOPLE):
        x, y, _, _ = box(place)
        picture[y : y + HEIGHT, x : x + WIDTH] = world[person, camera][frame]
    return picture


def box(place: int) -> tuple[int, int, int, int]:
    """x, y, width and height of a person's place in a scene."""
    return place * (WIDTH + 8) + 4, 8, WIDTH, HEIGHT


def folders(world: World) -> list[str]:
    for (person, camera), frames in world.items():
        for number, pixels in enumerate(frames):
            save(Path("pictures", person, f"monday at the {camera}", f"{number}.png"), pixels)
    return ["pictures/"]


def flat(world: World) -> list[str]:
    for track, ((person, camera), frames) in enumerate(world.items()):
        for number, pixels in enumerate(frames):
            save(Path("pictures", f"{person}_{camera}_{track}_{number}.png"), pixels)
    return ["pictures/", "--pattern", "{pid}_{camid}_{tracklet}_{frame}.png", "--as", "flat"]


def mot(world: World) -> list[str]:
    for camera in CAMERAS:
        folder, lines = Path("sequences", camera), []
        for frame in range(FRAMES):
            save(folder / "img1" / f"{frame + 1:06d}.png", scene(world, camera, frame))
            for number in range(len(PEOPLE)):
                x, y, w, h = box(number)
                lines.append(f"{frame + 1},{number + 1},{x + 1},{y + 1},{w},{h},1,1,1")
        (folder / "gt").mkdir()
        (folder / "gt/gt.txt").write_text("\n".join(lines) + "\n")
        info = configparser.ConfigParser()
        info["Sequence"] = {"name": camera, "imDir": "img1"}
        with open(folder / "seqinfo.ini", "w") as file:
            info.write(file)
    return ["sequences/", "--ids", "shared", "--crops", "crops", "--png"]


def coco(world: World) -> list[str]:
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for video, camera in enumerate(CAMERAS, start=1):
        for frame in range(FRAMES):
            name = f"{camera}/{frame}.png"
            save(Path("images", name), scene(world, camera, frame))
            images.append({"id": len(images) + 1, "file_name": name, "video_id": video, "frame_id": frame})
            for number in range(len(PEOPLE)):
                held = {"id": len(annotations), "image_id": len(images), "category_id": 1, "track_id": number + 1}
                annotations.append({**held, "bbox": list(box(number))})
    about = {
        "categories": [{"id": 1, "name": "person"}],
        "videos": [{"id": i + 1, "name": c} for i, c in enumerate(CAMERAS)],
    }
    Path("labels.json").write_text(json.dumps({"images": images, "annotations": annotations, **about}))
    return ["labels.json", "--images", "images", "--ids", "shared", "--crops", "crops", "--png"]


def video(world: World) -> list[str]:
    for camera in CAMERAS:
        height, width, _ = scene(world, camera, 0).shape
        with av.open(f"{camera}.mkv", "w") as container:
            stream = container.add_stream("ffv1", rate=Fraction(30))
            stream.width, stream.height, stream.pix_fmt = width, height, "bgr0"
            for frame in range(FRAMES):
                picture = av.VideoFrame.from_ndarray(scene(world, camera, frame), format="rgb24")
                container.mux(stream.encode(picture.reformat(format="bgr0")))
            container.mux(stream.encode())
        rows = [[frame, i, *box(i), person] for frame in range(FRAMES) for i, person in enumerate(PEOPLE)]
        write_csv(Path(f"{camera}.csv"), ["frame", "track", "x", "y", "w", "h", "pid"], rows)
    return [*(f"{camera}.mkv" for camera in CAMERAS), "--ids", "shared", "--crops", "crops", "--png"]


def jsonl(world: World) -> list[str]:
    lines = []
    for camera in CAMERAS:
        for frame in range(FRAMES):
            save(Path("frames", f"{camera}-{frame}.png"), scene(world, camera, frame))
            for i, person in enumerate(PEOPLE):
                held = {"path": f"frames/{camera}-{frame}.png", "tracklet": f"{camera}-{i}", "pid": person}
                lines.append(json.dumps({**held, "camid": camera, "bbox": box(i)}))
    Path("t.jsonl").write_text("\n".join(lines) + "\n")
    return ["t.jsonl", "--crops", "crops", "--png"]


def manifest(world: World) -> list[str]:
    rows = []
    for (person, camera), frames in world.items():
        for number, pixels in enumerate(frames):
            rows.append([f"pictures/{person}-{camera}-{number}.png", f"{person}-{camera}", person, camera])
            save(Path(rows[-1][0]), pixels)
    write_csv(Path("tracks.csv"), ["path", "tracklet", "pid", "camid"], rows)
    return []  # it is the table


def mars(world: World) -> list[str]:
    tables: dict[str, list[list[int]]] = {"train": [], "test": []}
    count = {"train": 0, "test": 0}
    for (person, camera), frames in world.items():
        pid, camid = PEOPLE.index(person) + 1, CAMERAS.index(camera) + 1
        part = "train" if pid <= 4 else "test"
        for number, pixels in enumerate(frames, start=1):
            save(Path(f"mine/bbox_{part}/{pid:04d}/{pid:04d}C{camid}T{camid:04d}F{number:03d}.png"), pixels)
        tables[part].append([count[part] + 1, count[part] + len(frames), pid, camid])
        count[part] += len(frames)
    Path("mine/info").mkdir()
    for part, rows in tables.items():
        savemat(f"mine/info/tracks_{part}_info.mat", {f"track_{part}_info": np.array(rows)})
    savemat("mine/info/query_IDX.mat", {"query_IDX": np.array([[1, 3]])})
    return ["mine/"]


def write_csv(file: Path, header: list[str], rows: list[list[object]]) -> None:
    with open(file, "w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])


NUMBERS = {person: str(number) for number, person in enumerate(PEOPLE, start=1)}  # where a shape has no names
SHAPES: dict[str, tuple[Callable[[World], list[str]], bool, list[str]]] = {  # writer, has names, cameras as called
    "person/tracklet/frames": (folders, True, ["", ""]),
    "flat names": (flat, True, CAMERAS),
    "MOT Challenge": (mot, False, CAMERAS),
    "COCO": (coco, False, CAMERAS),
    "videos": (video, True, CAMERAS),
    "JSON lines": (jsonl, True, CAMERAS),
    "a table": (manifest, True, CAMERAS),
    "MARS layout": (mars, False, ["1", "2"]),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_from_pictures_to_a_hit(
    shape: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REID_DATA", raising=False)
    write, named, cameras = SHAPES[shape]
    if arguments := write(world):
        assert call("import", *arguments, "--out", "tracks.csv") == 0
    rows = table(Path("tracks.csv"))
    persons = [person if named else NUMBERS[person] for person in PEOPLE]
    assert {row["pid"] for row in rows} == set(persons)
    assert len({row["tracklet"] for row in rows}) == len(PEOPLE) * len(CAMERAS)
    assert call("doctor", "tracks.csv") == 0
    assert call("train", "own_tracklets", "data.path=tracks.csv", *SHORT) == 0
    capsys.readouterr()
    assert "on tracks</h1>" in Path("runs/own_tracklets/report.html").read_text()
    assert json.loads(Path("runs/own_tracklets/eval.json").read_text())[0]["num_queries"] > 0
    assert call("extract", "runs/own_tracklets", "tracks.csv", "--out", "gallery") == 0
    save(Path("person.png"), world["erin", "yard"][0])
    assert call("search", "gallery", "person.png", "--json", "hits.json", "--html", "hits.html") == 0
    ((first, *_),) = [found["hits"] for found in json.loads(Path("hits.json").read_text())]
    assert str(first.get("pid_name") or first["pid"]) == persons[PEOPLE.index("erin")]
    seen_by = first.get("camid_name") or ("" if first["camid"] < 0 else str(first["camid"]))
    assert seen_by == cameras[CAMERAS.index("yard")]
    assert first["similarity"] > 0.99
    np.testing.assert_array_equal(decode(Path(first["path"])), world["erin", "yard"][FRAMES // 2])
    assert persons[PEOPLE.index("erin")] in Path("hits.html").read_text()


@pytest.mark.parametrize("shape", ["JSON lines", "videos"])
def test_boxes_and_videos_need_not_be_cut(
    shape: str,
    world: World,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A network sees the same pixels whether crops were written or are cut when they are read."""
    monkeypatch.chdir(tmp_path)
    arguments = SHAPES[shape][0](world)
    uncut = arguments[: arguments.index("--crops")]
    assert call("import", *arguments, "--out", "cut.csv") == 0
    assert call("import", *uncut, "--out", "uncut.csv") == 0
    assert "boxes and video frames are cut out each time they are read" in capsys.readouterr().out
    assert not {"x", "first"} & table(Path("cut.csv"))[0].keys() and "x" in table(Path("uncut.csv"))[0]
    for name in ("cut", "uncut"):
        assert call("extract", run, f"{name}.csv", "--out", name) == 0
    np.testing.assert_array_equal(np.load("uncut/features.npy"), np.load("cut/features.npy"))
    keys = [[row["key"] for row in table(Path(name, "meta.csv"))] for name in ("cut", "uncut")]
    assert keys[0] == keys[1]
    shown = table(Path("uncut/meta.csv"))[0]["path"]
    first = next(row for row in table(Path("cut/meta.csv")))["path"]
    np.testing.assert_array_equal(decode(shown), decode(first))
    assert call("search", "uncut", keys[1][0], "--html", "hits.html") == 0
    assert "no image" not in capsys.readouterr().err
    if shape == "videos":  # processes that decode have containers of their own
        assert call("train", "own_tracklets", "data.path=uncut.csv", *SHORT, "machine.workers=2", "--dry-run") == 0
        assert "24 images are cut out of a larger one or of a video each time it is read" in capsys.readouterr().err
