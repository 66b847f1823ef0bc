"""Backbones by timm name, with random, downloaded or local initial weights; every error message states a remedy.

Shapes: B batch, C channels, H height, W width, D feature.
"""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import (
    get_arch_pretrained_cfgs,
    get_pretrained_cfg,
    set_pretrained_check_hash,
    split_model_name_tag,
)
from torch import Tensor, nn

from reid.errors import CheckpointError, ConfigError
from reid.models import weights as weight_files
from reid.models.hub import one_line_of_retries
from reid.models.weights import Weights, some

logger = logging.getLogger(__name__)


def create_backbone(
    name: str, *, pretrained: bool, weights: str | Path | Weights | None = None, **kwargs: Any
) -> nn.Module:
    """Build a network (B, C, H, W) -> (B, D) without classifier.

    Args:
        name: any model that timm lists, including `googlenet_bn` and `bn_inception`; a tag selects published weights
            (`resnet50.a1_in1k`).
        pretrained: start from the published weights, downloaded once; False: random weights, unless `weights` is given.
        weights: a local file to start from instead, as `reid.models.weights` reads it, in any layout that timm converts. A
            classifier in it is left out, and the log mentions it.
        kwargs: settings of the model, as for `timm.create_model`.

    Raises:
        ConfigError: timm has no such model or tag.
        CheckpointError: the weights cannot be downloaded or read, or do not match the model.
    """
    check_name(name)
    if weights is not None:
        return _from_file(name, weights if isinstance(weights, Weights) else weight_files.read(weights), kwargs)
    if pretrained:
        return _from_network(name, kwargs)
    return timm.create_model(name, pretrained=False, num_classes=0, **kwargs)


def check_name(name: str) -> None:
    """Check that timm has a model of this name and, if the name has a tag, published weights of this tag.

    Raises:
        ConfigError: timm has no such model (the message lists the nearest names) or tag (the message lists all tags).
    """
    arch, tag = split_model_name_tag(name)
    if not timm.is_model(arch):
        near = ", ".join(get_close_matches(arch, timm.list_models(), n=4, cutoff=0.5)) or "none close"
        raise ConfigError(f"model.name: timm has no model {arch!r}; nearest: {near}; all: timm.list_models()")
    tags = list(get_arch_pretrained_cfgs(arch))
    if tag and name not in tags:
        raise ConfigError(f"model.name: {arch} has no weights tagged {tag!r}; expected one of: {', '.join(tags)}")


def _from_network(name: str, kwargs: dict[str, Any]) -> nn.Module:
    published = get_pretrained_cfg(name)
    if published is None or not published.has_weights:
        raise CheckpointError(
            f"model.pretrained: no weights are published for {name}: set model.pretrained=false or model.weights=PATH"
        )
    origin, cache = _whence(published)
    set_pretrained_check_hash(True)
    try:
        with _network_timeout(), one_line_of_retries(f"weights of {name} from {origin}"):
            return _load(name, kwargs, f"{origin} (kept at {cache})" if cache else origin)
    except OSError as error:
        raise CheckpointError(
            f"model.pretrained: the weights of {name} could not be downloaded from {origin} ({_brief(_root_of(error))}): "
            f"set model.pretrained=false to train from scratch, or model.weights=PATH to a copy of the file"
            + (f", or put the copy at {cache}" if cache else "")
        ) from error


def _from_file(name: str, weights: Weights, kwargs: dict[str, Any]) -> nn.Module:
    heads = {f"{classifier}.{part}" for classifier in _classifiers(name) for part in ("weight", "bias")}
    backbone = {key: value for key, value in weights.backbone.items() if key not in heads}
    rest = [*weights.rest, *(key for key in weights.backbone if key in heads)]
    left_out = f"; left out the classifier and its parts: {some(rest)}" if rest else ""
    overlay = dict(state_dict=backbone, num_classes=0, label_offset=None)
    origin = f"{weights.path}{f' ({weights.layout})' if weights.layout else ''}"
    model = _load(name, kwargs, origin, left_out, num_classes=0, pretrained_cfg_overlay=overlay)
    model.pretrained_cfg.pop("state_dict")  # type: ignore[operator, union-attr]  # a second copy of all weights
    return model


def _classifiers(name: str) -> set[str]:
    """Names of the classifier in weight files of a model: in timm, in timm's predecessor, and in torchreid."""
    cfg = get_pretrained_cfg(name)
    classifier = (cfg and cfg.classifier) or ()
    return {*((classifier,) if isinstance(classifier, str) else classifier), "last_linear", "classifier"}


def _load(name: str, kwargs: dict[str, Any], origin: str, left_out: str = "", **door: Any) -> nn.Module:
    # timm ignores keys that do not match if the number of classes differs from the published one, so that weights of
    # another model would be ignored silently. Hence published weights load with their classifier, which is then removed.
    try:
        model = timm.create_model(name, pretrained=True, **door, **kwargs)
    except OSError:
        raise
    except Exception as error:
        expected = timm.create_model(name, pretrained=False, **door, **kwargs).state_dict()  # raises on bad kwargs
        raise CheckpointError(f"weights in {origin} do not match {name}: {_misfit(error, expected)}") from error
    model.reset_classifier(0)  # type: ignore[operator]
    logger.info("%s: all %d tensors from %s%s", name, len(model.state_dict()), origin, left_out)
    return model


def _misfit(error: Exception, expected: dict[str, Tensor]) -> str:
    """Summary of matching and mismatching keys, from the message of torch's `load_state_dict`."""
    text = str(error)
    missing, unexpected = (
        re.findall(r'"([^"]+)"', "".join(re.findall(rf"{kind} key\(s\) in state_dict: (.*)", text)))
        for kind in ("Missing", "Unexpected")
    )
    shape = r"torch\.Size\(\[([\d, ]*)\]\)"
    sizes = re.findall(rf"size mismatch for (\S+): .*?{shape}.*?{shape}", text)
    reshaped = [f"{key} ({got}) for ({wanted})" for key, got, wanted in sizes]
    if not (missing or unexpected or reshaped):
        return _brief(error)
    # A batch counter may be absent: PyTorch before 0.4.1 had none, and torch does not count it as missing.
    total = sum(not key.endswith("num_batches_tracked") for key in expected)
    matched = total - len(missing) - len(reshaped)
    found = {"missing": missing, "not expected": unexpected, "of a different shape": reshaped}
    return f"{matched} of {total} tensors match; " + "; ".join(
        f"{kind}: {some(keys)}" for kind, keys in found.items() if keys
    )


def _whence(cfg: Any) -> tuple[str, Path | None]:
    """The address that timm downloads from and, for a plain URL, the file in the cache."""
    if cfg.hf_hub_id:
        return f"https://huggingface.co/{cfg.hf_hub_id}", None
    return cfg.url, Path(torch.hub.get_dir()) / "checkpoints" / cfg.url.rpartition("/")[2]


@contextmanager
def _network_timeout(seconds: float = 30.0) -> Iterator[None]:
    # By default urllib waits for ever if a firewall drops packets silently.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(before or seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _root_of(error: BaseException) -> BaseException:
    """The original error, such as `Name or service not known`, which libraries wrap in their own."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _brief(error: BaseException, length: int = 160) -> str:
    text = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
    return text if len(text) <= length else text[:length] + "…"
