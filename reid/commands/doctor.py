"""Doctor: report possible errors in a dataset or table, and fix on request what can be fixed safely."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from reid.datasets import doctor
from reid.datasets.doctor import Counts, Finding
from reid.datasets.images import is_video
from reid.datasets.sources import registry
from reid.datasets.sources.base import Options, Rows
from reid.datasets.sources.published import in_words
from reid.datasets.table import SUFFIXES, read_table, write_table
from reid.errors import DataError, counted
from reid.files import atomic
from reid.report.tables import text_table

SCHEMA = 1
CLEAN, FINDINGS = 0, 3


def run(data: Path, kind: str, options: Options, *, quick: bool, json_file: Path | None, fix: bool) -> int:
    """Prints counts, findings and notes, and what `fix` changed.

    Args:
        data: a dataset folder, or a table.
        kind: kind of source, or `auto` to detect it.
        options: options of that kind.
        quick: do not open images.
        json_file: file to write the results to as a JSON object.
        fix: make the safe fixes; nothing is deleted.

    Returns:
        The exit code: 0 without findings (notes do not count), 3 with findings.

    Raises:
        ConfigError, DataError: the data are unusable (exit code 2).
    """
    name = registry.recognise(data).name if kind == "auto" else kind
    rows = registry.kind(name).read(data, options)
    found = doctor.check_rows(rows)
    if data.is_dir():
        found += doctor.check_strays(data)
    if not quick:
        found += _pictures(rows)
    found.sort(key=lambda finding: finding.kind)  # findings before notes; a stable sort keeps the order of the checks
    parts = doctor.counts(rows)
    print(f"{data}: {name}")
    for sentence in rows.said:
        print(f"  {sentence}")
    print(_table(rows, parts))
    for finding in found:
        print(_in_words(finding).replace(f"{data.absolute()}/", "").replace(f"{data}/", ""))
    mended = _mend(data, rows, found) if fix else []
    for sentence in mended:
        print(sentence)
    findings = sum(finding.kind == "finding" for finding in found)
    if json_file is not None:
        _write_json(json_file, data, name, rows, parts, found, mended, quick=quick)
    print("clean" if not findings else counted(findings, "finding"))
    return FINDINGS if findings else CLEAN


def _pictures(rows: Rows) -> list[Finding]:
    total = len({path for path in rows.columns["path"] if not is_video(path)})
    with tqdm(desc="pictures", total=total, unit=" images", disable=None) as bar:
        return doctor.check_pictures(rows, bar.update)


def _table(rows: Rows, parts: Sequence[Counts]) -> str:
    text = text_table(["subset", "ids", "tracklets", "frames", "cameras"], parts)
    if rows.published is None:
        return text
    return f"{text}\npublished: {in_words(rows.published[:4])} ({rows.published.source})"


def _in_words(finding: Finding) -> str:
    mendable = f" [--fix: {finding.fix}]" if finding.fix else ""
    lines = [f"{finding.kind}: {finding.in_words()} ({finding.code}){mendable}"]
    if finding.code == "subset":
        lines = [f"{finding.kind}: {finding.text} ({finding.code})"]
    lines += [f"    {example}" for example in finding.examples]
    if finding.count > len(finding.examples) > 0:
        lines.append(f"    … and {finding.count - len(finding.examples):,} more")
    return "\n".join(lines)


def _write_json(
    file: Path,
    data: Path,
    kind: str,
    rows: Rows,
    parts: Sequence[Counts],
    found: Sequence[Finding],
    mended: Sequence[str],
    *,
    quick: bool,
) -> None:
    published: dict[str, Any] | None = None if rows.published is None else rows.published._asdict()
    content = {
        "schema": SCHEMA,
        "data": str(data),
        "kind": kind,
        "images_opened": not quick,
        "counts": [part._asdict() for part in parts],
        "published": published,
        "findings": [
            {
                **{key: value for key, value in vars(finding).items() if key not in ("rows", "one")},
                "examples": list(finding.examples),
            }
            for finding in found
        ],
        "mended": list(mended),
    }
    with atomic(file) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _mend(data: Path, rows: Rows, found: Sequence[Finding]) -> list[str]:
    """Makes the safe fixes; returns a sentence for each."""
    done = []
    if data.is_dir():
        rubbish, _ = doctor.stray_files(data)
        if rubbish:
            done.append(_move_away(data, rubbish))
    elif data.suffix.lower() in SUFFIXES and any(finding.rows for finding in found):
        done.append(_without_rows(data, len(rows), {row for finding in found for row in finding.rows}))
    return done or ["fixed: nothing; none of these findings can be fixed safely without a person's decision"]


def _move_away(data: Path, rubbish: Sequence[Path]) -> str:
    target = data.resolve().with_name(data.resolve().name + ".removed")
    for path in rubbish:
        place = target / path.relative_to(data)
        if place.exists():
            raise DataError(f"{place}: already exists from an earlier --fix; move {target} elsewhere first")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, place)
    return f"fixed: moved {counted(len(rubbish), 'system file')} to {target}; check that folder, then delete it"


def _without_rows(file: Path, num_frames: int, rows: set[int]) -> str:
    table = read_table(file)
    if len(table) != num_frames:
        return (
            f"fixed: nothing, because a row of {file} covers several frames; write one row per frame (as import does)"
        )
    kept = [i for i in range(len(table)) if i not in rows]
    if not kept:
        raise DataError(
            f"{file}: --fix would leave no row, so the paths in the table are probably wrong; nothing was written"
        )
    suffix = ".parquet" if file.suffix.lower() == ".parquet" else ".csv"
    target = file.with_name(f"{file.stem}.fixed{suffix}")
    if target.exists():
        raise DataError(f"{target}: already exists; move it first")
    columns = {}
    for name in table.columns:
        cells = table.cells(name)
        columns[name] = [cells[i] or None for i in kept]
    write_table(target, columns)
    return f"fixed: wrote {target} without {len(table) - len(kept)} of {len(table)} rows; {file} is unchanged"
