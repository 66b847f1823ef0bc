"""Crops whose names, or paths below one folder, follow a pattern such as ``{pid}_c{camid}_{tracklet}_{frame}.jpg``.

A field matches all characters up to the text that follows it in the pattern, except slashes. ``pid``, ``camid``, ``tracklet``,
``frame``, ``split`` and ``role`` have the same meaning as in a table; ``{}`` is ignored; any other field becomes a column.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from reid.datasets.images import is_image, is_rubbish
from reid.datasets.sources.base import Options, Rows, in_order
from reid.errors import ConfigError, DataError, counted

SHAPE = "images in one folder, --pattern '{pid}_c{camid}_{tracklet}_{frame}.jpg'"
# Patterns tried if none is given: MARS, Market-1501, MSMT17, LS-VID, VeRi-776,
# DukeMTMC-reID's style, and common own ones.
USUAL = (
    "{pid}C{camid}T{tracklet}F{frame}.jpg",
    "{pid}_c{camid}s{}_{frame}_{}.jpg",
    "{pid}_{}_{camid}_{}_{frame}_{}.jpg",
    "{pid}_{tracklet}_{camid}_{frame}.jpg",
    "{pid}_c{camid}_{frame}_{}.jpg",
    "{pid}_c{camid}_{frame}.jpg",
    "{pid}_c{camid}_{tracklet}_{frame}.jpg",
)
_FIELD = re.compile(r"\{(\w*)\}")


def recognise(source: Path) -> str | None:
    """Return why the source is of this kind, or None."""
    if not source.is_dir():
        return None
    names = [name for name in os.listdir(source) if is_image(name)]
    return f"{counted(len(names), 'image')} directly in the folder" if names else None


def read(source: Path, options: Options) -> Rows:
    """Read one row per image; without ``{tracklet}`` in the pattern each image is a tracklet of its own.

    Raises:
        ConfigError: the pattern is invalid.
        DataError: there is no image, an image does not match the pattern, or without a pattern the names match none or several.
    """
    names = in_order(_images_below(source, deep=options.pattern is not None and "/" in options.pattern))
    if not names:
        raise DataError(f"{source}: expected images, got none")
    pattern = options.pattern or _usual(source, names)
    compiled, fields = _compile(pattern)
    rows = Rows(source.resolve().name)
    wrong = []
    for name in names:
        match = compiled.fullmatch(name)
        if match is None:
            wrong.append(name)
            continue
        cells: dict[str, str] = {field: match[field] for field in fields}
        rows.add(source / name, _tracklet(name, cells), **{k: v for k, v in cells.items() if k != "tracklet"})
    if wrong:
        more = f" ({len(wrong) - 1} more like it)" if len(wrong) > 1 else ""
        raise DataError(
            f"{source}: expected names such as {pattern}, got {wrong[0]}{more}; move other images elsewhere"
        )
    rows.said.append(f"pattern {pattern}" + ("" if options.pattern else ", detected; --pattern sets another"))
    read_as = compiled.fullmatch(names[0])
    assert read_as is not None  # else it would be among the wrong ones
    rows.said.append(f"{names[0]} is read as " + ", ".join(f"{field} {read_as[field]}" for field in fields))
    if "tracklet" not in fields:
        rows.said.append("each image is a separate tracklet: the pattern has no {tracklet}")
    return rows


def _tracklet(name: str, cells: dict[str, str]) -> str:
    """Make a unique key: tracklets may be numbered within a person or camera."""
    if "tracklet" not in cells:
        return os.path.splitext(name)[0]
    before = [cells["pid"]] if "pid" in cells else []
    before += [f"c{cells['camid']}"] if "camid" in cells else []
    return "_".join([*before, cells["tracklet"]])


def _compile(pattern: str) -> tuple[re.Pattern[str], list[str]]:
    parts = _FIELD.split(pattern)  # text, field, text, field, …, text
    fields = [field for field in parts[1::2] if field]
    if len(set(fields)) < len(fields):
        raise ConfigError(f"pattern: expected each field only once, got {pattern!r}")
    if not fields:
        raise ConfigError(f"pattern: expected fields such as {{pid}}_c{{camid}}_{{frame}}.jpg, got {pattern!r}")
    if any("{" in text or "}" in text for text in parts[::2]):
        raise ConfigError(f"pattern: expected fields of letters in braces, such as {{pid}}, got {pattern!r}")
    compiled = re.escape(parts[0])
    for field, text in zip(parts[1::2], parts[2::2], strict=True):
        if not text:
            raise ConfigError(f"pattern: expected some text after each field, got {pattern!r}")
        stops = re.escape("/" + text[0])
        compiled += (f"(?P<{field}>[^{stops}]+)" if field else f"[^{stops}]+") + re.escape(text)
    return re.compile(compiled), fields


def _usual(source: Path, names: list[str]) -> str:
    """Find the one known pattern that all names match; refuse names that match several."""
    suffix = os.path.splitext(names[0])[1]
    suited = [pattern.removesuffix(".jpg") + suffix for pattern in USUAL]
    fitting = [pattern for pattern in suited if all(_plausible(pattern, name) for name in names)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise DataError(
            f"{source}: {names[0]} matches {len(fitting)} patterns; choose one with --pattern {_either(fitting)}"
        )
    raise DataError(
        f"{source}: the file names match no known pattern; describe them with --pattern, such "
        f"as '{{pid}}_c{{camid}}_{{tracklet}}_{{frame}}.jpg' for a name such as {names[0]}"
    )


def _either(patterns: list[str]) -> str:
    return " or ".join(f"'{pattern}'" for pattern in patterns)


def _plausible(pattern: str, name: str) -> bool:
    """Whether the name matches the pattern with a numeric camera and frame; all fields must be numeric if no letter marks the camera."""
    match = _compile(pattern)[0].fullmatch(name)
    if match is None:
        return False
    fields = match.groupdict()
    numbers = [fields["camid"], fields["frame"]] if "c{camid}" in pattern else list(fields.values())
    return all(number.removeprefix("-").isdecimal() for number in numbers) and not any(
        "_" in text for text in fields.values()
    )


def _images_below(source: Path, *, deep: bool) -> Iterator[str]:
    if not source.is_dir():
        raise DataError(f"{source}: expected a folder of images, got {'a file' if source.exists() else 'nothing'}")
    for folder, inside, files in os.walk(source):
        inside[:] = [name for name in inside if deep and not is_rubbish(name)]
        for name in files:
            if is_image(name):
                yield Path(folder, name).relative_to(source).as_posix()
