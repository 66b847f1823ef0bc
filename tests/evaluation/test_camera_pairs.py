"""Camera-pair matrices against the MARS code's definition walked row by row, against the evaluation, and by hand."""

import json

import numpy as np
import pytest

from reid.evaluation.camera_pairs import camera_pairs
from reid.evaluation.evaluate import evaluate
from reid.features import FeatureSet
from reid.protocol import MARKET1501, MARS_OFFICIAL, MARS_TORCHREID
from tests.evaluation.oracles import hit_ap, made_up, similarity, trapezoid_ap


def walk(order, good, junk):
    """One query as the MARS code walks it: AP and whether the first row that is not junk is good; (0, None) without good."""
    recall_before, precision_before, area, hits, seen, first = 0.0, 1.0, 0.0, 0, 0, None
    if not good:
        return 0.0, None
    for row in order:
        if row in junk:
            continue
        seen += 1
        hits += row in good
        first = float(row in good) if first is None else first
        area += (hits / len(good) - recall_before) * (precision_before + hits / seen) / 2
        recall_before, precision_before = hits / len(good), hits / seen
        if hits == len(good):
            break
    return area, first


def mars_matrices(features, cameras):
    """The MARS code's matrices: junk of pid -1 is NOT removed, and the nearest row is taken to be the query itself."""
    ap, r1 = (np.zeros((len(features.query), cameras)) for _ in range(2))
    r1[:] = -2
    pid, camid = features.pid, features.camid
    for k, query in enumerate(features.query):
        near = similarity(features, query)
        order = sorted(features.gallery, key=lambda row: (-near[row], row))
        own = {row for row in features.gallery if pid[row] == pid[query]}
        here = {row for row in own if camid[row] == camid[query]}
        for camera in range(cameras):
            if camera == camid[query]:
                good, junk = here - {order[0]}, (own - here) | {order[0]}
            else:
                good = {row for row in own if camid[row] == camera}
                junk = own - good
            ap[k, camera], first = walk(order, good, junk)
            r1[k, camera] = -1 if first is None else first
    from_camera = camid[features.query]
    mAP, rank1 = np.full((cameras, cameras), np.nan), np.full((cameras, cameras), np.nan)
    for i in range(cameras):
        for j in range(cameras):
            counted = from_camera == i
            if (counted & (ap[:, j] != 0)).any():
                mAP[i, j] = ap[counted, j].sum() / (ap[counted, j] != 0).sum()
                rank1[i, j] = r1[counted & (r1[:, j] >= 0), j].mean()
    return mAP, rank1


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_mars_code(seed):
    base = made_up(seed, n=140, identities=30, unknown_cameras=False)
    features = FeatureSet(base.features, base.pid, base.camid, base.query, np.arange(140))
    pairs = camera_pairs(features, MARS_OFFICIAL)
    mAP, rank1 = mars_matrices(features, 4)
    np.testing.assert_allclose(pairs.mAP, mAP, atol=1e-12)
    np.testing.assert_allclose(pairs.rank1, rank1, atol=1e-12)
    np.testing.assert_array_equal(pairs.cameras, range(4))
    across = [mAP[i, j] for i in range(4) for j in range(4) if i != j and not np.isnan(mAP[i, j])]
    assert pairs.to_json()["mAP_across"] == pytest.approx(np.mean(across))


