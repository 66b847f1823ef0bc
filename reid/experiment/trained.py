"""Loading a trained network and its preprocessing from a run or a weight file.

Both kinds of source provide the config to embed with, and load the network it describes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from reid import config as configs
from reid.augment import Preprocess
from reid.config import Config
from reid.engine import checkpoint
from reid.engine.extract import fingerprint
from reid.errors import CheckpointError, ConfigError, DataError
from reid.experiment.data import LabelledData, load_data
from reid.experiment.model import build_embedding, check_input_size
from reid.export.deployed import Exported
from reid.models import weights as weight_files
from reid.models.embedding import Embedding
from reid.rundir import RunDirectory
from reid.runtime import Runtime

logger = logging.getLogger(__name__)

SIZE = (256, 128)  # (height, width), the usual input size in person re-identification


@dataclass(frozen=True, eq=False)
class Trained:
    """A network in evaluation mode on its device, with everything needed to embed images.

    Args:
        config: settings of network, preprocessing and pooling.
        embedding: (B, 3, h, w) -> (B, D).
        preprocess: converts frames to the network's input.
        about: origin of the network, as stored in `gallery.json`: run and checkpoint, or weights and model.
    """

    config: Config
    embedding: Embedding | Exported
    preprocess: Preprocess
    about: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """Fingerprint of network, preprocessing and pooling, see `engine.extract.fingerprint`."""
        return fingerprint(self.embedding, self.preprocess, self.config.test.pooling)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Image sizes and pooling, as stored in `gallery.json`."""
        sizes = {"resize": self.preprocess.resize, "crop": self.preprocess.crop}
        return {**sizes, "pooling": self.config.test.pooling}


class Source(Protocol):
    """A place that a trained network can be loaded from."""

    def config(self, overrides: Sequence[str] = ()) -> Config:
        """Returns the config to embed with, with overrides for this machine and data."""
        ...

    def load(self, config: Config, runtime: Runtime) -> Trained:
        """Loads the network that this config describes; the config comes from `config`."""
        ...


@dataclass(frozen=True)
class OfRun:
    """A run directory of robust-reid train.

    Args:
        path: the directory.
        choice: `last`, `best`, or a checkpoint's path.
    """

    path: Path
    choice: str = "last"

    def __str__(self) -> str:
        return f"{self.path}: checkpoint {self.choice}"

    def config(self, overrides: Sequence[str] = ()) -> Config:
        """See `Source`.

        Raises:
            DataError: the path is not a run directory.
        """
        return RunDirectory(self.path).config(overrides)

    def load(self, config: Config, runtime: Runtime) -> Trained:
        """See `Source`.

        Raises:
            CheckpointError: the checkpoint is missing or damaged, or belongs to another config.
        """
        file = RunDirectory(self.path).checkpoint(self.choice)
        state = checkpoint.tested_weights(checkpoint.load(file, "model"))
        embedding, preprocess = build_embedding(config, initial_weights=False)
        prefix = "embedding."
        own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        checkpoint.load_weights(embedding, own, file)
        choice = self.choice if self.choice in ("last", "best") else str(file.absolute())
        about = {"run": str(self.path.absolute()), "checkpoint": choice}
        return Trained(config, runtime.place(embedding).eval(), preprocess, about)


@dataclass(frozen=True)
class OfWeights:
    """A weight file that `reid.models.weights` can read.

    Args:
        file: the file.
        model: timm name of its network; not needed for a checkpoint of robust-reid, which contains its config.
        size: (height, width) that images are resized to for the network; by default that of the run, or `SIZE`.
    """

    file: Path
    model: str | None = None
    size: tuple[int, int] | None = None

    def __str__(self) -> str:
        return str(self.file)

    def config(self, overrides: Sequence[str] = ()) -> Config:
        """See `Source`. For a file without a config, all settings but network, input size and neck are the defaults.

        Raises:
            CheckpointError: the file cannot be read.
            ConfigError: the network is not given, or `model` differs from the one in the file.
        """
        weights = weight_files.read(self.file)
        size = self.size
        if "config" in weights.about:
            config: Config = configs.parse(weights.about["config"], self.file)
            if self.model not in (None, config.model.name):
                raise ConfigError(
                    f"--model: {self.file} contains {config.model.name}, got {self.model}; remove --model"
                )
        elif self.model is None:
            raise ConfigError(f"--model: {self.file} does not name its network; set --model NAME, such as resnet50")
        else:
            neck = "bn" if weights.neck else "none"
            config = Config(name=self.file.stem)
            config = configs.changed(config, [f"model={{name: {self.model}, neck: {neck}}}"], "--model")
            size = size or SIZE
        # Overrides of the user come last, so that they take precedence over --size.
        settings = ["model.pretrained=false"] + (
            [f"augment.{key}={list(size)}" for key in ("resize", "crop")] if size else []
        )
        return configs.changed(config, [*settings, *overrides], "override")

    def load(self, config: Config, runtime: Runtime) -> Trained:
        """See `Source`.

        Raises:
            CheckpointError: the weights do not fit the whole network, including its neck.
            ConfigError: the network does not accept images of this size.
        """
        if config.model.neck == "bn" and not weight_files.read(self.file).neck:
            raise CheckpointError(f"model.neck: {self.file} has no BNNeck; expected model.neck=none")
        model = config.model.model_copy(update={"weights": str(self.file), "pretrained": False})
        embedding, preprocess = build_embedding(config.model_copy(update={"model": model}))
        embedding = runtime.place(embedding).eval()
        check_input_size(config, embedding, runtime)
        network = config.model.model_dump(exclude={"weights", "pretrained", "freeze_norm"})
        return Trained(config, embedding, preprocess, {"weights": str(self.file.absolute()), "model": network})


def trained_on(config: Config) -> str:
    """Describes the training data for readers: file names of tables and names of datasets, joined by `` + ``."""
    return " + ".join(Path(one.path).name if one.path else one.name for one in config.data.sets.values())


def data_as_trained(config: Config, directory: RunDirectory) -> LabelledData:
    """Loads the data with the labels that a run was trained on, from the division, noise, corrections and weights saved in its directory.

    Raises:
        DataError: the data are not available.
    """
    copies = directory.corrections(len(config.data.correction_files))
    kept: dict[str, Any] = {}
    if copies and all(copy.is_file() for copy in copies):
        kept["corrections"] = [str(copy) for copy in copies]
    if config.data.weights is not None and directory.weights.is_file():
        kept["weights"] = str(directory.weights)
    config = config.model_copy(update={"data": config.data.model_copy(update=kept)})
    return load_data(config, directory.drawn(), directory.made())


def known_noise(source: Source, config: Config) -> str:
    """Describes the label noise in a network's training data, if known."""
    if not isinstance(source, OfRun):
        return "unknown (no run)"
    try:
        return data_as_trained(config, RunDirectory(source.path)).noise
    except DataError as error:
        logger.warning("number of wrong training labels unknown: %s", error)
        return "unknown (the training data are not available)"
