"""`import` as people run it: rendered people rewritten into each shape, and the table and crops that come of them."""

import configparser
import csv
import json
import os
import shlex
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from reid.datasets.decoding import decode
from reid.datasets.mars import load_mars
from reid.tracklets import Tracklet
from tests.commands.conftest import call
from tests.datasets.sources.test_published import cuhk, cuhk_archive

CANVAS = (320, 200)  # width, height of a made-up camera's picture
CORNERS = [(10, 20), (90, 30), (170, 10), (240, 40)]


def table(file: Path) -> list[dict[str, str]]:
    if file.suffix == ".parquet":
        columns = pyarrow.parquet.read_table(file).to_pydict()
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    with open(file, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def people(data_root: Path) -> list[Tracklet]:
    """Training tracklets of the demo dataset, rendered."""
    return list(load_mars(data_root / "demo", "demo").train)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def scene(tracks: list[Tracklet], frame: int) -> np.ndarray:
    """One camera's picture: the frame of each track, if it has that many, pasted at the track's own place."""
    picture = np.full((CANVAS[1], CANVAS[0], 3), 90 + frame, np.uint8)
    for (x, y), track in zip(CORNERS, tracks, strict=False):
        if frame < len(track.paths):
            person = decode(track.paths[frame])
            picture[y : y + person.shape[0], x : x + person.shape[1]] = person
    return picture


def boxes(tracks: list[Tracklet]):
    """frame from 0, number of the track, and its box x, y, w, h."""
    for number, ((x, y), track) in enumerate(zip(CORNERS, tracks, strict=False)):
        for frame, path in enumerate(track.paths):
            height, width, _ = decode(path).shape
            yield frame, number, (x, y, width, height)


def of_size(people: list[Tracklet], count: int, skip: int = 0) -> list[Tracklet]:
    """Tracklets that fit onto the canvas side by side."""
    small = [
        track
        for track in people
        if all(decode(path).shape[0] <= 150 and decode(path).shape[1] <= 70 for path in track.paths)
    ]
    assert len(small) >= skip + count
    return small[skip : skip + count]


def same_pixels(rows: list[dict[str, str]], base: Path, tracks: dict[str, Tracklet]) -> None:
    """Crops are the rendered frames, pixel by pixel, tracklet by tracklet, in order."""
    seen: dict[str, list[Path]] = {}
    for row in rows:
        seen.setdefault(row["tracklet"], []).append(base / row["path"])
    assert seen.keys() == tracks.keys()
    for key, track in tracks.items():
        assert len(seen[key]) == len(track.paths)
        for crop, path in zip(seen[key], track.paths, strict=True):
            np.testing.assert_array_equal(decode(crop), decode(path))


def test_folders_of_persons_and_tracklets(here, people, capsys):
    for track in people:
        (here / "people" / f"person {track.pid}" / track.key).mkdir(parents=True)
        for i, path in enumerate(track.paths):
            shutil.copy(
                path, here / "people" / f"person {track.pid}" / track.key / f"{i + 9}.jpg"
            )  # 9.jpg before 10.jpg
    (here / "people/.DS_Store").touch()
    (here / "people/__MACOSX").mkdir()
    (here / "people/__MACOSX/._9.jpg").touch()
    assert call("import", "people", "--out", "people.csv") == 0
    said = capsys.readouterr().out
    assert "people: folders" in said
    assert "layout person/tracklet/frames, detected" in said
    rows = table(here / "people.csv")
    assert {row["pid"] for row in rows} == {f"person {track.pid}" for track in people}
    assert len(rows) == sum(len(track.paths) for track in people)
    assert rows[0]["path"].startswith("people/")  # relative, so that both can move
    assert [Path(row["path"]).name for row in rows if row["tracklet"] == rows[0]["tracklet"]][:2] == ["9.jpg", "10.jpg"]
    assert {row["camid"] for row in rows} == {str(track.camid) for track in people}  # from MARS-like folder names


def test_folders_of_tracklets_or_of_persons(here, people, capsys, fails):
    for track in people[:4]:
        shutil.copytree(track.paths[0].parent, here / "in" / f"t{track.key}", dirs_exist_ok=True)
    message = fails("import", "in", "--as", "folders", "--out", "t.csv")  # one folder of MARS holds several tracklets
    assert "by their names (mars) they show 1 persons" in message or "cameras" in message
    shutil.rmtree(here / "in")
    for track in people[:4]:
        (here / "in" / track.key).mkdir(parents=True)
        for path in track.paths:
            shutil.copy(path, here / "in" / track.key)
    assert call("import", "in", "--out", "t.parquet") == 0
    assert "persons unknown" in capsys.readouterr().out
    assert "pid" not in table(here / "t.parquet")[0]
    assert call("import", "in", "--layout", "person", "--out", "p.csv") == 0
    assert {row["pid"] for row in table(here / "p.csv")} == {track.key for track in people[:4]}
    message = fails("import", "in", "--layout", "camera", "--as", "folders", "--out", "q.csv")
    assert "layout: expected person/tracklet, person, tracklet" in message


def test_flat_names_by_a_pattern(here, people, fails, capsys):
    (here / "crops").mkdir()
    for track in people:
        for i, path in enumerate(track.paths):
            tracklet = track.key.partition("T")[2]
            shutil.copy(path, here / "crops" / f"{track.pid}_cgate-{track.camid}_{tracklet}_{i:03d}.jpg")
    pattern = "{pid}_c{camid}_{tracklet}_{frame}.jpg"
    assert call("import", "crops", "--as", "flat", "--pattern", pattern, "--out", "crops.csv") == 0
    rows = table(here / "crops.csv")
    assert len({row["tracklet"] for row in rows}) == len(people)
    assert {(row["pid"], row["camid"]) for row in rows} == {(str(track.pid), f"gate-{track.camid}") for track in people}
    assert rows[1]["frame"] == "001"
    (here / "crops/group photo.jpg").touch()
    message = fails("import", "crops", "--as", "flat", "--pattern", pattern, "--out", "other.csv")
    assert "expected names such as {pid}_c{camid}_{tracklet}_{frame}.jpg, got group photo.jpg" in message
    assert not (here / "other.csv").exists()
    assert "expected each field only once" in fails(
        "import", "crops", "--as", "flat", "--pattern", "{pid}_{pid}.jpg", "--out", "o.csv"
    )
    assert "already exists; --overwrite" in fails("import", "crops", "--out", "crops.csv")


def test_flat_finds_the_pattern_of_market_and_reads_folders_too(here, people, capsys):
    (here / "flat").mkdir()
    for i, track in enumerate(people[:5]):
        shutil.copy(track.paths[0], here / "flat" / f"{track.pid:04d}_c{track.camid}s1_{i:06d}_00.jpg")
        place = here / "deep" / f"gate {track.camid}" / str(track.pid)
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(track.paths[0], place / f"{i}.jpg")
    assert call("import", "flat", "--out", "flat.csv") == 0
    assert "pattern {pid}_c{camid}s{}_{frame}_{}.jpg, detected" in capsys.readouterr().out
    assert {int(row["pid"]) for row in table(here / "flat.csv")} == {track.pid for track in people[:5]}
    assert call("import", "deep", "--as", "flat", "--pattern", "{camid}/{pid}/{frame}.jpg", "--out", "deep.csv") == 0
    assert {(row["camid"], int(row["pid"])) for row in table(here / "deep.csv")} == {
        (f"gate {t.camid}", t.pid) for t in people[:5]
    }


def sequence(folder: Path, tracks: list[Tracklet], *, truth: bool, image_folder: str = "img1") -> None:
    """A MOT Challenge sequence of lossless pictures; ground truth also marks a car and somebody to be ignored."""
    (folder / image_folder).mkdir(parents=True)
    for frame in range(max(len(track.paths) for track in tracks)):
        Image.fromarray(scene(tracks, frame)).save(folder / image_folder / f"{frame + 1:06d}.png")
    info = configparser.ConfigParser()
    info.optionxform = str
    info["Sequence"] = {"name": folder.name, "imDir": image_folder, "frameRate": "30"}
    with open(folder / "seqinfo.ini", "w") as file:
        info.write(file)
    lines = []
    for frame, number, (x, y, w, h) in boxes(tracks):
        rest = "1,1,0.9" if truth else "0.87,-1,-1,-1"
        lines.append(f"{frame + 1},{number + 1},{x + 1},{y + 1},{w},{h},{rest}")
    if truth:
        lines += ["1,90,1,1,40,40,1,3,1.0", "1,91,1,1,40,40,0,1,1.0"]
        (folder / "gt").mkdir()
    (folder / "gt/gt.txt" if truth else folder / "tracker.txt").write_text("\n".join(lines) + "\n")


def test_flat_guesses_only_what_can_be_read_in_one_way(here, people, fails, capsys):
    def named(folder: str, form: str) -> None:
        (here / folder).mkdir()
        for i, track in enumerate(people[:4]):
            shutil.copy(track.paths[0], here / folder / form.format(who="alice" if i % 2 else "bob", i=i + 1))

    named("own", "{who}_c3_t{i}_{i:03d}.jpg")
    assert call("import", "own", "--out", "own.csv") == 0
    assert "alice_c3_t2_002.jpg is read as pid alice, camid 3, tracklet t2, frame 002" in capsys.readouterr().out
    assert {(row["pid"], row["camid"]) for row in table(here / "own.csv")} == {("alice", "3"), ("bob", "3")}
    named(
        "unsure", "{who}_c3_2_00{i}.jpg"
    )  # VeRi-776 has a frame and a place in it there, others a tracklet and a frame
    assert "matches 2 patterns; choose one with --pattern" in fails("import", "unsure", "--out", "unsure.csv")
    assert not (here / "unsure.csv").exists()
    named("letters", "{who}_2_c3_{i:03d}.jpg")  # once taken for LS-VID, whose cameras are numbers
    assert "the file names match no known pattern" in fails("import", "letters", "--out", "letters.csv")


def test_mot_ground_truth_of_two_cameras(here, people, capsys):
    north, south = of_size(people, 3), of_size(people, 3, skip=3)
    sequence(here / "mot/north", north, truth=True)
    sequence(here / "mot/south", south, truth=True, image_folder="frames")
    (here / "mot/south/img1").mkdir()
    assert call("import", "mot", "--as", "mot", "--crops", "crops", "--png", "--out", "mot.csv") == 0
    said = capsys.readouterr().out
    assert "1 boxes of flag 0 left out" in said
    assert "1 boxes of other classes left out" in said
    assert "the same id in different sequences means different persons" in said
    rows = table(here / "mot.csv")
    tracks = {
        f"{name}/{i + 1:04d}": track
        for name, held in (("north", north), ("south", south))
        for i, track in enumerate(held)
    }
    same_pixels(rows, here, tracks)
    assert {row["pid"] for row in rows} == {f"{name}:{i}" for name in ("north", "south") for i in (1, 2, 3)}
    assert {row["camid"] for row in rows} == {"north", "south"}
    assert "x" not in rows[0]
    assert call("import", "mot", "--ids", "shared", "--crops", "crops2", "--out", "shared.csv") == 0
    assert {row["pid"] for row in table(here / "shared.csv")} == {"1", "2", "3"}


def test_mot_a_trackers_output_knows_no_person(here, people, capsys, fails):
    sequence(here / "gate", of_size(people, 2), truth=False)
    assert call("import", "gate", "--out", "gate.csv") == 0
    assert "a tracker's output, persons unknown" in capsys.readouterr().out
    rows = table(here / "gate.csv")
    assert "pid" not in rows[0]
    assert {row["tracklet"] for row in rows} == {"gate/0001", "gate/0002"}
    assert (rows[0]["x"], rows[0]["y"]) == ("10", "20")  # pixels are counted from 1 on disk
    # The table of boxes can be cut later.
    assert call("import", "gate.csv", "--as", "video", "--crops", "later", "--png", "--out", "cut.csv") == 0
    same_pixels(
        table(here / "cut.csv"), here, {f"gate/{i + 1:04d}": track for i, track in enumerate(of_size(people, 2))}
    )
    (here / "gate/tracker.txt").write_text("1,-1,5,5,20,40,0.9\n")
    assert "got detections only (every id is -1); run a tracker first" in fails("import", "gate", "--out", "x.csv")
    (here / "gate/tracker.txt").write_text("999,1,5,5,20,40,0.9\n")
    assert "names frame 999, but" in fails("import", "gate", "--out", "x.csv")
    (here / "gate/tracker.txt").write_text("1,1,5,5,20,40,0.9\n1,1,6,6,20,40,0.9\n")
    assert "expected one box in frame 1, got two" in fails("import", "gate", "--out", "x.csv")
    (here / "gate/tracker.txt").unlink()
    assert "set the file with --tracks" in fails("import", "gate", "--out", "x.csv")


def test_mot17_has_each_sequence_three_times(here, people, capsys):
    for detector in ("DPM", "FRCNN", "SDP"):
        sequence(here / f"train/MOT17-02-{detector}", of_size(people, 2), truth=True)
    assert call("import", "train", "--out", "mot17.csv") == 0
    assert "2 sequences are copies for other detectors and were left out" in capsys.readouterr().out
    assert {row["camid"] for row in table(here / "mot17.csv")} == {"MOT17-02"}


def coco(folder: Path, cameras: dict[str, list[Tracklet]]) -> dict:
    images, annotations = [], []
    for video, (camera, tracks) in enumerate(cameras.items(), start=1):
        (folder / camera).mkdir(parents=True)
        number = {}
        for frame in range(max(len(track.paths) for track in tracks)):
            Image.fromarray(scene(tracks, frame)).save(folder / camera / f"{frame}.png")
            number[frame] = len(images) + 1
            images.append(
                {"id": number[frame], "file_name": f"{camera}/{frame}.png", "video_id": video, "frame_id": frame}
            )
        for frame, track, box in boxes(tracks):
            annotation = {"id": len(annotations), "image_id": number[frame], "bbox": list(box), "category_id": 1}
            annotations.append({**annotation, "attributes": {"track_id": track + 1}})
    annotations.append({"id": 900, "image_id": 1, "bbox": [0, 0, 9, 9], "category_id": 2, "track_id": 7})
    annotations.append(
        {"id": 901, "image_id": 1, "bbox": [0, 0, 99, 99], "category_id": 1, "track_id": 8, "iscrowd": 1}
    )
    categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "bicycle"}]
    videos = [{"id": i, "name": camera} for i, camera in enumerate(cameras, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories, "videos": videos}


def test_coco_with_track_ids(here, people, capsys, fails):
    cameras = {"gate": of_size(people, 2), "yard": of_size(people, 3, skip=2)}
    content = coco(here / "images", cameras)
    (here / "labels.json").write_text(json.dumps(content))
    assert "names this image, but it is missing; set --images to the folder of the images" in fails(
        "import", "labels.json", "--out", "x.csv"
    )
    assert call("import", "labels.json", "--images", "images", "--crops", "crops", "--png", "--out", "coco.csv") == 0
    assert "1 annotations of other categories were left out" in capsys.readouterr().out
    rows = table(here / "coco.csv")
    same_pixels(
        rows, here, {f"{name}/{i + 1}": track for name, held in cameras.items() for i, track in enumerate(held)}
    )
    assert {row["camid"] for row in rows} == {"gate", "yard"}
    assert {row["pid"] for row in rows} == {"gate:1", "gate:2", "yard:1", "yard:2", "yard:3"}
    del content["annotations"][0]["attributes"]
    (here / "labels.json").write_text(json.dumps(content))
    message = fails("import", "labels.json", "--images", "images", "--out", "x.csv")
    assert "annotation 0: expected a track (track_id" in message
    (here / "labels.json").write_text(json.dumps(list(range(100_000))))
    message = fails("import", "labels.json", "--out", "x.csv")
    assert "item 1: expected a JSON object, got '0'" in message
    assert len(message) < 300
    message = fails("import", "labels.json", "--as", "coco", "--out", "x.csv")
    assert "expected COCO JSON" in message and "got a list; --as jsonl takes a list of objects" in message


def test_json_lines_with_and_without_boxes(here, people, fails):
    tracks = of_size(people, 2)
    lines = []
    for frame in range(max(len(track.paths) for track in tracks)):
        Image.fromarray(scene(tracks, frame)).save(here / f"{frame}.png")
    for frame, number, box in boxes(tracks):
        held = {"image": f"{frame}.png", "track_id": number, "person": ["alice", "bob"][number], "camera": "gate 3"}
        lines.append(json.dumps({**held, "bbox": box, "score": 0.5}))
    (here / "t.jsonl").write_text("\n".join(lines) + "\n")
    assert call("import", "t.jsonl", "--crops", "crops", "--png", "--out", "t.csv") == 0
    rows = table(here / "t.csv")
    same_pixels(rows, here, {str(i): track for i, track in enumerate(tracks)})
    assert {(row["pid"], row["camid"], row["score"]) for row in rows} == {
        ("alice", "gate 3", "0.5"),
        ("bob", "gate 3", "0.5"),
    }
    (here / "t.jsonl").write_text('{"path": "0.png"}\n')
    assert "line 1: expected tracklet (or track" in fails("import", "t.jsonl", "--out", "x.csv")
    (here / "t.jsonl").write_text("[1, 2\n")
    assert "t.jsonl: not a readable JSON list (" in fails("import", "t.jsonl", "--out", "x.csv")
    (here / "t.jsonl").write_text('{"path": "gone.png", "tracklet": 1}\n')
    assert "gone.png is missing" in fails("import", "t.jsonl", "--out", "x.csv")


def test_a_json_list_is_read_as_json_lines_whatever_the_file_is_called(here, people, fails):
    (track,) = of_size(people, 1)
    objects = [{"path": str(path), "tracklet": "a", "pid": "alice"} for path in track.paths]
    (here / "t.jsonl").write_text("\n".join(map(json.dumps, objects)))
    (here / "t.json").write_text(json.dumps(objects, indent=1))
    shutil.copy(here / "t.json", here / "table.csv")
    assert call("import", "t.jsonl", "--out", "lines.csv") == 0
    assert call("import", "t.json", "--out", "list.csv") == 0
    assert (here / "list.csv").read_text() == (here / "lines.csv").read_text()
    for verb in (["doctor", "table.csv"], ["import", "table.csv", "--out", "x.csv"]):
        advice = fails(*verb).partition("robust-reid ")[2].partition(" makes")[0]
        assert advice == "import table.csv --as jsonl --out tracks.csv"
    assert call(*shlex.split(advice)) == 0
    assert (here / "tracks.csv").read_text() == (here / "lines.csv").read_text()


def film(file: Path, tracks: list[Tracklet]) -> int:
    """A lossless video of a scene; returns its number of frames."""
    count = max(len(track.paths) for track in tracks)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(30))
        stream.width, stream.height, stream.pix_fmt = *CANVAS, "bgr0"
        for frame in range(count):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(scene(tracks, frame), format="rgb24").reformat(format="bgr0"))
            )
        container.mux(stream.encode())
    return count


