"""Metric losses against another library's, against plain loops, and at the edges: nobody to compare with, weights of 0."""

import math

import pytest
import torch
from pytorch_metric_learning import distances, losses, miners, reducers
from torch import Tensor

from reid.engine.objective import SumOfLosses
from reid.errors import ConfigError
from reid.losses import CCE, GCE, IMAE, NCERCE
from reid.metric_losses import METRIC_LOSSES, Centre, Circle, MetricLoss, SoftTriplet, Triplet

LABELS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 1])


@pytest.fixture
def features() -> Tensor:
    return torch.randn(10, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()


def gradient(loss: Tensor, features: Tensor) -> Tensor:
    return torch.autograd.grad(loss, features)[0]


@pytest.mark.parametrize("margin", [0.0, 0.3, 2.0])
def test_triplet_is_the_library_s_with_its_batch_hard_miner(features: Tensor, margin: float) -> None:
    plain = distances.LpDistance(normalize_embeddings=False)
    theirs = losses.TripletMarginLoss(margin, distance=plain, reducer=reducers.MeanReducer())
    expected = theirs(features, LABELS, miners.BatchHardMiner(distance=plain)(features, LABELS))
    ours = Triplet(margin)(features, LABELS).mean()
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(gradient(ours, features), gradient(expected, features))


def test_soft_triplet_is_the_formula_over_all_pairs(features: Tensor) -> None:
    values = []
    for i, anchor in enumerate(features):
        far = [(anchor - x).norm() for j, x in enumerate(features) if j != i and LABELS[j] == LABELS[i]]
        near = [(anchor - x).norm() for j, x in enumerate(features) if LABELS[j] != LABELS[i]]
        values.append(torch.log(1 + torch.exp(max(far) - min(near))))
    ours = SoftTriplet()(features, LABELS)
    torch.testing.assert_close(ours, torch.stack(values))
    torch.testing.assert_close(gradient(ours.sum(), features), gradient(torch.stack(values).sum(), features))


@pytest.mark.parametrize(("margin", "gamma"), [(0.25, 128.0), (0.4, 8.0)])
def test_circle_is_the_library_s(features: Tensor, margin: float, gamma: float) -> None:
    expected = losses.CircleLoss(margin, gamma, reducer=reducers.MeanReducer())(features, LABELS)
    ours = Circle(margin, gamma)(features, LABELS).mean()
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(gradient(ours, features), gradient(expected, features))


def test_centres_follow_their_features_as_in_the_paper(features: Tensor) -> None:
    loss, centres = Centre(4, 6, alpha=0.5).double().train(), torch.zeros(4, 6, dtype=torch.float64)
    for _ in range(3):
        value_B = loss(features, LABELS)
        expected = [((x - centres[y]) ** 2).sum() / 2 for x, y in zip(features, LABELS.tolist(), strict=True)]
        torch.testing.assert_close(value_B, torch.stack(expected))
        for j in range(4):  # Eq. 4
            of_class = features.detach()[j == LABELS]
            centres[j] -= 0.5 * (centres[j] - of_class).sum(0) / (1 + len(of_class))
        torch.testing.assert_close(loss.centres_KD, centres)
    loss.eval()(features, LABELS)
    torch.testing.assert_close(loss.centres_KD, centres)  # outside of training they stay


@pytest.mark.parametrize("name", ["triplet", "triplet_soft", "circle"])
def test_nobody_to_compare_with_adds_nothing(name: str, features: Tensor) -> None:
    loss = METRIC_LOSSES[name]()
    lone = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3])
    value_B = loss(features, lone)
    assert value_B[9] == 0
    assert (value_B[:9] > 0).any()
    for nobody in (torch.zeros(10, dtype=torch.int64), torch.arange(10)):
        value_B = loss(features, nobody)
        assert not value_B.any()
        assert not gradient(value_B.sum(), features).any()


@pytest.mark.parametrize("name", ["triplet", "triplet_soft", "circle"])
def test_gradients_are_finite_where_features_agree(name: str) -> None:
    features = torch.ones(6, 3, requires_grad=True)
    loss = METRIC_LOSSES[name]()(features, torch.tensor([0, 0, 0, 1, 1, 1])).sum()
    assert gradient(loss, features).isfinite().all()


