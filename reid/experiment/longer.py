"""Checks whether a run can be resumed with another number of iterations: only if its past steps would have been the same."""

from __future__ import annotations

from typing import Any

from torch import nn

from reid.binding import build
from reid.config import Config
from reid.engine.optim import SCHEDULES, Schedule
from reid.errors import ConfigError
from reid.experiment.training import build_loss, with_warmup


def require_same_past(before: Config, now: Config, done: int, source: object) -> None:
    """Checks that another number of iterations would not have changed the steps done so far.

    Args:
        before: config of the steps done.
        now: the same config except for `train.iterations`.
        done: number of steps done.
        source: the checkpoint, for error messages.

    Raises:
        ConfigError: the new number is below `done`, or the learning rate of a past step or a setting of the loss depends on it.
    """
    old, new = before.train.iterations, now.train.iterations
    if old == new:
        return
    refused = f"{source}: cannot resume with train.iterations={new} in place of {old}"
    if new < done:
        raise ConfigError(f"{refused}: {done} steps are done already; expected at least that many, or start a new run")
    was, would_be = _rates(before), _rates(now)
    for step in range(done):
        if was(step) != would_be(step):
            raise ConfigError(
                f"{refused}: the schedule {now.train.schedule.name} depends on it: step {step + 1} was done at {was(step):.6g} "
                f"times train.lr and would now be at {would_be(step):.6g} times; start a new run, or use the schedule constant or step"
            )
    if _settings(build_loss(before)) != _settings(build_loss(now)):
        raise ConfigError(f"{refused}: the loss depends on it; start a new run")


def _rates(config: Config) -> Schedule:
    schedule = build("train.schedule", SCHEDULES, config.train.schedule, iterations=config.train.iterations)
    return with_warmup(config, schedule)


def _settings(loss: nn.Module) -> list[tuple[str, dict[str, Any]]]:
    """Returns the numeric and text attributes of a loss and its submodules."""
    return [
        (name, {key: value for key, value in vars(part).items() if isinstance(value, int | float | str)})
        for name, part in loss.named_modules()
    ]
