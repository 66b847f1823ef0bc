"""The moving average against its sum written out, through training and across a resume."""

import pytest
import torch
from torch import nn

from reid.engine.ema import Averaged
from reid.engine.train import fit
from reid.errors import ConfigError
from reid.tracklets import Split
from tests.engine.conftest import CPU, make_job


def test_equals_the_weighted_mean_written_out() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    averaged, seen, decay = Averaged(model, 0.8), [], 0.8
    for step in range(6):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()
            model(torch.randn(4, 2) * step)  # moves the running statistics
        averaged.update(model, step)
        seen.append({key: value.clone() for key, value in model.state_dict().items()})
    shares = torch.tensor([decay ** (5 - step) for step in range(6)], dtype=torch.float64)
    state = averaged.state_dict()
    assert state.keys() == model.state_dict().keys()
    for key, value in state.items():
        if key == "1.num_batches_tracked":
            assert value == 6
            continue
        stacked = torch.stack([weights[key].double() for weights in seen])
        expected = (shares.view(-1, *[1] * (stacked.ndim - 1)) * stacked).sum(0) / shares.sum()
        torch.testing.assert_close(value.double(), expected, rtol=0, atol=1e-6)
    assert not averaged.model.training
    assert not any(parameter.requires_grad for parameter in averaged.model.parameters())


def test_the_first_step_is_all_of_it_and_the_model_is_left_alone() -> None:
    model = nn.Linear(2, 2)
    averaged = Averaged(model, 0.999)
    with torch.no_grad():
        model.weight.fill_(3.0)
    averaged.update(model, 0)
    assert torch.equal(averaged.model.weight, model.weight)
    with torch.no_grad():
        model.weight.fill_(5.0)
    assert torch.equal(averaged.model.weight, torch.full((2, 2), 3.0))
    assert model.weight.requires_grad


def test_training_averages_every_step_and_a_resumed_run_exactly_so(split: Split) -> None:
    whole, first, second = (make_job(split, norm=True) for _ in range(3))
    jobs = [make_job(split, norm=True, ema=Averaged(job.model, 0.7)) for job in (whole, first, second)]
    seen, kept = [], {}

    def remember(done: int) -> None:
        seen.append(nn.utils.parameters_to_vector(jobs[0].model.parameters()).detach().clone())

    def keep(done: int) -> None:
        if done == 7:
            parts = (jobs[1].model, jobs[1].optimizer, jobs[1].ema)
            kept.update(zip("moe", [torch.load(_bytes(part.state_dict())) for part in parts], strict=True))

    fit(jobs[0], CPU, after_step=remember)
    shares = torch.tensor([0.7 ** (11 - step) for step in range(12)])
    expected = (shares[:, None] * torch.stack(seen)).sum(0) / shares.sum()
    average = nn.utils.parameters_to_vector(jobs[0].ema.model.parameters())
    torch.testing.assert_close(average, expected, rtol=0, atol=1e-6)
    assert not torch.equal(average, seen[-1])

    fit(jobs[1], CPU, after_step=keep)
    jobs[2].model.load_state_dict(kept["m"])
    jobs[2].optimizer.load_state_dict(kept["o"])
    jobs[2].ema.load_state_dict(kept["e"])
    fit(jobs[2], CPU, first_step=7)
    for key, value in jobs[0].ema.state_dict().items():
        assert torch.equal(jobs[2].ema.state_dict()[key], value), key


def _bytes(state: object) -> object:
    import io

    memory = io.BytesIO()
    torch.save(state, memory)
    memory.seek(0)
    return memory


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5, float("nan")])
def test_range_of_the_decay(decay: float) -> None:
    with pytest.raises(ConfigError, match="ema: expected > 0 and <= 1, got"):
        Averaged(nn.Linear(1, 1), decay)
