"""Samplers: what each promises about its batches, and that batch t depends on (seed, t) only."""

from dataclasses import replace

import numpy as np
import pytest

from reid.datasets.loader import StepBatches
from reid.datasets.sampling import SAMPLERS, FrameSampler, IdentitySampler, TrackletSampler
from reid.errors import ConfigError
from reid.tracklets import Split


@pytest.fixture
def split() -> Split:
    lengths = np.array([1, 7, 3, 50, 2, 9, 4, 4])
    stop = np.cumsum(lengths)
    names = np.array([f"{i}.jpg".encode() for i in range(100)])  # 20 names that no tracklet covers
    return Split("root", names, stop - lengths, stop, np.array([5, 5, 9, 9, 9, 2, 2, 2]), np.arange(8))


def tracklet_of(split: Split, frames: np.ndarray) -> np.ndarray:
    return np.searchsorted(split.stop, frames, side="right")


@pytest.mark.parametrize("name", SAMPLERS)
def test_batch_t_depends_on_seed_and_t_only(split: Split, name: str) -> None:
    one, other, differs = (SAMPLERS[name](split, 8, seed) for seed in (3, 3, 4))
    forward = [one(t) for t in range(40)]
    backward = [other(t) for t in reversed(range(40))][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(forward, backward, strict=True))
    assert all(batch.shape == (8,) and batch.dtype == np.int64 for batch in forward)
    assert not all(np.array_equal(batch, differs(t)) for t, batch in enumerate(forward))


def test_frames_come_once_an_epoch(split: Split) -> None:
    for batch_size in (8, 80, 200):  # within an epoch, just one, several epochs a batch
        sampler = FrameSampler(split, batch_size, seed=0)
        drawn = np.concatenate([sampler(t) for t in range(400 // batch_size)])
        for epoch in drawn.reshape(-1, 80):
            assert sorted(epoch) == list(range(80))


def test_tracklets_come_once_an_epoch_and_frames_are_their_own(split: Split) -> None:
    sampler = TrackletSampler(split, 4, seed=0)
    drawn = np.concatenate([sampler(t) for t in range(1600)])
    for epoch in tracklet_of(split, drawn).reshape(-1, 8):
        assert sorted(epoch) == list(range(8))
    counts = np.bincount(drawn, minlength=100)
    assert counts[80:].sum() == 0
    assert (counts[:80] > 0).all()  # every frame is drawn sooner or later


def test_identities_p_by_k_from_different_tracklets(split: Split) -> None:
    sampler = IdentitySampler(split, 6, seed=0, K=3)
    for t in range(50):
        rows = tracklet_of(split, sampler(t)).reshape(2, 3)
        pids = split.pid[rows]
        assert (pids == pids[:, :1]).all()
        assert pids[0, 0] != pids[1, 0]
        for group, pid in zip(rows, pids[:, 0], strict=True):
            assert len(set(group)) == min(3, (split.pid == pid).sum())


def test_identities_p_by_tracklets_by_frames(split: Split) -> None:
    """Pid 5 has tracklets of 1 and 7 frames, 9 of 3, 50 and 2, 2 of 9, 4 and 4."""
    sampler, seen = IdentitySampler(split, 12, seed=0, K=6, tracklets=2), set()
    for t in range(200):
        batch = sampler(t).reshape(2, 2, 3)
        rows = tracklet_of(split, batch)
        assert (rows == rows[:, :, :1]).all()  # three frames of one tracklet
        assert (rows[:, 0, 0] != rows[:, 1, 0]).all()  # of two different ones
        pids = split.pid[rows[:, :, 0]]
        assert (pids[:, 0] == pids[:, 1]).all()
        assert pids[0, 0] != pids[1, 0]
        for frames, row in zip(batch.reshape(4, 3), rows[:, :, 0].ravel(), strict=True):
            assert len(set(frames)) == min(3, split.stop[row] - split.start[row])
        seen |= set(batch.ravel())
    assert seen == set(range(80))
    alone = IdentitySampler(split.select(np.arange(3)), 4, seed=0, K=4, tracklets=2)  # an identity with one tracklet
    assert any((tracklet_of(split, alone(t)) == 2).all() for t in range(20))


@pytest.mark.parametrize("tracklets", [0, 4, 7])
def test_identities_refuse_tracklets_that_do_not_divide(split: Split, tracklets: int) -> None:
    with pytest.raises(ConfigError, match="tracklets: expected a divisor of K = 6, got"):
        IdentitySampler(split, 12, seed=0, K=6, tracklets=tracklets)


@pytest.mark.parametrize("K", [0, 4, 1])
def test_identities_refuse_what_cannot_be_filled(split: Split, K: int) -> None:
    with pytest.raises(ConfigError, match="expected a divisor of the batch size 6 with batch size / K <= 3 identities"):
        IdentitySampler(split, 6, seed=0, K=K)


def test_processes_share_a_batch_without_overlap(split: Split) -> None:
    sampler = FrameSampler(split, 7, seed=0)
    for step in range(5):
        shares = [StepBatches(sampler, 2, 9, rank, 3)[step] for rank in range(3)]
        together = np.full(7, -1)
        for rank, share in enumerate(shares):
            together[rank::3] = share
        assert np.array_equal(together, sampler(2 + step))


def test_identities_across_cameras(split: Split) -> None:
    """Cameras in turn, each alike often; other frames of a tracklet that is appears twice, as long as there are some."""
    cameras = np.array(
        [0, 1, 3, 3, 3, 7, 7, 2]
    )  # person 5: two cameras, 9: one, 2: two, of which one has two tracklets
    split = replace(split, camid=cameras)
    sampler = IdentitySampler(split, 12, seed=0, K=4, tracklets=2, cross_camera=True)
    of_two, plain = [], []
    for step in range(60):
        frames = sampler(step)
        rows = tracklet_of(split, frames).reshape(3, 2, 2)
        assert (rows[:, :, 0] == rows[:, :, 1]).all()
        for person, tracklets in zip(split.pid[rows[:, 0, 0]], rows[:, :, 0], strict=True):
            assert len(set(tracklets)) == 2
            assert len(set(cameras[tracklets])) == (1 if person == 9 else 2)
            of_two += tracklets.tolist() if person == 2 else []
        other = IdentitySampler(split, 12, seed=0, K=4, tracklets=2)(step)
        plain += [len(set(cameras[tracklet_of(split, part)])) for part in other.reshape(3, 4)]
    assert set(of_two) == {5, 6, 7}
    assert of_two.count(7) == 60  # camera 2 as often as camera 7, which has two tracklets
    assert plain.count(1) > 70  # without it, persons of two cameras are often seen by one


def test_identities_with_few_tracklets_give_other_frames(split: Split) -> None:
    sampler = IdentitySampler(split, 24, seed=0, K=8, cross_camera=True)
    for step in range(20):
        for frames in sampler(step).reshape(3, 8):
            rows = tracklet_of(split, frames)
            for row in set(rows):  # each tracklet gives as many different frames as it has, before any comes twice
                assert len(set(frames[rows == row])) == min((rows == row).sum(), split.lengths[row])
