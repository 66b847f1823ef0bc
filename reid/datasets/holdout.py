"""Training identities kept out of training, to choose a checkpoint by; the test set is never used for that.

Shapes: T tracklets.
"""

from __future__ import annotations

import numpy as np

from reid.errors import ConfigError
from reid.runtime import seed_of
from reid.tracklets import Split


def hold_out(split: Split, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits the tracklets by identity: an open-set split, as training and test identities are.

    Args:
        split: training tracklets with the labels that training would see.
        share: of the identities, 0 < share < 1.
        seed: draws them.

    Returns:
        rows to train on and rows held out, each rising int64.

    Raises:
        ConfigError: fewer than 2 identities would be on either side.
    """
    pids = np.unique(split.pid)
    count = round(share * len(pids))
    if not 2 <= count <= len(pids) - 2:
        raise ConfigError(
            f"data.holdout: {share} of {len(pids)} identities is {count}; expected at least 2 held out and 2 to train on"
        )
    held = np.random.default_rng(seed_of(seed, "holdout")).choice(pids, count, replace=False)
    is_held = np.isin(split.pid, held)
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)
