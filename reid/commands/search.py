"""Search: find the nearest tracklets in a gallery to images, folders of frames, or tracklets of the gallery itself.

torch and the network are imported only if a query must be embedded by a run or a weight file: a tracklet of the gallery is found without
them, and an exported ONNX file embeds without them.

Shapes: Q queries, K list length, D feature.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from reid import times
from reid.datasets import frames
from reid.datasets.decoding import decode
from reid.datasets.images import IMAGE_SUFFIXES, WIDE, images_in
from reid.errors import ConfigError, DataError, counted, in_range, nearest
from reid.export.onnx_file import OnnxNetwork, is_onnx
from reid.files import atomic
from reid.gallery import milvus, store, tune
from reid.gallery.index import Index, num_gpus
from reid.gallery.search import Hits, rows_of, search
from reid.gallery.store import Gallery
from reid.gallery.threshold import false_match_threshold
from reid.report.hits import HitList, write_hits
from reid.report.records import Kind, Thumbnail
from reid.report.tables import text_table
from reid.tracklets import Split

if TYPE_CHECKING:
    from reid.experiment import Source

logger = logging.getLogger(__name__)

SCHEMA = 1
PICTURE = (128, 256)  # largest (width, height) of a picture in the HTML file


@dataclass(frozen=True)
class Query:
    """One query as typed, resolved to a row of the gallery, or to frames to embed (then `row` is -1)."""

    text: str
    row: int = -1
    frames: Sequence[Path] = ()


@dataclass(frozen=True)
class Options:
    """Options of a search.

    Args:
        top_k: hits per query.
        camera: search only rows of these cameras, given by number or name.
        not_camera: do not search rows of these cameras.
        person: search only rows of these persons, given by number or name.
        not_person: do not search rows of these persons.
        after: search only tracklets that begin at this time or later, see `reid.times`; those without a time are left out.
        before: search only tracklets that begin before this time; likewise.
        min_similarity: the smallest similarity of a hit.
        false_match_rate: choose this threshold by the share of impostor pairs of the gallery that reach it.
        index: faiss factory string to search with, `Flat` for exact search; by default the folder's index, if it has one.
        run: directory of the run that embeds queries; by default that in gallery.json.
        checkpoint: checkpoint of that run.
        weights: weight file that embeds queries; by default that in gallery.json.
        model: network of the weight file; by default that in gallery.json.
        size: (height, width) of its input; by default that in gallery.json.
        device: device to embed on.
    """

    top_k: int = 10
    camera: list[str] | None = None
    not_camera: list[str] | None = None
    person: list[str] | None = None
    not_person: list[str] | None = None
    after: float | None = None
    before: float | None = None
    min_similarity: float | None = None
    false_match_rate: float | None = None
    index: str | None = None
    run: Path | None = None
    checkpoint: str | None = None
    weights: Path | None = None
    model: str | None = None
    size: tuple[int, int] | None = None
    device: str = "auto"


@dataclass(frozen=True, eq=False)
class _Maker:
    """The model and preprocessing that made a gallery, needed to embed queries the same way.

    Args:
        place: path or address of the gallery, for messages.
        about: entries of `gallery.json`.
        fingerprint: of model and preprocessing.
    """

    place: str
    about: Mapping[str, Any]
    fingerprint: str | None


@dataclass(frozen=True, eq=False)
class _Answer:
    """Result of a search.

    Args:
        gallery: the whole gallery of a folder, or the rows fetched from a database.
        row: displayed row number of each row of `gallery`.
        queries: the queries.
        hits: their `rows` index into `gallery`.
        facts: description of the search, by name.
    """

    gallery: Gallery
    row: np.ndarray
    queries: Sequence[Query]
    hits: Hits
    facts: dict[str, str]


def run(
    place: Path | milvus.Address,
    queries: Sequence[str],
    options: Options,
    *,
    json_file: Path | None = None,
    html_file: Path | None = None,
) -> None:
    """Searches a gallery, prints the hits, and optionally writes them to files.

    Args:
        place: feature folder of robust-reid extract, or a database filled by robust-reid gallery push.
        queries: keys of the gallery, images (also of a packed folder), or folders of the frames of one tracklet.
        options: options of the search.
        json_file: file for the hits as JSON.
        html_file: file for a page with pictures of the hits.
    """
    if isinstance(place, Path):
        answer = _in_folder(place, queries, options)
    else:
        answer = _in_database(place, queries, options)
    for name, fact in answer.facts.items():
        logger.info("%s: %s", name, fact)
    records = [
        {"schema": SCHEMA, "query": query.text, "hits": _hits(answer, i)} for i, query in enumerate(answer.queries)
    ]
    _print(records)
    if json_file is not None:
        with atomic(json_file) as temporary:
            temporary.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    if html_file is not None:
        about = answer.gallery.about
        facts = {
            "gallery": str(place),
            "model": str(about.get("run") or about.get("weights", "unknown")),
            **answer.facts,
        }
        lists = [_sheet(answer.gallery, query, answer.hits, i) for i, query in enumerate(answer.queries)]
        name = place.absolute().name if isinstance(place, Path) else str(place)
        write_hits(html_file, f"Hits in {name}", facts, lists)


def _in_folder(folder: Path, queries: Sequence[str], options: Options) -> _Answer:
    gallery = store.open_gallery(folder)
    features = gallery.features
    cameras, persons = gallery.names.camid, gallery.names.pid
    rows = rows_of(
        features,
        camera=_numbers("camera", gallery, cameras, options.camera),
        not_camera=_numbers("camera", gallery, cameras, options.not_camera),
        person=_numbers("person", gallery, persons, options.person),
        not_person=_numbers("person", gallery, persons, options.not_person),
        time=gallery.time,
        after=options.after,
        before=options.before,
    )
    row_of = store.rows_by_key(gallery)
    named = _named(row_of, queries, f"{folder} (a key is like {next(iter(row_of))!r})")
    least, facts = _least_similarity(gallery, options)
    index = _index(gallery, options.index) if rows is None else None
    maker = _Maker(str(folder), gallery.about, features.fingerprint)
    asked = _features_of(maker, named, features.features, options)
    own = np.array([query.row for query in named])
    hits = search(features, asked, top_k=options.top_k, rows=rows, own=own, index=index).above(least)
    facts["searched"] = (
        f"{len(features.pid if rows is None else rows)} of {counted(len(features.pid), 'tracklet')}, "
        + ("exactly" if index is None else f"by {index.factory}")
    )
    return _Answer(gallery, np.arange(len(features.pid)), named, hits, facts)


def _in_database(place: milvus.Address, queries: Sequence[str], options: Options) -> _Answer:
    for flag, given in (("--false-match-rate", options.false_match_rate), ("--index", options.index)):
        if given is not None:
            raise ConfigError(f"{flag}: needs all rows of a feature folder; search the folder, or use --min-similarity")
    least, facts = _given_similarity(options)
    with milvus.opened(place) as collection:
        for folder in collection.unfinished:
            logger.warning("%s: incomplete: robust-reid gallery push %s %s has not finished", place, folder, place)
        total = collection.count()
        expr = collection.filter(
            camera=options.camera,
            not_camera=options.not_camera,
            person=options.person,
            not_person=options.not_person,
            after=options.after,
            before=options.before,
        )
        among = collection.count(expr) if expr else total
        if not total:
            raise DataError(f"{place}: has no rows; push a gallery to it")
        if not among:
            raise DataError(
                f"{place}: none of {counted(total, 'row')} matches all of camera, person and time; names and numbers are both allowed"
            )
        held = collection.rows(queries)
        row_of = {key: row for row, key in enumerate(held)}
        named = _named(row_of, queries, str(place))
        own_features = np.array([row[milvus.FEATURE] for row in held.values()], np.float32).reshape(-1, collection.dim)
        asked = _features_of(_Maker(str(place), collection.about, collection.fingerprint), named, own_features, options)
        own = [held[query.text] if query.row >= 0 else None for query in named]
        found = milvus.nearest(collection, asked, top_k=options.top_k, expr=expr, own=own)
        facts["searched"] = f"{among} of {counted(total, 'tracklet')}, by Milvus {collection.index}"
    local = store.rows_by_key(found.gallery)
    named = [replace(query, row=local[query.text]) if query.row >= 0 else query for query in named]
    return _Answer(found.gallery, found.row, named, found.hits.above(least), facts)


def run_tune(folder: Path, top_k: int, factory: str | None) -> None:
    """Prints recall, time and memory of indexes on this gallery, next to exact search.

    Args:
        folder: feature folder of robust-reid extract.
        top_k: the K of recall@K.
        factory: faiss factory string of the only index to measure; None measures `tune.candidates`.
    """
    features = store.open_gallery(folder).features
    header = ["index", f"recall@{top_k}", "ms/query", "bytes/row", "build s"]
    lines = []
    for trial in tune.tune(features, None if factory is None else {factory: []}, top_k=top_k):
        numbers = (f"{trial.milliseconds:.3f}", f"{trial.bytes_per_row:.0f}", f"{trial.build_seconds:.1f}")
        lines.append([trial.factory, f"{trial.recall:.3f}", *numbers])
        logger.info("%s: recall %.3f, %s ms per query", trial.factory, trial.recall, numbers[0])
    print(text_table(header, lines))
    if len(features.pid) < tune.SMALL:
        print(
            f"{len(features.pid)} rows are few: exact search (Flat, no index) takes {lines[0][2]} ms per query and misses nothing; "
            f"below {tune.SMALL:,} rows it is best"
        )
    else:
        print(f"to keep one: robust-reid gallery index {folder} 'INDEX'")


def _numbers(what: str, gallery: Gallery, names: Mapping[int, str], given: Sequence[str] | None) -> list[int] | None:
    """Converts names or numbers of cameras or persons to numbers.

    Raises:
        ConfigError: the gallery has no such camera or person.
    """
    if given is None:
        return None
    number_of = {name: number for number, name in names.items()}
    for text in given:
        if text not in number_of and not text.removeprefix("-").isdecimal():
            ids = gallery.features.camid if what == "camera" else gallery.features.pid
            there = sorted({names.get(number, str(number)) for number in np.unique(ids).tolist()})
            raise ConfigError(f"{what}: {gallery.folder} has no {what} {text!r}; {nearest(text, there)}")
    return [number_of[text] if text in number_of else int(text) for text in given]


def _named(row_of: Mapping[str, int], queries: Sequence[str], place: str) -> list[Query]:
    """Resolves each query; a key of the gallery takes precedence over a file of that name.

    Raises:
        DataError: a query is no key, image or folder of frames.
    """
    named = []
    for text in queries:
        path = Path(text)
        if text in row_of:
            named.append(Query(text, row=row_of[text]))
        elif path.is_dir():
            named.append(Query(text, frames=_frames_of(path)))
        elif path.is_file() or frames.is_packed(path):
            named.append(Query(text, frames=[path]))
        else:
            raise DataError(f"query {text}: no such image, folder of frames or key of {place}")
    return named


def _frames_of(folder: Path) -> list[Path]:
    names = images_in(folder)
    if not names:
        raise DataError(
            f"query {folder}: expected the images of one tracklet ({', '.join(IMAGE_SUFFIXES)}) in it, got none"
        )
    return [folder / name for name in names]


def _least_similarity(gallery: Gallery, options: Options) -> tuple[float, dict[str, str]]:
    """Returns the smallest similarity of a hit, and a description of how it was chosen."""
    if options.false_match_rate is not None:
        told = false_match_threshold(gallery.features, options.false_match_rate)
        sample = f", a sample of {told.rows} of {told.labelled} labelled rows" if told.rows < told.labelled else ""
        pairs = f"{told.pairs} pairs of different persons in this gallery{sample}"
        words = f"{told.similarity:.4f}, reached by at most {options.false_match_rate:g} of {pairs}"
        return told.similarity, {"least similarity": words}
    return _given_similarity(options)


def _given_similarity(options: Options) -> tuple[float, dict[str, str]]:
    if options.min_similarity is not None:
        in_range("min_similarity", options.min_similarity, -1, 1)
        return options.min_similarity, {"least similarity": f"{options.min_similarity:g}"}
    return -2.0, {}


def _index(gallery: Gallery, factory: str | None) -> Index | None:
    """Returns the index to search with; None for exact search on the CPU. With a GPU, exact search uses a Flat index."""
    index = store.open_index(gallery) if factory is None else None
    if index is None and (factory not in (None, "Flat") or num_gpus()):
        features = gallery.features.features
        index = Index(factory or "Flat", features.shape[1]).build(features)
    return None if index is None else index.on_gpus()


def _features_of(maker: _Maker, queries: Sequence[Query], features: np.ndarray, options: Options) -> np.ndarray:
    """Returns (Q, D) query features: the stored rows of (n, D) `features` for keys, else embedded by the gallery's model."""
    asked = np.empty((len(queries), features.shape[1]), np.float32)
    own = [i for i, query in enumerate(queries) if query.row >= 0]
    new = [i for i, query in enumerate(queries) if query.row < 0]
    asked[own] = features[[queries[i].row for i in own]]
    if new:
        asked[new] = _embedded(maker, [queries[i] for i in new], options)
    return asked


