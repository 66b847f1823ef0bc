"""Extract: features of a dataset, a folder of tracklet folders, or a manifest, by the model of a run.

Shapes: T tracklets.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from reid.augment import Preprocess
from reid.config import Config
from reid.datasets import presence
from reid.datasets.damaged import DamagedImages, read_list, write_list
from reid.datasets.folders import detect_kind, load_folders
from reid.datasets.manifest import load_rows
from reid.datasets.mars import load_mars
from reid.datasets.splitting import Draw, draw_test
from reid.engine import extract_on_ray
from reid.engine.extract import extract, extract_shards, fingerprint
from reid.engine.extract_on_ray import Team, Work
from reid.errors import ConfigError, DataError, counted, in_range
from reid.experiment import Source
from reid.features import FeatureSet
from reid.gallery import change, milvus, store
from reid.gallery.index import Index
from reid.gallery.records import LEFT_OUT
from reid.gallery.shards import SHARD_FRAMES, Shards, in_parts, unfinished
from reid.gallery.store import Gallery
from reid.gallery.tune import recall
from reid.models.color_histogram import ColorHistogram
from reid.models.embedding import Embedding
from reid.models.pooling import POOLINGS
from reid.runtime import Runtime, is_main_process, start, sum_over_processes, world_size
from reid.tracklets import IdNames, Split

logger = logging.getLogger(__name__)

Mode = Literal["new", "overwrite", "add"]
DAMAGED = "damaged.csv"  # images that were left out, beside the features where there are any


@dataclass(frozen=True)
class Target:
    """Where features go, and what may be there.

    Args:
        folder: the feature folder.
        mode: `new`; `overwrite` the feature folder that is there; `add` to it.
        resume: go on with an extraction that was killed, where there is one.
        index: faiss factory string of the index to build; with `add`, the folder's own takes the new rows in by default.
        shard_frames: frames between two saved parts.
        skip_tracklets: leave out tracklets none of whose images can be read, instead of stopping.
    """

    folder: Path
    mode: Mode = "new"
    resume: bool = False
    index: str | None = None
    shard_frames: int = SHARD_FRAMES
    skip_tracklets: bool = False

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other programs from changing the folder, which must be one that can be written as asked."""
        with store.changing(self.folder, make=self.mode != "add"):
            self.require_place()
            yield

    def require_place(self) -> None:
        """Refuses a folder that cannot be written as asked, before the work."""
        if self.mode == "add":
            store.open_gallery(self.folder)
        elif not unfinished(self.folder) and not (self.resume and store.exists(self.folder)):
            store.require_free(self.folder, overwrite=self.mode == "overwrite")


@dataclass(frozen=True)
class Database:
    """A gallery in a database, which gets each part of the features as it is done; rows that are there stay.

    Args:
        place: the collection, made where there is none.
        resume: leave out parts all of whose tracklets are there, instead of refusing the first that is.
        index: Milvus' kind of index of a new collection.
        shard_frames, skip_tracklets: as of `Target`.
    """

    place: milvus.Address
    resume: bool = False
    index: str | None = None
    shard_frames: int = SHARD_FRAMES
    skip_tracklets: bool = False

    def held(self) -> contextlib.AbstractContextManager[None]:
        """Nothing is held: others may write meanwhile."""
        return contextlib.nullcontext()


@dataclass(frozen=True, eq=False)
class _Source:
    """What is embedded, and what is known of its features before there are any."""

    split: Split
    query: np.ndarray
    gallery: np.ndarray
    keys: list[str]
    fingerprint: str
    dim: int
    about: Mapping[str, Any]


@dataclass(frozen=True)
class Engine:
    """What embeds: this program and, under torchrun, its like; or the machines of a Ray cluster.

    Args:
        on_ray: whether Ray does.
        cpus: cores of each of its actors, see `extract_on_ray.team`.
    """

    on_ray: bool = False
    cpus: int | None = None

    @contextlib.contextmanager
    def started(
        self, config: Config, place: contextlib.AbstractContextManager[None]
    ) -> Iterator[tuple[Runtime, Team | None]]:
        """The engine, and the place to write held, for as long as the context lasts."""
        if self.on_ray:
            if world_size() > 1:
                raise ConfigError("--engine ray: start it without torchrun; Ray starts the processes")
            with place, extract_on_ray.team(config.machine.device, config.machine.dtype, self.cpus) as team:
                yield team.asking, team
        else:
            # The place comes second: where it is refused, the other processes learn of it.
            with start(config.machine.device, config.machine.dtype) as runtime, place:
                yield runtime, None


