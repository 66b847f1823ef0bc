"""Checks of a set of tracklets for likely faults, in its rows and in its images. Nothing is changed here.

A finding should be looked at before results can be trusted; a note is information that good datasets give as well.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from reid.datasets import frames
from reid.datasets.images import is_image, is_rubbish, is_video
from reid.datasets.joining import SAME_RECORDING
from reid.datasets.layouts import mixture
from reid.datasets.sources.base import Rows, is_person
from reid.errors import DataError, counted

SMALLEST = 16  # pixels; below this side length nobody can be recognised
WIDEST = 1.5  # width over height of a standing person's crop, and more than most sitting ones'
EXAMPLES = 5
_SAME_PICTURE = 6.0  # mean grey difference, 0 to 255; images of one hash below it are the same
_THUMBNAIL = (8, 16)
_LARGEST_GROUP = 50  # images of one hash that are compared pairwise; more are images of one flat colour


@dataclass(frozen=True)
class Finding:
    """One kind of fault, or of information worth a note.

    Args:
        code: a short, stable name.
        kind: `finding` or `note`.
        text: the description in the plural, to follow the count.
        count: how often it occurs.
        examples: the first few places.
        fix: what `--fix` does about it, None if a person has to decide.
        rows: indices of the rows that the fix would leave out.
        one: the description in the singular; `text` by default.
    """

    code: str
    kind: Literal["finding", "note"]
    text: str
    count: int
    examples: tuple[str, ...] = ()
    fix: str | None = None
    rows: tuple[int, ...] = ()
    one: str = ""

    def in_words(self) -> str:
        """The description with its count."""
        return counted(self.count, self.one or self.text, self.text)


class Counts(NamedTuple):
    """Identities, tracklets, frames and cameras of one part of the data."""

    part: str
    ids: int
    tracklets: int
    frames: int
    cameras: int


class _Picture(NamedTuple):
    content: bytes  # digest of the file
    looks: int  # perceptual hash, 64 bits
    thumbnail: np.ndarray
    width: int
    height: int


def counts(rows: Rows) -> list[Counts]:
    """Count each part: train, val, query, gallery, or all if there are no splits."""
    parts: dict[str, list[int]] = defaultdict(list)
    for row, (split, role) in enumerate(zip(rows.column("split"), rows.column("role"), strict=True)):
        if split == "test" and role is not None:
            for part in ("query", "gallery") if role == "both" else (role,):
                parts[part].append(row)
        else:
            parts[split or "all"].append(row)
    order = ["all", "train", "val", "test", "query", "gallery"]
    return [_counted(rows, part, parts[part]) for part in sorted(parts, key=lambda part: (order + [part]).index(part))]


def _counted(rows: Rows, part: str, members: Sequence[int]) -> Counts:
    pid, camid, tracklet = (rows.column(column) for column in ("pid", "camid", "tracklet"))
    persons = {pid[row] for row in members if is_person(pid[row])}
    cameras = {camid[row] for row in members if camid[row] is not None}
    return Counts(part, len(persons), len({tracklet[row] for row in members}), len(members), len(cameras))


def published_counts(rows: Rows) -> tuple[int, int, int, int]:
    """Training ids, training tracklets, queries, gallery: the counts in `Published`."""
    by_part = {part.part: part for part in counts(rows)}
    nothing = Counts("", 0, 0, 0, 0)
    train, query, gallery = (by_part.get(part, nothing) for part in ("train", "query", "gallery"))
    return train.ids, train.tracklets, query.tracklets, gallery.tracklets


def check_rows(rows: Rows) -> list[Finding]:
    """Check the rows without images: counts, tracklets with contradicting rows, cameras, leaks between the splits."""
    found = [*_subset(rows), *_nobody_to_tell_apart(rows), *_mixed(rows), *_names_disagree(rows), *_repeated(rows)]
    return [*found, *_few_cameras(rows), *_unlabelled(rows), *_leaks(rows)]


def check_pictures(rows: Rows, tick: Callable[[int], object]) -> list[Finding]:
    """Check the images: missing, unreadable, tiny, wide, and duplicates. Every image is decoded.

    Args:
        rows: videos are skipped; for a row with a box, only whether its image can be read and whether the box is large enough.
        tick: called with the number of images just finished.
    """
    paths, boxed = rows.columns["path"], rows.column("x")
    whole = [row for row in range(len(rows)) if not is_video(paths[row])]
    distinct = list(dict.fromkeys(paths[row] for row in whole))
    pictures: dict[str, _Picture] = {}
    faulty: dict[str, str] = {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for path, seen in zip(distinct, pool.map(_look, distinct), strict=True):
            if isinstance(seen, _Picture):
                pictures[path] = seen
            else:
                faulty[path] = seen
            tick(1)
    found = []
    if faulty:
        left_out = tuple(row for row in whole if paths[row] in faulty)
        examples = _examples(f"{path}: {reason}" for path, reason in faulty.items())
        fix = "a copy of the table without these rows"
        found.append(
            Finding(
                "unreadable",
                "finding",
                "images are missing or damaged",
                len(faulty),
                examples,
                fix,
                left_out,
                "image is missing or damaged",
            )
        )
    crops = [row for row in whole if paths[row] in pictures and boxed[row] is None]
    found += [*_sizes(rows, crops, pictures), *_small_boxes(rows)]
    return [*found, *_same_pictures(rows, crops, pictures)]


def stray_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files of operating systems, and non-images beside images, below a dataset's folder; a system folder is listed once, as a whole."""
    rubbish: list[Path] = []
    others: list[Path] = []
    for place, inside, names in os.walk(folder):
        rubbish += [Path(place, name) for name in [*inside, *names] if _is_system_rubbish(Path(place, name))]
        inside[:] = [name for name in inside if not is_rubbish(name)]
        if sum(map(is_image, names)) > 1:
            others += [Path(place, name) for name in names if not is_image(name) and not is_rubbish(name)]
    return sorted(rubbish), sorted(others)


