"""Building the network and its preprocessing from the config."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

import timm.layers
import torch
from timm.models import get_pretrained_cfg
from torch import nn

import reid.models  # noqa: F401  registers the backbones with timm
from reid.augment import Preprocess
from reid.binding import build
from reid.config import Config
from reid.errors import ConfigError
from reid.models.backbone import create_backbone
from reid.models.embedding import Classifier, Embedding
from reid.models.heads import HEADS
from reid.models.surgery import keep_size_in_last_stage, pool_by_gem
from reid.models.weights import load_neck, read
from reid.runtime import Runtime, seed_of

logger = logging.getLogger(__name__)


def build_embedding(config: Config, *, initial_weights: bool = True) -> tuple[Embedding, Preprocess]:
    """Builds the embedding network, and the preprocessing that the weights of its backbone expect.

    Args:
        config: config of the run.
        initial_weights: load the configured initial weights; False if a checkpoint is loaded afterwards.

    Raises:
        ConfigError: the model is unknown, or cannot be built with its options.
        CheckpointError: the weights cannot be loaded.
    """
    torch.manual_seed(seed_of(config.seed, "init"))
    weights = read(config.model.weights) if config.model.weights is not None and initial_weights else None
    backbone = _backbone(config, pretrained=config.model.pretrained and initial_weights, weights=weights)
    if config.model.last_stride == 1:
        keep_size_in_last_stage(backbone)
    if config.model.pooling == "gem":
        pool_by_gem(backbone)
    preprocess = build_preprocess(config, backbone.pretrained_cfg)  # type: ignore[arg-type]  # timm sets it on every model
    embedding = Embedding(backbone, config.model.neck, freeze_norm=config.model.freeze_norm)
    if weights is not None and (done := load_neck(embedding.neck, weights)):
        logger.info("%s: %s", weights.path, done)
    return embedding, preprocess


def _backbone(config: Config, **given: Any) -> nn.Module:
    """Builds the backbone with the model's options.

    A backbone with a fixed input size is built for the size in the config; timm interpolates its position embeddings.
    """
    name, crop = config.model.name, tuple(config.augment.crop)
    options: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in config.model.options.items()
    }
    published = get_pretrained_cfg(name)
    if published is not None and published.fixed_input_size and "img_size" not in options:
        with contextlib.suppress(TypeError):  # it has no argument img_size; `check_input_size` reports a wrong size
            return create_backbone(name, **given, **options, img_size=crop)
    try:
        return create_backbone(name, **given, **options)
    except (TypeError, ValueError, AssertionError, KeyError, RuntimeError) as error:
        if not options:
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"model.options: {name} cannot be built with {config.model.options}: {reason}") from error


def build_classifier(config: Config, embedding: Embedding, num_classes: int) -> Classifier:
    """Adds the configured classification head to an embedding, for training.

    Raises:
        ConfigError: a setting of the head is out of range.
    """

    def head(num_features: int, num_classes: int) -> nn.Module:
        return build("model.head", HEADS, config.model.head, num_features=num_features, num_classes=num_classes)

    return Classifier(embedding, num_classes, head)


def build_preprocess(config: Config, pretrained_cfg: Mapping[str, Any]) -> Preprocess:
    """Builds the configured preprocessing and augmentation, with mean and std (1 or 3 channels) from timm's `pretrained_cfg`."""
    augment = config.augment
    mean, std = pretrained_cfg["mean"], pretrained_cfg["std"]
    return Preprocess(augment.resize, augment.crop, mean, std, augment.flip, augment.erase, augment.color, augment.pad)


def with_shared_norm(config: Config, model: Classifier, runtime: Runtime) -> Classifier:
    """Converts the model to synchronised batch normalisation if machine.sync_norm is set.

    Raises:
        ConfigError: the device is not CUDA.
    """
    if not config.machine.sync_norm:
        return model
    if runtime.device.type != "cuda":
        raise ConfigError(f"machine.sync_norm: needs CUDA devices, got {runtime.device.type}; remove this setting")
    return timm.layers.convert_sync_batchnorm(model)  # torch's own conversion drops the activation in timm's layers


@torch.no_grad()
def check_input_size(config: Config, model: nn.Module, runtime: Runtime) -> None:
    """Runs one image of the configured size through the model, because some networks accept only one size.

    Raises:
        ConfigError: the network does not accept this size.
    """
    size = config.augment.crop
    try:
        model.eval()(torch.zeros(1, 3, *size, device=runtime.device))
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"augment.crop: {config.model.name} does not take images of {size}: {reason}") from None