def run(
    model: Source,
    overrides: Sequence[str],
    source: Path,
    kind: str,
    target: Target | Database,
    engine: Engine | None = None,
) -> None:
    """Writes a feature folder, or adds to one, or to a database.

    Args:
        model: where the network lies.
        overrides: of its config, for this machine: the device, workers.
        source: what to embed.
        kind: `mars`, `folders`, `manifest`, or `auto` to find out.
        target: where the features go.
        engine: what embeds, by default this program.
    """
    config = model.config([*overrides, *["data.damaged=skip"] * target.skip_tracklets])
    in_range("shard", target.shard_frames, 1)
    kind = detect_kind(source) if kind == "auto" else kind
    split, query, gallery, names = _tracklets(source, kind, config)
    size = f"{counted(len(split), 'tracklet')}, {counted(split.num_frames, 'frame')}"
    logger.info("%s: %s with %s", source, kind, size)
    if not target.skip_tracklets:  # what is missing shows before the work, not in the middle of it
        advice = "leave the tracklet out by --skip-tracklets"
        presence.require_images(split, presence.missing(split), config.data.damaged, advice)
    place = target.held() if is_main_process() else contextlib.nullcontext()
    with (engine or Engine()).started(config, place) as (runtime, team):
        trained = model.load(config, runtime)
        about = {
            **trained.about,
            "preprocessing": trained.preprocessing,
            "source": str(source.absolute()),
            **({"names": names.to_json()} if names else {}),
        }
        keys = [split.key(i) for i in range(len(split))]
        embedded = _Source(split, query, gallery, keys, trained.fingerprint, trained.embedding.num_features, about)
        options = _options(config, trained.embedding)
        work = Work(
            trained.embedding, trained.preprocess, split, {}, options, config.data.damaged, target.skip_tracklets
        )
        if isinstance(target, Database):
            _into_database(work, embedded, target, runtime, team)
        else:
            _into_folder(work, embedded, target, runtime, team)


def _into_folder(work: Work, source: _Source, target: Target, runtime: Runtime, team: Team | None) -> None:
    """Extracts the parts that are missing, each saved as it is done, and puts them together."""
    if target.index is not None:
        Index(target.index, source.dim)  # a string that faiss does not take shows before the work
    numbers = {"fingerprint": source.fingerprint, "dtype": str(runtime.dtype).removeprefix("torch.")}
    shards = Shards(target.folder, source.split, target.shard_frames, source.dim, {**numbers, "mode": target.mode})
    todo = _begin(source, shards, target, runtime)
    listed = shards.folder / DAMAGED  # first, so that no part is there whose damaged images are not listed
    for number, features, left_out in _embedded(work, {number: shards.rows[number] for number in todo}, runtime, team):
        if runtime.is_main:
            if left_out:
                write_list(listed, {**read_list(listed), **left_out})
            shards.save(number, features)
    if runtime.is_main:
        if not _is_there(source, target):
            _write(source, shards, target, read_list(listed))
        shards.remove()


def _into_database(work: Work, source: _Source, target: Database, runtime: Runtime, team: Team | None) -> None:
    """Extracts the parts that are missing, each sent as it is done."""
    parts, missing, lost = in_parts(source.split, target.shard_frames), np.zeros(0, bool), 0
    place, everything = target.place, np.arange(len(source.split))
    if runtime.is_main:
        unknown = np.broadcast_to(np.eye(1, source.dim, dtype=np.float32), (len(everything), source.dim))
        there = milvus.held_rows(_rows_of(source, everything, unknown, {}), place, index=target.index)
        if there.any() and not target.resume:
            more = f" (and {there.sum() - 1} more)" if there.sum() > 1 else ""
            first = source.keys[int(np.argmax(there))]
            raise DataError(
                f"{place}: has a tracklet {first!r} already{more}; --resume auto leaves out what is there, such as by a killed extraction"
            )
        missing = np.array([not there[rows].all() for rows in parts])
    todo = _in_every_process(missing, len(parts), runtime)
    for number, features, left_out in _embedded(work, {number: parts[number] for number in todo}, runtime, team):
        has = ~np.isnan(features[:, 0])
        lost += int((~has).sum())
        if runtime.is_main and has.any():
            rows = parts[number][has]
            part = _rows_of(source, rows, features[has], left_out)
            milvus.push(part, place, index=target.index, overwrite=target.resume, row=rows)
        if runtime.is_main:
            _say(left_out)
    if runtime.is_main:
        told = (
            f"; {counted(lost, 'tracklet was', 'tracklets were')} left out, as none of the images can be read"
            if lost
            else ""
        )
        logger.info("%s: %s are there%s", place, counted(len(everything) - lost, "tracklet"), told)


def _rows_of(source: _Source, rows: np.ndarray, features: np.ndarray, left_out: Mapping[str, str]) -> Gallery:
    """Some of the tracklets as rows of a gallery."""
    split, key = source.split.select(rows), np.array(source.keys, np.str_)[rows]
    count = np.arange(len(rows))
    made = FeatureSet(features, split.pid, split.camid, count[:0], count, key, source.fingerprint)
    return Gallery(Path(source.about["source"]), made, split.lengths, _shown(split, left_out), source.about)


