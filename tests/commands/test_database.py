"""A gallery in a database, by the commands: the same files as from the folder, and one line where something is amiss."""

import os
from pathlib import Path

import pytest

from reid.gallery import milvus, store
from tests.commands.conftest import call, tracklets

pytest.importorskip("pymilvus", reason="needs pymilvus (pip install 'robust-reid[milvus]')")
pytest.importorskip("milvus_lite", reason="needs milvus-lite (pip install 'robust-reid[milvus-lite]')")

PLACE = "people.db#demo"


def test_a_database_answers_as_its_folder(
    gallery: Path, other_run: Path, data_root: Path, capsys: pytest.CaptureFixture[str], fails
) -> None:
    key, everything = str(store.read(gallery).key[5]), len(store.read(gallery).pid)
    assert call("gallery", "push", gallery, PLACE) == 0
    captured = capsys.readouterr()
    assert f"{PLACE}: {everything} tracklets written, 0 already there; {everything} in total" in captured.out
    assert "Traceback" not in captured.err
    [name] = tracklets(data_root, Path("mine"), slice(6, 7))
    os.rename(Path("mine", name), "mine/new")  # a folder of frames, whose name is no key
    for flags in (
        ("--top-k", "4"),
        ("--camera", "1,3"),
        ("--not-camera", "1", "--min-similarity", "0.9"),
        ("--not-person", "0"),
    ):
        queries = [key, "mine/new", *flags]
        assert call("search", gallery, *queries, "--json", "folder.json", "--html", "folder.html") == 0
        printed = capsys.readouterr().out
        assert call("search", "--gallery", PLACE, *queries, "--json", "database.json", "--html", "database.html") == 0
        captured = capsys.readouterr()
        assert captured.out == printed
        assert "tracklets, by Milvus FLAT" in captured.err
        assert Path("database.json").read_bytes() == Path("folder.json").read_bytes()
        page = Path("database.html").read_text()
        assert page.count("data:image/jpeg;base64,") == Path("folder.html").read_text().count("data:image/jpeg;base64,")
        assert f"Hits in {PLACE}" in page
    message = fails("search", "--gallery", PLACE, "mine/new", "--run", other_run)
    assert "features of different models cannot be mixed" in message
    assert PLACE in message
    assert call("gallery", "remove", PLACE, key) == 0
    assert f"{PLACE}: {everything - 1} tracklets left" in capsys.readouterr().out
    assert f"no such image, folder of frames or key of {PLACE}" in fails("search", "--gallery", PLACE, key)


def test_extracted_into_a_database_is_extracted_and_pushed(
    run: Path, other_run: Path, workplace: Path, data_root: Path, capsys: pytest.CaptureFixture[str], monkeypatch, fails
) -> None:
    """Also where the program is killed between two parts, and where an image is damaged."""
    names = tracklets(data_root, Path("mine"), slice(0, 9))
    assert call("extract", run, "mine", "--out", "folder", "--shard", "4") == 0
    assert call("gallery", "push", "folder", "people.db#pushed") == 0
    push, parts = milvus.push, []

    def killed(*arguments, **options) -> milvus.Pushed:
        if len(parts) == 2:
            raise KeyboardInterrupt
        parts.append(push(*arguments, **options).written)
        return milvus.Pushed(0, 0, 0)

    options = ["mine", "--out", PLACE, "--add", "--shard", "4"]
    with monkeypatch.context() as patch:
        patch.setattr(milvus, "push", killed)
        assert call("extract", run, *options) == 130
    there = sum(parts)
    assert 0 < there < 9
    assert f"already has a tracklet {names[0]!r} (and {there - 1} more); --resume auto" in fails(
        "extract", run, *options
    )
    assert "features of different models cannot be mixed" in fails("extract", other_run, *options, "--resume", "auto")
    monkeypatch.setattr(milvus, "push", lambda *a, **b: parts.append((done := push(*a, **b)).written) or done)
    assert call("extract", run, *options, "--resume", "auto") == 0
    assert f"{PLACE}: 9 tracklets are there" in capsys.readouterr().err
    assert sum(parts) == 9  # none was made again
    everything = []
    for collection in ("pushed", "demo"):
        with milvus.opened(milvus.Address("people.db", collection)) as opened:
            everything.append(opened.rows(names))
            assert opened.unfinished == ()
    assert everything[0] == everything[1]
    image = sorted((Path("mine") / names[0]).iterdir())[0]
    image.rename(image.with_suffix(".png"))  # another length, under the key that is there
    (Path("mine") / names[0] / "more.png").write_bytes(image.with_suffix(".png").read_bytes())
    assert "has a different tracklet with the key" in fails("extract", run, *options, "--resume", "auto")


