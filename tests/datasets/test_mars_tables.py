"""The MARS index on the real tables, where they are: the published counts and a tracklet that is known."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat

from reid.datasets.mars import load_mars
from reid.tracklets import Benchmark
from tests.datasets.conftest import frame_names

REAL = Path(__file__).parents[2] / ".." / "shared" / "data" / "mars-info"


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Benchmark:
    if not REAL.is_dir():
        pytest.skip(f"the real MARS tables are not at {REAL}")
    folder = tmp_path_factory.mktemp("mars")
    (folder / "info").symlink_to(tmp_path_factory.mktemp("info"))
    for part in ("train", "test"):
        (folder / f"bbox_{part}" / "0001").mkdir(parents=True)
        table = loadmat(REAL / f"tracks_{part}_info.mat")[f"track_{part}_info"]
        names = frame_names([(pid, camera, end - start + 1) for start, end, pid, camera in table.tolist()])
        (folder / "info" / f"{part}_name.txt").write_text("\n".join(names))
    for table in REAL.glob("*.mat"):
        (folder / "info" / table.name).symlink_to(table.resolve())
    return load_mars(folder)


def test_the_real_tables_give_the_published_counts(real):
    assert real.name == "mars"
    assert (len(real.train), real.train.num_frames, len(np.unique(real.train.pid))) == (8_298, 509_914, 625)
    assert (len(real.test), real.test.num_frames, len(np.unique(real.test.pid))) == (12_180, 681_089, 636)
    assert ((real.test.pid == -1).sum(), (real.test.pid == 0).sum()) == (870, 3_248)
    assert (len(real.query), len(real.gallery)) == (1_980, 12_180)
    assert (real.train.lengths.min(), real.train.lengths.max()) == (5, 900)
    assert (real.test.lengths.min(), real.test.lengths.max()) == (2, 920)
    assert [row[:3] for row in real.summary()] == [
        ("train", 625, 8_298),
        ("query", 626, 1_980),
        ("gallery", 634, 12_180),
    ]
    assert real.train.labels()[0].max() == 624


def test_the_first_real_query_is_the_known_tracklet(real):
    row = real.query[0]
    tracklet = real.test[row]
    assert (row, real.test.start[row], real.test.stop[row]) == (4_129, 171_609, 171_649)
    assert (tracklet.pid, tracklet.camid, len(tracklet.paths)) == (2, 1, 40)
    assert tracklet.paths[0].parent.name == "0002"


def test_every_real_query_has_a_match_by_another_camera(real):
    pid, camid = real.test.pid, real.test.camid
    same_pid = pid[real.query, None] == pid
    matches = (same_pid & (camid[real.query, None] != camid)).sum(axis=1)
    assert matches[0] == 21 and (same_pid.sum(axis=1) - matches)[0] == 12
    assert matches.min() > 0
