"""An exported ONNX file in the place of the run that it was made from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reid import config as configs
from reid.augment import Preprocess
from reid.config import Config
from reid.errors import ConfigError
from reid.experiment.trained import OfRun, OfWeights, Source, Trained
from reid.export.deployed import Exported
from reid.export.onnx_file import OnnxNetwork, is_onnx
from reid.runtime import Runtime


@dataclass(frozen=True)
class OfExport:
    """A file of `robust-reid export --format onnx --preprocessing outside`, run by ONNX Runtime on the CPU.

    Args:
        file: the file.
        threads: of one forward pass; 0: as many as there are cores. Extraction runs one forward pass on each core.
    """

    file: Path
    threads: int = 1

    def __str__(self) -> str:
        return str(self.file)

    def config(self, overrides: Sequence[str] = ()) -> Config:
        """See `Source`. All settings but those of the file are the defaults.

        Raises:
            CheckpointError, ConfigError: see `OnnxNetwork`; or a setting contradicts the file.
        """
        network = OnnxNetwork(self.file)
        fixed = {
            "augment.resize": list(network.resize),
            "augment.crop": list(network.crop),
            "test.pooling": network.pooling,
            "test.baselines": False,
            "machine.device": "cpu",
            "machine.dtype": "float32",
        }
        settings = [f"{key}={json.dumps(value)}" for key, value in fixed.items()]
        named = configs.changed(Config(name=self.file.stem), [f"model.name={network.about['network']}"], "--weights")
        config = configs.changed(named, [*settings, *overrides], "override")
        if config.model != named.model:
            raise ConfigError(f"model: {self.file} fixes the network; remove the settings of model")
        for key, expected in fixed.items():
            section, field = key.split(".")
            given = getattr(getattr(config, section), field)
            if given not in (expected, "auto"):
                raise ConfigError(f"{key}: {self.file} fixes it to {expected}, got {given}; remove this setting")
        return configs.changed(config, settings, "--weights")

    def load(self, config: Config, runtime: Runtime) -> Trained:
        """See `Source`."""
        network = OnnxNetwork(self.file, threads=self.threads)
        preprocess = Preprocess(network.resize, network.crop, network.mean.tolist(), network.std.tolist())
        return Trained(config, Exported(network).eval(), preprocess, {"weights": str(self.file.absolute())})


def source(
    run: Path | None, checkpoint: str | None, weights: Path | None, model: str | None, size: tuple[int, int] | None
) -> Source:
    """Returns the source given by RUN, --checkpoint, --weights, --model and --size; the parser has checked their combination.

    Raises:
        ConfigError: --model or --size is given for an exported file.
    """
    if weights is not None and is_onnx(weights):
        if model or size:
            raise ConfigError(f"--model, --size: {weights} contains its network and input size; leave them out")
        return OfExport(weights)
    if weights is not None:
        return OfWeights(weights, model, size)
    assert run is not None
    return OfRun(run, checkpoint or "last")
