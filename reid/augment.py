"""From uint8 frames to network input, batched on the training device: resize, crop, flip, normalise.

Shapes: B batch, H W pixels on disk, h w pixels of the crop, C = 3 channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from reid.errors import ConfigError


class Preprocess:
    """Callable: frames -> (B, C, h, w) float32, channels last in memory.

    Args:
        resize: (height, width) before the crop; bilinear with antialiasing, as Pillow's but without its rounding to uint8.
        crop: (height, width) of the result.
        mean: of red, green, blue in [0, 1].
        std: likewise.
        flip: probability of a horizontal flip in training.
    """

    def __init__(
        self, resize: Sequence[int], crop: Sequence[int], mean: Sequence[float], std: Sequence[float], flip: float = 0.5
    ) -> None:
        if crop[0] > resize[0] or crop[1] > resize[1]:
            raise ConfigError(f"augment.crop: expected at most augment.resize {list(resize)}, got {list(crop)}")
        self.resize, self.crop, self.flip = list(resize), list(crop), flip
        self.mean, self.std = torch.tensor(mean) * 255, torch.tensor(std) * 255

    def __call__(self, images: Tensor | list[Tensor], device: torch.device, draws_B3: Tensor | None = None) -> Tensor:
        """Frames to network input.

        Args:
            images: (B, H, W, C) uint8, or a list of (H, W, C) uint8 of different sizes.
            device: where to compute.
            draws_B3: (B, 3) uniform in [0, 1): where each crop lies (top, left), and whether it is flipped. None: the centre crop.
        """
        resized_BHWC = self._resized(images, device)
        rows_Bh, columns_Bw = self._windows(len(resized_BHWC), draws_B3)
        samples_B11 = torch.arange(len(resized_BHWC), device=device)[:, None, None]
        cropped_BhwC = resized_BHWC[samples_B11, rows_Bh.to(device)[:, :, None], columns_Bw.to(device)[:, None, :]]
        return ((cropped_BhwC - self.mean.to(device)) / self.std.to(device)).permute(0, 3, 1, 2)

    def _resized(self, images: Tensor | list[Tensor], device: torch.device) -> Tensor:
        if isinstance(images, list):
            return torch.cat([self._resized(image[None], device) for image in images])
        pixels = images.to(device, non_blocking=True).permute(0, 3, 1, 2).float()
        if list(pixels.shape[2:]) != self.resize:
            pixels = F.interpolate(pixels, self.resize, mode="bilinear", antialias=True, align_corners=False)
        return pixels.permute(0, 2, 3, 1)

    def _windows(self, batch: int, draws_B3: Tensor | None) -> tuple[Tensor, Tensor]:
        """Row numbers (B, h) and column numbers (B, w) of each crop; a flip reverses the columns."""
        room = torch.tensor([self.resize[0] - self.crop[0], self.resize[1] - self.crop[1]])
        if draws_B3 is None:
            corner_B2, flipped_B = (room // 2).expand(batch, 2), torch.zeros(batch, dtype=torch.bool)
        else:
            corner_B2, flipped_B = (draws_B3[:, :2] * (room + 1)).long(), draws_B3[:, 2] < self.flip
        rows_Bh = corner_B2[:, :1] + torch.arange(self.crop[0])
        columns_Bw = corner_B2[:, 1:] + torch.arange(self.crop[1])
        return rows_Bh, torch.where(flipped_B[:, None], columns_Bw.flip(1), columns_Bw)
