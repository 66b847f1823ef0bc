"""A trained network and all that embedding takes, from wherever it lies: a run, or a weight file.

Both say which config embeds, and load the network it describes.
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
from reid.models import weights as weight_files
from reid.models.embedding import Embedding
from reid.rundir import RunDirectory
from reid.runtime import Runtime

logger = logging.getLogger(__name__)

SIZE = (256, 128)  # (height, width) that person re-identification is published with


@dataclass(frozen=True, eq=False)
class Trained:
    """A network in evaluation mode on its device, with all that embedding takes.

    Args:
        config: settings of network, preprocessing, pooling.
        embedding: (B, 3, h, w) -> (B, D).
        preprocess: frames to its input.
        about: what made it, as `gallery.json` keeps it: run and checkpoint, or weights and model.
    """

    config: Config
    embedding: Embedding
    preprocess: Preprocess
    about: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """As `engine.extract.fingerprint`."""
        return fingerprint(self.embedding, self.preprocess, self.config.test.pooling)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Sizes and pooling, as `gallery.json` keeps them."""
        sizes = {"resize": self.preprocess.resize, "crop": self.preprocess.crop}
        return {**sizes, "pooling": self.config.test.pooling}


class Source(Protocol):
    """Where a trained network lies."""

    def config(self, overrides: Sequence[str] = ()) -> Config:
        """The config that embeds, with overrides for this machine and data."""
        ...

    def load(self, config: Config, runtime: Runtime) -> Trained:
        """The network that this config, made by `config`, describes."""
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
            DataError: this is no run directory.
        """
        return RunDirectory(self.path).config(overrides)

    def load(self, config: Config, runtime: Runtime) -> Trained:
        """See `Source`.

        Raises:
            CheckpointError: it is missing or damaged, or of another config.
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
    """A weight file, as `reid.models.weights` reads it.

    Args:
        file: the file.
        model: the network it is of, a name of timm's; a checkpoint of a run of our own says so itself.
        size: (height, width) of the network's input, to which images are resized; by default what the run had, or `SIZE`.
    """

    file: Path
    model: str | None = None
    size: tuple[int, int] | None = None

    def __str__(self) -> str:
        return str(self.file)

    def config(self, overrides: Sequence[str] = ()) -> Config:
        """See `Source`. Without a run, all but the network, its input and its neck are the defaults.

        Raises:
            CheckpointError: the file cannot be read.
            ConfigError: nobody says which network it is of, or two say different ones.
        """
        weights = weight_files.read(self.file)
        size = self.size
        if "config" in weights.about:
            config: Config = configs.parse(weights.about["config"], self.file)
            if self.model not in (None, config.model.name):
                raise ConfigError(f"--model: {self.file} is of {config.model.name}, got {self.model}; leave it out")
        elif self.model is None:
            raise ConfigError(
                f"--model: {self.file} does not say which network it is of; expected --model NAME, such as resnet50"
            )
        else:
            neck = "bn" if weights.neck else "none"
            config = Config(name=self.file.stem)
            config = configs.changed(config, [f"model={{name: {self.model}, neck: {neck}}}"], "--model")
            size = size or SIZE
        # The last word has the user, an override as --size.
        settings = ["model.pretrained=false"] + (
            [f"augment.{key}={list(size)}" for key in ("resize", "crop")] if size else []
        )
        return configs.changed(config, [*settings, *overrides], "override")

    def load(self, config: Config, runtime: Runtime) -> Trained:
        """See `Source`.

        Raises:
            CheckpointError: the file does not fit the network whole, its neck included.
            ConfigError: the network does not take images of this size.
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
    """What a network was trained on, for others to read: the table's file name, or the dataset's; of several, all."""
    return " + ".join(Path(one.path).name if one.path else one.name for one in config.data.sets.values())


def data_as_trained(config: Config, directory: RunDirectory) -> LabelledData:
    """The data with the labels that a run has seen: who was drawn, noise and corrections are those that it has kept.

    Raises:
        DataError: the data are not at hand.
    """
    copies = [directory.corrections(number) for number, _ in enumerate(config.data.correction_files, 1)]
    if copies and all(copy.is_file() for copy in copies):
        kept = config.data.model_copy(update={"corrections": [str(copy) for copy in copies]})
        config = config.model_copy(update={"data": kept})
    return load_data(config, directory.drawn(), directory.made())


def known_noise(source: Source, config: Config) -> str:
    """What is known of wrong labels among those that a network was trained on, in words."""
    if not isinstance(source, OfRun):
        return "unknown (no run)"
    try:
        return data_as_trained(config, RunDirectory(source.path)).noise
    except DataError as error:
        logger.warning("wrong labels among those trained on: not looked up, %s", error)
        return "not looked up (the training data were not at hand)"


def source(
    run: Path | None, checkpoint: str | None, weights: Path | None, model: str | None, size: tuple[int, int] | None
) -> Source:
    """What the flags RUN, --checkpoint, --weights, --model and --size name; the tool's parser has seen to it that they go together."""
    if weights is not None:
        return OfWeights(weights, model, size)
    assert run is not None
    return OfRun(run, checkpoint or "last")