def check_strays(folder: Path) -> list[Finding]:
    """Report stray files as findings."""
    rubbish, others = stray_files(folder)
    found = []
    if rubbish:
        fix = "moves them to a folder next to the dataset"
        examples = _examples(map(str, rubbish))
        found.append(
            Finding(
                "rubbish",
                "note",
                "system files; ignored",
                len(rubbish),
                examples,
                fix,
                one="system file; ignored",
            )
        )
    if others:
        text = "files next to images that are not images, or have no image suffix"
        found.append(
            Finding(
                "stray-file",
                "note",
                text,
                len(others),
                _examples(map(str, others)),
                one="file next to images that is not an image, or has no image suffix",
            )
        )
    return found


def _is_system_rubbish(path: Path) -> bool:
    """Whether a file certainly comes from an operating system; other hidden files may be a user's."""
    name = path.name.lower()
    if name.startswith("._") and path.is_file():
        with open(path, "rb") as file:
            return file.read(4) in (b"\x00\x05\x16\x07", b"")  # AppleDouble
    return name in (".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx")


def _look(path: str) -> _Picture | str:
    """Hash one image, or return why it cannot be read."""
    import imagehash

    from reid.datasets.decoding import decode

    try:
        content = frames.read(path)
        pixels_HWC = decode(path)
    except DataError as error:
        return error.problems[0].removeprefix(f"{path}: ")
    picture = Image.fromarray(pixels_HWC)
    bits = imagehash.phash(picture).hash.ravel()
    looks = int.from_bytes(np.packbits(bits).tobytes(), "big")
    thumbnail = np.asarray(picture.convert("L").resize(_THUMBNAIL, Image.Resampling.BOX), np.int16)
    return _Picture(hashlib.blake2b(content, digest_size=16).digest(), looks, thumbnail, picture.width, picture.height)


