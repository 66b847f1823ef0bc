"""Features, ranked lists and evaluation results. A `FeatureSet` is validated when it is created.

Shapes: N rows, D feature dimensions, Q queries, G gallery, K list length, R ranks.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reid.errors import DataError, counted
from reid.files import NPY_ERRORS, atomic, check_zip
from reid.protocol import EvalProtocol

logger = logging.getLogger(__name__)

SCHEMA = 1
RANKS = (1, 5, 10, 20)
REQUIRED_ARRAYS = ("features", "pid", "camid", "query")
OPTIONAL_ARRAYS = ("gallery", "key", "fingerprint")
_ADVICE = (
    "; --leave-one-out takes every row as a query; for queries in a separate file, use --query-file and --gallery-file"
)
UNIT_NORM_TOLERANCE = 1e-6  # float32 rows within it are kept bit for bit
ROWS_AT_ONCE = 16384  # rows checked at once: bounds the float64 working copy


def float32_error(dimensions: int) -> float:
    """Upper bound on the rounding error of a float32 inner product of two rows of unit norm.

    Holds for every order of summation, with or without fused multiply-add, so for every processor and library. Each of n
    products takes part in at most n roundings of relative size u = 2**-24, hence |error| <= n u / (1 - n u) * sum |x_i y_i|,
    and the sum is at most the product of the norms. Four further roundings cover norms up to 1 + 1e-6, underflow, and a
    threshold that is itself rounded to float32. Source: Higham, Accuracy and Stability of Numerical Algorithms, section 3.1.

    Args:
        dimensions: terms of the inner product, below 2**20.

    Returns:
        The bound, absolute: 6.1e-5 for 1,024 dimensions.
    """
    relative = (dimensions + 4) * 2.0**-24
    return (1 + 4 * UNIT_NORM_TOLERANCE) * relative / (1 - relative)


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features of unit norm with person ids and camera ids, one row each, and the row numbers of queries and gallery.

    Args:
        features: (N, D) real; stored as float32 rows of unit norm, normalised if necessary.
        pid: (N,) int; < 0 is junk; 0 is an identity like any other.
        camid: (N,) int; -1 = unknown, never equal to any camera.
        query: (Q,) int, 0-based row numbers without duplicates; may be empty if nothing is evaluated.
        gallery: (G,) int, 0-based row numbers without duplicates.
        key: (N,) unicode names of the rows, or None.
        fingerprint: of model and preprocessing, or None for features from another program.

    Raises:
        DataError: a row is zero or non-finite (the message names it), a shape or type is wrong, or a row number is out of range or
            duplicated.
    """

    features: np.ndarray
    pid: np.ndarray
    camid: np.ndarray
    query: np.ndarray
    gallery: np.ndarray
    key: np.ndarray | None = None
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        features = np.asanyarray(self.features)
        if features.ndim != 2 or 0 in features.shape or features.dtype.kind not in "fiu":
            raise DataError(
                f"features: expected real numbers of shape (N, D) with N, D >= 1, got {features.dtype} {features.shape}"
            )
        n = len(features)
        key = None if self.key is None else _checked_key(self.key, n)
        if not isinstance(self.fingerprint, str | None):
            raise DataError(f"fingerprint: expected a text or nothing, got {type(self.fingerprint).__name__}")
        checked = {
            "pid": _checked_ids("pid", self.pid, n),
            "camid": _checked_ids("camid", self.camid, n),
            "query": _checked_rows("query", self.query, n),
            "gallery": _checked_rows("gallery", self.gallery, n),
            "key": key,
            "features": _unit_rows(features, key),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if (self.camid < -1).any():
            row = int(np.argmax(self.camid < -1))
            raise DataError(f"camid: {_row(row, key)} has {self.camid[row]}; expected 0 or more, or -1 for unknown")

    @classmethod
    def load(cls, path: str | Path, *, leave_one_out: bool = False) -> "FeatureSet":
        """Loads a feature file.

        Args:
            path: `.npz` with `features`, `pid`, `camid`, `query`; optional `gallery` (all rows by default), `key`, `fingerprint`. Pickled
                objects are refused. Or with `query_features` and `gallery_features`, and pid and camid likewise, if the queries are not in
                the gallery.
            leave_one_out: every row that is not junk is a query against all other rows, whatever `query` and `gallery` the file has.

        Raises:
            DataError: the file is missing or damaged, lacks an array, or has an invalid one.
        """
        arrays = _columns_as_lists(_joined(_read_arrays(Path(path)), path), path)
        if leave_one_out:
            arrays |= {"query": np.flatnonzero(arrays["pid"] >= 0) if "pid" in arrays else np.arange(0)}
            arrays.pop("gallery", None)
        if missing := [name for name in REQUIRED_ARRAYS if name not in arrays]:
            found = f"{path}: missing array {', '.join(missing)}; found {', '.join(sorted(arrays)) or 'none'}"
            unknown_cameras = "; use camid -1 for unknown cameras" * ("camid" in missing)
            raise DataError(found + unknown_cameras + _ADVICE * ("query" in missing))
        if unknown := sorted(set(arrays) - {*REQUIRED_ARRAYS, *OPTIONAL_ARRAYS}):
            logger.warning("%s: not used: %s; optional arrays are %s", path, unknown, ", ".join(OPTIONAL_ARRAYS))
        rows = len(arrays["features"]) if arrays["features"].ndim else 0
        fingerprint = arrays.get("fingerprint")
        try:
            return cls(
                arrays["features"],
                arrays["pid"],
                arrays["camid"],
                arrays["query"],
                arrays.get("gallery", np.arange(rows)),
                arrays.get("key"),
                None if fingerprint is None else _checked_text(fingerprint),
            )
        except DataError as error:
            raise DataError(*(f"{path}: {problem}" for problem in error.problems)) from None

    def save(self, path: str | Path) -> None:
        """Saves a feature file atomically; `load` restores it bit for bit.

        Args:
            path: the `.npz` to write.
        """
        arrays = {name: getattr(self, name) for name in (*REQUIRED_ARRAYS, *OPTIONAL_ARRAYS)}
        arrays = {name: np.asarray(value) for name, value in arrays.items() if value is not None}
        with atomic(Path(path)) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)