def _weights(maker: _Maker, options: Options) -> Path | None:
    """Returns the weight file to embed queries with: the given one, else the one that made the gallery; None if that was a run.

    Raises:
        DataError: it does not exist.
    """
    if options.run is not None or (options.weights is None and "weights" not in maker.about):
        return None
    file = options.weights or Path(maker.about["weights"])
    if not file.is_file():
        raise DataError(f"{file}: the weight file that made {maker.place} is missing; set its path with --weights")
    return file


def _model(maker: _Maker, file: Path | None, options: Options) -> tuple[Source, list[str]]:
    """Returns the model to embed queries with, of a weight file or else a run, and overrides of its config.

    Raises:
        ConfigError: gallery.json names no run or weight file, and none is given.
        DataError: the run does not exist.
    """
    from reid.experiment import OfRun, OfWeights
    from reid.rundir import RunDirectory

    about = maker.about
    if file is not None:
        name = (about.get("model") or {}).get("name")
        settings = [one for one in _as_extracted(about) if not (options.size and one.startswith("augment."))]
        settings += (
            [f"model={json.dumps(about['model'])}"]
            if isinstance(about.get("model"), dict) and not options.model
            else []
        )
        return OfWeights(file, options.model or name, options.size), settings
    place = options.run or about.get("run")
    if place is None:
        raise ConfigError(f"{maker.place}: gallery.json names no run to embed queries with; set it with --run")
    if not RunDirectory(Path(place)).config_file.is_file():
        raise DataError(f"{place}: the run that made {maker.place} is missing; set its path with --run")
    return OfRun(Path(place), options.checkpoint or about.get("checkpoint", "last")), _as_extracted(about)