def test_video_is_cut_exactly_at_its_frames(here, people, fails):
    tracks = of_size(people, 3)
    count = film(here / "gate.mkv", tracks)
    lines = ["frame,track,x,y,w,h,pid"]
    lines += [
        f"{frame},{number},{x},{y},{w},{h},p{number}" for frame, number, (x, y, w, h) in reversed(list(boxes(tracks)))
    ]
    (here / "gate.csv").write_text("\n".join(lines) + "\n")
    assert call("import", "gate.mkv", "--crops", "crops", "--png", "--out", "video.csv") == 0
    rows = table(here / "video.csv")
    same_pixels(rows, here, {f"gate/{i}": track for i, track in enumerate(tracks)})
    assert {(row["pid"], row["camid"]) for row in rows} == {(f"p{i}", "gate") for i in range(3)}
    with open(here / "gate.csv", "a") as file:
        file.write(f"{count},9,1,1,20,20,p9\n")
    message = fails("import", "gate.mkv", "--crops", "other", "--out", "x.csv")
    assert f"has no frame {count} (counted from 0); it is a video of {count} frames" in message
    (here / "gate.csv").write_text("frame,x,y,w,h\n0,1,1,2,2\n")
    assert "track is missing in 'frame,x,y,w,h'" in fails("import", "gate.mkv", "--out", "x.csv")
    (here / "noise.avi").write_bytes(os.urandom(5000))
    (here / "noise.csv").write_text("frame,track,x,y,w,h\n0,1,1,1,20,20\n")
    assert "noise.avi: cannot decode this video" in fails("import", "noise.avi", "--crops", "n", "--out", "x.csv")


