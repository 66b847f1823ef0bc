"""Feature extraction: one function for query, gallery and held-out tracklets.

Shapes: n frames of a batch, T tracklets, S tracklets of a shard, D feature.
"""

from __future__ import annotations

import hashlib
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from reid.augment import Preprocess
from reid.datasets.damaged import DamagedImages
from reid.datasets.loader import FrameBatch, load_batches
from reid.errors import DataError, counted
from reid.export.deployed import Exported
from reid.models.fused import fused
from reid.models.pooling import Pooling
from reid.runtime import Runtime, gather_rows
from reid.tracklets import Split

_FRAMES_AT_ONCE = 8  # frames per forward pass on a CPU: more no longer fit its caches


def extract(model: nn.Module, preprocess: Preprocess, split: Split, runtime: Runtime, **options: Any) -> np.ndarray:
    """Embeds all frames and pools them per tracklet; memory does not grow with the length of a tracklet.

    Args:
        model, preprocess, split, runtime, options: as for `extract_shards`.

    Returns:
        (T, D) float32 features of unit norm in the order of `split`, the same in every process.
    """
    [features_TD] = extract_shards(model, preprocess, split, runtime, [np.arange(len(split))], **options)
    return features_TD


@torch.inference_mode()
def extract_shards(
    model: nn.Module,
    preprocess: Preprocess,
    split: Split,
    runtime: Runtime,
    shards: Sequence[np.ndarray],
    *,
    dim: int,
    pooling: Callable[[int, int], Pooling],
    batch_size: int,
    workers: int,
    damaged: DamagedImages | None = None,
    progress: str = "",
    may_be_empty: bool = False,
) -> Iterator[np.ndarray]:
    """Extracts features shard by shard, so that finished shards can be saved; memory is that of one shard.

    No batch crosses a shard boundary, so a shard's features do not depend on which other shards are extracted. The batches are the same
    for any number of processes: processes take them in turn, and every process pools all frames in the same order. So the features are
    bit-identical for any number of processes.

    Args:
        model: (n, 3, h, w) -> (n, D); a copy of it runs in evaluation mode, and the model itself is unchanged.
        split: T tracklets.
        shards: (S,) tracklet indices each.
        dim: D.
        pooling: (number of tracklets, D) -> a new `Pooling`.
        batch_size: frames per batch; a GPU embeds a batch at once, a CPU in small parts, one on each core.
        workers: image-decoding processes.
        damaged: policy for damaged images; by default the first one is an error. With images left out, a tracklet's feature is pooled
            from its other frames.
        progress: name of a progress bar over frames; no bar if empty.
        may_be_empty: a tracklet without any readable image gets a row of NaN instead of an error.

    Yields:
        (S, D) float32 features of unit norm per shard, the same in every process.

    Raises:
        DataError: an image is missing or damaged, or all images of a tracklet are, and that is not allowed.
    """
    turns = [_turns(split, shard, runtime, batch_size) for shard in shards]
    frames = [frames for of_shard in turns for frames, _ in of_shard]
    network = fused(model, torch.zeros(1, 3, *preprocess.crop, device=runtime.device))
    on_gpu = runtime.device.type == "cuda"
    batches = load_batches(split, frames, workers=workers, pin_memory=on_gpu, damaged=damaged, may_be_empty=True)
    count = 1 if on_gpu else torch.get_num_threads()
    with _threads(count) as threads, progress_bar(sum(map(len, frames)), progress) as bar:
        embedded = _embedded(network, preprocess, runtime, batches, threads, count, dim)
        for shard, of_shard in zip(shards, turns, strict=True):
            pool, seen = pooling(len(shard), dim), torch.zeros(len(shard), dtype=torch.bool)
            for frames_n, rows_n in of_shard:
                batch, features = next(embedded)
                rows = torch.from_numpy(rows_n)[batch.places].to(runtime.device)
                features, rows = gather_rows(features).cpu(), gather_rows(rows).cpu()
                pool.add(features, rows)
                seen[rows] = True
                bar.update(len(frames_n))
            if not seen.all() and not may_be_empty:
                left_out = damaged.of_all_processes(runtime.device) if damaged is not None else {}
                raise _no_frames(split, shard[~seen.numpy()], left_out)
            features_SD = nn.functional.normalize(pool.result()).float()
            features_SD[~seen] = torch.nan
            yield features_SD.numpy()


