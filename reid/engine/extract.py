"""Tracklet features: one function for query, gallery and held-out tracklets alike.

Shapes: n frames of a chunk, T tracklets, S tracklets of a shard, D feature.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from reid.augment import Preprocess
from reid.datasets.loader import load_batches
from reid.models.pooling import Pooling
from reid.runtime import Runtime, sum_over_processes
from reid.tracklets import Split


def extract(model: nn.Module, preprocess: Preprocess, split: Split, runtime: Runtime, **options: Any) -> np.ndarray:
    """Embeds every frame and pools each tracklet's; memory does not grow with a tracklet's length.

    Args:
        model, preprocess, split, runtime, options: as for `extract_shards`.

    Returns:
        (T, D) float32 rows of unit length in the order of `split`, the same in every process.
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
    progress: bool = False,
) -> Iterator[np.ndarray]:
    """The features of some tracklets after those of others, so that what is done can be saved; memory is that of one shard.

    No batch reaches over a shard's border, so a shard's features do not depend on which others are extracted.

    Args:
        model: (n, 3, h, w) -> (n, D); in evaluation mode meanwhile.
        split: T tracklets; processes share those of a shard, each tracklet whole in one.
        shards: (S,) tracklet numbers each.
        dim: D.
        batch_size: frames per forward pass.
        workers: decoding processes.

    Yields:
        (S, D) float32 rows of unit length per shard, the same in every process.
    """
    mine = [_share(split, shard, runtime, batch_size) for shard in shards]
    frames = [chunk for chunks in mine for chunk, _ in chunks]
    was_training, _ = model.training, model.eval()
    batches = load_batches(split, frames, workers=workers, pin_memory=runtime.device.type == "cuda")
    watched = sys.stderr.isatty()
    pace = {"mininterval": 0.1 if watched else 60.0, "leave": not watched}  # in a log file, a line a minute
    with tqdm(total=sum(map(len, frames)), desc="extract", unit="frame", disable=not progress, **pace) as bar:
        for shard, chunks in zip(shards, mine, strict=True):
            pool = pooling(len(shard), dim)
            for _, places in chunks:
                images = preprocess(next(batches).images, runtime.device)
                with runtime.autocast():
                    features = model(images)
                pool.add(features.float().cpu(), torch.from_numpy(places))
                bar.update(len(features))
            pooled = sum_over_processes(pool.result().to(runtime.device)).cpu()
            yield torch.nn.functional.normalize(pooled).float().numpy()
    model.train(was_training)


def _share(split: Split, shard: np.ndarray, runtime: Runtime, batch_size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """This process's part of a shard, in chunks: the frames, and the place in the shard of the tracklet of each."""
    mine = np.arange(runtime.rank, len(shard), runtime.world_size)
    frames, places = split.frames(shard[mine]), np.repeat(mine, split.lengths[shard[mine]])
    return [(frames[i : i + batch_size], places[i : i + batch_size]) for i in range(0, len(frames), batch_size)]


def fingerprint(model: nn.Module, preprocess: Preprocess, pooling: str) -> str:
    """16 hexadecimal digits of everything that a feature depends on: features of different fingerprints never mix."""
    digest = hashlib.sha256(repr((type(model).__name__, preprocess.resize, preprocess.crop, pooling)).encode())
    for tensor in (preprocess.mean, preprocess.std, *model.state_dict().values()):
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