def test_whole_frames_of_a_video_that_a_table_names(here, people):
    tracks = of_size(people, 2)
    count = film(here / "gate.mkv", tracks)
    (here / "clips.csv").write_text(
        f"path,tracklet,pid,camid,first,last\ngate.mkv,a,7,2,0,{count - 1}\ngate.mkv,b,8,2,1,1\n"
    )
    assert call("import", "clips.csv", "--crops", "crops", "--png", "--out", "cut.csv") == 0
    rows = table(here / "cut.csv")
    assert [(row["tracklet"], row["pid"]) for row in rows] == [("a", "7")] * count + [("b", "8")]
    for row, frame in zip(rows, [*range(count), 1], strict=True):
        np.testing.assert_array_equal(decode(here / row["path"]), scene(tracks, frame))


def test_crops_are_written_once_gone_on_with_and_never_mixed(here, people, fails):
    sequence(here / "gate", of_size(people, 3), truth=True)
    arguments = ["import", "gate", "--crops", "crops", "--out", "t.csv", "--overwrite"]
    assert call(*arguments) == 0
    crops = sorted((here / "crops").rglob("*.jpg"))
    before = {crop: (crop.stat().st_mtime_ns, crop.read_bytes()) for crop in crops}
    gone, emptied = crops[0], crops[-1]
    gone.unlink()
    emptied.write_bytes(b"")  # as a power cut may leave it
    assert call(*arguments) == 0
    assert {crop: crop.read_bytes() for crop in crops} == {crop: content for crop, (_, content) in before.items()}
    assert all(crop.stat().st_mtime_ns == before[crop][0] for crop in crops[1:-1])
    record = json.loads((here / "crops/gate/crops.json").read_text())
    assert (record["schema"], record["format"]) == (1, "JPEG of quality 95")
    message = fails("import", "gate", "--crops", "crops", "--quality", "80", "--out", "u.csv")
    assert (
        "contains crops of other boxes or of another format (JPEG of quality 95); --overwrite replaces them" in message
    )
    assert not (here / "u.csv").exists()
    assert call("import", "gate", "--crops", "crops", "--quality", "80", "--out", "u.csv", "--overwrite") == 0
    assert crops[0].stat().st_size < len(before[crops[0]][1])
    (here / "mine/gate").mkdir(parents=True)
    (here / "mine/gate/holiday.jpg").touch()
    assert "choose another --crops folder" in fails("import", "gate", "--crops", "mine", "--out", "v.csv")
    assert "quality: expected >= 1 and <= 100, got 101" in fails(
        "import", "gate", "--crops", "w", "--quality", "101", "--out", "v.csv"
    )