def test_what_a_database_takes_of_an_extraction(
    run: Path, workplace: Path, data_root: Path, capsys: pytest.CaptureFixture[str], fails
) -> None:
    names = tracklets(data_root, Path("mine"), slice(0, 3))
    image = sorted((Path("mine") / names[1]).iterdir())
    for path in image:
        path.unlink()
        path.write_bytes(b"no JPEG")
    options = ["extract", run, "mine", "--out", PLACE, "--add"]
    assert "milvus-lite has FLAT, HNSW" in fails(*options, "--index", "Flat")
    assert "damaged image" in fails(*options)
    assert not Path("people.db").exists()
    assert call(*options, "--skip-tracklets", "--index", "HNSW:M=8") == 0
    assert "1 tracklet was left out, because none of their images can be read" in capsys.readouterr().err
    with milvus.opened(milvus.address(PLACE)) as opened:
        assert sorted(opened.rows(names)) == sorted([names[0], names[2]])
        assert opened.index == "HNSW"
        assert [row["row"] for row in opened.rows(names).values()] == [0, 2]
    with pytest.raises(SystemExit):
        call("extract", run, "mine", "--out", PLACE)
    assert "is a database; use --add to add rows" in capsys.readouterr().err


def test_a_search_warns_of_a_push_that_was_killed(gallery: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """tests/gallery/test_milvus.py kills pushes; here the mark that they leave is set."""
    key = str(store.read(gallery).key[5])
    assert call("gallery", "push", gallery, PLACE) == 0
    with milvus.opened(milvus.address(PLACE)) as collection:
        collection.client.alter_collection_properties("demo", {f"robust_reid.{milvus.UNFINISHED}0": "days/monday"})
    capsys.readouterr()
    assert call("search", "--gallery", PLACE, key) == 0
    warning = f"{PLACE}: incomplete: robust-reid gallery push days/monday {PLACE} has not finished"
    assert warning in capsys.readouterr().err


def test_what_only_a_folder_can_do(gallery: Path, capsys: pytest.CaptureFixture[str], fails) -> None:
    assert call("gallery", "push", gallery, PLACE) == 0
    key = str(store.read(gallery).key[5])
    for flags in (("--false-match-rate", "0.1"), ("--index", "Flat")):
        assert f"{flags[0]}: needs all rows of a feature folder" in fails("search", "--gallery", PLACE, key, *flags)
    assert "camera: people.db#demo has no camera 'roof'" in fails("search", "--gallery", PLACE, key, "--camera", "roof")
    assert "matches all of camera, person and time" in fails("search", "--gallery", PLACE, key, "--camera", "99")
    assert "no such database" in fails("search", "--gallery", "other.db", key)
    assert "expected FILE.db#COLLECTION" in fails("gallery", "push", gallery, "people")
    for argv, message in (
        ([PLACE, key], f"a database is named by --gallery {PLACE}"),
        (["--gallery", PLACE, "--tune"], "--tune tries indexes of a feature folder"),
        (["--gallery", PLACE], "give either queries or --tune"),
        ([], "give a feature folder, or --gallery URI"),
    ):
        with pytest.raises(SystemExit) as ended:
            call("search", *argv)
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
