"""Made-up features of persons before cameras, whose wrong labels are known."""

from dataclasses import dataclass

import numpy as np
import pytest


@dataclass
class World:
    """(N, D) features, (N,) true and given persons, cameras."""

    features: np.ndarray
    true: np.ndarray
    given: np.ndarray
    camid: np.ndarray

    @property
    def wrong(self) -> np.ndarray:
        return self.true != self.given


def make_world(*, persons: int = 40, each: int = 10, rate: float = 0.2, spread: float = 0.6, seed: int = 0) -> World:
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(persons, 32))
    true = np.repeat(np.arange(1, persons + 1), each)
    camid = np.tile(np.arange(each) % 4, persons)
    features = centre[true - 1] + spread * rng.normal(size=(len(true), 32))
    given = true.copy()
    changed = rng.permutation(len(true))[: round(rate * len(true))]
    given[changed] = (true[changed] - 1 + rng.integers(1, persons, len(changed))) % persons + 1
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return World(features.astype(np.float32), true, given, camid)


@pytest.fixture
def world() -> World:
    return make_world()
