"""Extract: compute features of a dataset, a folder of tracklet folders, or a manifest with a trained model.

Shapes: T tracklets, D feature dimensions.
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
from reid.export.deployed import Exported
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
from reid.processes import is_main_process, world_size
from reid.runtime import Runtime, start, sum_over_processes
from reid.tracklets import IdNames, Split

logger = logging.getLogger(__name__)

Mode = Literal["new", "overwrite", "add"]
DAMAGED = "damaged.csv"  # list of images left out, in the feature folder; only written if there are any


@dataclass(frozen=True)
class Target:
    """A feature folder to write to.

    Args:
        folder: the feature folder.
        mode: `new`; `overwrite` an existing feature folder; `add` to it.
        resume: resume a killed extraction, if there is one.
        index: faiss factory string of the index to build; with `add`, the default is to add the rows to the existing index.
        shard_frames: frames per saved shard.
        skip_tracklets: skip tracklets none of whose images can be read, instead of raising an error.
    """

    folder: Path
    mode: Mode = "new"
    resume: bool = False
    index: str | None = None
    shard_frames: int = SHARD_FRAMES
    skip_tracklets: bool = False

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Locks the folder against changes by other programs, and checks that `mode` and `resume` allow writing to it."""
        with store.changing(self.folder, make=self.mode != "add"):
            self.require_place()
            yield

    def require_place(self) -> None:
        """Checks, before the extraction, that `mode` and `resume` allow writing to the folder.

        Raises:
            DataError: they do not, or the gallery to add to cannot be opened.
        """
        if self.mode == "add":
            store.open_gallery(self.folder)
        elif not unfinished(self.folder) and not (self.resume and store.exists(self.folder)):
            store.require_free(self.folder, overwrite=self.mode == "overwrite")


@dataclass(frozen=True)
class Database:
    """A database to write to; each shard of features is pushed as it finishes, and existing rows stay.

    Args:
        place: address of the collection, which is created if missing.
        resume: skip shards whose tracklets are all in the collection; without it, an existing tracklet is an error.
        index: Milvus index type of a new collection.
        shard_frames, skip_tracklets: as in `Target`.
    """

    place: milvus.Address
    resume: bool = False
    index: str | None = None
    shard_frames: int = SHARD_FRAMES
    skip_tracklets: bool = False

    def held(self) -> contextlib.AbstractContextManager[None]:
        """Returns a null context: other programs may write to the database at the same time."""
        return contextlib.nullcontext()


@dataclass(frozen=True, eq=False)
class _Source:
    """The tracklets to embed, and the metadata of their features, known before extraction.

    Args:
        split: T tracklets.
        query: row numbers of the queries.
        gallery: row numbers of the gallery.
        keys: keys of the tracklets.
        fingerprint: of model and preprocessing.
        dim: D.
        about: entries of gallery.json: run, checkpoint, preprocessing, source, names.
        time: (T,) float64 seconds, NaN if unknown; None if the source has no times.
    """

    split: Split
    query: np.ndarray
    gallery: np.ndarray
    keys: list[str]
    fingerprint: str
    dim: int
    about: Mapping[str, Any]
    time: np.ndarray | None