def _embedded(
    work: Work, parts: Mapping[int, np.ndarray], runtime: Runtime, team: Team | None
) -> Iterator[tuple[int, np.ndarray, dict[str, str]]]:
    """Number and features of each part, and what was left out: by a team, or by this program and its like."""
    work, progress = replace(work, shards=parts), "embedding" if runtime.is_main else ""
    if team is not None:
        yield from extract_on_ray.extract_on(team, work, progress=progress)
        return
    damaged = DamagedImages(work.damaged)
    options = {**work.options, "damaged": damaged, "may_be_empty": work.may_be_empty, "progress": progress}
    done = extract_shards(work.model, work.preprocess, work.split, runtime, list(parts.values()), **options)
    for number, features in zip(parts, done, strict=True):
        yield number, features, damaged.of_all_processes(runtime.device)


def _begin(source: _Source, shards: Shards, target: Target, runtime: Runtime) -> list[int]:
    """The numbers of the parts to extract, which the main process knows, in every process."""
    missing = np.zeros(0, bool)
    if runtime.is_main:
        if _is_there(source, target):
            logger.info("%s: %s: all there already", target.folder, counted(len(source.split), "tracklet"))
        else:
            if target.mode == "add":
                change.require_addable(store.open_gallery(target.folder), source.keys, source.fingerprint)
            shards.begin(resume=target.resume, overwrite=target.mode == "overwrite")
            missing = shards.missing()
            if not missing.all():
                logger.info("%s: going on, %d of %d parts are there", target.folder, (~missing).sum(), len(missing))
    return _in_every_process(missing, len(shards.rows), runtime)


def _in_every_process(missing: np.ndarray, count: int, runtime: Runtime) -> list[int]:
    """The places of what is True among `count` in the main process, which others do not know; all places are False where it is empty."""
    told = torch.zeros(count, dtype=torch.int64)
    told[: len(missing)] = torch.from_numpy(missing)
    return np.flatnonzero(sum_over_processes(told.to(runtime.device)).cpu().numpy()).tolist()


def _is_there(source: _Source, target: Target) -> bool:
    """Whether a killed extraction had got to its end."""
    among_others = target.mode == "add"
    return (
        target.resume
        and target.mode != "overwrite"
        and change.holds(target.folder, source.keys, source.fingerprint, among_others=among_others)
    )


def _write(source: _Source, shards: Shards, target: Target, left_out: Mapping[str, str]) -> None:
    """Puts the parts together, behind the rows that are there where they are to be added.

    Args:
        left_out: path and reason of damaged images.
    """
    kept = _kept(source, shards, target)
    split, lost = source.split.select(kept), [key for key, has in zip(source.keys, kept, strict=True) if not has]
    size, held = len(split), None
    if target.mode == "add":
        store.finish_pending_change(target.folder)
        held = store.open_gallery(target.folder)
        change.require_addable(held, source.keys, source.fingerprint)
    before = np.zeros((0, source.dim), np.float32) if held is None else held.features.features
    shape = (len(before) + size, source.dim)
    new = (part[~np.isnan(part[:, 0])] for part in shards.features())
    features = store.draft(target.folder, chain(store.blocks(before), new), shape)
    place = np.cumsum(kept) - 1  # of each row among those that are kept
    query, searched = (place[rows[kept[rows]]] for rows in (source.query, source.gallery))
    key = np.array(source.keys, np.str_)[kept]
    rows = FeatureSet(features[-size:], split.pid, split.camid, query, searched, key, source.fingerprint)
    about = {**source.about, **({LEFT_OUT: lost} if lost else {})}
    gallery = Gallery(target.folder, rows, split.lengths, _shown(split, left_out), about)
    index = None
    if target.index is not None:
        index = Index(target.index, source.dim).build(features)
    elif held is not None:
        index = store.open_index(held)
        if index is not None:
            index.add(rows.features)
    if held is not None:
        gallery, left_out = change.joined(held, gallery, features), {**read_list(target.folder / DAMAGED), **left_out}
    write_list(target.folder / DAMAGED, left_out)
    store.commit(replace(gallery, about={**gallery.about, "damaged_images": len(left_out)}), index)
    logger.info("%s: %s", target.folder, counted(len(features), "tracklet"))
    if lost:
        told = f"{counted(len(lost), 'tracklet was', 'tracklets were')} left out, as none of the images can be read"
        logger.warning("%s: %s, such as %s; gallery.json lists them (%s)", target.folder, told, lost[0], LEFT_OUT)
    _say(left_out, f"; {target.folder / DAMAGED} lists them")
    if index is not None:
        log_recall(gallery, index)


