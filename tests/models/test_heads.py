"""Classifiers by angle against another library's losses, and without their margin outside of training."""

import math

import pytest
import torch
from pytorch_metric_learning import losses
from torch import Tensor, nn

from reid.errors import ConfigError
from reid.losses import CCE
from reid.models.embedding import Classifier, Embedding
from reid.models.heads import HEADS, ArcFace, CosFace, CosineHead

B, D, K = 12, 5, 4


@pytest.fixture
def features() -> Tensor:
    return torch.randn(B, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()


TARGET = torch.arange(B) % K


def compared(head: CosineHead, theirs: nn.Module, features: Tensor) -> None:
    """Cross entropy of the head's logits, and its gradients, are the library's loss and its gradients."""
    ours = CCE()(head(features, TARGET), TARGET).mean()
    expected = theirs(features, TARGET)
    torch.testing.assert_close(ours, expected)
    mine, other = (
        torch.autograd.grad(ours, [features, head.weight]),
        torch.autograd.grad(expected, [features, theirs.W]),
    )
    torch.testing.assert_close(mine[0], other[0])
    torch.testing.assert_close(mine[1], other[1].T)


@pytest.mark.parametrize("margin", [0.0, 0.5, 1.2])
def test_arcface_is_the_library_s(features: Tensor, margin: float) -> None:
    head = ArcFace(D, K, margin=margin, scale=16.0).double()
    theirs = losses.ArcFaceLoss(K, D, margin=math.degrees(margin), scale=16).double()
    theirs.W.data = head.weight.data.T.clone()
    compared(head, theirs, features)


def test_cosface_is_the_library_s(features: Tensor) -> None:
    head, theirs = (
        CosFace(D, K, margin=0.35, scale=16.0).double(),
        losses.CosFaceLoss(K, D, margin=0.35, scale=16).double(),
    )
    theirs.W.data = head.weight.data.T.clone()
    compared(head, theirs, features)


def test_subcentre_arcface_is_the_library_s(features: Tensor) -> None:
    head = ArcFace(D, K, margin=0.5, scale=16.0, centres=3).double()
    theirs = losses.SubCenterArcFaceLoss(
        num_classes=K, embedding_size=D, margin=math.degrees(0.5), scale=16, sub_centers=3
    ).double()
    theirs.W.data = head.weight.data.T.clone()
    compared(head, theirs, features)


@pytest.mark.parametrize("name", ["cosine", "arcface", "cosface"])
def test_no_margin_outside_of_training(name: str, features: Tensor) -> None:
    head = HEADS[name](D, K).double()
    plain = 30 * nn.functional.cosine_similarity(features[:, None], head.weight[None], dim=2)
    torch.testing.assert_close(head(features), plain)
    torch.testing.assert_close(head.eval()(features, TARGET), plain)
    trained = head.train()(features, TARGET)
    lower = trained.gather(1, TARGET[:, None]) < plain.gather(1, TARGET[:, None])
    assert lower.all() == (name != "cosine")


def test_arcface_goes_on_falling_beyond_pi() -> None:
    angle = torch.linspace(0, math.pi, 181, dtype=torch.float64)
    turned = ArcFace(2, 2, margin=0.5)._with_margin(angle.cos())
    assert (turned.diff() < 0).all()


def test_a_classifier_gives_its_head_the_targets_and_its_losses_the_features() -> None:
    class Flat(nn.Module):
        num_features = 12

        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)

    images = torch.randn(6, 3, 2, 2)
    plain = Classifier(Embedding(Flat(), "bn"), 3).train()
    assert not plain.takes_targets
    assert isinstance(plain(images), Tensor)
    model = Classifier(Embedding(Flat(), "bn"), 3, ArcFace).train()
    model.with_features = True
    assert model.takes_targets
    logits, features = model(images, torch.tensor([0, 1, 2, 0, 1, 2]))
    assert torch.equal(features, images.flatten(1))  # before the neck
    assert logits.shape == (6, 3)
    assert isinstance(model.eval()(images), Tensor)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: ArcFace(2, 2, margin=1.6), "margin"),
        (lambda: CosFace(2, 2, margin=-0.1), "margin"),
        (lambda: CosineHead(2, 2, scale=0.0), "scale"),
        (lambda: CosineHead(2, 2, centres=0), "centres: expected at least 1, got 0"),
    ],
)
def test_settings_out_of_range(make: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()  # type: ignore[operator]
