"""Shared parts of the two Inception networks: convolution + norm + ReLU, sequential layers, timm's head and timm's interface.

Shapes: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from timm.layers import SelectAdaptivePool2d, create_classifier
from torch import Tensor, nn
from torch.nn import functional as F


class ConvNormReLU(nn.Module):
    """Convolution with padding kernel_size // 2, batch norm, ReLU; parameters `conv.*` and `bn.*`."""

    def __init__(
        self, in_chs: int, out_chs: int, kernel_size: int, stride: int = 1, *, bias: bool = False, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chs, out_chs, kernel_size, stride, padding=kernel_size // 2, bias=bias)
        self.bn = nn.BatchNorm2d(out_chs, eps=eps)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x_BCHW)), inplace=True)


class InceptionNet(nn.Module):
    """Sequential layers, followed by timm's pooling, dropout and classifier.

    Args:
        layers: the layers by name, in order of execution.
        taps: the last layer of each stride -> its number of channels; the strides are 2, 4, 8, 16, 32.
        num_classes: K; with 0 there is no classifier, and the network returns the pooled features.
        in_chans: channels of the images.
        global_pool: name of a pooling of timm, "" for none.
        drop_rate: dropout before the classifier, in [0, 1].
    """

    global_pool: SelectAdaptivePool2d
    fc: nn.Module

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        taps: Mapping[str, int],
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_chans = num_classes, in_chans
        self.layer_names = list(layers)
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.feature_info = [
            dict(num_chs=chs, reduction=2 ** (i + 1), module=name) for i, (name, chs) in enumerate(taps.items())
        ]
        self.num_features = self.feature_info[-1]["num_chs"]
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)
        self._init_weights()

    def _init_weights(self) -> None:
        # Batch norm starts as the identity in eval mode, so the convolutions must preserve the scale; He's fan-in variance
        # does. With torchvision's std of 0.01, features are ~1e-12 until the running statistics have converged.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        """Compute the feature map (B, num_features, ~H/32, ~W/32) of images (B, in_chans, H, W) of at least 32 pixels per side."""
        for name in self.layer_names:
            x_BCHW = getattr(self, name)(x_BCHW)
        return x_BCHW

    def forward_head(self, x_BCHW: Tensor, pre_logits: bool = False) -> Tensor:
        """Compute logits (B, K) of a feature map; the pooled features with `pre_logits` or without a classifier."""
        x = self.head_drop(self.global_pool(x_BCHW))
        return x if pre_logits else self.fc(x)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x_BCHW))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the final feature map and the list of maps at the chosen strides (timm's interface).

        Args:
            x: images (B, C, H, W).
            indices: positions in `feature_info`; a number n selects the last n, None selects all.
            norm: has no effect, because there is no final norm.
            stop_early: stop after the last selected map, which is then also the final one.
            output_fmt: only "NCHW".
            intermediates_only: return only the list of selected maps.
        """
        assert output_fmt == "NCHW", "Output shape must be NCHW."
        take = self._positions(indices)
        wanted = {self.feature_info[i]["module"] for i in take}
        maps: list[Tensor] = []
        for name in self.layer_names:
            x = getattr(self, name)(x)
            if name in wanted:
                maps.append(x)
            if stop_early and name == self.feature_info[max(take)]["module"]:
                break
        return maps if intermediates_only else (x, maps)

    def _positions(self, indices: int | Sequence[int] | None) -> list[int]:
        every = range(len(self.feature_info))
        if indices is None or isinstance(indices, int):
            return list(every[-indices:] if indices else every)
        return [every[i] for i in indices]

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the layers after the last selected map and, with `prune_head`, the head; return the positions."""
        take = self._positions(indices)
        last = max(take)
        end = self.layer_names.index(self.feature_info[last]["module"]) + 1
        for name in self.layer_names[end:]:
            delattr(self, name)
        pruned = end < len(self.layer_names)
        self.layer_names = self.layer_names[:end]
        self.num_features = self.feature_info[last]["num_chs"]
        if prune_head or pruned:
            self.reset_classifier(0, "")
        return take

    def get_classifier(self) -> nn.Module:
        """Return the classifier, or the identity if there is none."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one of `num_classes`, or remove it with 0; `global_pool` None keeps the pooling."""
        self.num_classes = num_classes
        pool_type = self.global_pool.pool_type if global_pool is None else global_pool
        pool, fc = create_classifier(self.num_features, num_classes, pool_type=pool_type)
        like = next(self.parameters())
        self.global_pool, self.fc = pool, fc.to(like.device, like.dtype).train(self.training)
        self.head_hidden_size = self.num_features * pool.feat_mult()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> Callable[[str], float]:
        """Return a function from a parameter's name to the depth of its layer, for timm's layer-wise learning rate decay."""
        depth = {name: i for i, name in enumerate(self.layer_names)}
        return lambda name: depth.get(name.split(".")[0], float("inf"))

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Not supported, as in timm's other Inception networks: recomputation would update batch norm statistics twice per batch."""
        assert not enable, "gradient checkpointing not supported"
