"""Training on a GPU: what the CPU tests cannot see, in every number format."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reid.engine import checkpoint
from reid.engine.optim import sgd
from reid.engine.train import Job, fit
from reid.runtime import Runtime
from reid.tracklets import Split
from tests.engine.conftest import CPU, make_job

pytestmark = pytest.mark.gpu
DEVICE = torch.device("cuda", 0)


def trained(split: Split, runtime: Runtime, **settings: object) -> tuple[Job, list[dict[str, float]]]:
    rows: list[dict[str, float]] = []
    job = make_job(split, dropout=False, **settings)
    model = runtime.place(job.model)
    optimizer = sgd(model, momentum=0.9, weight_decay=1e-3)
    job = replace(job, model=model, loss=job.loss.to(runtime.device), optimizer=optimizer, scaler=runtime.grad_scaler())
    fit(job, runtime, on_log=rows.append)
    return job, rows


def on_cpu(job: Job) -> dict[str, torch.Tensor]:
    return {name: value.cpu() for name, value in job.model.state_dict().items()}


@pytest.mark.parametrize("loss", ["cce", "imae", "gce_truncated"])
def test_a_gpu_trains_as_a_cpu_does(split: Split, loss: str) -> None:
    """Up to the rounding of its convolutions, which have 10 bits of mantissa unless told otherwise."""
    ours, of_cpu = (
        trained(split, Runtime(device, torch.float32), loss=loss, lr=0.05) for device in (DEVICE, CPU.device)
    )
    torch.testing.assert_close(on_cpu(ours[0]), on_cpu(of_cpu[0]), atol=2e-3, rtol=1e-2)
    assert ours[1][-1]["loss"] == pytest.approx(of_cpu[1][-1]["loss"], rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("norm", [False, True])
def test_half_the_bits_learn_too(split: Split, dtype: torch.dtype, norm: bool) -> None:
    _, rows = trained(split, Runtime(DEVICE, dtype), iterations=40, norm=norm, workers=2, accumulate=2, clip_grad=5.0)
    assert rows[-1]["loss"] < rows[0]["loss"] / 2


def test_a_gpus_weights_are_saved_and_read_on_a_cpu(split: Split, tmp_path: Path) -> None:
    job, _ = trained(split, Runtime(DEVICE, torch.float32))
    checkpoint.save(tmp_path / "last.pt", model=job.model.state_dict())
    state = checkpoint.load(tmp_path / "last.pt")["model"]
    assert all(value.device.type == "cpu" for value in state.values())
    torch.testing.assert_close(state, on_cpu(job), rtol=0, atol=0)
