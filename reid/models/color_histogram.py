"""A baseline without learning: colour histograms of horizontal stripes.

Shapes: n frames, h w pixels, D = stripes * bins^3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ColorHistogram(nn.Module):
    """(n, 3, h, w) RGB in [0, 1] -> (n, D): square roots of each stripe's joint RGB histogram (Hellinger's kernel).

    Args:
        stripes: horizontal stripes of equal height: head, torso, legs …
        bins: number of bins per colour channel.
    """

    def __init__(self, stripes: int = 6, bins: int = 8) -> None:
        super().__init__()
        self.stripes, self.bins = stripes, bins
        self.num_features = stripes * bins**3

    def forward(self, images_n3hw: Tensor) -> Tensor:
        n, _, h, w = images_n3hw.shape
        level = (images_n3hw * self.bins).long().clamp(0, self.bins - 1)
        color_nhw = (level[:, 0] * self.bins + level[:, 1]) * self.bins + level[:, 2]
        stripe_h = torch.arange(h, device=images_n3hw.device) * self.stripes // h
        cell_nhw = color_nhw + stripe_h[:, None] * self.bins**3
        counts = torch.zeros(n, self.num_features, device=images_n3hw.device)
        counts.scatter_add_(1, cell_nhw.flatten(1), counts.new_ones(n, h * w))
        return (counts * self.stripes / (h * w)).sqrt()