def _embedded(maker: _Maker, queries: Sequence[Query], options: Options) -> np.ndarray:
    """Returns (Q, D) features of queries.

    Raises:
        DataError: the model is another one than that of the gallery.
    """
    _warn_of_full_frames(queries)
    file = _weights(maker, options)
    if file is not None and is_onnx(file):
        features, fingerprint = _embedded_without_torch(file, queries, options)
        source = str(file)
    else:
        features, fingerprint, source = _embedded_by_torch(maker, file, queries, options)
    if fingerprint != maker.fingerprint:
        raise DataError(
            f"{source}: its fingerprint is {fingerprint}, but {maker.place} was extracted with {maker.fingerprint}; features of different "
            "models cannot be mixed: name the model that extracted it with --run and --checkpoint, or --weights, or extract it again"
        )
    return features


def _embedded_without_torch(file: Path, queries: Sequence[Query], options: Options) -> tuple[np.ndarray, str | None]:
    """Returns features and fingerprint, by ONNX Runtime."""
    if options.model or options.size or options.device not in ("auto", "cpu"):
        raise ConfigError(
            f"{file}: runs on the CPU, and contains network and input size; leave out --model, --size, --device"
        )
    network = OnnxNetwork(file)
    features = [network.embed_tracklet([decode(path) for path in query.frames]) for query in queries]
    return np.stack(features), network.fingerprint


