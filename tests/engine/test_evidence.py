"""What training takes down of its samples, against a plain loop over the same steps; over a resume, and over processes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reid.engine import evidence
from reid.engine.evidence import PARTS, Evidence, fit_of
from reid.engine.train import Job, fit
from reid.errors import CheckpointError
from reid.tracklets import Split
from tests.engine.conftest import CPU, make_job, make_split

STEPS = 20


def job_of(split: Split, iterations: int = STEPS) -> Job:
    return replace(make_job(split, iterations=iterations, dropout=False), evidence=Evidence(split, iterations))


def test_means_are_those_of_what_was_seen() -> None:
    rng = np.random.default_rng(0)
    split = Split(
        Path(),
        np.array([b"a", b"b", b"c", b"d", b"e"]),
        np.array([0, 3]),
        np.array([2, 5]),
        np.array([1, 2]),
        np.array([0, 0]),
    )
    taken, seen = Evidence(split, STEPS), []
    for step in range(STEPS):
        frames = rng.choice([0, 1, 3], 6)  # 2 belongs to nobody, 4 is never drawn
        logits, weight = rng.normal(0, 5, (6, 4)), rng.random(6)
        target = rng.integers(4, size=6)
        p, margin = fit_of(torch.from_numpy(logits), torch.from_numpy(target))
        taken.add(step, torch.from_numpy(frames), p, margin, torch.from_numpy(weight).float())
        for frame, z, y, w in zip(frames, logits, target, weight, strict=True):
            seen.append((step, frame, np.exp(z[y]) / np.exp(z).sum(), z[y] - np.delete(z, y).max(), w))
    found = evidence.means(taken.of_all_processes())
    steps, frames, p, margin, weight = (np.array(column) for column in zip(*seen, strict=True))
    assert found["frame_count"].sum() == len(frames)
    for place, frame in ((0, 0), (1, 1), (2, 3)):  # 2 is nobody's
        mine = frames == frame
        assert found["frame_count"][place] == mine.sum()
        expected = {
            "p": p[mine].mean(),
            "p_std": p[mine].std(),
            "margin": margin[mine].mean(),
            "weight": weight[mine].mean(),
        }
        assert {name: found[f"frame_{name}"][place] for name in expected} == pytest.approx(expected, abs=2e-5)
    assert np.isnan(found["frame_p"][3])  # frame 4 was never drawn
    for row, own in enumerate(([0, 1], [3, 4])):
        for part in range(PARTS):
            mine = np.isin(frames, own) & (steps // (STEPS // PARTS) == part)
            assert found["tracklet_count"][row, part] == mine.sum()
            if mine.any():
                assert found["tracklet_margin"][row, part] == pytest.approx(margin[mine].mean(), abs=1e-5)
                assert found["tracklet_p"][row, part] == pytest.approx(p[mine].mean(), abs=1e-5)
                assert found["tracklet_weight"][row, part] == pytest.approx(weight[mine].mean(), abs=1e-5)


def test_logits_without_an_end_stay_counted() -> None:
    p, margin = fit_of(torch.tensor([[0.0, 1e30], [300.0, -300.0]]), torch.tensor([0, 0]))
    assert p.tolist() == [0.0, 1.0]
    split = Split(
        Path(), np.array([b"a", b"b"]), np.array([0, 1]), np.array([1, 2]), np.array([1, 2]), np.array([0, 0])
    )
    taken = Evidence(split, 1)
    taken.add(0, torch.tensor([0, 1]), p, margin, torch.ones(2))
    assert evidence.means(taken.state_dict())["frame_margin"].tolist() == [-(2.0**22), 600.0]


def test_a_resumed_run_has_seen_the_same(tmp_path: Path) -> None:
    split = make_split(tmp_path)
    whole, first, second = (job_of(split) for _ in range(3))
    fit(whole, CPU)

    def stop(done: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(first, CPU, after_step=stop)
    assert second.evidence is not None and first.evidence is not None and whole.evidence is not None
    second.evidence.restore(first.evidence.of_all_processes(), "c.pt", is_main=True)
    second.model.load_state_dict(first.model.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    fit(second, CPU, first_step=7)
    assert all(
        torch.equal(value, whole.evidence.state_dict()[name]) for name, value in second.evidence.state_dict().items()
    )
    with pytest.raises(CheckpointError, match="the evidence belongs to other tracklets: count_F: expected"):
        Evidence(split.select([0]), STEPS).restore({}, "c.pt", is_main=True)


def test_sums_do_not_depend_on_who_has_seen_what() -> None:
    rng = np.random.default_rng(1)
    split = Split(Path(), np.array([b"a", b"b", b"c"]), np.array([0]), np.array([3]), np.array([1]), np.array([0]))
    alone, here, there = (Evidence(split, 5) for _ in range(3))
    for step in range(5):
        frames, values = torch.from_numpy(rng.integers(3, size=9)), torch.from_numpy(rng.normal(0, 9, (3, 9))).float()
        alone.add(step, frames, *values)
        here.add(step, frames[:4], *values[:, :4])
        there.add(step, frames[4:].flip(0), *values[:, 4:].flip(1))
    for name, value in alone.state_dict().items():
        assert torch.equal(here.state_dict()[name] + there.state_dict()[name], value)
