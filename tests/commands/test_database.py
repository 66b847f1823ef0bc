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
    assert f"{PLACE}: {everything} tracklets written, 0 were there; {everything} in all" in captured.out
    assert "Traceback" not in captured.err
    [name] = tracklets(data_root, Path("mine"), slice(6, 7))
    os.rename(Path("mine", name), "mine/new")  # a folder of frames, whose name is no key
    for flags in (("--top-k", "4"), ("--camera", "1,3"), ("--not-camera", "1", "--min-similarity", "0.9")):
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
    assert "two models never mix" in message
    assert PLACE in message
    assert call("gallery", "remove", PLACE, key) == 0
    assert f"{PLACE}: {everything - 1} tracklets left" in capsys.readouterr().out
    assert f"no such image, folder of frames or key of {PLACE}" in fails("search", "--gallery", PLACE, key)


def test_a_search_warns_of_a_push_that_was_killed(gallery: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """tests/gallery/test_milvus.py kills pushes; here the mark that they leave is set."""
    key = str(store.read(gallery).key[5])
    assert call("gallery", "push", gallery, PLACE) == 0
    with milvus.opened(milvus.address(PLACE)) as collection:
        collection.client.alter_collection_properties("demo", {f"robust_reid.{milvus.UNFINISHED}0": "days/monday"})
    capsys.readouterr()
    assert call("search", "--gallery", PLACE, key) == 0
    warning = f"{PLACE}: incomplete: robust-reid gallery push days/monday {PLACE} has not come to its end"
    assert warning in capsys.readouterr().err


def test_what_only_a_folder_can_do(gallery: Path, capsys: pytest.CaptureFixture[str], fails) -> None:
    assert call("gallery", "push", gallery, PLACE) == 0
    key = str(store.read(gallery).key[5])
    for flags in (("--false-match-rate", "0.1"), ("--index", "Flat")):
        assert f"{flags[0]}: needs all rows of a feature folder" in fails("search", "--gallery", PLACE, key, *flags)
    assert "camera: people.db#demo has no camera 'roof'" in fails("search", "--gallery", PLACE, key, "--camera", "roof")
    assert "no row is left" in fails("search", "--gallery", PLACE, key, "--camera", "99")
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
