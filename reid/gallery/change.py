"""Changes to a gallery that need no new feature extraction: add rows, remove rows, build another index.

Shapes: N rows, D feature dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from reid.errors import DataError
from reid.features import FeatureSet
from reid.gallery import store
from reid.gallery.index import Index
from reid.gallery.records import LEFT_OUT
from reid.gallery.store import Gallery
from reid.tracklets import IdNames


def holds(
    folder: Path, keys: Sequence[str], fingerprint: str, time: np.ndarray | None = None, *, among_others: bool
) -> bool:
    """Whether a folder is a complete gallery of exactly these tracklets, or with `among_others` of at least these.

    The features must come from the model with this fingerprint. Keys listed as left out (unreadable images) count as present.

    Raises:
        DataError: the folder is complete and, without `among_others`, holds other tracklets, times, or those of another model.
    """
    if not store.exists(folder):
        return False
    held = store.open_gallery(folder)
    there, left_out = list(store.rows_by_key(held)), set(held.about.get(LEFT_OUT, []))
    same_model = held.features.fingerprint == fingerprint
    if among_others:
        return same_model and set(keys) <= {*there, *left_out}
    rows = [row for row, key in enumerate(keys) if key not in left_out]
    if not same_model or there != [keys[row] for row in rows]:
        difference = f"{len(there)} tracklets by model {held.features.fingerprint}; here {len(keys)} by {fingerprint}"
        raise DataError(f"{folder}: contains another gallery ({difference}); --add adds to it, --overwrite replaces it")
    if not _same(held.time, None if time is None else time[rows]):
        raise DataError(f"{folder}: has these tracklets, but other times, or none; --overwrite replaces them")
    return True


def _same(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    return one is other if one is None or other is None else np.array_equal(one, other, equal_nan=True)


def require_addable(held: Gallery, keys: Iterable[str], fingerprint: str) -> None:
    """Checks that rows with these keys can be added to a gallery.

    Raises:
        DataError: the fingerprints of the models differ, or a key is already in the gallery.
    """
    if held.features.fingerprint != fingerprint:
        made_by = f"{held.about.get('run')}, checkpoint {held.about.get('checkpoint')}"
        raise DataError(
            f"{held.folder}: made by model {held.features.fingerprint}, but the given checkpoint is {fingerprint}: "
            f"features of different models cannot be mixed; use the model that made it ({made_by}), or extract everything again"
        )
    there = store.rows_by_key(held)
    if twice := [key for key in keys if key in there]:
        more = f" (and {len(twice) - 1} more)" if len(twice) > 1 else ""
        raise DataError(f"{held.folder}: already has a tracklet {twice[0]!r}{more}; rename it or leave it out")


def joined(held: Gallery, new: Gallery, features: np.ndarray) -> Gallery:
    """Concatenates two galleries.

    Args:
        held: the existing gallery; its rows come first, and its metadata (run, checkpoint, preprocessing) are kept.
        new: the gallery whose rows are appended.
        features: (N, D), the rows of both, in that order.
    """
    first, second, offset = held.features, new.features, len(held.features.pid)
    pid, pid_names = _joined_ids(first.pid, held.names.pid, second.pid, new.names.pid, lowest=1)
    camid, camid_names = _joined_ids(first.camid, held.names.camid, second.camid, new.names.camid, lowest=0)
    names = IdNames(pid_names, camid_names)
    assert first.key is not None and second.key is not None, "rows of a gallery have keys"
    rows = FeatureSet(
        features,
        pid,
        camid,
        np.concatenate([first.query, offset + second.query]),
        np.concatenate([first.gallery, offset + second.gallery]),
        np.concatenate([first.key, second.key]),
        first.fingerprint,
    )
    added = [*held.about.get("added", []), new.about["source"]]
    num_frames, path = (np.concatenate([getattr(g, name) for g in (held, new)]) for name in ("num_frames", "path"))
    about = {**held.about, "added": added, **({"names": names.to_json()} if names else {})}
    added_keys = set(second.key.tolist())
    left_out = [key for key in held.about.get(LEFT_OUT, []) if key not in added_keys] + [*new.about.get(LEFT_OUT, [])]
    if left_out:
        about[LEFT_OUT] = list(dict.fromkeys(left_out))
    else:
        about.pop(LEFT_OUT, None)
    time = None
    if held.time is not None or new.time is not None:
        known = (np.full(len(g.path), np.nan) if g.time is None else g.time for g in (held, new))
        time = np.concatenate([*known])
    return Gallery(held.folder, rows, num_frames, path, about, time=time)


def _joined_ids(
    first: np.ndarray,
    first_names: Mapping[int, str],
    second: np.ndarray,
    second_names: Mapping[int, str],
    *,
    lowest: int,
) -> tuple[np.ndarray, dict[int, str]]:
    """Merges two id columns so that each person or camera has one number; returns the merged ids and their names.

    Ids with the same name are the same person or camera; without any names, ids with the same number are. Ids of the first column
    keep their numbers. Numbers below `lowest` (junk, distractors, unknown cameras) are nobody: they have no name to match by.
    """
    if not first_names and not second_names:
        return np.concatenate([first, second]), {}
    known = np.unique(first[first >= lowest]).tolist()
    number_of = {first_names.get(number, str(number)): number for number in known}
    number_of |= {name: number for number, name in first_names.items()}
    names, taken = dict(first_names), set(number_of.values())
    next_one = max([0, *taken, *np.setdiff1d(second, list(second_names)).tolist()]) + 1
    new_number: dict[int, int] = {}
    for number in np.unique(second).tolist():
        name = second_names.get(number, str(number))
        if number < lowest:
            new_number[number] = number
        elif name in number_of:
            new_number[number] = number_of[name]
        else:
            plain = number not in second_names and number not in taken
            new_number[number] = number if plain else next_one
            if not plain:
                names[next_one], next_one = name, next_one + 1
            taken.add(new_number[number])
    return np.concatenate([first, np.array([new_number[number] for number in second.tolist()], np.int64)]), names


def remove(folder: Path, keys: Iterable[str]) -> int:
    """Removes tracklets from a gallery and its index; the row numbers of later rows shift down.

    Args:
        folder: the gallery folder.
        keys: keys of the tracklets to remove; duplicates are allowed.

    Returns:
        Number of rows left.

    Raises:
        DataError: a key is not in the gallery, no row would be left, or another program is changing the gallery.
    """
    with store.changing(folder):
        store.finish_pending_change(folder)
        held = store.open_gallery(folder)
        kept = np.delete(np.arange(len(held.features.pid)), _rows(held, keys))
        if not len(kept):
            raise DataError(f"{folder}: no tracklet would be left; delete the folder instead")
        index = store.open_index(held)
        features = store.draft(
            folder, store.blocks(held.features.features, kept), (len(kept), held.features.features.shape[1])
        )
        if index is not None:
            index.replace(features)
        store.commit(_taken(held, kept, features), index)
        return len(kept)


def _rows(held: Gallery, keys: Iterable[str]) -> list[int]:
    row_of, wanted = store.rows_by_key(held), list(keys)
    if missing := [key for key in wanted if key not in row_of]:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise DataError(f"{held.folder}: no tracklet has the key {missing[0]!r}{more}; meta.csv lists them")
    return [row_of[key] for key in wanted]


def _taken(held: Gallery, kept: np.ndarray, features: np.ndarray) -> Gallery:
    rows = held.features
    assert rows.key is not None, "rows of a gallery have keys"
    new_row = np.full(len(rows.pid), -1)
    new_row[kept] = np.arange(len(kept))
    query, searched = (new_row[old][new_row[old] >= 0] for old in (rows.query, rows.gallery))
    taken = FeatureSet(
        features, rows.pid[kept], rows.camid[kept], query, searched, rows.key[kept], fingerprint=rows.fingerprint
    )
    time = None if held.time is None else held.time[kept]
    return Gallery(held.folder, taken, held.num_frames[kept], held.path[kept], held.about, time=time)


def reindex(folder: Path, factory: str) -> tuple[Gallery, Index]:
    """Builds the index of a gallery, replacing an existing one.

    Args:
        folder: the gallery folder.
        factory: faiss factory string, optionally with search parameters after a colon.

    Raises:
        ConfigError: faiss cannot build this index from these rows.
        DataError: another program is changing the gallery.
    """
    with store.changing(folder):
        store.finish_pending_change(folder)
        held = store.open_gallery(folder)
        features = held.features.features
        index = Index(factory, features.shape[1]).build(features)
        store.commit(held, index)
        return held, index
