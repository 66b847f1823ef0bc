"""The training loop against a plain loop, across resumes, workers and processes."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from reid import runtime
from reid.engine import checkpoint
from reid.engine.nonfinite import Nonfinite
from reid.engine.train import Job, LogWindow, crop_draws, fit
from reid.errors import DataError, ReidError
from reid.losses import LOSSES
from reid.tracklets import Split
from tests.engine.conftest import CPU, FRAMES, TRACKLETS, make_job, make_split, weights


def test_equals_a_plain_loop(split: Split) -> None:
    job, plain = (make_job(split, dropout=False, loss="imae") for _ in range(2))
    rows: list[dict[str, float]] = []
    fit(job, CPU, on_log=rows.append)
    optimizer = torch.optim.SGD(plain.model.parameters(), lr=0.0, momentum=0.9, weight_decay=1e-3)
    from reid.datasets.decoding import decode

    losses = []
    for step in range(12):
        frames = plain.sampler(step)
        images = torch.stack([torch.from_numpy(decode(split.path(f))) for f in frames])
        logits = plain.model(plain.preprocess(images, torch.device("cpu"), crop_draws(plain, step)))
        loss = LOSSES["imae"]()(logits, plain.data.label_F[frames]).mean()
        losses.append(loss.item())
        optimizer.param_groups[0]["lr"] = 0.5 * 0.5 ** (step // 5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(weights(job), weights(plain), rtol=0, atol=1e-6)
    assert [row["step"] for row in rows] == [1, 4, 8, 12]
    means = [losses[0], np.mean(losses[1:4]), np.mean(losses[4:8]), np.mean(losses[8:])]
    assert [row["loss"] for row in rows] == pytest.approx(means, rel=1e-5)
    assert [row["lr"] for row in rows] == [0.5, 0.5, 0.25, 0.125]


def test_it_learns_and_counts_right(split: Split) -> None:
    job, rows = make_job(split, iterations=200, batch_size=24, dropout=False, log_freq=100), []
    fit(job, CPU, on_log=rows.append)
    assert rows[-1]["accuracy"] > 0.9
    assert rows[-1]["loss"] < rows[0]["loss"] / 3
    assert rows[0]["accuracy"] <= 0.5


def test_first_gradient_is_that_of_uniform_p(split: Split) -> None:
    for name, expected in {"cce": 2 * 2 / 3, "mae": 4 * 2 / 9, "imae": float(np.exp(8 * 2 / 9))}.items():
        rows: list[dict[str, float]] = []
        fit(make_job(split, loss=name, iterations=1), CPU, on_log=rows.append)
        assert rows[0]["grad_l1"] == pytest.approx(expected, rel=0.02)  # the classifier starts near, not at, zero


def test_intact_and_corrupted_labels_are_counted_apart(split: Split) -> None:
    job = make_job(split, iterations=200, batch_size=24, dropout=False, log_freq=100)
    wrong = job.data.label_F.clone()
    wrong[:2] = 2  # two of the eight frames of a person carry another's label
    data = replace(job.data, label_F=wrong, true_F=job.data.label_F)
    rows: list[dict[str, float]] = []
    fit(replace(job, data=data, loss=LOSSES["gce"]()), CPU, on_log=rows.append)
    last = rows[-1]
    assert last["accuracy_intact"] > 0.9
    assert last["accuracy_corrupted"] < 0.3
    assert last["accuracy_true"] > 0.9  # whoever carries the wrong labels is called what she is
    assert last["accuracy"] == pytest.approx((last["accuracy_intact"] * 22 + last["accuracy_corrupted"] * 2) / 24)


@pytest.mark.parametrize("loss", ["imae", "gce_truncated", "elr"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_ends_bit_identical(split: Split, tmp_path: Path, loss: str, workers: int) -> None:
    whole = make_job(split, loss=loss)
    rows: list[dict[str, float]] = []
    fit(whole, CPU, on_log=rows.append)

    class Killed(Exception):
        pass

    def kill(done: int) -> None:
        if done == 7:
            states = {"model": first.model.state_dict(), "loss": first.loss.state_dict()}
            checkpoint.save(tmp_path / "c.pt", step=done, optimizer=first.optimizer.state_dict(), **states)
            raise Killed

    first = make_job(split, loss=loss, workers=workers)
    with pytest.raises(Killed):
        fit(first, CPU, after_step=kill)
    second, state = make_job(split, loss=loss, workers=workers), checkpoint.load(tmp_path / "c.pt")
    for module, key in ((second.model, "model"), (second.loss, "loss")):
        checkpoint.load_weights(module, state[key], "c.pt")
    second.optimizer.load_state_dict(state["optimizer"])
    resumed: list[dict[str, float]] = []
    fit(second, CPU, first_step=state["step"], on_log=resumed.append)
    assert torch.equal(weights(second), weights(whole))
    assert resumed[-1]["loss"] == rows[-1]["loss"]
    assert resumed[-1]["lr"] == rows[-1]["lr"]


def test_clipping_bounds_the_first_step(split: Split) -> None:
    def moved(clip: float | None) -> float:
        job = make_job(split, iterations=1, clip_grad=clip, dropout=False)
        job.optimizer.param_groups[0]["weight_decay"] = 0.0
        before = weights(job)
        fit(job, CPU)
        return float((weights(job) - before).norm())

    assert moved(0.01) == pytest.approx(0.5 * 0.01, rel=1e-3)
    assert moved(None) > 0.5 * 0.01


def test_divergence_is_an_error(split: Split) -> None:
    job = make_job(split, lr=1e30)
    with pytest.raises(ReidError, match="training diverged at step 2: the loss of 5 of 5 images is not finite"):
        fit(job, CPU)


def test_a_missing_frame_stops_training(split: Split) -> None:
    split.path(5).unlink()
    with pytest.raises(DataError, match=r"05\.png: cannot read this image"):
        fit(make_job(split), CPU)


CASES: dict[str, dict[str, object]] = {
    "remembering": {"loss": "gce_truncated"},
    "remembering predictions": {"loss": "elr"},
    "in parts": {"accumulate": 2, "norm": True, "freeze_norm": True},
    "skipping": {"skips": True, "loss": "elr"},  # the steps in which one process has an image whose weight is infinite
}


def _train_one_of_many(rank: int, world_size: int, folder: Path, port: int) -> None:
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    apart, no_sync = [], DistributedDataParallel.no_sync
    DistributedDataParallel.no_sync = lambda model: apart.append(1) or no_sync(model)
    with runtime.start("cpu") as here:
        results = {}
        for name, case in CASES.items():
            job, row = _trained(folder, here, **case)
            skipped = row.get("skipped_steps", 0)
            results[name] = weights(job), job.loss.state_dict(), row["loss"], row["accuracy"], skipped, len(apart)
        if here.is_main:
            torch.save(results, folder / "results.pt")


def _trained(folder: Path, here: runtime.Runtime, **settings: object) -> tuple[Job, dict[str, float]]:
    """A job after its training, and its last row of metrics."""
    skips, rows = settings.pop("skips", False), []
    job = make_job(make_split_once(folder), dropout=False, **settings)  # type: ignore[arg-type]
    if skips:
        weight_F = torch.ones(TRACKLETS * FRAMES).index_fill_(0, torch.tensor(3), torch.inf)
        job = replace(job, data=replace(job.data, weight_F=weight_F), nonfinite=Nonfinite("skip"))
    if "loss" in settings:
        job.loss.start, job.loss.every, job.loss.k = 2, 3, 0.5
    fit(job, here, on_log=rows.append)
    return job, rows[-1]


def make_split_once(folder: Path) -> Split:
    """The images are written by the test; processes only read them."""
    names = np.array(sorted(path.name.encode() for path in folder.glob("*.png")))
    start = np.arange(6) * 4
    return Split(folder, names, start, start + 4, np.array([3, 3, 1, 1, 7, 7]), np.arange(6))


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    make_split(tmp_path)
    port = 29500 + os.getpid() % 2000
    mp.spawn(_train_one_of_many, (2, tmp_path, port), nprocs=2)  # shares of 3 and 2 images
    results = torch.load(tmp_path / "results.pt")
    for name, case in CASES.items():
        job, row = _trained(tmp_path, CPU, **{**case, "accumulate": 1})
        theirs, memory, loss, accuracy, skipped, _ = results[name]
        torch.testing.assert_close(theirs, weights(job), rtol=0, atol=1e-5)
        assert loss == pytest.approx(row["loss"], abs=1e-5)
        assert accuracy == pytest.approx(row["accuracy"])
        assert skipped == row.get("skipped_steps", 0)
        assert memory.keys() == job.loss.state_dict().keys()
        assert all(torch.equal(memory[key], value) for key, value in job.loss.state_dict().items() if key == "keep_N")
        if case.get("loss") == "elr":
            every = torch.arange(TRACKLETS * FRAMES)
            ours = job.loss.remembered(every)
            job.loss.load_state_dict(memory)
            torch.testing.assert_close(job.loss.remembered(every), ours, rtol=0, atol=1e-5)
            assert bool((ours.sum(1) > 0.3).all()) == (
                name != "skipping"
            )  # an image in skipped steps only is not remembered
    assert not results["remembering"][1]["keep_N"].all()  # the truncation had something to remember
    assert [result[-1] for result in results.values()] == [0, 0, 12, 12]  # of two parts the first is not exchanged
    assert results["skipping"][4] > 0


def test_sums_of_an_interrupted_window_go_on(split: Split) -> None:
    """Stopped between two log lines, and gone on from the sums at that point: the next line is that of all its steps."""
    whole, stopped, rows, resumed = make_job(split), make_job(split), [], []
    fit(whole, CPU, on_log=rows.append)
    window = LogWindow.empty(CPU.device)

    def stop(done: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(stopped, CPU, window=window, after_step=stop)
    assert window.seen.sum() == 2 * 5  # steps 5 and 6; those before were logged
    fit(stopped, CPU, first_step=6, window=window, on_log=resumed.append)
    for row, expected in zip(resumed, rows[2:], strict=True):
        assert all(row[key] == expected[key] for key in ("step", "loss", "lr", "accuracy", "grad_l1"))
