"""Wrapper around faiss: an index is given by a factory string, with search parameters after a colon.

`Flat` is exact. `IVF1024,Flat:nprobe=16` searches 16 of 1024 cells. Any faiss factory string is allowed:
https://github.com/facebookresearch/faiss/wiki/The-index-factory. The metric is the inner product.

Shapes: N rows, D feature dimensions, Q queries, K list length.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reid.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

ROWS_AT_ONCE = 2**16  # rows added per call, so that a memory-mapped array is never copied whole
TRAINED_ROWS = 2**16  # rows that an index is trained on, or all if there are fewer
TRAINED_PER_CELL = 64  # training rows per IVF cell, if that makes more; faiss recommends at least 39


class Index:
    """A faiss index of all rows of a gallery; its ids are row numbers.

    Args:
        factory: faiss factory string, such as ``IVF1024,PQ64x4fs:nprobe=32``.
        dim: D.

    Raises:
        ConfigError: faiss is not installed, or rejects this string for this D.
    """

    def __init__(self, factory: str, dim: int) -> None:
        faiss = import_faiss()
        self.factory = factory
        structure, _, parameters = factory.partition(":")
        try:
            self.faiss: Any = faiss.index_factory(dim, structure, faiss.METRIC_INNER_PRODUCT)
        except RuntimeError as error:
            raise ConfigError(
                f"index: faiss cannot make {structure!r} with {dim} dimensions: {_reason(error)}"
            ) from None
        if parameters:
            self.set(parameters)

    def set(self, parameters: str) -> None:
        """Sets search parameters such as ``nprobe=16`` or ``efSearch=64``, separated by commas.

        Raises:
            ConfigError: this kind of index has no such parameter.
        """
        structure = self.factory.partition(":")[0]
        space = import_faiss().ParameterSpace()
        try:
            space.set_index_parameters(self.faiss, parameters)
        except RuntimeError:
            space.initialize(self.faiss)
            names = [space.parameter_ranges.at(i).name for i in range(space.parameter_ranges.size())]
            takes = f"{structure} takes {', '.join(names) or 'none'}"
            raise ConfigError(f"index: cannot set {parameters!r}; expected name=number, and {takes}") from None
        self.factory = f"{structure}:{parameters}"

    def build(self, features: np.ndarray) -> Index:
        """Trains the index on a sample of the rows if it needs training, then adds all rows.

        Args:
            features: (N, D) float32; may be memory-mapped.

        Raises:
            ConfigError: faiss cannot build it from these rows, for example because there are too few.
        """
        ivf = import_faiss().try_extract_index_ivf(self.faiss)
        wanted = TRAINED_ROWS if ivf is None else max(TRAINED_ROWS, TRAINED_PER_CELL * ivf.nlist)
        sample = np.unique(np.linspace(0, len(features) - 1, min(wanted, len(features))).astype(np.int64))
        try:
            if not self.faiss.is_trained:
                self.faiss.train(features[sample])
            self.add(features)
        except RuntimeError as error:
            rows = f"{len(features)} rows of {features.shape[1]} dimensions"
            raise ConfigError(f"index: faiss cannot build {self.factory!r} from {rows}: {_reason(error)}") from None
        return self

    def add(self, features: np.ndarray) -> None:
        """Appends (n, D) rows, whose ids continue the numbering; the index is not trained again."""
        for first in range(0, len(features), ROWS_AT_ONCE):
            self.faiss.add(np.ascontiguousarray(features[first : first + ROWS_AT_ONCE]))

    def replace(self, features: np.ndarray) -> None:
        """Replaces all rows by these (n, D) rows; the index is not trained again."""
        self.faiss.reset()
        self.add(features)

    def search(self, query_QD: np.ndarray, k: int) -> np.ndarray:
        """Returns (Q, K) int64 row numbers, approximately nearest first; -1 where fewer are found."""
        return self.faiss.search(query_QD, k)[1]

    def num_bytes(self) -> int:
        """Returns the size of the saved index in bytes, which is about its size in memory."""
        faiss, counted = import_faiss(), [0]

        def count(part: bytes) -> int:
            counted[0] += len(part)
            return len(part)

        faiss.write_index(self.faiss, faiss.PyCallbackIOWriter(count))
        return counted[0]

    def save(self, file: Path) -> None:
        """Writes the index, including its search parameters.

        Raises:
            DataError: the file cannot be written.
        """
        try:
            import_faiss().write_index(self.faiss, str(file))
        except RuntimeError as error:
            raise DataError(f"{file}: cannot write this index: {_reason(error)}; is the disk full?") from None

    def on_gpus(self) -> Index:
        """Moves the index to all GPUs if faiss has GPU support and a GPU version of this index; else it stays on the CPU."""
        if num_gpus():
            try:
                self.faiss = import_faiss().index_cpu_to_all_gpus(self.faiss)
            except RuntimeError as error:
                logger.info("index %s stays on the CPU: %s", self.factory, _reason(error))
        return self


def read_index(
    file: Path, record: Mapping[str, Any], shape: tuple[int, ...], fingerprint: str | None, folder: Path
) -> Index:
    """Reads a saved index and checks that it belongs to the features of the gallery.

    Args:
        file: index file written by `Index.save`.
        record: `factory`, `rows` and `fingerprint`, as stored in gallery.json when the index was built.
        shape: (N, D) of the features.
        fingerprint: of the model that made the features.
        folder: the gallery folder, for messages.

    Raises:
        DataError: the index is missing, damaged, or stale.
    """
    faiss, factory = import_faiss(), str(record.get("factory", "FACTORY"))
    again = f"rebuild it: robust-reid gallery index {folder} '{factory}'; or search exactly: --index Flat"
    try:
        held = faiss.read_index(str(file))
    except (RuntimeError, MemoryError) as error:
        raise DataError(f"{file}: cannot read this index: {_reason(error)}; {again}") from None
    made = (held.ntotal, held.d, record.get("rows"), record.get("fingerprint"), held.metric_type)
    if made != (*shape, shape[0], fingerprint, faiss.METRIC_INNER_PRODUCT):
        of = f"{held.ntotal} rows of {held.d} dimensions by model {record.get('fingerprint')}"
        rows = f"{shape[0]} rows of {shape[1]} dimensions by model {fingerprint}"
        raise DataError(f"{file}: out of date: made from {of}, but the gallery has {rows}; {again}")
    index = Index(factory.partition(":")[0], shape[1])
    index.factory, index.faiss = factory, held
    return index


def import_faiss() -> Any:
    """Imports faiss.

    Raises:
        ConfigError: it is not installed; the message gives the command to install it.
    """
    try:
        import faiss
    except ImportError:
        raise ConfigError("galleries need faiss: pip install 'robust-reid[cpu]' or 'robust-reid[gpu]'") from None
    return faiss


@functools.cache
def num_gpus() -> int:
    """Number of GPUs that this build of faiss can use; 0 for the CPU build."""
    return int(getattr(import_faiss(), "get_num_gpus", int)())


def _reason(error: Exception) -> str:
    """The message of a faiss error on one line, without the location in its C++ source."""
    text = re.sub(r"^.*? at \S+?:\d+: ", "", " ".join(str(error).split()))
    return text.removeprefix("Error: ")