def beside(query: FeatureSet, gallery: FeatureSet) -> FeatureSet:
    """Concatenates two sets: the rows of the first are the queries, those of the second the gallery.

    Raises:
        DataError: the features have different dimensions.
    """
    sizes = query.features.shape[1], gallery.features.shape[1]
    if sizes[0] != sizes[1]:
        raise DataError(
            f"features: the queries have {sizes[0]} dimensions, the gallery {sizes[1]}; expected features of the same model"
        )
    count, both = len(query.pid), (query, gallery)
    rows = np.arange(count + len(gallery.pid))
    key = None if query.key is None or gallery.key is None else np.concatenate([query.key, gallery.key])
    features, pid, camid = (np.concatenate([getattr(s, name) for s in both]) for name in ("features", "pid", "camid"))
    return FeatureSet(features, pid, camid, rows[:count], rows[count:], key)


@dataclass(frozen=True, eq=False)
class Ranking:
    """The nearest gallery rows of each query without junk, nearest first, ties by row number.

    Args:
        protocol: the rules for gallery and junk.
        query: (Q,) int64 row numbers.
        rows: (Q, K) int64 row numbers; -1 where fewer than K rows remain.
        similarity: (Q, K) float64 cosine in [-1, 1]; 0 where `rows` is -1.
        match: (Q, K) bool, whether the row has the query's pid; False where `rows` is -1.
    """

    protocol: EvalProtocol
    query: np.ndarray
    rows: np.ndarray
    similarity: np.ndarray
    match: np.ndarray


