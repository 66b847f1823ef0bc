"""Tracklet features: one function for query, gallery and held-out tracklets alike.

Shapes: n frames of a chunk, T tracklets, D feature.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from reid.augment import Preprocess
from reid.datasets.loader import load_batches
from reid.models.pooling import Pooling
from reid.runtime import Runtime, sum_over_processes
from reid.tracklets import Split


@torch.inference_mode()
def extract(
    model: nn.Module,
    preprocess: Preprocess,
    split: Split,
    runtime: Runtime,
    *,
    dim: int,
    pooling: Callable[[int, int], Pooling],
    batch_size: int,
    workers: int,
    progress: bool = False,
) -> np.ndarray:
    """Embeds every frame and pools each tracklet's; memory does not grow with a tracklet's length.

    Args:
        model: (n, 3, h, w) -> (n, D); put in evaluation mode for the time.
        split: T tracklets; processes share them, each tracklet whole in one.
        dim: D.
        batch_size: frames per forward pass.
        workers: decoding processes.

    Returns:
        (T, D) float32 rows of unit length in the order of `split`, the same in every process.
    """
    mine = np.arange(runtime.rank, len(split), runtime.world_size)
    frames, rows = split.frames(mine), np.repeat(mine, split.lengths[mine])
    borders = range(0, len(frames), batch_size)
    chunks = [frames[i : i + batch_size] for i in borders]
    pool = pooling(len(split), dim)
    was_training, _ = model.training, model.eval()
    batches = load_batches(split, chunks, workers=workers, pin_memory=runtime.device.type == "cuda")
    watched = sys.stderr.isatty()
    pace = {"mininterval": 0.1 if watched else 60.0, "leave": not watched}  # in a log file, a line a minute
    with tqdm(total=len(frames), desc="extract", unit="frame", disable=not progress, **pace) as bar:
        for i, batch in zip(borders, batches, strict=True):
            images = preprocess(batch.images, runtime.device)
            with runtime.autocast():
                features = model(images)
            pool.add(features.float().cpu(), torch.from_numpy(rows[i : i + batch_size]))
            bar.update(len(features))
    model.train(was_training)
    pooled = sum_over_processes(pool.result().to(runtime.device)).cpu()
    return torch.nn.functional.normalize(pooled).float().numpy()


def fingerprint(model: nn.Module, preprocess: Preprocess, pooling: str) -> str:
    """16 hexadecimal digits of everything that a feature depends on: features of different fingerprints never mix."""
    digest = hashlib.sha256(repr((type(model).__name__, preprocess.resize, preprocess.crop, pooling)).encode())
    for tensor in (preprocess.mean, preprocess.std, *model.state_dict().values()):
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
