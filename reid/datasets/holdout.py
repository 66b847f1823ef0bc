"""Hold out training identities to choose a checkpoint; the test set is never used for that.

Shapes: T tracklets, Q queries.
"""

from __future__ import annotations

import numpy as np

from reid.datasets.splitting import can_match
from reid.errors import ConfigError
from reid.protocol import EvalProtocol, get_protocols
from reid.runtime import seed_of
from reid.tracklets import Split


def hold_out(split: Split, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split the tracklets by identity: an open-set split, like that of training and test identities.

    Args:
        split: training tracklets with the labels that training would see.
        share: of the identities, 0 < share < 1.
        seed: of the draw.

    Returns:
        rows to train on and rows held out, each int64 in ascending order.

    Raises:
        ConfigError: fewer than 2 identities would be in either part.
    """
    pids = np.unique(split.pid)
    count = round(share * len(pids))
    if not 2 <= count <= len(pids) - 2:
        raise ConfigError(
            f"data.holdout: {share} of {len(pids)} identities is {count}; expected at least 2 held out and at least 2 to train on"
        )
    held = np.random.default_rng(seed_of(seed, "holdout")).choice(pids, count, replace=False)
    is_held = np.isin(split.pid, held)
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)


def how_to_judge(held: Split, *, any_camera: bool) -> tuple[EvalProtocol, np.ndarray]:
    """Choose the protocol to evaluate held-out tracklets by, and their queries; all held-out tracklets are the gallery.

    Args:
        held: T tracklets.
        any_camera: as `test.any_camera`, so that a checkpoint is chosen by the same rule as in the test. Set anyway if no camera is known.

    Returns:
        `market1501`, which leaves out queries without a match, and (Q,) int64 row numbers in ascending order. A tracklet with an unknown
        camera is no query unless `any_camera` holds, because it would match itself.

    Raises:
        ConfigError: no query has a match, so no checkpoint could be chosen.
    """
    any_camera = any_camera or bool((held.camid < 0).all())
    able = can_match(held, any_camera=any_camera)
    query = np.flatnonzero(able if any_camera else able & (held.camid >= 0))
    if not len(query):
        why = "each has one tracklet" if any_camera else "each is seen by one camera only"
        advice = "" if any_camera else "; test.any_camera=true counts matches from the query's own camera"
        raise ConfigError(
            f"held-out identities: {len(np.unique(held.pid))} cannot be evaluated: {why}{advice}; use "
            "data.holdout=0, or no rows of the split val, to train without them"
        )
    return get_protocols("market1501", any_camera=any_camera)[0], query