def _kept(source: _Source, shards: Shards, target: Target) -> np.ndarray:
    """(T,) bool: the tracklets that have features.

    Raises:
        DataError: a part was extracted with `skip_tracklets` and lacks some, and that is not asked for now; or there are none at all.
    """
    kept = ~np.concatenate([np.isnan(part[:, 0]) for part in shards.features()])
    if not kept.all() and not target.skip_tracklets:
        first = source.keys[int(np.argmin(kept))]
        raise DataError(
            f"{shards.folder}: begun with --skip-tracklets, and lacks {counted(int((~kept).sum()), 'tracklet')} such as {first}; "
            "give that flag again, or delete shards/"
        )
    if not kept.any():
        raise DataError(f"{source.split.root}: none of the images of {counted(len(kept), 'tracklet')} can be read")
    return kept


def _shown(split: Split, left_out: Mapping[str, str]) -> np.ndarray:
    """(T,) texts: the image file that stands for each tracklet, one that can be read."""
    damaged, shown = {Path(path).absolute().as_posix() for path in left_out}, store.middle_frames(split)
    for row in np.flatnonzero([path in damaged for path in shown]).tolist():
        paths = [path.absolute().as_posix() for path in split[row].paths]
        shown[row] = next((path for path in paths if path not in damaged), shown[row])
    return shown


def _say(left_out: Mapping[str, str], where: str = "") -> None:
    if left_out:
        path, reason = next(iter(left_out.items()))
        what = counted(len(left_out), "damaged or missing image was", "damaged or missing images were")
        logger.warning("%s left out, such as %s (%s)%s", what, path, reason, where)


def log_recall(gallery: Gallery, index: Index) -> None:
    """Says what an index is worth on its own gallery."""
    found = recall(gallery.features, index)
    logger.info("index %s: recall@10 %.3f against exact; robust-reid search --tune tries others", index.factory, found)


def _tracklets(source: Path, kind: str, config: Config) -> tuple[Split, np.ndarray, np.ndarray, IdNames]:
    """What to embed, its query and gallery rows, and names. Only what has a test protocol has queries; of a table, all is embedded."""
    if kind == "mars":
        benchmark = load_mars(source)
        if not len(benchmark.test):
            raise DataError(
                f"{source}: no test set, which is what is embedded of a MARS layout; robust-reid import {source} --out tracks.csv "
                "makes a table of its training tracklets, which can be"
            )
        return benchmark.test, benchmark.query, benchmark.gallery, benchmark.names
    if kind == "folders":
        split = load_folders(source)
        return split, np.arange(0), np.arange(len(split)), IdNames()
    rows = load_rows(source)
    for note in rows.notes:
        logger.info("%s: %s", source, note)
    query, gallery = rows.query, rows.gallery
    if rows.part is not None:  # only what is tested is searched by a test; a search finds all
        tested, any_camera = np.flatnonzero(rows.part == "test"), config.test.any_camera
        if rows.role is None:
            drawn = draw_test(rows.split.select(tested), Draw(seed=config.data.split_seed), any_camera=any_camera)
            query, gallery = (tested[found] for found in drawn)
        query, gallery = np.intersect1d(query, tested), np.intersect1d(gallery, tested)
    return rows.split, query, gallery if len(query) else np.arange(len(rows.split)), rows.names


def features_of(
    config: Config,
    model: Embedding | ColorHistogram,
    preprocess: Preprocess,
    split: Split,
    runtime: Runtime,
    *,
    query: Sequence[int] | np.ndarray | None = None,
    gallery: Sequence[int] | np.ndarray | None = None,
    damaged: DamagedImages | None = None,
    label: str = "embedding",
) -> FeatureSet:
    """Features of all tracklets of a split.

    Args:
        query, gallery: row numbers, all by default.
        damaged: notes what is left out.
        label: names the progress bar.
    """
    rows, damaged = np.arange(len(split)), DamagedImages(config.data.damaged) if damaged is None else damaged
    options = {**_options(config, model), "progress": label if runtime.is_main else ""}
    features = extract(model, preprocess, split, runtime, damaged=damaged, **options)
    left_out = damaged.of_all_processes(runtime.device)
    if runtime.is_main:
        _say(left_out)
    return FeatureSet(
        features,
        split.pid,
        split.camid,
        query=rows if query is None else np.asarray(query),
        gallery=rows if gallery is None else np.asarray(gallery),
        key=np.array([split.key(i) for i in range(len(split))]),
        fingerprint=fingerprint(model, preprocess, config.test.pooling),
    )


def _options(config: Config, model: Embedding | ColorHistogram) -> dict[str, Any]:
    return {
        "dim": model.num_features,
        "pooling": POOLINGS[config.test.pooling],
        "batch_size": config.test.batch_size,
        "workers": config.machine.workers,
    }