def _examples(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(text if len(text) < 300 else text[:297] + "…" for _, text in zip(range(EXAMPLES), texts, strict=False))


def _subset(rows: Rows) -> Iterator[Finding]:
    if rows.published is None:
        return
    words = ("training ids", "training tracklets", "queries", "gallery tracklets")
    differing = [
        f"{word}: {found:,} instead of {expected:,}"
        for word, found, expected in zip(words, published_counts(rows), rows.published[:4], strict=True)
        if found != expected
    ]
    if differing:
        text = f"not all of {rows.name}: results on a subset are not comparable with published ones"
        yield Finding("subset", "finding", text, len(differing), tuple(differing))


def _nobody_to_tell_apart(rows: Rows) -> Iterator[Finding]:
    """Report a single known person to train on. A table without any person is for extraction; a note counts its rows without pid."""
    pid, split = rows.column("pid"), rows.column("split")
    to_train = {who for who, part in zip(pid, split, strict=True) if part in (None, "train") and is_person(who)}
    if len(to_train) == 1:
        text = "person to train on: expected at least 2"
        yield Finding("one-person", "finding", text, 1, _examples(map(str, to_train)))


def _tracklets(rows: Rows) -> dict[str, list[int]]:
    members: dict[str, list[int]] = defaultdict(list)
    for row, tracklet in enumerate(rows.columns["tracklet"]):
        members[tracklet].append(row)
    return members


def _mixed(rows: Rows) -> Iterator[Finding]:
    members = _tracklets(rows)
    for column, word in (("pid", "person"), ("camid", "camera"), ("split", "split"), ("role", "role")):
        values = rows.column(column)
        mixed = {
            tracklet: held
            for tracklet, own in members.items()
            if len(held := list(dict.fromkeys(str(values[row]) for row in own))) > 1
        }
        if mixed:
            examples = _examples(f"{tracklet}: {', '.join(held[:4])}" for tracklet, held in mixed.items())
            yield Finding(
                f"mixed-{column}",
                "finding",
                f"tracklets with more than one {word}",
                len(mixed),
                examples,
                one=f"tracklet with more than one {word}",
            )


def _names_disagree(rows: Rows) -> Iterator[Finding]:
    paths = rows.columns["path"]
    said = {
        tracklet: mixed
        for tracklet, own in _tracklets(rows).items()
        if len(own) > 1 and (mixed := mixture(os.path.basename(paths[row]) for row in own))
    }
    if said:
        examples = _examples(
            f"{tracklet}: {counted(mixed.persons, 'person')}, {counted(mixed.cameras, 'camera')} ({mixed.layout})"
            for tracklet, mixed in said.items()
        )
        text = "tracklets whose file names indicate several persons or cameras"
        yield Finding(
            "names-disagree",
            "finding",
            text,
            len(said),
            examples,
            one="tracklet whose file names indicate several persons or cameras",
        )


def _repeated(rows: Rows) -> Iterator[Finding]:
    # Only rows equal in all these columns: an image under two persons is for a person to decide.
    where, said = ("path", "tracklet", "first", "last", "x", "y", "w", "h"), ("pid", "camid", "split", "role")
    cells = [rows.column(column) for column in (*where, *said)]
    seen: set[tuple[Any, ...]] = set()
    repeated = []
    for row, key in enumerate(zip(*cells, strict=True)):
        if key in seen:
            repeated.append(row)
        seen.add(key)
    if repeated:
        examples = _examples(f"{cells[0][row]} in {cells[1][row]}" for row in repeated)
        fix = "a copy of the table without the repeated rows"
        text = "rows that appear twice in one tracklet"
        yield Finding(
            "repeated-row",
            "finding",
            text,
            len(repeated),
            examples,
            fix,
            tuple(repeated),
            "row that appears twice in one tracklet",
        )


def _few_cameras(rows: Rows) -> Iterator[Finding]:
    """Report persons with one camera: a test query of such a person has no match, and in training they teach little across cameras."""
    cameras: dict[tuple[str, Any], set[Any]] = defaultdict(set)
    queried = set()
    columns = (rows.column(column) for column in ("split", "role", "pid", "camid"))
    for split, role, pid, camid in zip(*columns, strict=True):
        if is_person(pid) and camid is not None:
            cameras["test" if split == "test" else "train", pid].add(camid)
            if split == "test" and role in ("query", "both"):
                queried.add(pid)
    lonely = [key for key, held in cameras.items() if len(held) == 1]
    without = [f"{pid}" for part, pid in lonely if part == "test" and pid in queried]
    others = [f"{pid} ({part})" for part, pid in lonely if part == "train" or pid not in queried]
    if without:
        text = "query persons seen by only one camera: they have no match if the query's own camera is junk"
        one = "query person seen by only one camera: no match if the query's own camera is junk"
        yield Finding("query-without-match", "finding", text, len(without), _examples(without), one=one)
    if others:
        text = "persons seen by only one camera"
        yield Finding("one-camera", "note", text, len(others), _examples(others), one="person seen by only one camera")


def _unlabelled(rows: Rows) -> Iterator[Finding]:
    for column, consequence in (("pid", "not used for training"), ("camid", "never removed as same-camera junk")):
        empty = sum(value is None for value in rows.column(column))
        if empty:
            yield Finding(
                f"no-{column}",
                "note",
                f"frames without {column}: {consequence}",
                empty,
                one=f"frame without {column}: {consequence}",
            )


def _leaks(rows: Rows) -> Iterator[Finding]:
    parts: dict[str, set[Any]] = {"train": set(), "test": set()}
    for split, pid in zip(rows.column("split"), rows.column("pid"), strict=True):
        if split in parts and is_person(pid):
            parts[split].add(pid)
    both = sorted(map(str, parts["train"] & parts["test"]))
    if both:
        text = "persons in both the training and the test set: the test measures memorisation"
        one = text.replace("persons", "person", 1)
        yield Finding("leak", "finding", text, len(both), _examples(both), one=one)
    common = sorted(_common(parts["train"]) & _common(parts["test"]) - set(both))
    if common:
        text = "persons in the training set of Market-1501 and the test set of MARS, or the reverse; both are the same recording"
        yield Finding(
            "leak-between-datasets",
            "finding",
            text,
            len(common),
            _examples(common),
            one=text.replace("persons", "person", 1),
        )


def _common(pids: set[Any]) -> set[str]:
    """Ids from the datasets that share their persons, without the dataset's name."""
    split = [str(pid).partition(":") for pid in pids]
    return {number for dataset, _, number in split if dataset in SAME_RECORDING}


def _sizes(rows: Rows, crops: Sequence[int], pictures: dict[str, _Picture]) -> Iterator[Finding]:
    sizes = {
        path: (pictures[path].width, pictures[path].height) for path in (rows.columns["path"][row] for row in crops)
    }
    tiny = {path: size for path, size in sizes.items() if min(size) < SMALLEST}
    if tiny:
        examples = _examples(f"{path}: {w} x {h}" for path, (w, h) in tiny.items())
        yield Finding(
            "tiny",
            "finding",
            f"images with a side below {SMALLEST} pixels",
            len(tiny),
            examples,
            one=f"image with a side below {SMALLEST} pixels",
        )
    wide = {path: (w, h) for path, (w, h) in sizes.items() if w > WIDEST * h}
    if wide and rows.name != "veri776":
        examples = _examples(f"{path}: {w} x {h}" for path, (w, h) in wide.items())
        text = f"images wider than {WIDEST} times their height: whole scenes instead of crops of one person?"
        one = f"image wider than {WIDEST} times its height: a whole scene instead of a crop of one person?"
        yield Finding("wide", "finding", text, len(wide), examples, one=one)


def _small_boxes(rows: Rows) -> Iterator[Finding]:
    boxes = zip(rows.columns["tracklet"], rows.columns["path"], rows.column("w"), rows.column("h"), strict=True)
    tiny = [
        f"{tracklet} in {path}: {w:g} x {h:g}"
        for tracklet, path, w, h in boxes
        if w is not None and min(w, h) < SMALLEST
    ]
    if tiny:
        yield Finding(
            "tiny-box",
            "finding",
            f"boxes with a side below {SMALLEST} pixels",
            len(tiny),
            _examples(tiny),
            one=f"box with a side below {SMALLEST} pixels",
        )


def _same_pictures(rows: Rows, crops: Sequence[int], pictures: dict[str, _Picture]) -> Iterator[Finding]:
    paths, pid, split = rows.columns["path"], rows.column("pid"), rows.column("split")
    by_content: dict[bytes, list[int]] = defaultdict(list)
    by_looks: dict[int, list[int]] = defaultdict(list)
    for row in crops:
        by_content[pictures[paths[row]].content].append(row)
        by_looks[pictures[paths[row]].looks].append(row)
    persons: dict[tuple[str, str], str] = {}
    leaks: dict[tuple[str, str], str] = {}
    for group in by_looks.values():
        for first, second in _alike(group, paths, pictures):
            pair = paths[first], paths[second]
            if is_person(pid[first]) and is_person(pid[second]) and pid[first] != pid[second]:
                persons[pair] = f"{pair[0]} ({pid[first]}) and {pair[1]} ({pid[second]})"
            if {split[first], split[second]} == {"train", "test"}:
                leaks[pair] = f"{pair[0]} and {pair[1]}"
    if persons:
        text = "pairs of images that look the same but belong to two persons"
        yield Finding(
            "same-picture-two-pids",
            "finding",
            text,
            len(persons),
            _examples(persons.values()),
            one="pair of images that look the same but belong to two persons",
        )
    if leaks:
        text = "pairs of images that look the same, one in the training and one in the test set"
        yield Finding(
            "same-picture-leak",
            "finding",
            text,
            len(leaks),
            _examples(leaks.values()),
            one="pair of images that look the same, one in the training and one in the test set",
        )
    copies = [group for group in by_content.values() if len({paths[row] for row in group}) > 1]
    if copies:
        examples = _examples(" = ".join(paths[row] for row in group[:3]) for group in copies)
        text = "files with the same content as another"
        number = sum(len({paths[row] for row in group}) - 1 for group in copies)
        yield Finding("duplicate", "note", text, number, examples, one="file with the same content as another")


def _alike(group: Sequence[int], paths: Sequence[str], pictures: dict[str, _Picture]) -> Iterator[tuple[int, int]]:
    """Yield pairs of rows with one perceptual hash whose images also differ little in grey values."""
    few = group[:_LARGEST_GROUP]
    for i, first in enumerate(few):
        for second in few[i + 1 :]:
            one, other = pictures[paths[first]], pictures[paths[second]]
            near = np.abs(one.thumbnail - other.thumbnail).mean() <= _SAME_PICTURE
            if paths[first] != paths[second] and (one.content == other.content or near):
                yield first, second