@dataclass(frozen=True, eq=False)
class EvalResult:
    """Result of an evaluation, together with the protocol that defines it.

    Args:
        protocol: the evaluation protocol.
        mAP: mean of `ap`, a fraction; None if no query is counted.
        cmc: (R,) float64: `cmc[k - 1]` is the fraction of the counted queries with a hit at rank k or better;
            (0,) if no query is counted.
        ap: (num_queries,) float64 average precision of the counted queries, in the order of `query`.
        query: (num_queries,) int64 row numbers of the counted queries.
        num_without_match: number of queries left out because they have no match.
        num_gallery: number of rows searched, junk included.
        inp: (num_queries,) float64: number of matches of each counted query divided by the rank of its last one; None = not computed.
        first_rank: (num_queries,) int64 rank of each counted query's first hit, 0 = no match; None = not computed.
        dataset: name of the dataset if several are tested separately; None if there is one.
    """

    protocol: EvalProtocol
    mAP: float | None
    cmc: np.ndarray
    ap: np.ndarray
    query: np.ndarray
    num_without_match: int
    num_gallery: int
    inp: np.ndarray | None = None
    first_rank: np.ndarray | None = None
    dataset: str | None = None

    @property
    def num_queries(self) -> int:
        """Number of counted queries."""
        return len(self.query)

    @property
    def title(self) -> str:
        """Name of the protocol, after that of the dataset if several are tested."""
        return self.protocol.name if self.dataset is None else f"{self.dataset}, {self.protocol.name}"

    @property
    def mINP(self) -> float | None:
        """Mean of `inp`; None if it was not computed or no query is counted."""
        return None if self.inp is None or not len(self.inp) else float(self.inp.mean())

    def to_json(self) -> dict[str, Any]:
        """The public object of `eval.json`: fractions, None if no query is counted, never NaN."""
        return {
            "schema": SCHEMA,
            **({} if self.dataset is None else {"dataset": self.dataset}),
            "protocol": self.protocol.name,
            "mAP": self.mAP,
            "cmc": {str(rank): self.at_rank(rank) for rank in RANKS},
            "num_queries": self.num_queries,
            "num_without_match": self.num_without_match,
            "num_gallery": self.num_gallery,
            **({} if self.inp is None else {"mINP": self.mINP}),
        }

    def at_rank(self, rank: int) -> float | None:
        """CMC at a rank >= 1, a fraction; ranks beyond the curve repeat its last value; None if no query is counted."""
        if rank < 1:
            raise ValueError(f"rank: expected 1 or more, got {rank}")
        return float(self.cmc[min(rank, len(self.cmc)) - 1]) if len(self.cmc) else None


def save_results(
    path: str | Path, results: Sequence[EvalResult], further: Sequence[Mapping[str, Any]] | None = None
) -> None:
    """Saves `eval.json` atomically: a list of one object per protocol.

    Args:
        path: the file to write.
        results: one per protocol.
        further: keys to add to each result's object, one mapping per result.
    """
    objects = [result.to_json() for result in results]
    if further is not None:
        objects = [{**one, **more} for one, more in zip(objects, further, strict=True)]
    text = json.dumps(objects, indent=2, allow_nan=False)
    with atomic(Path(path)) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _joined(arrays: dict[str, np.ndarray], path: str | Path) -> dict[str, np.ndarray]:
    """Concatenates the arrays of queries and gallery, if a file has them separately."""
    names = [name for name in (*REQUIRED_ARRAYS[:3], "key") if {f"query_{name}", f"gallery_{name}"} <= arrays.keys()]
    if "features" not in names or "features" in arrays:
        return arrays
    parts = {name: [arrays[f"{part}_{name}"] for part in ("query", "gallery")] for name in names}
    try:
        joined = {
            name: np.concatenate([np.squeeze(a) if name != "features" else a for a in parts[name]]) for name in names
        }
    except ValueError as error:
        raise DataError(f"{path}: query and gallery arrays do not fit together: {error}") from None
    queries, rows = len(parts["features"][0]), len(joined["features"])
    logger.info(
        "%s: %s and a gallery of %d, which has no query", path, counted(queries, "query", "queries"), rows - queries
    )
    rest = {name: a for name, a in arrays.items() if name in OPTIONAL_ARRAYS and name not in joined}
    return {**rest, **joined, "query": np.arange(queries), "gallery": np.arange(queries, rows)}


def _columns_as_lists(arrays: dict[str, np.ndarray], path: str | Path) -> dict[str, np.ndarray]:
    """Flattens ids and row numbers of shape (N, 1) or (1, N), as MATLAB stores them."""
    lists = ("pid", "camid", "query", "gallery")
    columns = [name for name in lists if name in arrays and arrays[name].ndim == 2 and 1 in arrays[name].shape]
    if columns:
        logger.info("%s: %s: read as lists; row numbers count from 0", path, ", ".join(columns))
    return {name: array.ravel() if name in columns else array for name, array in arrays.items()}


def _row(row: int, key: np.ndarray | None) -> str:
    return f"row {row}" if key is None else f"row {row} (key {str(key[row])!r})"


