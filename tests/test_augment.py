"""Batched preprocessing against Pillow, image by image."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms.v2 import functional as tv

from reid.augment import Preprocess, erase, jitter
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


@pytest.mark.parametrize("resize", [[40, 20], [64, 64], [24, 12], [40, 31], [40, 40]])
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


@pytest.mark.parametrize("resize", [[80, 20], [40, 40], [80, 40], [80, 30]])
def test_the_short_way_of_doubling_changes_no_bit(resize: list[int]) -> None:
    images = torch.from_numpy(people(3))
    resized = Preprocess(resize, resize, [0, 0, 0], [1 / 255] * 3)(images, CPU)
    planes = images.permute(0, 3, 1, 2).float().contiguous()
    assert resized.equal(nn.functional.interpolate(planes, resize, mode="bilinear", antialias=True))


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


@pytest.mark.parametrize("strength", [0.3, 1.0, 2.5])
def test_colours_equal_torchvisions_image_by_image(strength: float) -> None:
    rng = np.random.default_rng(0)
    images, draws = torch.from_numpy(people(8)).float(), torch.from_numpy(rng.random((8, 3)))
    draws[0], draws[1] = 0.0, 1 - 1e-12
    low = max(0.0, 1 - strength)
    for image, draw, result in zip(images, draws, jitter(images, draws, strength), strict=True):
        brightness, contrast, saturation = (float(low + d * (1 + strength - low)) for d in draw)
        expected = tv.adjust_brightness(image.permute(2, 0, 1) / 255, brightness)
        expected = tv.adjust_saturation(tv.adjust_contrast(expected, contrast), saturation)
        torch.testing.assert_close(result.permute(2, 0, 1) / 255, expected, rtol=0, atol=2e-6)


def test_colours_without_strength_change_nothing() -> None:
    images = torch.from_numpy(people(2)).float()
    torch.testing.assert_close(jitter(images, torch.rand(2, 3, dtype=torch.float64), 0.0), images)


@pytest.mark.parametrize(("height", "width"), [(32, 16), (16, 32), (20, 20), (64, 4)])
def test_erasing_equals_a_plain_loop(height: int, width: int) -> None:
    rng = np.random.default_rng(1)
    draws, images = rng.random((200, 5)), rng.normal(size=(200, height, width, 3)).astype(np.float32)
    images[images == 0] = 1.0
    erased = erase(torch.from_numpy(images.copy()), torch.from_numpy(draws), 0.6).numpy()
    for image, (chosen, size, shape, top, left), result in zip(images, draws.tolist(), erased, strict=True):
        area = (0.02 + 0.38 * size) * height * width
        flattest, tallest = max(0.3, area / width**2), min(1 / 0.3, height**2 / area)
        aspect = flattest + shape * (tallest - flattest)
        h = min(max(round((area * aspect) ** 0.5), 1), height)
        w = min(max(round((area / aspect) ** 0.5), 1), width)
        top, left = int(top * (height - h + 1)), int(left * (width - w + 1))
        expected = image.copy()
        if chosen < 0.6:
            expected[top : top + h, left : left + w] = 0
        np.testing.assert_array_equal(result, expected)


def test_erased_rectangles_are_those_of_the_paper() -> None:
    """Share, shape and place over many draws: within the ranges, and as spread as they should be."""
    draws = torch.from_numpy(np.random.default_rng(2).random((3000, 5)))
    gone = erase(torch.ones(3000, 128, 64, 3), draws, 1.0)[..., 0] == 0
    heights, widths = gone.any(2).sum(1), gone.any(1).sum(1)
    assert torch.equal(gone.sum((1, 2)), heights * widths)  # rectangles
    share, aspect = gone.float().mean((1, 2)), heights / widths
    assert 0.018 < share.min() < 0.025 and 0.39 < share.max() < 0.41  # rounded to pixels
    assert share.mean() == pytest.approx(0.21, abs=0.01)
    assert 0.27 < aspect.min() < 0.4 and 3.2 < aspect.max() < 3.8
    assert gone[:, 0].any() and gone[:, -1].any() and gone[:, :, 0].any() and gone[:, :, -1].any()
    kept = erase(torch.ones(3000, 8, 4, 3), draws, 0.25).amin((1, 2, 3)) == 1
    assert kept.float().mean() == pytest.approx(0.75, abs=0.03)


def test_colours_and_erasing_stand_in_their_places() -> None:
    """Crop as without them; colours on pixels, before normalisation; erasing after it."""
    images, draws = torch.from_numpy(people(6)), torch.from_numpy(np.random.default_rng(3).random((6, 11)))
    both = Preprocess([40, 20], [36, 16], MEAN, STD, erase=0.5, color=0.4)
    pixels = Preprocess([40, 20], [36, 16], [0.0] * 3, [1 / 255] * 3)(images, CPU, draws[:, :3]).permute(0, 2, 3, 1)
    expected = (jitter(pixels, draws[:, 3:6], 0.4) / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    expected = erase(expected, draws[:, 6:], 0.5).permute(0, 3, 1, 2)
    batch = both(images, CPU, draws)
    torch.testing.assert_close(batch, expected, rtol=0, atol=1e-5)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert (both.extra_draws, Preprocess([40, 20], [36, 16], MEAN, STD).extra_draws) == (8, 0)
    torch.testing.assert_close(
        both(images, CPU), Preprocess([40, 20], [36, 16], MEAN, STD)(images, CPU)
    )  # not in tests


def test_frames_are_left_as_they_are() -> None:
    images = torch.from_numpy(people(2))
    before = images.clone()
    for draws in (None, torch.full((2, 11), 0.5)):
        Preprocess([40, 20], [40, 20], MEAN, STD, erase=1.0, color=0.5)(images, CPU, draws)
    assert torch.equal(images, before)


def test_pad_and_crop_equals_torchvisions() -> None:
    images, draws = people(6), torch.from_numpy(np.random.default_rng(3).random((6, 3)))
    preprocess = Preprocess([40, 20], [40, 20], [0.0] * 3, [1 / 255] * 3, flip=0.5, pad=10)
    for image, draw, got in zip(images, draws, preprocess(torch.from_numpy(images), CPU, draws), strict=True):
        padded = tv.pad(torch.from_numpy(image).permute(2, 0, 1), [10])
        window = tv.crop(padded, int(draw[0] * 21), int(draw[1] * 21), 40, 20)
        assert torch.equal(got, (tv.hflip(window) if draw[2] < 0.5 else window).float())
    plain = Preprocess([40, 20], [40, 20], [0.0] * 3, [1 / 255] * 3)
    assert torch.equal(
        preprocess(torch.from_numpy(images), CPU), plain(torch.from_numpy(images), CPU)
    )  # in a test, none


def test_an_erased_place_is_the_mean_of_the_pixels() -> None:
    """In pixels it is (124, 116, 104), as fast-reid fills it."""
    images, draws = torch.from_numpy(people(4)), torch.rand(4, 11, generator=torch.Generator().manual_seed(0))
    batch = Preprocess([40, 20], [40, 20], MEAN, STD, flip=0, erase=1.0)(images, CPU, draws)
    pixels = batch * torch.tensor(STD).view(3, 1, 1) * 255 + torch.tensor(MEAN).view(3, 1, 1) * 255
    place = batch.abs().sum(1) == 0
    assert (place.sum((1, 2)) >= 16).all()
    filled = pixels.permute(0, 2, 3, 1)[place]
    torch.testing.assert_close(filled, (torch.tensor(MEAN) * 255).expand_as(filled), rtol=1e-5, atol=1e-3)
