"""The plan of a demo dataset: which person walks past which camera, for how many frames. Shapes: T tracklets."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reid.datasets.demo_settings import DemoSettings
from reid.datasets.scenes import CAMERAS

Ints = NDArray[np.int64]

LAYOUT, LOOKS, TRACKLET = range(3)  # second word of every seed: the purpose of the draw
STRANGERS = 10_000  # `looks` from here on belong to people without a pid


@dataclass(frozen=True)
class DemoPlan:
    """Tracklets to draw, in the order of the noiseless table; every field is (T,)."""

    number: Ints  # seed of the tracklet
    pid: Ints
    camid: Ints
    length: Ints
    looks: Ints  # seed of the person; -1 for a box with background only
    intruder: Ints  # seed of the person in frames where the tracker loses its own
    slip: NDArray[np.float64]  # misplacement of the box, as a share of its size


def draw_pids(settings: DemoSettings) -> tuple[Ints, Ints]:
    """Draw training and test pids, each sorted, interleaved as in MARS."""
    rng = np.random.default_rng([settings.seed, LAYOUT, 0])
    mixed = 1 + rng.permutation(settings.train_ids + settings.test_ids)
    return np.sort(mixed[: settings.train_ids]), np.sort(mixed[settings.train_ids :])


def plan_identities(settings: DemoSettings, pids: Ints, subset: int) -> DemoPlan:
    """Draw the tracklets of people with a pid: each person walks past 2 to 6 cameras, past some of them repeatedly."""
    rng = np.random.default_rng([settings.seed, LAYOUT, 1 + subset])
    pid, camid = [], []
    for person in pids:
        count = max(2, settings.tracklets_per_id + int(rng.integers(-2, 3)))
        seen_by = 1 + rng.permutation(len(CAMERAS))[: rng.integers(2, min(count, len(CAMERAS)) + 1)]
        again = rng.choice(seen_by, size=count - len(seen_by))
        camid.append(np.sort(np.concatenate([seen_by, again])))
        pid.append(np.full(count, person))
    pid_T, total = np.concatenate(pid), sum(map(len, pid))
    shift_T = rng.integers(1, len(pids), size=total)
    return DemoPlan(
        number=np.arange(total) * 2 + subset,  # even: training, odd: test; neither changes when the other grows
        pid=pid_T,
        camid=np.concatenate(camid),
        length=rng.integers(settings.min_frames, settings.max_frames + 1, size=total),
        looks=pid_T,
        intruder=pids[(np.searchsorted(pids, pid_T) + shift_T) % len(pids)],
        slip=np.zeros(total),
    )


def plan_test(settings: DemoSettings, pids: Ints) -> DemoPlan:
    """Draw the test people, then distractors (strangers, 20 % of them boxes with background only), then junk (badly misplaced boxes)."""
    people = plan_identities(settings, pids, subset=1)
    rng = np.random.default_rng([settings.seed, LAYOUT, 3])
    lost, junk = settings.distractors, settings.junk
    strangers = np.where(rng.random(lost) < 0.2, -1, STRANGERS + np.arange(lost))
    extra = lost + junk
    added = DemoPlan(
        number=people.number[-1] + 2 * np.arange(1, extra + 1),
        pid=np.repeat([0, -1], [lost, junk]),
        camid=rng.integers(1, len(CAMERAS) + 1, size=extra),
        length=rng.integers(settings.min_frames, settings.max_frames + 1, size=extra),
        looks=np.concatenate([strangers, rng.choice(pids, size=junk)]),
        intruder=rng.choice(pids, size=extra),
        slip=np.repeat([0.0, 0.6], [lost, junk]),
    )
    fields = (field.name for field in dataclasses.fields(DemoPlan))
    return DemoPlan(**{name: np.concatenate([getattr(people, name), getattr(added, name)]) for name in fields})
