"""Evaluation protocols. Three different metrics are published for MARS under the one name "mAP"."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from reid.errors import ConfigError, nearest
from reid.files import require_few_brackets

GalleryRule = Literal["as_given", "without_queries"]
ApRule = Literal["trapezoid", "hit"]
WithoutMatchRule = Literal["zero", "skip", "error"]


@dataclass(frozen=True)
class EvalProtocol:
    """Rules of an evaluation: the gallery, junk, how AP is computed, and queries without a match.

    In every protocol a gallery row with pid < 0 is junk, and ties are broken by row number.

    Args:
        name: shown with every result.
        gallery: `as_given`, or `without_queries`: as given, without the rows that are queries.
        ap: `trapezoid` = area under the interpolated precision-recall steps; `hit` = mean precision at the hits.
        without_match: `zero` counts AP 0 and a miss at every rank; `skip` leaves the query out of the means and reports the number of
            such queries; `error` refuses to evaluate.
        camera_filter: gallery rows with the query's pid and its known camera (camid >= 0) are junk. If False, they are matches,
            except the query's own row.

    Raises:
        ConfigError: a rule is not one of those above, or the name is empty.

    Source: MARS' evaluation code (trapezoid); Zheng et al., Market-1501, ICCV 2015 (camera filter, junk).
    """

    name: str
    gallery: GalleryRule = "as_given"
    ap: ApRule = "trapezoid"
    without_match: WithoutMatchRule = "zero"
    camera_filter: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise ConfigError(f"protocol.name: expected a non-empty text, got {self.name!r}")
        for field, rule in (("gallery", GalleryRule), ("ap", ApRule), ("without_match", WithoutMatchRule)):
            value, valid = getattr(self, field), get_args(rule)
            if value not in valid:
                raise ConfigError(f"protocol.{field}: expected one of {', '.join(valid)}; got {value!r}")
        if not isinstance(self.camera_filter, bool):
            raise ConfigError(f"protocol.camera_filter: expected true or false, got {self.camera_filter!r}")


MARS_OFFICIAL = EvalProtocol("mars-official")
MARS_HIT_AP = EvalProtocol("mars-hit-ap", ap="hit", without_match="skip")
MARS_TORCHREID = EvalProtocol("mars-torchreid", gallery="without_queries", ap="hit", without_match="skip")
MARKET1501 = EvalProtocol("market1501", ap="hit", without_match="skip")

PROTOCOLS = {protocol.name: protocol for protocol in (MARS_OFFICIAL, MARS_HIT_AP, MARS_TORCHREID, MARKET1501)}


def get_protocols(choice: str | Sequence[str | Mapping[str, Any]], *, any_camera: bool = False) -> list[EvalProtocol]:
    """The chosen protocols, given by name or by their rules.

    Args:
        choice: a name in `PROTOCOLS`; `all` of them; a list of names and of custom protocols, each a mapping with the fields of an
            `EvalProtocol`, where missing rules are those of `mars-official`; or a YAML file (`.yaml`, `.yml`) with such a list or a
            single mapping.
        any_camera: also count matches from the query's own camera, as data from a single camera needs. The protocol is then no longer
            the published one, and its name says so.

    Raises:
        ConfigError: a name is unknown (the message suggests the nearest one), a rule is unknown, or the file has no protocol.

    Examples:
        >>> [protocol.ap for protocol in get_protocols("market1501")]
        ['hit']
        >>> get_protocols([{"name": "ours", "ap": "hit", "camera_filter": False}])[0].gallery
        'as_given'
    """
    if isinstance(choice, str) and choice.endswith((".yaml", ".yml")):
        entries = _read(Path(choice))
        try:
            return get_protocols(entries, any_camera=any_camera)
        except ConfigError as error:
            raise ConfigError(*(f"{choice}: {problem}" for problem in error.problems)) from None
    chosen = list(chain.from_iterable(map(_chosen, [choice] if isinstance(choice, str) else choice)))
    names = [protocol.name for protocol in chosen]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"protocol: expected one protocol or more with a name each, got {names}")
    if any_camera:
        return [replace(protocol, name=f"{protocol.name}+any-camera", camera_filter=False) for protocol in chosen]
    return chosen


def _read(file: Path) -> list[str | Mapping[str, Any]]:
    """The entries of a protocol file."""
    try:
        held = yaml.safe_load(require_few_brackets(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError, TypeError, AttributeError, LookupError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: cannot read this file of protocols: {error}") from None
    entries = [held] if isinstance(held, Mapping) else held
    if not isinstance(entries, list) or not entries or not all(isinstance(one, str | Mapping) for one in entries):
        raise ConfigError(
            f"{file}: expected a protocol, such as {{name: ours, ap: hit, camera_filter: false}}, or a list of such "
            f"protocols and of names; got {held!r:.80}"
        )
    return entries


def _chosen(entry: str | Mapping[str, Any]) -> list[EvalProtocol]:
    if not isinstance(entry, str):
        return [_own(entry)]
    return list(PROTOCOLS.values()) if entry == "all" else [_public(entry)]


def _public(name: str) -> EvalProtocol:
    if name not in PROTOCOLS:
        valid = [*PROTOCOLS, "all"]
        raise ConfigError(f"protocol: unknown name {name!r}; {nearest(name, valid)}")
    return PROTOCOLS[name]


def _own(rules: Mapping[str, Any]) -> EvalProtocol:
    valid = [field.name for field in fields(EvalProtocol)]
    unknown = [str(key) for key in rules if key not in valid]
    if unknown or "name" not in rules:
        wrong = f"unknown rule {unknown[0]!r}" if unknown else "no name"
        raise ConfigError(f"protocol: {wrong} in {dict(rules)}; expected a name and any of: {', '.join(valid[1:])}")
    if rules["name"] in [*PROTOCOLS, "all"]:
        raise ConfigError(f"protocol.name: {rules['name']!r} is the name of a published protocol; choose another name")
    return EvalProtocol(**rules)
