"""tools/test.py --full and tools/compare.py on feature files, folders and run directories."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from reid.features import FeatureSet
from tests.commands.conftest import CONFIG, call
from tests.evaluation.oracles import made_up

KEYS = {"schema", "protocol", "mAP", "cmc", "num_queries", "num_without_match", "num_gallery", "mINP"}


@pytest.fixture
def features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureSet:
    """In an empty current folder: a.npz, and b.npz whose features are noisier; returns those of a.npz."""
    monkeypatch.chdir(tmp_path)
    good = made_up(0, n=240)
    noise = np.random.default_rng(1).standard_normal(good.features.shape)
    good.save("a.npz")
    dataclasses.replace(good, features=good.features + noise).save("b.npz")
    return good


def test_full_adds_to_the_json_and_prints_after_the_plain_result(features, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("test", "--features", "a.npz", "--protocol", "all", "--json", "plain.json") == 0
    plain_out = capsys.readouterr().out
    assert call("test", "--features", "a.npz", "--protocol", "all", "--json", "full.json", "--full") == 0
    out = capsys.readouterr().out
    plain, full = (json.loads(Path(name).read_text()) for name in ("plain.json", "full.json"))
    assert [set(one) for one in plain] == [KEYS] * 4
    assert [set(one) - KEYS for one in full] == [{"interval", "camera_pairs", "verification"}] * 4
    assert [{key: one[key] for key in KEYS} for one in full] == plain
    assert out.startswith(plain_out)
    assert plain_out.splitlines()[-1].startswith("mINP: ")
    for words in ("== mars-torchreid ==", "95 % intervals", "Rank-1 by camera", "equal error rate"):
        assert out.count(words) == (1 if "==" in words else 4)
    for one in full:
        low, high = one["interval"]["mAP"]
        assert low < one["mAP"] < high
        assert one["camera_pairs"]["cameras"] == [0, 1, 2, 3]
        assert one["verification"]["num_genuine"] > 0


def test_a_protocol_without_gallery_is_skipped_with_null_figures(features, caplog, fails) -> None:
    dataclasses.replace(features, query=np.arange(240), gallery=np.arange(240)).save("all.npz")
    assert call("test", "--features", "all.npz", "--protocol", "all", "--json", "all.json", "--full") == 0
    record = {one["protocol"]: one for one in json.loads(Path("all.json").read_text())}
    skipped = record["mars-torchreid"]
    assert skipped["mAP"] is skipped["mINP"] is skipped["verification"] is None
    assert (skipped["num_queries"], skipped["num_without_match"], skipped["num_gallery"]) == (0, 240, 0)
    assert record["mars-hit-ap"]["mAP"] > 0
    assert "use gallery: as_given" in fails("test", "--features", "all.npz", "--protocol", "mars-torchreid")


def test_protocols_of_ones_own_stand_in_a_file(features, capsys: pytest.CaptureFixture[str], fails) -> None:
    rules = "{name: ours, gallery: without_queries, ap: hit, without_match: skip}"
    Path("ours.yaml").write_text(f"[mars-torchreid, {rules}]")
    assert call("test", "--features", "a.npz", "--protocol", "ours.yaml", "--json", "ours.json") == 0
    published, ours = json.loads(Path("ours.json").read_text())
    assert (published.pop("protocol"), ours.pop("protocol")) == ("mars-torchreid", "ours")
    assert published == ours
    assert call("compare", "a.npz", "b.npz", "--protocol", "ours.yaml") == 0
    assert "(mars-torchreid)" in capsys.readouterr().out.splitlines()[-1]
    Path("none.yaml").write_text("loss: {name: imae}")
    assert "none.yaml: protocol: unknown rule 'loss'" in fails("test", "--features", "a.npz", "--protocol", "none.yaml")


def test_compare_says_in_one_sentence_which_is_better(features, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("compare", "a.npz", "b.npz", "--protocol", "mars-official", "--json", "out/c.json") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    (record,) = json.loads(Path("out/c.json").read_text())
    assert record.keys() >= {"schema", "protocol", "a", "b", "num_queries", "num_identities", "mAP", "rank1", "mINP"}
    assert (record["schema"], record["protocol"], record["a"]) == (1, "mars-official", "a.npz")
    assert record["mAP"]["real"]
    assert last.startswith("a.npz is better than b.npz by ")
    assert last.endswith(f"significant, on 30 queries of {record['num_identities']} identities (mars-official)")
    assert call("compare", "a.npz", "a.npz") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("no difference between a.npz and a.npz can be shown")


def test_compare_takes_run_directories(features, workplace: Path, fails) -> None:
    run = Path("runs/one")
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(CONFIG)
    assert "has no features.npz yet" in fails("compare", run, "a.npz")
    shutil.copy("a.npz", run / "features.npz")
    assert call("compare", run, "b.npz", "--json", "c.json") == 0
    assert [one["protocol"] for one in json.loads(Path("c.json").read_text())] == [
        "mars-official",
        "mars-hit-ap",
        "mars-torchreid",
        "market1501",
    ]


def test_what_cannot_be_compared_is_one_line(features, fails) -> None:
    dataclasses.replace(features, query=features.query[1:]).save("fewer.npz")
    assert "queries: 1 of 30" in fails("compare", "a.npz", "fewer.npz", "--protocol", "mars-official")
    dataclasses.replace(features, query=np.zeros(0, int)).save("none.npz")
    assert "none.npz: no query rows" in fails("compare", "a.npz", "none.npz")
    assert "nowhere" in fails("compare", "a.npz", "nowhere")
    assert "did you mean 'mars-official'" in fails("compare", "a.npz", "a.npz", "--protocol", "mars-offical")
    one_camera = dataclasses.replace(features, camid=np.zeros(240, int))
    one_camera.save("one.npz")
    assert "no query is valid under market1501" in fails("compare", "one.npz", "one.npz", "--protocol", "market1501")
    assert call("compare", "one.npz", "one.npz", "--any-camera") == 0


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        call("compare", "--help")
    assert caught.value.code == 0
    assert "robust-reid compare runs/" in capsys.readouterr().out
