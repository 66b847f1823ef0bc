"""Preprocessing of uint8 frames, batched on the training device: resize, crop, flip, colour jitter, normalisation, random erasing.

All random numbers are drawn by the caller, uniform in [0, 1), so that the result is a pure function of frames and draws.
Shapes: B batch, H W pixels of the (resized) frame, h w pixels of the crop, C = 3 channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from reid.errors import ConfigError

PLACES, COLORS, ERASING = 3, 3, 5  # draws per image for crop and flip, for `jitter` and for `erase`, in this order
_AT_ONCE = 8  # images processed at once on a CPU, so that they fit in its caches
_GREY = (0.2989, 0.587, 0.114)  # luma of red, green, blue (ITU-R BT.601)


class Preprocess:
    """Callable: frames -> (B, C, h, w) float32, channels last in memory.

    Args:
        resize: (height, width) before the crop; bilinear with antialiasing, as in Pillow but without its rounding to uint8.
        crop: (height, width) of the result.
        mean: of red, green, blue in [0, 1].
        std: of red, green, blue in [0, 1].
        flip: probability of a horizontal flip in training.
        erase: probability of random erasing in training (see `erase`).
        color: strength of the colour jitter in training (see `jitter`).
        pad: black pixels added on every side in training, after the resize and before the crop.
    """

    def __init__(
        self,
        resize: Sequence[int],
        crop: Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        flip: float = 0.5,
        erase: float = 0.0,
        color: float = 0.0,
        pad: int = 0,
    ) -> None:
        if crop[0] > resize[0] or crop[1] > resize[1]:
            raise ConfigError(f"augment.crop: expected at most augment.resize {list(resize)}, got {list(crop)}")
        self.resize, self.crop, self.flip, self.erase, self.color = list(resize), list(crop), flip, erase, color
        self.pad = pad
        self.mean, self.std = torch.tensor(mean) * 255, torch.tensor(std) * 255
        self._on_device: dict[torch.device, tuple[Tensor, Tensor]] = {}

    @property
    def extra_draws(self) -> int:
        """Draws per image for colour jitter and erasing, in addition to the `PLACES` of the crop; 0 if both are off."""
        return COLORS + ERASING if self.color or self.erase else 0

    def __call__(self, images: Tensor | list[Tensor], device: torch.device, draws_BR: Tensor | None = None) -> Tensor:
        """Convert frames to network input.

        Args:
            images: (B, H, W, C) uint8, or a list of (H, W, C) uint8 of different sizes; pinned (page-locked) for a CUDA device.
            device: where to compute.
            draws_BR: (B, PLACES + extra_draws) uniform in [0, 1), for training: position of the crop (top, left) and flip, then those of
                `jitter` and `erase`. None: the centre crop without augmentation.
        """
        at_once = _AT_ONCE if device.type == "cpu" and not isinstance(images, list) else max(len(images), 1)
        if len(images) <= at_once:
            return self._processed(images, device, draws_BR)
        result_BChw = torch.empty(len(images), *self.crop, 3).permute(0, 3, 1, 2)
        for i in range(0, len(images), at_once):
            part = slice(i, i + at_once)
            result_BChw[part] = self._processed(images[part], device, None if draws_BR is None else draws_BR[part])
        return result_BChw

    def _processed(self, images: Tensor | list[Tensor], device: torch.device, draws_BR: Tensor | None) -> Tensor:
        resized_BHWC = self._resized(images, device)
        if draws_BR is None:
            return self._normalised(self._centre(resized_BHWC)).permute(0, 3, 1, 2)
        places_B3, colors_B3, erasing_B5 = draws_BR.to(device).tensor_split([PLACES, PLACES + COLORS], dim=1)
        crops_BhwC = self._crops(resized_BHWC, places_B3)
        if self.color:
            crops_BhwC = jitter(crops_BhwC.float(), colors_B3, self.color)
        crops_BhwC = self._normalised(crops_BhwC)
        if self.erase:
            crops_BhwC = erase(crops_BhwC, erasing_B5, self.erase)
        return crops_BhwC.permute(0, 3, 1, 2)

    def _resized(self, images: Tensor | list[Tensor], device: torch.device) -> Tensor:
        """(B, H, W, C) float32; frames that already have the size are returned unchanged, as uint8."""
        if isinstance(images, list):
            return torch.cat([self._resized(image[None], device) for image in images])
        pixels = images.to(device, non_blocking=True)
        if list(pixels.shape[1:3]) == self.resize:
            return pixels
        # Antialiasing has no effect on a side that is doubled or unchanged; without it the bits are the same and a CPU is faster.
        doubled = all(new in (old, 2 * old) for new, old in zip(self.resize, pixels.shape[1:3], strict=True))
        antialias = not doubled or device.type != "cpu"
        pixels = pixels.permute(0, 3, 1, 2).float()
        if device.type == "cpu" and antialias:  # twice as fast with contiguous channels
            pixels = pixels.contiguous()
        pixels = F.interpolate(pixels, self.resize, mode="bilinear", antialias=antialias, align_corners=False)
        return pixels.permute(0, 2, 3, 1)

    def _centre(self, resized_BHWC: Tensor) -> Tensor:
        top, left = ((whole - part) // 2 for whole, part in zip(self.resize, self.crop, strict=True))
        return resized_BHWC[:, top : top + self.crop[0], left : left + self.crop[1]]

    def _crops(self, resized_BHWC: Tensor, draws_B3: Tensor) -> Tensor:
        """Crop all images in one gather operation over pixels; a flip reverses the columns."""
        device = resized_BHWC.device
        if self.pad:
            resized_BHWC = F.pad(resized_BHWC, (0, 0, *[self.pad] * 4))
        (height, width), (h, w) = resized_BHWC.shape[1:3], self.crop
        top_B1, left_B1 = (draws_B3[:, :1] * (height - h + 1)).long(), (draws_B3[:, 1:2] * (width - w + 1)).long()
        column_w = torch.arange(w, device=device)
        column_Bw = left_B1 + torch.where(draws_B3[:, 2:] < self.flip, column_w.flip(0), column_w)
        row_Bh = top_B1 + torch.arange(h, device=device) + height * torch.arange(len(draws_B3), device=device)[:, None]
        pixel_Bhw = row_Bh[:, :, None] * width + column_Bw[:, None, :]
        # Takes a third of the time of indexing with rows and columns.
        return resized_BHWC.reshape(-1, 3).index_select(0, pixel_Bhw.flatten()).view(*pixel_Bhw.shape, 3)

    def _normalised(self, pixels_BhwC: Tensor) -> Tensor:
        device = pixels_BhwC.device
        if device not in self._on_device:  # copied once: a copy from pageable memory synchronises
            mean, std = (value.repeat(self.crop[1]) for value in (self.mean, self.std))  # inner loops over 3 are slow
            self._on_device[device] = mean.to(device), std.to(device)
        mean, std = self._on_device[device]
        return (pixels_BhwC.flatten(2) - mean).div_(std).view(pixels_BhwC.shape)


def jitter(images_BhwC: Tensor, draws_B3: Tensor, strength: float) -> Tensor:
    """Colour jitter: scale brightness, contrast and saturation, in this order, by factors uniform in [max(0, 1 - strength), 1 + strength].

    Args:
        images_BhwC: float32, 0..255.
        draws_B3: uniform in [0, 1), for brightness, contrast, saturation.
        strength: >= 0.

    Returns:
        (B, h, w, C) float32, clamped to 0..255 after each of the three operations.
    """
    low = max(0.0, 1 - strength)
    factors_B3111 = (low + draws_B3 * (1 + strength - low)).to(images_BhwC.dtype)[..., None, None, None]
    brightness, contrast, saturation = factors_B3111.unbind(1)
    images_BhwC = (images_BhwC * brightness).clamp_(0, 255)
    mean_B111 = _grey(images_BhwC).mean((1, 2, 3), keepdim=True)
    images_BhwC = torch.lerp(mean_B111, images_BhwC, contrast).clamp_(0, 255)
    return torch.lerp(_grey(images_BhwC), images_BhwC, saturation).clamp_(0, 255)


def _grey(images_BhwC: Tensor) -> Tensor:
    red, green, blue = images_BhwC.split(1, dim=-1)
    return red * _GREY[0] + green * _GREY[1] + blue * _GREY[2]


def erase(
    images_BhwC: Tensor,
    draws_B5: Tensor,
    probability: float,
    area: tuple[float, float] = (0.02, 0.4),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> Tensor:
    """Random erasing, in place: a rectangle of some images is set to 0, the mean of normalised pixels.

    The source draws rectangles until one fits; here they are drawn in closed form: the area is uniform, the aspect ratio is uniform among
    those with which the rectangle fits into the image, and the position is uniform. (Redrawing favours small rectangles; this does not.)

    Args:
        images_BhwC: float32, normalised; modified in place.
        draws_B5: uniform in [0, 1): whether to erase, area, aspect, top, left.
        probability: probability that an image is erased.
        area: range of the area of the rectangle, as a share of the image.
        aspect: range of height / width of the rectangle.

    Source: Zhong et al., "Random Erasing Data Augmentation", 2017, Algorithm 1.
    """
    h, w = images_BhwC.shape[1:3]
    chosen, size, shape, top, left = draws_B5[:, :, None].unbind(1)
    size = (area[0] + size * (area[1] - area[0])) * h * w
    flattest, tallest = (size / w**2).clamp(min=aspect[0]), (h**2 / size).clamp(max=aspect[1])
    shape = flattest + shape * (tallest - flattest)
    height, width = (size * shape).sqrt().round().clamp(1, h), (size / shape).sqrt().round().clamp(1, w)
    inside_Bh = _between((top * (h - height + 1)).floor(), height, h) & (chosen < probability)
    inside_Bw = _between((left * (w - width + 1)).floor(), width, w)
    return images_BhwC.masked_fill_((inside_Bh[:, :, None] & inside_Bw[:, None, :])[..., None], 0.0)


def _between(start_B1: Tensor, length_B1: Tensor, size: int) -> Tensor:
    """(B, size) bool, true at the `length` positions from `start` on."""
    places = torch.arange(size, device=start_B1.device)
    return (places >= start_B1) & (places < start_B1 + length_B1)