@dataclass(frozen=True)
class Engine:
    """The processes that embed: this one and, under torchrun, the other ranks; or the actors of a Ray cluster.

    Args:
        on_ray: embed on a Ray cluster.
        cpus: CPU cores per Ray actor, see `extract_on_ray.team`.
    """

    on_ray: bool = False
    cpus: int | None = None

    @contextlib.contextmanager
    def started(
        self, config: Config, place: contextlib.AbstractContextManager[None]
    ) -> Iterator[tuple[Runtime, Team | None]]:
        """Starts the engine and enters `place`, the lock of the target, as a context manager; the team is None without Ray."""
        if self.on_ray:
            if world_size() > 1:
                raise ConfigError("--engine ray: start it without torchrun; Ray starts the processes")
            with place, extract_on_ray.team(config.machine.device, config.machine.dtype, self.cpus) as team:
                yield team.asking, team
        else:
            # The lock is taken after the process group has started, so that if it fails, the other processes stop too.
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
    """Extracts features to a feature folder or a database.

    Args:
        model: where to load the network from.
        overrides: overrides of its config for this machine, such as device and workers.
        source: dataset, folder of tracklet folders, or manifest to embed.
        kind: `mars`, `folders`, `manifest`, or `auto` to detect it.
        target: the feature folder or database to write to.
        engine: the processes that embed; by default this one, and under torchrun the other ranks.
    """
    config = model.config([*overrides, *["data.damaged=skip"] * target.skip_tracklets])
    in_range("shard", target.shard_frames, 1)
    kind = detect_kind(source) if kind == "auto" else kind
    split, query, gallery, names, time = _tracklets(source, kind, config)
    size = f"{counted(len(split), 'tracklet')}, {counted(split.num_frames, 'frame')}"
    logger.info("%s: %s with %s", source, kind, size)
    if not target.skip_tracklets:  # missing images are reported before the extraction, not during it
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
        embedded = _Source(
            split, query, gallery, keys, trained.fingerprint, trained.embedding.num_features, about, time
        )
        options = _options(config, trained.embedding)
        work = Work(
            trained.embedding, trained.preprocess, split, {}, options, config.data.damaged, target.skip_tracklets
        )
        if isinstance(target, Database):
            _into_database(work, embedded, target, runtime, team)
        else:
            _into_folder(work, embedded, target, runtime, team)


def _into_folder(work: Work, source: _Source, target: Target, runtime: Runtime, team: Team | None) -> None:
    """Extracts the missing shards, saves each as it finishes, and merges them to the feature folder."""
    if target.index is not None:
        Index(target.index, source.dim)  # an invalid factory string is reported before the extraction
    numbers = {"fingerprint": source.fingerprint, "dtype": str(runtime.dtype).removeprefix("torch.")}
    shards = Shards(target.folder, source.split, target.shard_frames, source.dim, {**numbers, "mode": target.mode})
    todo = _begin(source, shards, target, runtime)
    listed = shards.folder / DAMAGED  # written before each shard, so that no saved shard lacks its entries
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
    """Extracts the missing shards and pushes each to the database as it finishes."""
    parts, missing, lost = in_parts(source.split, target.shard_frames), np.zeros(0, bool), 0
    place, everything = target.place, np.arange(len(source.split))
    if runtime.is_main:
        unknown = np.broadcast_to(np.eye(1, source.dim, dtype=np.float32), (len(everything), source.dim))
        there = milvus.held_rows(_rows_of(source, everything, unknown, {}), place, index=target.index)
        if there.any() and not target.resume:
            more = f" (and {there.sum() - 1} more)" if there.sum() > 1 else ""
            first = source.keys[int(np.argmax(there))]
            raise DataError(
                f"{place}: already has a tracklet {first!r}{more}; --resume auto skips existing tracklets, as after an interruption"
            )
        missing = np.array([not there[rows].all() for rows in parts])
    todo = _in_every_process(missing, len(parts), runtime)
    damaged: dict[str, str] = {}
    for number, features, left_out in _embedded(work, {number: parts[number] for number in todo}, runtime, team):
        has = ~np.isnan(features[:, 0])
        lost += int((~has).sum())
        damaged |= left_out
        if runtime.is_main and has.any():
            rows = parts[number][has]
            part = _rows_of(source, rows, features[has], left_out)
            milvus.push(part, place, index=target.index, overwrite=target.resume, row=rows)
    if runtime.is_main:
        logger.info("%s: %s are there", place, counted(len(everything) - lost, "tracklet"))
        if lost:
            told = counted(lost, "tracklet was", "tracklets were")
            logger.warning("%s: %s left out, because none of their images can be read", place, told)
        _say(damaged)


