"""Batched preprocessing against Pillow, image by image."""

import numpy as np
import pytest
import torch
from PIL import Image

from reid.augment import Preprocess
from reid.errors import ConfigError

CPU = torch.device("cpu")
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def people(count: int, height: int = 40, width: int = 20) -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, height // 4, width // 4, 3), dtype=np.uint8)
    return coarse.repeat(4, 1).repeat(4, 2)


def reference(
    image: np.ndarray, resize: list[int], crop: list[int], draw: list[float] | None, flip: float
) -> np.ndarray:
    """What the usual per-image recipe does: Pillow's resize, a crop, a flip, normalise."""
    resized = np.asarray(Image.fromarray(image).resize((resize[1], resize[0]), Image.Resampling.BILINEAR))
    room = [resize[0] - crop[0], resize[1] - crop[1]]
    top, left = (r // 2 for r in room) if draw is None else (int(d * (r + 1)) for d, r in zip(draw, room, strict=False))
    window = resized[top : top + crop[0], left : left + crop[1]]
    if draw is not None and draw[2] < flip:
        window = window[:, ::-1]
    return ((window / 255 - MEAN) / STD).transpose(2, 0, 1)


@pytest.mark.parametrize("resize", [[40, 20], [64, 64], [24, 12], [40, 31]])
@pytest.mark.parametrize("training", [False, True])
def test_equals_pillow_within_its_rounding(resize: list[int], training: bool) -> None:
    images, crop = people(6), [resize[0] - 5, resize[1] - 2]
    draws = np.random.default_rng(1).random((6, 3)) if training else None
    preprocess = Preprocess(resize, crop, MEAN, STD, flip=0.5)
    batch = preprocess(torch.from_numpy(images), CPU, None if draws is None else torch.from_numpy(draws))
    expected = [
        reference(im, resize, crop, None if draws is None else draws[i].tolist(), 0.5) for i, im in enumerate(images)
    ]
    assert batch.shape == (6, 3, *crop)
    assert batch.dtype == torch.float32
    one_level = 1 / 255 / min(STD)
    np.testing.assert_allclose(batch.numpy(), np.stack(expected), atol=1.01 * one_level)


def test_sizes_may_differ() -> None:
    small, large = people(1), people(1, 80, 60)
    preprocess = Preprocess([48, 24], [44, 22], MEAN, STD)
    mixed = preprocess([torch.from_numpy(small[0]), torch.from_numpy(large[0])], CPU)
    apart = torch.cat([preprocess(torch.from_numpy(images), CPU) for images in (small, large)])
    torch.testing.assert_close(mixed, apart)


def test_flip_probabilities_and_extreme_draws() -> None:
    image = torch.from_numpy(people(1))
    extremes = torch.tensor([[0.0, 0.0, 0.0], [1 - 1e-9, 1 - 1e-9, 1 - 1e-9]], dtype=torch.float64)
    never, always = (Preprocess([40, 20], [36, 16], [0.0] * 3, [1 / 255] * 3, flip=flip) for flip in (0.0, 1.0))
    for draw in extremes:
        torch.testing.assert_close(always(image, CPU, draw[None]), never(image, CPU, draw[None]).flip(3))
    raw = image[0].permute(2, 0, 1).float()
    torch.testing.assert_close(never(image, CPU, extremes[:1])[0], raw[:, :36, :16])
    torch.testing.assert_close(never(image, CPU, extremes[1:])[0], raw[:, -36:, -16:])


def test_memory_is_channels_last() -> None:
    batch = Preprocess([40, 20], [40, 20], MEAN, STD)(torch.from_numpy(people(2)), CPU)
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_a_crop_larger_than_the_image_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"augment.crop: expected at most augment.resize \[40, 20\], got \[40, 21\]"):
        Preprocess([40, 20], [40, 21], MEAN, STD)
