"""Times from a table to a gallery, a database and the hits of an interval."""

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from reid.datasets.manifest import load_manifest, load_rows
from reid.gallery import store
from tests.commands.conftest import call, tracklets

MOMENTS = ["2026-05-04T10:00:00Z", "2026-05-04T12:00:00+02:00", "1777889700", "", "2026-05-04T11:00:00.5Z"]
WRITTEN = [
    "2026-05-04T10:00:00Z",
    "2026-05-04T10:00:00Z",
    "2026-05-04T10:15:00Z",
    "",
    "2026-05-04T11:00:00.500000Z",
]


@pytest.fixture
def timed(run: Path, workplace: Path, data_root: Path) -> list[str]:
    """A gallery `g` of five tracklets, one of them of unknown time; returns their keys."""
    names = tracklets(data_root, workplace / "t", slice(0, 5))
    rows = [f"t/{name},{name},{time}" for name, time in zip(names, MOMENTS, strict=True)]
    Path("t.csv").write_text("\n".join(["path,tracklet,time", *rows]))
    assert call("extract", run, "t.csv", "--out", "g") == 0
    return names


def found(*argv: Any) -> dict[str, str | None]:
    assert call("search", *argv, "--json", "hits.json") == 0
    return {hit["key"]: hit.get("time") for hit in json.loads(Path("hits.json").read_text())[0]["hits"]}


def test_the_interval_is_half_open_and_unknown_times_are_outside(timed: list[str], fails: Any, capsys: Any) -> None:
    assert (Path("g") / "meta.csv").read_text().splitlines()[0].endswith(",path,time")
    everything = dict(zip(timed, [time or None for time in WRITTEN], strict=True))
    assert found("g", timed[3]) == {key: time for key, time in everything.items() if key != timed[3]}
    assert set(found("g", timed[3], "--after", "2026-05-04T10:00", "--before", "2026-05-04T10:15")) == set(timed[:2])
    assert set(found("g", timed[3], "--after", "1777889700")) == {timed[2], timed[4]}
    assert set(found("g", timed[4], "--before", "2030-01-01")) == set(timed[:3])
    assert set(found("g", "t/" + timed[4], "--before", "2030-01-01", "--html", "h.html")) == {*timed[:3], timed[4]}
    assert "2026-05-04T10:15:00Z" in Path("h.html").read_text() and "| time  " in capsys.readouterr().out
    message = fails("search", "g", timed[0], "--after", "2027-01-01")
    assert "its times are from 2026-05-04T10:00:00Z to 2026-05-04T11:00:00.500000Z" in message
    with pytest.raises(SystemExit):
        call("search", "g", timed[0], "--after", "noon")
    assert "expected seconds, or a date and time such as" in capsys.readouterr().err


def test_times_stay_when_a_gallery_changes(timed: list[str], run: Path, data_root: Path, fails: Any) -> None:
    [name] = tracklets(data_root, Path("more"), slice(6, 7))
    assert call("extract", run, "more", "--out", "g", "--add") == 0
    assert call("gallery", "remove", "g", timed[0]) == 0
    gallery = store.open_gallery(Path("g"))
    assert gallery.time is not None
    assert gallery.features.key is not None and list(gallery.features.key) == [*timed[1:], name]
    expected = [1777888800, 1777889700, np.nan, 1777892400.5, np.nan]
    np.testing.assert_array_equal(gallery.time, expected)
    assert call("extract", run, "more", "--out", "without") == 0
    assert "the gallery has no times" in fails("search", "without", name, "--after", "5")
    assert call("extract", run, "t.csv", "--out", "whole", "--resume", "auto") == 0
    assert call("extract", run, "t.csv", "--out", "whole", "--resume", "auto") == 0
    Path("t.csv").write_text(Path("t.csv").read_text().replace(MOMENTS[2], "5"))
    assert "whole: has these tracklets, but other times" in fails(
        "extract", run, "t.csv", "--out", "whole", "--resume", "auto"
    )
    Path("t.csv").write_text(Path("t.csv").read_text().replace(",5\n", f",{MOMENTS[2]}\n"))
    assert call("extract", run, "t.csv", "--out", "without", "--add") == 0
    np.testing.assert_array_equal(store.open_gallery(Path("without")).time, [np.nan, 1777888800, *expected[:4]])


def test_a_database_filters_by_time(timed: list[str], run: Path, fails: Any) -> None:
    pytest.importorskip("milvus_lite", reason="needs milvus-lite (pip install 'robust-reid[milvus-lite]')")
    assert call("gallery", "push", "g", "people.db#g") == 0
    assert call("extract", run, "t.csv", "--out", "people.db#direct", "--add") == 0
    intervals = [["--after", "2026-05-04T10:15"], ["--before", "2026-05-04T11:00"]]
    for flags in ([], intervals[0], intervals[1], [*intervals[0], *intervals[1]]):
        folder = found("g", timed[3], *flags)
        for collection in ("g", "direct"):
            assert found("--gallery", f"people.db#{collection}", timed[3], *flags) == folder
    message = fails("search", "--gallery", "people.db#g", timed[0], "--after", "2027-01-01")
    assert "none of 5 rows matches all of camera, person and time" in message


def test_a_table_whose_times_are_none_still_trains(timed: list[str], run: Path, fails: Any) -> None:
    """Only an extraction reads them. A tracklet of several rows begins with the earliest."""
    lines = [f"t/{timed[0]},a,,20", f"t/{timed[1]},a,,5.5", f"t/{timed[2]},b,,"]
    Path("u.csv").write_text("\n".join(["path,tracklet,pid,time", *lines]))
    assert call("extract", run, "u.csv", "--out", "u") == 0
    time = store.open_gallery(Path("u")).time
    np.testing.assert_array_equal(time, [5.5, np.nan])
    Path("u.csv").write_text("\n".join(["path,tracklet,pid,time", *lines, f"t/{timed[3]},c,1,noon"]))
    assert "u.csv: row 5, column time: expected seconds, or a date and time" in fails(
        "extract", run, "u.csv", "--out", "v"
    )
    assert load_manifest(Path("u.csv"), to_train=False).name == "u"


def test_times_of_other_programs(timed: list[str], fails: Any) -> None:
    """Durations of Parquet, in whatever unit, are seconds; decimal commas stay right through an import."""
    table = {"path": [f"t/{name}" for name in timed[:2]], "tracklet": ["a", "b"]}
    for unit in ("s", "ns"):
        elapsed = pa.array([datetime.timedelta(seconds=5), None], pa.duration(unit))
        pyarrow.parquet.write_table(pa.table({**table, "time": elapsed}), "d.parquet")
        np.testing.assert_array_equal(load_rows(Path("d.parquet"), with_times=True).time, [5, np.nan])
    Path("c.csv").write_text(f"path;tracklet;time\nt/{timed[0]};a;12,5\nt/{timed[1]};b;\n")
    assert call("import", "c.csv", "--out", "imported.csv") == 0
    for file in ("c.csv", "imported.csv"):
        np.testing.assert_array_equal(load_rows(Path(file), with_times=True).time, [12.5, np.nan])