def test_a_damaged_picture_stops_the_cut_which_goes_on_afterwards(here, people, fails):
    sequence(here / "gate", of_size(people, 2), truth=True)
    picture = here / "gate/img1/000002.png"
    content = picture.read_bytes()
    picture.write_bytes(content[: len(content) // 2])
    assert "000002.png: damaged image" in fails("import", "gate", "--crops", "crops", "--png", "--out", "t.csv")
    assert not (here / "t.csv").exists()
    picture.write_bytes(content)
    assert call("import", "gate", "--crops", "crops", "--png", "--out", "t.csv") == 0
    same_pixels(table(here / "t.csv"), here, {f"gate/{i + 1:04d}": track for i, track in enumerate(of_size(people, 2))})
    assert not list((here / "crops").rglob("*.tmp"))


def test_boxes_are_clipped_and_those_outside_left_out(here, people):
    sequence(here / "gate", of_size(people, 1), truth=False)
    # Partly outside at the left and top, wholly outside, and reaching over the right edge.
    (here / "gate/tracker.txt").write_text("1,1,-9,-4,30,40,1\n1,2,400,1,30,40,1\n1,3,301,191,50,50,1\n")
    assert call("import", "gate", "--crops", "crops", "--png", "--out", "t.csv") == 0
    rows = table(here / "t.csv")
    assert [row["tracklet"] for row in rows] == ["gate/0001", "gate/0003"]
    whole = scene(of_size(people, 1), 0)
    np.testing.assert_array_equal(decode(here / rows[0]["path"]), whole[:35, :20])
    np.testing.assert_array_equal(decode(here / rows[1]["path"]), whole[190:, 300:])


def test_several_sources_one_table_and_ids_kept_apart(here, people, fails):
    for place in ("monday", "tuesday"):
        for track in people[:3]:
            (here / place / str(track.pid) / f"t{track.key}").mkdir(parents=True)
            shutil.copy(track.paths[0], here / place / str(track.pid) / f"t{track.key}" / "1.jpg")
    pids = {str(track.pid) for track in people[:3]}
    message = fails("import", "monday", "tuesday", "--out", "t.csv")
    assert "occurs in monday and in tuesday: use --ids shared" in message
    assert call("import", "monday", "tuesday", "--ids", "shared", "--camera-per-source", "--out", "t.csv") == 0
    rows = table(here / "t.csv")
    assert {row["pid"] for row in rows} == pids
    assert {row["camid"] for row in rows} == {"monday", "tuesday"}
    assert len({row["tracklet"] for row in rows}) == 6
    assert call("import", "monday", "tuesday", "--ids", "separate", "--out", "u.csv") == 0
    assert {row["pid"] for row in table(here / "u.csv")} == {
        f"{place}:{pid}" for place in ("monday", "tuesday") for pid in pids
    }


def test_only_sources_with_boxes_are_cut(here, people, fails):
    sequence(here / "gate", of_size(people, 2), truth=False)
    (here / "kept/somebody").mkdir(parents=True)
    shutil.copy(people[0].paths[0], here / "kept/somebody/1.jpg")
    assert call("import", "gate", "kept", "--crops", "crops", "--out", "t.csv") == 0
    places = {row["tracklet"]: Path(row["path"]).parts[0] for row in table(here / "t.csv")}
    assert places == {"gate/gate/0001": "crops", "gate/gate/0002": "crops", "kept/somebody": "kept"}
    assert "no boxes to cut" in fails("import", "kept", "--crops", "crops", "--out", "u.csv")


def market(root: Path, data_root: Path) -> Path:
    """The demo's people as Market-1501 lays images out."""
    held = load_mars(data_root / "demo", "demo")
    for part, tracks in (("bounding_box_train", held.train), ("bounding_box_test", held.test)):
        (root / part).mkdir(parents=True)
        for number, track in enumerate(tracks):
            for i, path in enumerate(track.paths):
                name = f"{track.pid:04d}" if track.pid >= 0 else "-1"
                shutil.copy(path, root / part / f"{name}_c{track.camid}s1_{number:06d}_{i:02d}.jpg")
    (root / "query").mkdir()
    for number in held.query.tolist():
        track = held.test[number]
        name = f"{track.pid:04d}_c{track.camid}s1_{number:06d}_00.jpg"
        (root / "bounding_box_test" / name).rename(root / "query" / name)
    return root


def test_market_and_mars_in_one_table(here, data_root):
    market(here / "Market-1501-v15.09.15", data_root)
    assert call("import", "Market-1501-v15.09.15", data_root / "demo", "--out", "both.parquet") == 0
    rows = table(here / "both.parquet")
    assert {row["split"] for row in rows} == {"train", "test"}
    held = load_mars(data_root / "demo", "demo")
    persons = {int(pid) for pid in held.train.pid} | {int(pid) for pid in held.test.pid if pid > 0}
    assert {row["pid"] for row in rows} == {f"{name}:{pid}" for name in ("market1501", "demo") for pid in persons} | {
        "0",
        "-1",
    }
    assert {row["camid"].partition(":")[0] for row in rows} == {"market1501", "demo"}


def test_market1501_trains_and_is_tested_by_its_name(workplace, data_root, monkeypatch, fails):
    market(workplace / "data/Market-1501-v15.09.15", data_root)
    monkeypatch.setenv("REID_DATA", str(workplace / "data"))
    assert call("train", "run.yaml", "data.name=market1501", "--output-dir", "run", "test.protocols=[market1501]") == 0
    (result,) = json.loads((workplace / "run/eval.json").read_text())
    held = load_mars(data_root / "demo", "demo")
    assert result["num_gallery"] == held.test.num_frames - len(held.query)
    assert result["num_queries"] + result["num_without_match"] == len(held.query)
    assert "market1501-subset" in (workplace / "run/log.txt").read_text()
    assert "withdrawn" in fails("train", "run.yaml", "data.name=dukemtmcreid", "--dry-run")
    message = fails("train", "run.yaml", "data.name=veri776", "--dry-run")
    assert "looked for veri776, VERI776, Veri776, VeRi, VeRi-776 or veri in" in message
    assert "expected veri776/image_train/, image_query/, image_test/" in message
    assert "data.split: only ilids-vid and prid2011" in fails("train", "run.yaml", "data.split=3", "--dry-run")


def test_cuhk03_is_unpacked_by_import_and_by_nothing_else(here, fails):
    shutil.rmtree(cuhk(here / "cuhk03", "labeled") / "images_labeled")
    cuhk_archive(here / "cuhk03")
    assert "robust-reid import cuhk03 --out cuhk03.csv unpacks it" in fails("doctor", "cuhk03")
    assert not (here / "cuhk03/images_labeled").exists()
    assert call("import", "cuhk03", "--out", "cuhk03.csv") == 0
    assert len(table(here / "cuhk03.csv")) == len(list((here / "cuhk03/images_labeled").iterdir())) == 5


def test_auto_refuses_what_it_does_not_know(here, fails):
    (here / "papers").mkdir()
    (here / "papers/a.txt").touch()
    assert "expected one of mars, market1501" in fails("import", "papers", "--out", "t.csv")
    assert "gone: no such folder or file" in fails("import", "gone", "--out", "t.csv")
    assert "expected a table's name, .csv or .parquet, got .xlsx" in fails("import", "papers", "--out", "t.xlsx")
    assert "flt: no such kind of source" in fails("import", "papers", "--as", "flt", "--out", "t.csv")