def test_half_precision_is_computed_in_full() -> None:
    features = torch.randn(6, 4)
    label = torch.tensor([0, 0, 1, 1, 2, 2])
    for name in ("triplet", "triplet_soft", "circle"):
        value = METRIC_LOSSES[name]()(features.bfloat16(), label)
        assert value.dtype == torch.float32
        assert torch.equal(value, METRIC_LOSSES[name]()(features.bfloat16().float(), label))


def test_weights_of_a_triplet_are_those_of_its_three_corners(features: Tensor) -> None:
    weight = torch.rand(10, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.1
    distance = torch.cdist(features, features).detach()
    expected = []
    for i in range(10):
        same = [j for j in range(10) if j != i and LABELS[j] == LABELS[i]]
        other = [j for j in range(10) if LABELS[j] != LABELS[i]]
        p, n = max(same, key=lambda j: distance[i, j]), min(other, key=lambda j: distance[i, j])
        expected.append((weight[i] * weight[p] * weight[n]).item() ** (1 / 3))
    plain = Triplet(5.0)(features, LABELS)
    torch.testing.assert_close(
        Triplet(5.0)(features, LABELS, weight) / plain, torch.tensor(expected, dtype=torch.float64)
    )
    weight[0] = 0
    assert Triplet(5.0)(features, LABELS, weight)[0] == 0
    torch.testing.assert_close(Circle()(features, LABELS, weight), Circle()(features, LABELS) * weight)


def make_sum(*losses: tuple[str, object, float]) -> SumOfLosses:
    return SumOfLosses({name: loss for name, loss, _ in losses}, {name: factor for name, _, factor in losses})


def test_a_sum_is_its_terms_times_their_factors(features: Tensor) -> None:
    logits = torch.randn(10, 3, dtype=torch.float64, requires_grad=True)
    loss = make_sum(("imae", IMAE(8.0), 2.0), ("triplet", Triplet(0.3), 0.5), ("cce", CCE(), 1.0))
    total_B, terms = loss(logits, LABELS, None, features)
    parts = [IMAE(8.0)(logits, LABELS), Triplet(0.3)(features, LABELS), CCE()(logits, LABELS)]
    torch.testing.assert_close(total_B, 2 * parts[0] + 0.5 * parts[1] + parts[2])
    torch.testing.assert_close(terms, torch.stack(parts, 1))
    assert not terms.requires_grad
    assert loss.names == ["imae", "triplet", "cce"]
    assert loss.needs_features
    assert loss.needs_whole_batch
    assert not make_sum(("cce", CCE(), 1), ("gce", GCE(), 1)).needs_whole_batch


def test_metric_losses_may_be_weighed_by_w_of_p(features: Tensor) -> None:
    logits = torch.randn(10, 3, dtype=torch.float64, requires_grad=True)
    loss = make_sum(("imae", IMAE(8.0), 1.0), ("circle", Circle(weights="w"), 1.0))
    total_B, terms = loss(logits, LABELS, None, features)
    p = logits.softmax(1)[torch.arange(10), LABELS].detach()
    w = torch.exp(8 * p * (1 - p))
    torch.testing.assert_close(
        terms[:, 1].double(), Circle()(features, LABELS).detach() * w / w.mean(), rtol=1e-5, atol=1e-6
    )
    without = torch.autograd.grad(IMAE(8.0)(logits, LABELS).sum(), logits)[0]
    torch.testing.assert_close(torch.autograd.grad(total_B.sum(), logits)[0], without)  # w is no way back to the logits


def test_sums_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="triplet would leave the classifier untrained; add a loss such as imae"):
        make_sum(("triplet", Triplet(), 1))
    with pytest.raises(ConfigError, match=r"weights: w needs another loss with a weight function w\(p\)"):
        make_sum(("nce_rce", NCERCE(), 1), ("triplet", Triplet(weights="w"), 1))


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Triplet(-0.1), "margin"),
        (lambda: Circle(margin=1.0), "margin"),
        (lambda: Circle(gamma=0.0), "gamma"),
        (lambda: Centre(2, 2, alpha=0.0), "alpha"),
        (lambda: Triplet(math.nan), "margin"),
    ],
)
def test_settings_out_of_range(make: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()  # type: ignore[operator]


def test_the_base_is_no_loss(features: Tensor) -> None:
    with pytest.raises(NotImplementedError):
        MetricLoss()(features, LABELS)