def _turns(split: Split, shard: np.ndarray, runtime: Runtime, batch_size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """This process's batches of a shard: frame indices, and for each frame the row of its tracklet in the shard.

    Batch i belongs to process i % world_size. All processes have the same number of batches; the last ones may be empty.
    """
    frames, rows = split.frames(shard), np.repeat(np.arange(len(shard)), split.lengths[shard])
    first, step = runtime.rank * batch_size, runtime.world_size * batch_size
    starts = range(first, first + len(frames), step)
    return [(frames[i : i + batch_size], rows[i : i + batch_size]) for i in starts]


def progress_bar(total: int, name: str) -> tqdm:
    """Progress bar over frames on stderr; none if the name is empty."""
    watched = sys.stderr.isatty()
    pace = {"mininterval": 0.1 if watched else 60.0, "leave": not watched}  # in a log file, one line per minute
    return tqdm(total=total, desc=name, unit="frame", disable=not name, **pace)


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Thread pool whose threads each compute on one core: a small convolution is too little work to split across cores."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, "embed", torch.set_num_threads, (1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)  # the pool's threads also set the number for all threads started later


def _embedded(
    network: nn.Module,
    preprocess: Preprocess,
    runtime: Runtime,
    batches: Iterable[FrameBatch],
    threads: ThreadPoolExecutor,
    count: int,
    dim: int,
) -> Iterator[tuple[FrameBatch, Tensor]]:
    """Batches with the (n, D) float32 features of their frames, in order; the next batches are computed ahead of time."""

    def embed(images: Tensor | list[Tensor]) -> Tensor:
        with torch.inference_mode(), runtime.autocast():  # both modes are thread-local
            return network(preprocess(images, runtime.device)).float()

    ahead: deque[tuple[FrameBatch, list[Future[Tensor]]]] = deque()
    none = torch.zeros(0, dim, device=runtime.device)

    def take() -> tuple[FrameBatch, Tensor]:
        batch, parts = ahead.popleft()
        return batch, torch.cat([none, *(part.result() for part in parts)])

    for batch in batches:
        at_once = _FRAMES_AT_ONCE if runtime.device.type == "cpu" else max(len(batch.images), 1)
        parts = [batch.images[i : i + at_once] for i in range(0, len(batch.images), at_once)]
        ahead.append((batch, [threads.submit(embed, part) for part in parts]))
        if len(ahead) > 1 and sum(len(parts) for _, parts in ahead) > 2 * count:
            yield take()
    while ahead:
        yield take()


def _no_frames(split: Split, rows: np.ndarray, left_out: Mapping[str, str]) -> DataError:
    path, reason = next(
        ((str(path), left_out[str(path)]) for path in split[rows[0]].paths if str(path) in left_out),
        (str(split.path(split.start[rows[0]])), "not read"),
    )
    more = f" (and of {counted(len(rows) - 1, 'more tracklet')})" if len(rows) > 1 else ""
    images = (
        f"none of the {counted(split.lengths[rows[0]], 'image')} of tracklet {split.key(rows[0])}{more} can be read"
    )
    return DataError(
        f"{path}: {reason}; {images}; restore them, or remove the tracklet from the dataset (extract --skip-tracklets leaves it out)"
    )


def fingerprint(model: nn.Module, preprocess: Preprocess, pooling: str) -> str:
    """Hash of everything that a feature depends on, 16 hexadecimal digits. Features with different fingerprints must not be mixed."""
    if isinstance(model, Exported):
        return model.fingerprint
    digest = hashlib.sha256(repr((type(model).__name__, preprocess.resize, preprocess.crop, pooling)).encode())
    for tensor in (preprocess.mean, preprocess.std, *model.state_dict().values()):
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
