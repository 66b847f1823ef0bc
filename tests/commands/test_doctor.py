"""`doctor` on data with one fault each: it is found, named, and only what is safe is mended."""

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reid.datasets.mars import load_mars
from tests.commands.conftest import call
from tests.commands.test_import import market

CLEAN, UNUSABLE, FINDINGS = 0, 2, 3


@pytest.fixture
def rows(data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The demo dataset as rows of a table, its images copied below the current folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(data_root / "demo", "demo")
    assert call("import", "demo", "--out", "clean.csv") == 0
    with open("clean.csv", newline="") as file:
        return list(csv.DictReader(file))


def diagnose(rows: list[dict[str, str]], *options: str) -> tuple[int, dict[str, dict]]:
    """Exit code, and the findings and notes by their code."""
    with open("table.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    code = call("doctor", "table.csv", "--json", "doctor.json", *options)
    report = json.loads(Path("doctor.json").read_text())
    assert report["schema"] == 1
    return code, {finding["code"]: finding for finding in report["findings"]}


def train_rows(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [row for row in rows if row["split"] == "train"]


def another(rows: list[dict[str, str]], row: dict[str, str]) -> dict[str, str]:
    """A training row of another person."""
    return next(other for other in train_rows(rows) if other["pid"] != row["pid"])


def test_one_person_is_nobody_to_tell_apart(rows, capsys):
    one = [row for row in train_rows(rows) if row["pid"] == train_rows(rows)[0]["pid"]]
    code, found = diagnose(one, "--quick")
    assert (code, found["one-person"]["kind"]) == (FINDINGS, "finding")
    out = capsys.readouterr().out
    assert "finding: 1 person to train on: expected at least 2" in out
    assert out.rstrip().endswith("1 finding")
    assert "one" not in found["one-person"]
    two = one + [row for row in train_rows(rows) if row["pid"] == another(rows, one[0])["pid"]]
    assert "one-person" not in diagnose(two, "--quick")[1]
    for row in one:
        row["pid"] = ""  # for extraction only
    assert "one-person" not in diagnose(one, "--quick")[1]


def test_one_of_a_kind_is_told_in_the_singular(rows, capsys):
    assert diagnose([*rows, rows[0]], "--quick")[0] == FINDINGS
    assert "finding: 1 row that appears twice in one tracklet (repeated-row)" in capsys.readouterr().out


def test_a_clean_table_is_clean(rows, capsys):
    code, found = diagnose(rows)
    assert code == CLEAN
    assert all(finding["kind"] == "note" for finding in found.values())
    out = capsys.readouterr().out
    assert out.rstrip().endswith("clean")
    held = load_mars(Path("demo"), "demo")
    report = json.loads(Path("doctor.json").read_text())
    by_part = {part["part"]: part for part in report["counts"]}
    assert by_part["train"]["tracklets"] == len(held.train)
    assert by_part["query"]["tracklets"] == len(held.query)
    assert by_part["gallery"]["frames"] == held.test.num_frames
    assert (report["kind"], report["images_opened"], report["published"]) == ("table", True, None)


def test_missing_damaged_and_tiny_images(rows):
    gone, cut, tiny = rows[0]["path"], rows[5]["path"], rows[9]["path"]
    Path(gone).unlink()
    Path(cut).write_bytes(Path(cut).read_bytes()[:300])
    Image.new("RGB", (9, 30), (200, 30, 30)).save(tiny)
    code, found = diagnose(rows)
    assert code == FINDINGS
    assert found["unreadable"]["count"] == 2
    assert any(gone in example for example in found["unreadable"]["examples"])
    assert found["tiny"]["count"] == 1
    assert "9 x 30" in found["tiny"]["examples"][0]
    assert diagnose(rows, "--quick")[0] == CLEAN  # no image is opened


def test_whole_pictures_instead_of_crops(rows):
    Image.effect_noise((640, 360), 80).convert("RGB").save(rows[3]["path"])
    code, found = diagnose(rows)
    assert code == FINDINGS
    assert "640 x 360" in found["wide"]["examples"][0]


def test_the_same_picture_under_two_persons_also_when_encoded_again(rows):
    row = train_rows(rows)[0]
    other = another(rows, row)
    image = Image.open(row["path"])
    image.save(other["path"], quality=60)
    assert Path(row["path"]).read_bytes() != Path(other["path"]).read_bytes()
    code, found = diagnose(rows)
    assert code == FINDINGS
    assert found["same-picture-two-pids"]["count"] == 1
    (example,) = found["same-picture-two-pids"]["examples"]
    assert row["path"] in example
    assert other["path"] in example
    assert "duplicate" not in found


def test_a_copy_of_a_training_picture_in_the_test_set(rows):
    row = train_rows(rows)[0]
    test = next(row for row in rows if row["split"] == "test")
    shutil.copy(row["path"], test["path"])
    code, found = diagnose(rows)
    assert code == FINDINGS
    assert found["same-picture-leak"]["count"] == 1
    assert found["duplicate"]["kind"] == "note"
    assert found["duplicate"]["count"] == 1


def test_a_tracklet_of_two_persons_cameras_or_splits(rows):
    first = train_rows(rows)[0]
    first["pid"], first["camid"] = another(rows, first)["pid"], "9"
    code, found = diagnose(rows, "--quick")
    assert code == FINDINGS
    assert found["mixed-pid"]["count"] == found["mixed-camid"]["count"] == 1
    assert first["tracklet"] in found["mixed-pid"]["examples"][0]
    assert "mixed-split" not in found
    first["split"] = "test"
    assert diagnose(rows, "--quick")[1]["mixed-split"]["count"] == 1


def test_a_tracklet_whose_file_names_tell_of_others(rows):
    one, other = train_rows(rows)[0], another(rows, train_rows(rows)[0])
    merged = [{**row, "tracklet": "merged", "pid": "1", "camid": "1"} if row in (one, other) else row for row in rows]
    code, found = diagnose(merged, "--quick")
    assert code == FINDINGS
    assert "merged: 2 persons" in found["names-disagree"]["examples"][0]


def test_persons_in_training_and_test(rows):
    leaked = train_rows(rows)[0]["pid"]
    victim = next(row["tracklet"] for row in rows if row["role"] == "both")
    for row in rows:
        if row["tracklet"] == victim:
            row["pid"] = leaked
    code, found = diagnose(rows, "--quick")
    assert code == FINDINGS
    assert found["leak"]["examples"] == [leaked]


def test_mars_tests_persons_of_market1501(rows):
    for row in rows:
        name = "market1501" if row["split"] == "train" else "mars"
        row["pid"] = row["pid"] if row["pid"] in ("0", "-1") else f"{name}:{row['pid']}"
    assert diagnose(rows, "--quick")[0] == CLEAN
    number = next(row["pid"] for row in rows if row["pid"].startswith("mars:")).partition(":")[2]
    train_rows(rows)[0]["pid"] = f"market1501:{number}"
    code, found = diagnose([row for row in rows if row is not train_rows(rows)[1]], "--quick")
    assert code == FINDINGS
    assert found["leak-between-datasets"]["examples"] == [number]


def test_a_query_whom_no_other_camera_sees(rows):
    person = next(row["pid"] for row in rows if row["role"] == "both")
    for row in rows:
        if row["pid"] == person:
            row["camid"] = "1"
    code, found = diagnose(rows, "--quick")
    assert code == FINDINGS
    assert found["query-without-match"]["examples"] == [person]


def test_fix_writes_a_copy_of_the_table_without_what_is_certainly_wrong(rows, capsys):
    Path(rows[0]["path"]).unlink()
    faulty = [*rows, rows[7]]
    assert diagnose(faulty, "--fix")[0] == FINDINGS
    before = Path("table.csv").read_bytes()
    assert "wrote table.fixed.csv without 2 of" in capsys.readouterr().out
    with open("table.fixed.csv", newline="") as file:
        assert list(csv.DictReader(file)) == rows[1:]
    assert Path("table.csv").read_bytes() == before
    assert call("doctor", "table.fixed.csv") == CLEAN
    assert call("doctor", "table.csv", "--fix") == UNUSABLE  # the copy is there already, and is not written over


def test_fix_leaves_alone_what_a_person_must_decide(rows, capsys):
    train_rows(rows)[0]["camid"] = "9"
    assert diagnose(rows, "--fix", "--quick")[0] == FINDINGS
    assert "none of these findings can be fixed safely" in capsys.readouterr().out
    assert not Path("table.fixed.csv").exists()


def test_fix_does_not_choose_between_two_persons_of_one_picture(rows):
    twice = [row | {"pid": another(rows, row)["pid"]} for row in train_rows(rows)[:2]]
    code, found = diagnose([*rows, *twice], "--fix")
    assert code == FINDINGS
    assert "repeated-row" not in found
    assert found["mixed-pid"]["count"] >= 1
    assert not Path("table.fixed.csv").exists()


def test_backslashes_of_windows_are_read_as_the_training_reads_them(rows):
    code, found = diagnose(
        [row | {"path": row["path"].replace("/", "\\")} if i % 2 else row for i, row in enumerate(rows)]
    )
    assert code == CLEAN, found


def test_system_files_are_moved_aside_and_nothing_is_deleted(rows, capsys):
    litter = {
        "demo/.DS_Store": b"x",
        "demo/bbox_train/0001/._0001C1T0001F001.jpg": b"\x00\x05\x16\x07rest",
        "demo/bbox_test/Thumbs.db": b"y",
    }
    mine = {
        "demo/.notes": b"mine",
        "demo/bbox_train/0001/._mine.txt": b"not AppleDouble",
        "demo/bbox_train/0001/readme.txt": b"z",
    }
    for name, content in {**litter, **mine}.items():
        Path(name).write_bytes(content)
    assert call("doctor", "demo", "--quick", "--json", "d.json") == CLEAN
    found = {finding["code"]: finding for finding in json.loads(Path("d.json").read_text())["findings"]}
    assert found["rubbish"]["count"] == 3
    assert found["stray-file"]["count"] == 1
    assert all(Path(name).is_file() for name in litter)  # only looked at
    assert call("doctor", "demo", "--quick", "--fix") == CLEAN
    assert "moved 3 system files to" in capsys.readouterr().out
    for name, content in litter.items():
        assert not Path(name).exists()
        assert Path(name.replace("demo", "demo.removed", 1)).read_bytes() == content
    assert all(Path(name).read_bytes() == content for name, content in mine.items())


def test_a_partial_copy_of_a_dataset_stands_beside_the_published_counts(data_root, tmp_path, capsys):
    market(tmp_path / "Market-1501-v15.09.15", data_root)
    assert call("doctor", tmp_path / "Market-1501-v15.09.15", "--json", tmp_path / "d.json") == FINDINGS
    assert (
        "published: 751 training ids, 12,936 training tracklets, 3,368 queries, 19,732 in the gallery"
        in capsys.readouterr().out
    )
    report = json.loads((tmp_path / "d.json").read_text())
    assert report["published"]["query"] == 3368
    (finding,) = [finding for finding in report["findings"] if finding["kind"] == "finding"]
    assert finding["code"] == "subset"


def test_unusable_data_is_exit_code_2_and_one_line(rows, fails):
    assert "gone: no such folder or file" in fails("doctor", "gone")
    Path("demo/bbox_train").rename("bt")
    Path("demo/bbox_train").mkdir()
    Path("bt").rename("demo/bbox_train/bbox_train")
    assert "another bbox_train in it (move it up one level)" in fails("doctor", "demo")
    Path("t.csv").write_text("path;tracklet\n")
    assert "expected one row per frame" in fails("doctor", "t.csv")


def test_boxes_of_a_tracker_too_small_to_tell_anybody(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("gate/img1").mkdir(parents=True)
    Image.effect_noise((320, 240), 60).convert("RGB").save("gate/img1/000001.png")
    Path("gate/tracker.txt").write_text("1,1,10,10,30,60,1\n1,2,80,10,9,60,1\n")
    assert call("doctor", "gate", "--json", "d.json") == FINDINGS
    found = {finding["code"]: finding for finding in json.loads(Path("d.json").read_text())["findings"]}
    assert found["tiny-box"]["count"] == 1
    assert "gate/0002" in found["tiny-box"]["examples"][0]
    assert "9 x 60" in found["tiny-box"]["examples"][0]
    assert "wide" not in found  # a whole picture is no crop


def test_pictures_that_only_resemble_each_other_are_no_finding(tmp_path, monkeypatch):
    """Two persons before one background, and flat pictures, whose perceptual hashes are all the same."""
    monkeypatch.chdir(tmp_path)
    lines = ["path,tracklet,pid,camid"]
    for i, grey in enumerate((40, 120, 200)):
        picture = np.full((64, 32, 3), grey, np.uint8)
        content = io.BytesIO()
        Image.fromarray(picture).save(content, "PNG")
        Path(f"{i}.png").write_bytes(content.getvalue())
        lines.append(f"{i}.png,t{i},{i + 1},1")
    Path("t.csv").write_text("\n".join(lines) + "\n")
    assert call("doctor", "t.csv", "--json", "d.json") == CLEAN
