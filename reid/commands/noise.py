"""Noise: write the manifest of a config's label noise, without training."""

from __future__ import annotations

from pathlib import Path

from reid import experiment
from reid.config import Config
from reid.datasets.noise_manifest import write_noise
from reid.errors import ConfigError, counted


def run(config: Config, out: Path, *, overwrite: bool) -> None:
    """Writes the manifest of the config's `data.noise`, and prints the realised rates.

    Raises:
        ConfigError: no noise is configured, or the file exists.
        DataError: as `experiment.load_data`, or the file cannot be written.
    """
    experiment.check(config)
    if not config.data.noises:
        raise ConfigError(
            "data.noise: is missing; expected a noise setting, such as data.noise='{name: switches, rate: 0.1, seed: 0}'"
        )
    if out.exists() and not overwrite:
        raise ConfigError(f"{out}: already exists; choose another --out, or use --overwrite to replace it")
    data = experiment.load_data(experiment.located(config))
    changes, names = (data.noisy.changes, data.noisy.names) if data.noisy else ((), data.benchmark.names)
    write_noise(out, changes, names)
    for note in data.benchmark.notes:
        print(note)
    print(f"{out}: {counted(len(changes), 'change')}; labels: {data.noise}")