def _rows_of(source: _Source, rows: np.ndarray, features: np.ndarray, left_out: Mapping[str, str]) -> Gallery:
    """Makes a gallery of some of the tracklets, given by row number, and their features."""
    split, key = source.split.select(rows), np.array(source.keys, np.str_)[rows]
    count = np.arange(len(rows))
    made = FeatureSet(features, split.pid, split.camid, count[:0], count, key, source.fingerprint)
    shown, time = _shown(split, left_out), None if source.time is None else source.time[rows]
    return Gallery(Path(source.about["source"]), made, split.lengths, shown, source.about, time=time)


def _embedded(
    work: Work, parts: Mapping[int, np.ndarray], runtime: Runtime, team: Team | None
) -> Iterator[tuple[int, np.ndarray, dict[str, str]]]:
    """Yields number and features of each shard, and the damaged images left out; computed by the Ray team, or by this program's ranks."""
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
    """Prepares the shards in the main process; returns the numbers of the shards to extract, in every process.

    Raises:
        DataError: rows cannot be added to the gallery, or the extraction cannot be resumed.
    """
    missing = np.zeros(0, bool)
    if runtime.is_main:
        if _is_there(source, target):
            logger.info("%s: %s: up to date", target.folder, counted(len(source.split), "tracklet"))
        else:
            if target.mode == "add":
                change.require_addable(store.open_gallery(target.folder), source.keys, source.fingerprint)
            shards.begin(resume=target.resume, overwrite=target.mode == "overwrite")
            missing = shards.missing()
            if not missing.all():
                logger.info("%s: resuming, %d of %d parts are done", target.folder, (~missing).sum(), len(missing))
    return _in_every_process(missing, len(shards.rows), runtime)


def _in_every_process(missing: np.ndarray, count: int, runtime: Runtime) -> list[int]:
    """Sends the indices of the True elements of `missing` from the main process to all.

    Args:
        missing: (count,) bool in the main process, or empty for no True element; empty in the other processes.
        count: number of elements.
        runtime: of this process.
    """
    told = torch.zeros(count, dtype=torch.int64)
    told[: len(missing)] = torch.from_numpy(missing)
    return np.flatnonzero(sum_over_processes(told.to(runtime.device)).cpu().numpy()).tolist()


def _is_there(source: _Source, target: Target) -> bool:
    """Whether an extraction to be resumed is already complete."""
    among_others = target.mode == "add"
    return (
        target.resume
        and target.mode != "overwrite"
        and change.holds(target.folder, source.keys, source.fingerprint, source.time, among_others=among_others)
    )


