"""From the config to the network and its preprocessing."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import timm.layers
import torch
from torch import nn

import reid.models  # noqa: F401  registers the backbones with timm
from reid.augment import Preprocess
from reid.config import Config
from reid.errors import ConfigError
from reid.models.backbone import create_backbone
from reid.models.embedding import Classifier, Embedding
from reid.models.weights import load_neck, read
from reid.runtime import Runtime, seed_of

logger = logging.getLogger(__name__)


def build_embedding(config: Config, *, initial_weights: bool = True) -> tuple[Embedding, Preprocess]:
    """The embedding and the preprocessing that its backbone's weights expect.

    Args:
        config: the run's.
        initial_weights: load the configured ones; False where a checkpoint's follow anyway.

    Raises:
        ConfigError: unknown model. CheckpointError: no weights to be had.
    """
    torch.manual_seed(seed_of(config.seed, "init"))
    weights = read(config.model.weights) if config.model.weights is not None and initial_weights else None
    backbone = create_backbone(
        config.model.name, pretrained=config.model.pretrained and initial_weights, weights=weights
    )
    preprocess = build_preprocess(config, backbone.pretrained_cfg)  # type: ignore[arg-type]  # timm sets it on every model
    embedding = Embedding(backbone, config.model.neck, freeze_norm=config.model.freeze_norm)
    if weights is not None and (done := load_neck(embedding.neck, weights)):
        logger.info("%s: %s", weights.path, done)
    return embedding, preprocess


def build_preprocess(config: Config, pretrained_cfg: Mapping[str, Any]) -> Preprocess:
    """The configured augmentation, with mean and deviation from timm's `pretrained_cfg` (numbers of 1 or 3 channels)."""
    augment = config.augment
    mean, std = pretrained_cfg["mean"], pretrained_cfg["std"]
    return Preprocess(augment.resize, augment.crop, mean, std, augment.flip, augment.erase, augment.color)


def with_shared_norm(config: Config, model: Classifier, runtime: Runtime) -> Classifier:
    """The model with batch normalisation over all processes, where that is wanted."""
    if not config.machine.sync_norm:
        return model
    if runtime.device.type != "cuda":
        raise ConfigError(f"machine.sync_norm: needs CUDA devices, got {runtime.device.type}; leave it out")
    return timm.layers.convert_sync_batchnorm(model)  # torch's own would lose the activation inside timm's layers


@torch.no_grad()
def check_input_size(config: Config, model: nn.Module, runtime: Runtime) -> None:
    """Run one image of the configured size through the model, as some networks take one size only.

    Raises:
        ConfigError: the network does not take it.
    """
    size = config.augment.crop
    try:
        model.eval()(torch.zeros(1, 3, *size, device=runtime.device))
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"augment.crop: {config.model.name} does not take images of {size}: {reason}") from None
