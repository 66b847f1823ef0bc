"""Galleries made of random features, without a model."""

from pathlib import Path

import numpy as np
import pytest

from reid.features import FeatureSet
from reid.gallery import store
from reid.tracklets import Split


def split_of(keys: list[str], pid: np.ndarray, camid: np.ndarray, frames: int = 3) -> Split:
    names = np.array([f"{key}/{i}.jpg".encode() for key in keys for i in range(frames)])
    start = frames * np.arange(len(keys))
    return Split(Path("root"), names, start, start + frames, pid, camid, np.array(keys))


def features_of(
    split: Split, seed: int = 0, dim: int = 8, query: tuple[int, ...] = (), mark: str = "f00"
) -> FeatureSet:
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((len(split), dim)) + 2 * rng.standard_normal((50, dim))[split.pid % 50]
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    assert split.keys is not None
    return FeatureSet(features, split.pid, split.camid, np.array(query, int), np.arange(len(split)), split.keys, mark)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """40 tracklets t0 … t39 of 10 persons and some unknown, rows 3 and 7 being queries."""
    split = split_of([f"t{i}" for i in range(40)], np.arange(40) % 11, np.arange(40) % 4 - 1)
    features = features_of(split, query=(3, 7))
    store.write(tmp_path / "gallery", features, split, {"run": "runs/x", "checkpoint": "last", "source": "here"})
    return tmp_path / "gallery"
