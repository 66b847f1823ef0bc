"""Who is searched, who matches, who is junk, and why a query has no match."""

import dataclasses

import numpy as np
import pytest

from reid.errors import DataError
from reid.evaluation.masks import explain_without_match, find_matches, gallery_rows, is_junk
from reid.features import FeatureSet
from reid.protocol import MARKET1501, MARS_OFFICIAL, MARS_TORCHREID
from tests.evaluation.oracles import made_up, ranked


def tracklets(pid, camid, query, gallery=None):
    n = len(pid)
    features = np.eye(n, 3) + np.arange(1, n + 1)[:, None]
    gallery = np.arange(n) if gallery is None else gallery
    return FeatureSet(features, np.array(pid), np.array(camid), np.array(query, int), np.array(gallery, int))


NO_FILTER = dataclasses.replace(MARKET1501, name="no-filter", camera_filter=False)
MIXED = tracklets(pid=[1, 1, 1, 1, 0, -1, 2], camid=[0, 0, 1, -1, 0, 0, 0], query=[0, 3, 6])


@pytest.mark.parametrize(
    ("protocol", "query", "junk"),
    [
        (MARKET1501, 0, [True, True, False, False, False, True, False]),
        (MARKET1501, 3, [False, False, False, False, False, True, False]),  # unknown camera: equal to none
        (NO_FILTER, 0, [True, False, False, False, False, True, False]),
        (NO_FILTER, 3, [False, False, False, True, False, True, False]),
    ],
)
def test_junk(protocol, query, junk):
    np.testing.assert_array_equal(is_junk(MIXED, protocol, np.int64(query), np.arange(7)), junk)


def test_gallery_rules():
    np.testing.assert_array_equal(gallery_rows(MIXED, MARKET1501), np.arange(7))
    np.testing.assert_array_equal(gallery_rows(MIXED, MARS_TORCHREID), [1, 2, 4, 5])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("protocol", [MARKET1501, MARS_TORCHREID, NO_FILTER], ids=lambda protocol: protocol.name)
def test_matches_are_those_of_the_full_ranking(seed, protocol):
    features = made_up(seed)
    matches = find_matches(features, protocol)
    for i, query in enumerate(features.query):
        rows, match = ranked(features, protocol, query)
        found = matches.columns[matches.column[matches.start[i] : matches.start[i + 1]]]
        np.testing.assert_array_equal(np.sort(found), np.sort(rows[match]))


def test_junk_may_stay_among_the_columns_and_matches_nobody():
    kept, removed = find_matches(MIXED, MARKET1501, keep_junk=True), find_matches(MIXED, MARKET1501)
    np.testing.assert_array_equal(kept.columns, [5, 4, 0, 1, 2, 3, 6])
    np.testing.assert_array_equal(removed.columns, kept.columns[1:])
    np.testing.assert_array_equal(kept.columns[kept.column], removed.columns[removed.column])


def test_nothing_to_search_or_to_ask():
    with pytest.raises(DataError, match="query: no rows"):
        gallery_rows(tracklets([1, 1], [0, 1], []), MARS_OFFICIAL)
    with pytest.raises(DataError, match=r"no rows to search under mars-torchreid .*use gallery: as_given"):
        gallery_rows(tracklets([1, 1], [0, 1], [0, 1]), MARS_TORCHREID)


ABSENT = "have no other row of their identity in the gallery"
OWN = "have matches only from their own camera: --any-camera"
TAKEN = "have matches only among the query rows: gallery: as_given"


@pytest.mark.parametrize(
    ("protocol", "pid", "camid", "query", "causes"),
    [
        (
            MARKET1501,
            [1, 1, 2, 3, -1, 4, 4],
            [0, 0, 0, 0, 0, 0, 1],
            [0, 2, 3, 4, 5],
            ["1 are junk", f"1 {OWN}", f"2 {ABSENT}"],
        ),
        (
            MARS_TORCHREID,
            [1, 1, 1, 2, 2],
            [0, 0, 1, 0, 1],
            [0, 2, 3],
            [f"1 {TAKEN}"],
        ),
        (MARS_TORCHREID, [1, 1, 2, 2], [0, 1, 0, 1], [0, 1, 2], [f"2 {TAKEN}"]),
        (MARS_TORCHREID, [1, 1, 2, 2], [0, 0, 0, 0], [0, 2], [f"2 {OWN}"]),
        (MARS_TORCHREID, [1, 1, 2, 2], [0, 0, 0, 1], [0, 1, 2], [f"2 {OWN}"]),  # as query rows too
        (MARS_TORCHREID, [1, 2, 2, 3], [-1, -1, 0, 1], [0, 1], [f"1 {ABSENT}"]),  # unknown cameras are never the cause
    ],
)
def test_causes_are_counted_with_the_option_that_fits(protocol, pid, camid, query, causes):
    features = tracklets(pid, camid, query)
    text = explain_without_match(features, protocol, find_matches(features, protocol))
    lost = sum(int(cause.split()[0]) for cause in causes)
    assert text.startswith(f"{protocol.name}: {lost} of {len(query)} queries have no match: ")
    found = [one for one in text.split("have no match: ")[1].split("; ") if one[0].isdigit()]
    assert [one[: len(cause)] for one, cause in zip(found, causes, strict=True)] == causes


def test_pids_that_are_numbered_apart_are_suspected():
    base = tracklets(pid=[1, 2, 3, 4], camid=[0, 0, 1, 1], query=[0, 1])
    features = dataclasses.replace(base, gallery=np.array([2, 3]))
    text = explain_without_match(features, MARKET1501, find_matches(features, MARKET1501))
    assert text.endswith(f"2 {ABSENT} (2 rows): do queries and gallery use the same ids?")