def _checked_ids(name: str, values: np.ndarray, n: int) -> np.ndarray:
    array = np.asarray(values)
    if array.shape != (n,) or array.dtype.kind not in "iu":
        raise DataError(f"{name}: expected {n} integers, one per row of features, got {array.dtype} {array.shape}")
    if array.dtype.kind == "u" and array.max() > np.iinfo(np.int64).max:
        raise DataError(f"{name}: expected 64-bit signed integers, got {array.max()}")
    return array.astype(np.int64, copy=False)


def _checked_rows(name: str, values: np.ndarray, n: int) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in ("iu" if array.size else "iuf"):  # an empty list is float64 to numpy
        raise DataError(f"{name}: expected a list of integer row numbers, got {array.dtype} {array.shape}")
    outside = array[(array < 0) | (array >= n)]
    if outside.size:
        raise DataError(
            f"{name}: {outside.size} of {array.size} row numbers are outside 0..{n - 1}, the first is {outside[0]}; "
            f"row numbers are 0-based{'; MATLAB counts from 1: subtract 1' if array.min() > 0 and outside.min() == n else ''}"
        )
    array = array.astype(np.int64, copy=False)
    repeated = np.flatnonzero(np.bincount(array, minlength=n) > 1)
    if repeated.size:
        raise DataError(f"{name}: {repeated.size} row numbers occur more than once, the first is {repeated[0]}")
    return array


def _checked_key(values: np.ndarray, n: int) -> np.ndarray:
    array = np.asarray(values)
    if array.shape != (n,) or array.dtype.kind != "U":
        raise DataError(f"key: expected {n} texts, one per row of features, got {array.dtype} {array.shape}")
    return array


def _checked_text(value: np.ndarray) -> str:
    if value.shape not in ((), (1,)) or value.dtype.kind != "U":
        raise DataError(f"fingerprint: expected one text, got {value.dtype} {value.shape}")
    return str(value.reshape(())[()])


def _unit_rows(features: np.ndarray, key: np.ndarray | None) -> np.ndarray:
    """Float32 rows of unit norm; features that have it already are not copied (memory-mapped files included)."""
    n, renormalised = len(features), 0
    with np.errstate(over="ignore"):  # rows that overflow float32 are normalised below
        out = features.astype(np.float32, copy=False)
    for start in range(0, n, ROWS_AT_ONCE):
        rows = np.array(features[start : start + ROWS_AT_ONCE], dtype=np.float64)
        peak = np.abs(rows).max(axis=1)
        _refuse_dead_rows(peak, start, key)
        rows /= peak[:, None]  # so that squares neither overflow nor underflow
        norm = np.sqrt(np.square(rows).sum(axis=1))
        other = np.flatnonzero(np.abs(norm * peak - 1) > UNIT_NORM_TOLERANCE)
        if other.size:
            out = out.copy() if np.shares_memory(out, features) else out
            out[start + other] = rows[other] / norm[other, None]
            renormalised += other.size
    if renormalised:
        logger.warning("features: %d of %d rows did not have unit norm and were normalised", renormalised, n)
    return out


def _refuse_dead_rows(peak: np.ndarray, start: int, key: np.ndarray | None) -> None:
    for what, dead in (("has a value that is not finite", ~np.isfinite(peak)), ("is all zero", peak == 0)):
        if dead.any():
            row = start + int(np.argmax(dead))
            raise DataError(
                f"features: {_row(row, key)} {what}: the cosine similarity is undefined; fix the model or remove the row"
            )


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise DataError(f"{path}: a single array, not an .npz of named arrays; save them with numpy.savez")
            check_zip(file, contents=False)  # numpy verifies the checksums of the contents
            # numpy returns a member that is not an array as its bytes.
            return {name: np.asarray(archive[name]) for name in archive.files}
    except FileNotFoundError:
        raise DataError(f"{path}: no such feature file; expected an .npz") from None
    except ValueError as error:
        what = "it contains pickled objects or is not an .npz" if "pickle" in str(error) else str(error)
        raise DataError(f"{path}: not a feature file: {what}; save plain arrays with numpy.savez") from None
    except MemoryError as error:
        raise DataError(f"{path}: too large for this machine's memory, or damaged: {error}") from None
    except NPY_ERRORS as error:
        raise DataError(f"{path}: cannot be read as .npz ({error}): damaged or not an .npz; write it again") from None