def pairs_slowly(features, protocol, junk):
    """By a full sort per query and camera, with unknown cameras, queries outside the gallery and ties."""
    cells = {}
    pid, camid, rows = features.pid, features.camid, features.gallery
    if protocol.gallery == "without_queries":
        rows = rows[~np.isin(rows, features.query)]
    for query in features.query:
        near = similarity(features, query)
        order = rows[np.lexsort((rows, -near[rows]))]
        if junk == "removed":
            order = order[pid[order] >= 0]
        for camera in set(camid[rows]) - {-1}:
            mine = pid[order] == pid[query]
            kept = order[~mine | ((camid[order] == camera) & (order != query))]
            match = pid[kept] == pid[query]
            if match.any() and camid[query] >= 0:
                ap = (trapezoid_ap if protocol.ap == "trapezoid" else hit_ap)(match)
                cells.setdefault((camid[query], camera), []).append((ap, match[0]))
    return cells


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("junk", ["wrong", "removed"])
@pytest.mark.parametrize("protocol", [MARS_OFFICIAL, MARKET1501, MARS_TORCHREID], ids=lambda p: p.name)
def test_equals_a_full_sort(seed, ties, junk, protocol):
    features = made_up(seed, n=120, identities=30, ties=ties)
    pairs = camera_pairs(features, protocol, junk=junk)
    cells = pairs_slowly(features, protocol, junk)
    for i, from_camera in enumerate(pairs.cameras):
        for j, to_camera in enumerate(pairs.cameras):
            values = np.array(cells.get((from_camera, to_camera), []), float).reshape(-1, 2)
            assert pairs.num_queries[i, j] == len(values)
            expected = values.mean(axis=0) if len(values) else [np.nan, np.nan]
            np.testing.assert_allclose([pairs.mAP[i, j], pairs.rank1[i, j]], expected, atol=1e-12)
    assert pairs.num_unknown == (features.camid[features.query] < 0).sum() > 0


def test_worked_by_hand():
    """One query of camera 0; nearest first: itself, wrong (camera 1), match (camera 1), match (camera 0), junk, match (camera 1)."""
    angle = np.radians([0, 10, 20, 30, 40, 50])
    features = FeatureSet(
        np.stack([np.cos(angle), np.sin(angle)], axis=1),
        np.array([1, 2, 1, 1, -1, 1]),
        np.array([0, 1, 1, 0, 0, 1]),
        np.array([0]),
        np.arange(6),
    )
    pairs = camera_pairs(features, MARKET1501)
    np.testing.assert_allclose(pairs.mAP, [[1 / 2, (1 / 2 + 2 / 4) / 2], [np.nan, np.nan]])
    np.testing.assert_array_equal(pairs.rank1[0], [0, 0])
    without_junk = camera_pairs(features, MARKET1501, junk="removed")
    np.testing.assert_allclose(without_junk.mAP[0], [1 / 2, (1 / 2 + 2 / 3) / 2])
    assert pairs.to_json() == {
        "cameras": [0, 1],
        "mAP": [[0.5, 0.5], [None, None]],
        "rank1": [[0.0, 0.0], [None, None]],
        "num_queries": [[1, 1], [0, 0]],
        "mAP_across": 0.5,
        "rank1_across": 0.0,
        "num_unknown_camera": 0,
        "junk": "wrong",
    }


def test_with_two_cameras_a_pair_is_the_evaluation():
    features = made_up(1, cameras=2, unknown_cameras=False)
    result = evaluate(features, MARKET1501)
    pairs = camera_pairs(features, MARKET1501, junk="removed")
    for i in range(2):
        here = features.camid[result.query] == i
        assert pairs.mAP[i, 1 - i] == pytest.approx(result.ap[here].mean(), abs=1e-12)
        assert pairs.rank1[i, 1 - i] == pytest.approx((result.first_rank[here] == 1).mean(), abs=1e-12)


def test_block_size_and_threads_do_not_matter():
    features = made_up(2, ties=True)
    expected = camera_pairs(features, MARS_OFFICIAL).to_json()
    assert camera_pairs(features, MARS_OFFICIAL, block_size=1, workers=3).to_json() == expected


def test_without_known_cameras_there_is_no_pair():
    base = made_up(0)
    features = FeatureSet(base.features, base.pid, np.full(160, -1), base.query, base.gallery)
    record = camera_pairs(features, MARS_OFFICIAL).to_json()
    assert (record["cameras"], record["mAP"], record["mAP_across"]) == ([], [], None)
    assert record["num_unknown_camera"] == 30
    json.dumps(record, allow_nan=False)
