"""Embedding, classifier and pooling against their definitions."""

import numpy as np
import pytest
import torch
from torch import nn

from reid.models.embedding import Classifier, Embedding
from reid.models.pooling import POOLINGS


class Flat(nn.Module):
    num_features = 12

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


@pytest.mark.parametrize("neck", ["none", "bn"])
def test_neck(neck: str) -> None:
    images = torch.randn(64, 3, 2, 2) * 5 + 3
    embedding = Embedding(Flat(), neck).train()
    features = embedding(images)
    if neck == "none":
        assert torch.equal(features, images.flatten(1))
    else:
        expected = (images.flatten(1) - images.flatten(1).mean(0)) / images.flatten(1).std(0, correction=0)
        torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-4)
        assert not embedding.neck.bias.requires_grad
    model = Classifier(embedding, 7).eval()
    torch.testing.assert_close(model(images), embedding(images) @ model.head.weight.T)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(images).dtype == torch.float32


@pytest.mark.parametrize(("name", "reduce"), [("mean", np.mean), ("max", np.max)])
def test_pooling_in_any_chunks(name: str, reduce) -> None:
    rng = np.random.default_rng(0)
    frames, rows = rng.normal(size=(50, 4)).astype(np.float32), np.sort(rng.integers(0, 6, 50))
    rows[rows == 3] = 2  # tracklet 3 has no frame in this process
    expected = np.stack([reduce(frames[rows == i], axis=0) if (rows == i).any() else np.zeros(4) for i in range(6)])
    for size in (1, 7, 50):
        pool = POOLINGS[name](6, 4)
        for i in range(0, 50, size):
            pool.add(torch.from_numpy(frames[i : i + size]), torch.from_numpy(rows[i : i + size]))
        np.testing.assert_allclose(pool.result().numpy(), expected, atol=1e-6)
