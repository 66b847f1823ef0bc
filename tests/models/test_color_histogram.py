"""Colour histograms against counting by hand."""

import numpy as np
import torch

from reid.models.color_histogram import ColorHistogram


def test_equals_numpys_histogram_of_each_stripe() -> None:
    rng = np.random.default_rng(0)
    images = rng.random((3, 3, 24, 10))
    got = ColorHistogram(stripes=4, bins=5)(torch.from_numpy(images)).numpy()
    for image, row in zip(images, got, strict=True):
        stripes = [image[:, 6 * i : 6 * i + 6].reshape(3, -1).T for i in range(4)]
        counts = [np.histogramdd(stripe, bins=5, range=[(0, 1)] * 3)[0].ravel() for stripe in stripes]
        np.testing.assert_allclose(row, np.sqrt(np.concatenate(counts) / 60), rtol=1e-6)


def test_white_falls_into_the_last_bin() -> None:
    row = ColorHistogram(stripes=1, bins=2)(torch.ones(1, 3, 4, 4))[0]
    assert row.tolist() == [0, 0, 0, 0, 0, 0, 0, 1]
