"""Folding of batch normalisation into the preceding convolutions: the same features with fewer passes over the activations.

Shapes: B batch, C channels, H W pixels.
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode

logger = logging.getLogger(__name__)

# Exact types only: a subclass may use its weight differently, such as convolutions with weight standardisation.
_CONVS, _NORMS = (nn.Conv2d,), (nn.BatchNorm2d, BatchNormAct2d)


@torch.no_grad()
def fused(model: nn.Module, images_BCHW: Tensor) -> nn.Module:
    """Return a copy in evaluation mode in which batch normalisations are folded into the convolutions before them.

    Pairs of layers are found by running the network once, so that its code may have any structure. A normalisation is not folded if
    the output of the convolution is also used elsewhere, or if one of the two layers runs more than once.

    Args:
        model: any network on images; it is not changed.
        images_BCHW: a valid input; the values do not matter.

    Returns:
        The copy; its output equals the model's up to rounding, but its parameters differ.
    """
    network = copy.deepcopy(model).eval()
    pairs = _pairs(network, images_BCHW)
    for conv, norm in pairs:
        assert norm.running_mean is not None and norm.running_var is not None
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
    rest: dict[nn.Module, nn.Module] = {norm: _without_norm(norm) for _, norm in pairs}
    for path, module in list(network.named_modules(remove_duplicate=False)):
        if module in rest:
            network.set_submodule(path, rest[module])
    logger.debug("%s: %d batch normalisations folded into convolutions", type(model).__name__, len(pairs))
    return network


def _without_norm(norm: nn.BatchNorm2d) -> nn.Module:
    return nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()


def _pairs(network: nn.Module, images_BCHW: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Find the convolutions whose output is used only by a batch normalisation, each with that normalisation."""
    runs: Counter[nn.Module] = Counter()
    made: dict[int, nn.Conv2d] = {}
    found: list[tuple[nn.Conv2d, nn.BatchNorm2d, int]] = []

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        runs[module] += 1
        if isinstance(module, nn.Conv2d):
            made[id(output)] = module
        elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats and id(inputs[0]) in made:
            found.append((made[id(inputs[0])], module, id(inputs[0])))

    hooks = [module.register_forward_hook(note) for module in network.modules() if type(module) in _CONVS + _NORMS]
    with _Takers() as takers:
        network(images_BCHW)
    for hook in hooks:
        hook.remove()
    return [(conv, norm) for conv, norm, at in found if takers.count[at] == runs[conv] == runs[norm] == 1]


class _Takers(TorchFunctionMode):
    """Counts, by id, the calls that compute a tensor from a given one; keeps references to all tensors, because ids could be reused."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[int] = Counter()
        self._kept: list[Any] = []

    def __torch_function__(
        self, call: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = call(*args, **kwargs)
        if any(True for _ in _tensors(result)):  # calls such as shape give no tensor
            self.count.update({id(tensor) for tensor in _tensors([args, *kwargs.values()])})
        self._kept.append((args, kwargs, result))
        return result


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