def _embedded_by_torch(
    maker: _Maker, file: Path | None, queries: Sequence[Query], options: Options
) -> tuple[np.ndarray, str | None, str]:
    """Returns features, fingerprint and source, by a run or weight file."""
    from reid.commands.extract import features_of
    from reid.runtime import start

    source, settings = _model(maker, file, options)
    config = source.config([*settings, f"machine.device={json.dumps(options.device)}", "machine.workers=0"])
    stop = np.cumsum([len(query.frames) for query in queries])
    unknown = np.zeros(len(queries), np.int64)
    names = np.array([os.fsencode(path.absolute()) for query in queries for path in query.frames])
    split = Split(
        Path("/"), names, np.append(0, stop[:-1]), stop, unknown, unknown - 1, np.array([q.text for q in queries])
    )
    with start(config.machine.device, config.machine.dtype) as runtime:
        trained = source.load(config, runtime)
        made = features_of(config, trained.embedding, trained.preprocess, split, runtime)
    return made.features, made.fingerprint, str(source)


def _as_extracted(about: Mapping[str, Any]) -> list[str]:
    """Returns config overrides for the image sizes and pooling of the gallery's extraction, which may differ from the run's config."""
    keys = {"resize": "augment.resize", "crop": "augment.crop", "pooling": "test.pooling"}
    said = about.get("preprocessing", {})
    return [f"{key}={json.dumps(said[name])}" for name, key in keys.items() if name in said]


