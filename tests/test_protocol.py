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


def test_a_name_that_is_near_nothing_is_given_no_arbitrary_one():
    with pytest.raises(ConfigError, match="unknown name 'zzz'; expected one of: mars-official, "):
        get_protocols("zzz")


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
        ([{"name": "market1501", "ap": "trapezoid"}], "is the name of a published protocol"),
        ([{"name": "ours", "ap": "area"}], r"protocol\.ap: expected one of"),
    ],
)
def test_mistakes_in_own_protocols(choice, message):
    with pytest.raises(ConfigError, match=message):
        get_protocols(choice)


def test_a_file_holds_one_protocol_or_a_list_of_them_and_of_names(tmp_path):
    one, several = tmp_path / "one.yaml", tmp_path / "several.yml"
    one.write_text("name: ours\ngallery: without_queries\nap: hit\nwithout_match: skip\n")
    several.write_text("- all\n- {name: blind, camera_filter: false}\n")
    ours = dataclasses.replace(MARS_TORCHREID, name="ours")
    assert get_protocols(str(one)) == [ours]
    assert get_protocols(str(one), any_camera=True)[0].name == "ours+any-camera"
    blind = dataclasses.replace(MARS_OFFICIAL, name="blind", camera_filter=False)
    assert get_protocols(str(several)) == [*PROTOCOLS.values(), blind]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a protocol, such as {name: ours"),
        ("3", "or a list of such protocols and of names; got 3"),
        ("[]", "got []"),
        ("[1, 2]", "got [1, 2]"),
        ("market1501", "got 'market1501'"),
        ("{name: ours, ap: [", "cannot read this file of protocols"),
        ("loss: {name: imae}", "unknown rule 'loss'"),
        ("[market1501, marked1501]", "unknown name 'marked1501'; did you mean 'market1501'"),
        ("[all, market1501]", "a name each"),
        (b"\xff\xfe", "cannot read this file of protocols"),
        (None, "No such file"),
    ],
)
def test_a_file_that_holds_no_protocol_is_one_line_that_names_it(tmp_path, text, message):
    file = tmp_path / "own.yaml"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as error:
        get_protocols(str(file))
    (problem,) = error.value.problems
    assert problem.startswith(f"{file}: ")
    assert message in problem


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