def _write(source: _Source, shards: Shards, target: Target, left_out: Mapping[str, str]) -> None:
    """Merges the shards to the feature folder, with mode `add` after the existing rows.

    Args:
        source: the tracklets.
        shards: all of them saved.
        target: the feature folder.
        left_out: path -> reason of damaged images.
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
    place = np.cumsum(kept) - 1  # new row number of each kept tracklet
    query, searched = (place[rows[kept[rows]]] for rows in (source.query, source.gallery))
    key = np.array(source.keys, np.str_)[kept]
    rows = FeatureSet(features[-size:], split.pid, split.camid, query, searched, key, source.fingerprint)
    about = {**source.about, **({LEFT_OUT: lost} if lost else {})}
    time = None if source.time is None else source.time[kept]
    gallery = Gallery(target.folder, rows, split.lengths, _shown(split, left_out), about, time=time)
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
        told = (
            f"{counted(len(lost), 'tracklet was', 'tracklets were')} left out, because none of their images can be read"
        )
        logger.warning("%s: %s, such as %s; gallery.json lists them (%s)", target.folder, told, lost[0], LEFT_OUT)
    _say(left_out, f"; {target.folder / DAMAGED} lists them")
    if index is not None:
        log_recall(gallery, index)


def _kept(source: _Source, shards: Shards, target: Target) -> np.ndarray:
    """Returns (T,) bool: whether a tracklet has features; a shard has NaN for one without readable images.

    Raises:
        DataError: a shard was extracted with `skip_tracklets` and lacks tracklets, but the flag is not set now; no tracklet has features.
    """
    kept = ~np.concatenate([np.isnan(part[:, 0]) for part in shards.features()])
    if not kept.all() and not target.skip_tracklets:
        first = source.keys[int(np.argmin(kept))]
        raise DataError(
            f"{shards.folder}: started with --skip-tracklets, and without {counted(int((~kept).sum()), 'tracklet')} such as {first}; "
            "use that flag again, or delete shards/"
        )
    if not kept.any():
        raise DataError(f"{source.split.root}: none of the images of {counted(len(kept), 'tracklet')} can be read")
    return kept


def _shown(split: Split, left_out: Mapping[str, str]) -> np.ndarray:
    """Returns (T,) texts: the middle frame of each tracklet, or its first undamaged frame if that is damaged."""
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
    """Logs the recall of an index on its gallery."""
    found = recall(gallery.features, index)
    logger.info("index %s: recall@10 %.3f against exact; robust-reid search --tune tries others", index.factory, found)


def _tracklets(
    source: Path, kind: str, config: Config
) -> tuple[Split, np.ndarray, np.ndarray, IdNames, np.ndarray | None]:
    """Loads the tracklets to embed, their query and gallery rows, names, and times.

    Only sources with a test protocol have queries. Of a MARS layout the test set is embedded, of a table all tracklets.

    Raises:
        DataError: the MARS layout has no test set.
    """
    if kind == "mars":
        benchmark = load_mars(source)
        if not len(benchmark.test):
            raise DataError(
                f"{source}: no test set, and only the test set of a MARS layout is extracted; robust-reid import {source} --out tracks.csv "
                "makes a table of its training tracklets, which can be extracted"
            )
        return benchmark.test, benchmark.query, benchmark.gallery, benchmark.names, None
    if kind == "folders":
        split = load_folders(source)
        return split, np.arange(0), np.arange(len(split)), IdNames(), None
    rows = load_rows(source, with_times=True)
    for note in rows.notes:
        logger.info("%s: %s", source, note)
    query, gallery = rows.query, rows.gallery
    if rows.part is not None:  # a test only uses tracklets of the test set; robust-reid search uses all
        tested, any_camera = np.flatnonzero(rows.part == "test"), config.test.any_camera
        if rows.role is None:
            drawn = draw_test(rows.split.select(tested), Draw(seed=config.data.split_seed), any_camera=any_camera)
            query, gallery = (tested[found] for found in drawn)
        query, gallery = np.intersect1d(query, tested), np.intersect1d(gallery, tested)
    return rows.split, query, gallery if len(query) else np.arange(len(rows.split)), rows.names, rows.time


def features_of(
    config: Config,
    model: Embedding | Exported | ColorHistogram,
    preprocess: Preprocess,
    split: Split,
    runtime: Runtime,
    *,
    query: Sequence[int] | np.ndarray | None = None,
    gallery: Sequence[int] | np.ndarray | None = None,
    damaged: DamagedImages | None = None,
    label: str = "embedding",
) -> FeatureSet:
    """Extracts the features of all tracklets of a split.

    Args:
        config: config of the model, with pooling, batch size and workers.
        model: the network.
        preprocess: converts frames to its input.
        split: T tracklets.
        runtime: of this process.
        query, gallery: row numbers, all by default.
        damaged: records the images left out.
        label: text of the progress bar.
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


def _options(config: Config, model: Embedding | Exported | ColorHistogram) -> dict[str, Any]:
    return {
        "dim": model.num_features,
        "pooling": POOLINGS[config.test.pooling],
        "batch_size": config.test.batch_size,
        "workers": config.machine.workers,
    }
