"""Every protocol and every figure on the real MARS tables at full size, through the dataset's own loader."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat

ROOT = Path(__file__).parents[2]
MARS_INFO = ROOT / ".." / "shared" / "data" / "mars-info"


def pairs_by_hand():
    """Genuine: the query's person under another camera. Impostor: another person or a distractor, under any camera."""
    _, _, pid, camid = loadmat(MARS_INFO / "tracks_test_info.mat")["track_test_info"].astype(int).T
    query = loadmat(MARS_INFO / "query_IDX.mat")["query_IDX"].ravel().astype(int) - 1
    genuine = sum(int(((pid == pid[row]) & (camid != camid[row])).sum()) for row in query)
    return [genuine, sum(int(((pid >= 0) & (pid != pid[row])).sum()) for row in query)]


@pytest.mark.skipif(not MARS_INFO.is_dir(), reason="the MARS tables are not here (../shared/data/mars-info)")
def test_full_size_in_one_command(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    benchmark = importlib.import_module("mars_tables")
    benchmark.main(["--info", str(MARS_INFO), "--dim", "32", "--json", str(tmp_path / "all.json")])
    out = capsys.readouterr().out
    for row in ("queries               |   1980", "gallery               |  12180", "junk (pid -1)         |    870"):
        assert row in out
    report = json.loads((tmp_path / "all.json").read_text())
    assert (report["queries"], report["rows"], report["dim"]) == (1980, 12180, 32)
    record = {one["protocol"]: one for one in report["results"]}
    counts = {
        name: [one[f"num_{of}"] for of in ("queries", "without_match", "gallery")] for name, one in record.items()
    }
    assert counts == {
        "mars-official": [1980, 0, 12180],
        "mars-hit-ap": [1980, 0, 12180],
        "mars-torchreid": [1840, 140, 10200],
        "market1501": [1980, 0, 12180],
    }
    official = record["mars-official"]
    assert official["interval"]["num_identities"] == 626
    assert np.shape(official["camera_pairs"]["mAP"]) == (6, 6)
    assert min(min(row) for row in official["camera_pairs"]["num_queries"]) > 0
    check = official["verification"]
    assert [check["num_genuine"], check["num_impostor"]] == pairs_by_hand()
    assert all(0 < rate < 1 for rate in check["tpr_at_fpr"].values())
