"""Protocols are values that check themselves and are found by name."""

import dataclasses

import pytest

from reid.errors import ConfigError
from reid.protocol import (
    MARKET1501,
    MARS_HIT_AP,
    MARS_OFFICIAL,
    MARS_TORCHREID,
    PROTOCOLS,
    EvalProtocol,
    get_protocols,
)


@pytest.mark.parametrize(
    ("protocol", "name", "gallery", "ap", "without_match"),
    [
        (MARS_OFFICIAL, "mars-official", "as_given", "trapezoid", "zero"),
        (MARS_HIT_AP, "mars-hit-ap", "as_given", "hit", "skip"),
        (MARS_TORCHREID, "mars-torchreid", "without_queries", "hit", "skip"),
        (MARKET1501, "market1501", "as_given", "hit", "skip"),
    ],
)
def test_public_protocols(protocol, name, gallery, ap, without_match):
    assert dataclasses.astuple(protocol) == (name, gallery, ap, without_match, True)
    assert PROTOCOLS[name] is protocol
    assert get_protocols(name) == [protocol]


def test_all_is_the_four_in_order():
    assert get_protocols("all") == [MARS_OFFICIAL, MARS_HIT_AP, MARS_TORCHREID, MARKET1501]


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(ConfigError, match="unknown name 'mars-offical'; did you mean 'mars-official'") as error:
        get_protocols("mars-offical")
    assert len(error.value.problems) == 1


def test_own_protocols_stand_beside_published_ones():
    ours = {"name": "ours", "gallery": "without_queries", "ap": "hit", "without_match": "skip"}
    assert get_protocols(["mars-official", ours]) == [MARS_OFFICIAL, dataclasses.replace(MARS_TORCHREID, name="ours")]
    (blind,) = get_protocols([ours], any_camera=True)
    assert (blind.name, blind.camera_filter) == ("ours+any-camera", False)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ([], "expected one protocol or more"),
        (["market1501", "market1501"], "a name each"),
        ([{"ap": "hit"}], "no name in {'ap': 'hit'}"),
        ([{"name": "ours", "apr": "hit"}], "unknown rule 'apr'"),
        ([{"name": "market1501", "ap": "trapezoid"}], "is a published protocol"),
        ([{"name": "ours", "ap": "area"}], r"protocol\.ap: expected one of"),
    ],
)
def test_mistakes_in_own_protocols(choice, message):
    with pytest.raises(ConfigError, match=message):
        get_protocols(choice)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": " "}, "protocol.name"),
        ({"gallery": "all"}, "protocol.gallery: expected one of as_given, without_queries; got 'all'"),
        ({"ap": "area"}, "protocol.ap"),
        ({"without_match": None}, "protocol.without_match"),
        ({"camera_filter": "no"}, "protocol.camera_filter"),
    ],
)
def test_bad_rules_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(MARS_OFFICIAL, **change)


def test_protocols_are_frozen_and_compare_by_value():
    with pytest.raises(dataclasses.FrozenInstanceError):
        MARS_OFFICIAL.ap = "hit"
    assert EvalProtocol("mars-official") == MARS_OFFICIAL