def _warn_of_full_frames(queries: Sequence[Query]) -> None:
    """Warns of images too wide to be a crop of a person, which resizing would distort."""
    for query in queries:
        with contextlib.suppress(DataError):  # embedding reports it
            height, width, _ = decode(query.frames[0]).shape
            if width > WIDE * height:
                logger.warning(
                    "query %s: %d x %d is much wider than a person: is it a full frame? Crop the person first, else the hits mean little",
                    query.text,
                    width,
                    height,
                )


def _hits(answer: _Answer, i: int) -> list[dict[str, Any]]:
    gallery, hits = answer.gallery, answer.hits
    rows, features, names = hits.rows[i][hits.rows[i] >= 0], gallery.features, gallery.names
    assert features.key is not None
    return [
        {
            "rank": rank,
            "row": int(answer.row[row]),
            "key": str(features.key[row]),
            "pid": int(features.pid[row]),
            "camid": int(features.camid[row]),
            "similarity": float(similarity),
            "path": str(gallery.path[row]),
            **({"pid_name": names.pid[pid]} if (pid := int(features.pid[row])) in names.pid else {}),
            **({"camid_name": names.camid[camid]} if (camid := int(features.camid[row])) in names.camid else {}),
            **({"time": time} if (time := _time(gallery, row)) else {}),
        }
        for rank, (row, similarity) in enumerate(zip(rows, hits.similarity[i], strict=False), start=1)
    ]


def _print(records: Sequence[dict[str, Any]]) -> None:
    for record in records:
        timed = any("time" in hit for hit in record["hits"])
        rows = [
            [
                hit["rank"],
                hit["key"],
                *(hit.get(f"{name}_name", hit[name]) for name in ("pid", "camid")),
                *([hit.get("time", "")] if timed else []),
                f"{hit['similarity']:.4f}",
            ]
            for hit in record["hits"]
        ]
        header = ["rank", "key", "pid", "camid", *(["time"] if timed else []), "similarity"]
        table = text_table(header, rows) if rows else "no hit"
        print(f"query {record['query']}\n{table}\n")


def _sheet(gallery: Gallery, query: Query, hits: Hits, i: int) -> HitList:
    """Returns the pictures of one query and its hits; hits are marked as correct or wrong if the query's identity is known."""
    features, (first, count) = gallery.features, (query.row, int((hits.rows[i] >= 0).sum()))
    pid = int(features.pid[first]) if first >= 0 else 0
    frame = Path(gallery.path[first]) if first >= 0 else query.frames[len(query.frames) // 2]
    caption = _who(gallery, first) if first >= 0 else counted(len(query.frames), "frame")
    shown = []
    for row, similarity in zip(hits.rows[i, :count], hits.similarity[i], strict=False):
        found = int(features.pid[row])
        # If the query's identity is unknown, a hit is neither correct nor wrong.
        kind: Kind = "hit" if pid < 1 else "match" if found == pid else "distractor" if found == 0 else "wrong"
        caption_of_hit = f"{_who(gallery, int(row))}\n{similarity:.2f}"
        shown.append(Thumbnail(_picture(Path(gallery.path[row])), caption_of_hit, kind))
    return HitList(query.text, counted(count, "hit"), Thumbnail(_picture(frame), caption, "query"), shown)


def _who(gallery: Gallery, row: int) -> str:
    """Returns the row's key, and its person, camera and time if known, one line each."""
    features, names = gallery.features, gallery.names
    assert features.key is not None
    pid, camid = int(features.pid[row]), int(features.camid[row])
    known = [names.person(pid)] * (pid >= 1) + [names.camera(camid)] * (camid >= 0)
    return "\n".join(filter(None, [str(features.key[row]), *known, _time(gallery, row)]))


def _time(gallery: Gallery, row: int) -> str:
    """Returns when a row begins; empty if unknown."""
    return "" if gallery.time is None else times.written(float(gallery.time[row]))


def _picture(path: Path) -> bytes:
    """Returns an image as JPEG of at most `PICTURE` pixels; a grey one if the image cannot be read."""
    try:
        image = Image.fromarray(decode(path))
    except DataError as error:
        logger.warning("no image: %s", error)
        image = Image.new("RGB", (64, 128), "#808080")
    image.thumbnail(PICTURE)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return file.getvalue()
