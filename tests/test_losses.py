"""Losses against the paper's equations in float64, with autograd on independent formulas as the second witness."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import erf
from torch.nn import functional as F

from reid.errors import ConfigError
from reid.losses import (
    AGCE,
    CCE,
    DM,
    ELR,
    GCE,
    IMAE,
    LOSSES,
    MAE,
    NCERCE,
    SCE,
    GCETruncated,
    IMAEGuarded,
    IMAEReleased,
    LabelSmoothing,
)

# Their gradients are not those of their values.
RESCALED = [IMAE(T=0.0), IMAE(T=0.5), IMAE(T=8.0), IMAEGuarded(), IMAEGuarded(T=0.5, epsilon=1e-4)]
RESCALED += [IMAEReleased(normalise="size"), DM(T=4.0, lam=2.0, epsilon=0.0, normalise="size")]
OF_THE_BATCH = [IMAEReleased(), IMAEReleased(T=16.0, epsilon=0.0), DM(), DM(lam=0.0), DM(T=2.0, lam=3.0, epsilon=1e-2)]
WEIGHTED = [
    CCE(),
    MAE(),
    GCE(q=0.7),
    GCE(q=0.2),
    AGCE(),
    AGCE(a=1e-5, q=0.5),
    AGCE(a=6.0, q=1.5),
    SCE(),
    SCE(alpha=6.0, beta=0.1, A=math.log(1e-4)),
    *RESCALED,
]
PLAIN = [
    *WEIGHTED,
    *OF_THE_BATCH,
    NCERCE(),
    NCERCE(alpha=10.0, beta=0.1, A=-4.0),
    LabelSmoothing(),
    LabelSmoothing(epsilon=0.7),
]


def sample(classes: int, batch: int = 64, scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(batch, classes, generator=generator, dtype=torch.float64) * scale
    return logits.requires_grad_(), torch.randint(classes, (batch,), generator=generator)


def gradient(loss: torch.nn.Module, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    (grad,) = torch.autograd.grad(loss(logits, target).sum(), logits)
    return grad


def paper_gradient(name: str, logits: torch.Tensor, target: torch.Tensor, **options: float) -> torch.Tensor:
    """Eq. 15, 18 and 22 as they are printed, sample by sample and class by class."""
    p = torch.softmax(logits.detach(), dim=1)
    grad = torch.empty_like(p)
    for i, y in enumerate(target.tolist()):
        py = p[i, y]
        for j in range(p.shape[1]):
            cce = py - 1 if j == y else p[i, j]
            mae = 2 * py * (py - 1) if j == y else 2 * py * p[i, j]
            w_mae = 4 * py * (1 - py) + options.get("epsilon", 0)
            imae = mae * torch.exp(options.get("T", 0) * py * (1 - py)) / w_mae
            gce = cce * py ** options.get("q", 0)
            grad[i, j] = {"cce": cce, "mae": mae, "gce": gce, "imae": imae, "imae_guarded": imae}[name]
    return grad


@pytest.mark.parametrize("classes", [2, 3, 10, 101])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cce", {}),
        ("mae", {}),
        ("gce", {"q": 0.7}),
        ("imae", {"T": 0.5}),
        ("imae", {"T": 8.0}),
        ("imae_guarded", {"T": 8.0, "epsilon": 0.01}),
    ],
)
def test_gradient_is_the_papers(name: str, options: dict[str, float], classes: int) -> None:
    logits, target = sample(classes)
    expected = paper_gradient(name, logits, target, **options)
    torch.testing.assert_close(gradient(LOSSES[name](**options), logits, target), expected, rtol=1e-9, atol=1e-12)


def released_gradient(logits: torch.Tensor, target: torch.Tensor, T: float, lam: float, epsilon: float) -> torch.Tensor:
    """Of the batch's mean, as the authors' layer has it, sample by sample in NumPy; 1 - p is the sum of the other probabilities."""
    e = np.exp(logits.detach().double().numpy())
    p, y, rows = e / e.sum(1, keepdims=True), target.numpy(), np.arange(len(e))
    other = np.where(np.arange(p.shape[1]) == y[:, None], 0, p).sum(1)
    w = np.exp(T * p[rows, y] ** lam * other)
    grad = p.copy()
    grad[rows, y] = -other
    return torch.from_numpy(grad / (2 * other + epsilon)[:, None] * (w / w.sum())[:, None])


@pytest.mark.parametrize("classes", [2, 3, 10, 101])
@pytest.mark.parametrize("loss", OF_THE_BATCH, ids=repr)
def test_released_gradient_is_the_authors(loss: DM, classes: int) -> None:
    logits, target = sample(classes, scale=5.0)
    (grad,) = torch.autograd.grad(loss(logits, target).mean(), logits)
    expected = released_gradient(logits, target, loss.T, loss.lam, loss.epsilon)
    torch.testing.assert_close(grad, expected, rtol=1e-9, atol=1e-14)
    low = logits.detach().float().requires_grad_()
    (grad32,) = torch.autograd.grad(loss(low, target).mean(), low)
    torch.testing.assert_close(grad32.double(), grad, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("T", [0.0, 0.5, 8.0, 32.0])
def test_a_released_batch_pulls_with_length_1(T: float) -> None:
    logits, target = sample(625)
    (grad,) = torch.autograd.grad(IMAEReleased(T=T, epsilon=0.0)(logits, target).mean(), logits)
    assert float(grad.abs().sum()) == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize("epsilon", [0.0, 1e-12, 1e-6, 1e-3])
def test_released_guard_in_float32(epsilon: float) -> None:
    """It lets go of a sample where 1 - p is near epsilon / 2, also where 1 - p in float32 is 0."""
    margins = torch.linspace(-80, 80, 321, dtype=torch.float64)
    logits = torch.stack([torch.zeros_like(margins), margins], 1).float().requires_grad_()
    loss = IMAEReleased(epsilon=epsilon, normalise="size")
    found = gradient(loss, logits, torch.zeros(321, dtype=torch.int64)).abs().sum(1).double()
    q = 1 / (1 + torch.exp(-margins))
    expected = torch.exp(8 * q * (1 - q)) * (2 * q / (2 * q + epsilon))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-37)


def test_imae_released_without_guard_and_normaliser_is_imae() -> None:
    logits, target = sample(10)
    expected = gradient(IMAE(T=8.0), logits, target)
    torch.testing.assert_close(
        gradient(IMAEReleased(8.0, 0.0, "size"), logits, target), expected, rtol=1e-9, atol=1e-12
    )
    (grad,) = torch.autograd.grad(IMAEReleased(8.0, 0.0)(logits, target).mean(), logits)
    torch.testing.assert_close(grad, expected / expected.abs().sum(), rtol=1e-9, atol=1e-12)


def test_derivative_manipulation_moves_the_peak() -> None:
    p = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    peaks = [float(p[DM(lam=lam).weight(p).argmax()]) for lam in (0.5, 1.0, 2.0)]
    assert peaks == pytest.approx([1 / 3, 1 / 2, 2 / 3], abs=1e-3)
    ends = torch.tensor([0.0, 1.0])
    assert IMAEReleased().weight(ends).tolist() == pytest.approx([1, 0], abs=1e-6)
    assert IMAEReleased(epsilon=0.0).weight(ends).tolist() == [1, 1]
    assert DM(T=1.0, lam=0.0).weight(ends).tolist() == pytest.approx([math.e, 0])


def definition(name: str, logits: torch.Tensor, target: torch.Tensor, **options: float) -> torch.Tensor:
    """The losses as their papers' sums over classes, on probabilities."""
    p, classes = torch.softmax(logits, dim=1), logits.shape[1]
    q = F.one_hot(target, classes).double()
    if name == "agce":
        a, power = options["a"], options["q"]
        return ((a + 1) ** power - (a + (q * p).sum(1)) ** power) / power
    if name == "label_smoothing":
        return -(((1 - options["epsilon"]) * q + options["epsilon"] / classes) * p.log()).sum(1)
    cross_entropy = -(q * p.log()).sum(1)
    reverse = -(p * (1 - q) * options["A"]).sum(1)  # log q is 0 where q = 1, A elsewhere
    active = cross_entropy / -p.log().sum(1) if name == "nce_rce" else cross_entropy
    return options["alpha"] * active + options["beta"] * reverse


@pytest.mark.parametrize("classes", [2, 3, 10, 101])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sce", {"alpha": 0.1, "beta": 1.0, "A": -4.0}),
        ("sce", {"alpha": 6.0, "beta": 0.1, "A": math.log(1e-4)}),
        ("nce_rce", {"alpha": 1.0, "beta": 1.0, "A": math.log(1e-4)}),
        ("nce_rce", {"alpha": 10.0, "beta": 0.1, "A": -4.0}),
        ("label_smoothing", {"epsilon": 0.1}),
        ("agce", {"a": 0.6, "q": 0.6}),
        ("agce", {"a": 1e-5, "q": 0.5}),
        ("agce", {"a": 2.0, "q": 3.0}),
    ],
)
def test_value_and_gradient_are_the_definitions(name: str, options: dict[str, float], classes: int) -> None:
    logits, target = sample(classes)
    loss, expected = LOSSES[name](**options), definition(name, logits, target, **options)
    torch.testing.assert_close(loss(logits, target), expected, rtol=1e-12, atol=1e-12)
    (grad,) = torch.autograd.grad(expected.sum(), logits)
    torch.testing.assert_close(gradient(loss, logits, target), grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", [loss for loss in PLAIN if not isinstance(loss, IMAE | DM)], ids=repr)
def test_gradient_by_finite_differences(loss: torch.nn.Module) -> None:
    logits, target = sample(4, batch=8)
    assert torch.autograd.gradcheck(lambda z: loss(z, target), logits)


def test_values_are_the_papers() -> None:
    logits, target = sample(7)
    p = torch.softmax(logits, 1)[torch.arange(64), target]
    one_hot = F.one_hot(target, 7)
    torch.testing.assert_close(CCE()(logits, target), F.cross_entropy(logits, target, reduction="none"))
    torch.testing.assert_close(
        MAE()(logits, target), (torch.softmax(logits, 1) - one_hot).abs().sum(1)
    )  # Eq. 3, first line
    smooth = F.cross_entropy(logits, target, reduction="none", label_smoothing=0.1)
    torch.testing.assert_close(LabelSmoothing(epsilon=0.1)(logits, target), smooth)
    for loss in [*RESCALED, *OF_THE_BATCH]:  # Sec. 4: the forward pass is MAE's
        torch.testing.assert_close(loss(logits, target), MAE()(logits, target))
    torch.testing.assert_close(GCE(q=0.7)(logits, target), (1 - p**0.7) / 0.7)


@pytest.mark.parametrize("loss", WEIGHTED, ids=repr)
def test_weight_is_the_gradients_l1_norm(loss: torch.nn.Module) -> None:
    logits, target = sample(5)
    p = torch.softmax(logits.detach(), 1)[torch.arange(64), target]
    torch.testing.assert_close(gradient(loss, logits, target).abs().sum(1), loss.weight(p), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", [NCERCE(), LabelSmoothing()], ids=repr)
def test_no_weight_where_the_other_probabilities_matter(loss: torch.nn.Module) -> None:
    logits = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.49, 0.01]], dtype=torch.float64).log().requires_grad_()
    norms = gradient(loss, logits, torch.zeros(2, dtype=torch.int64)).abs().sum(1)
    assert float((norms[0] - norms[1]).abs()) > 1e-2
    assert not hasattr(loss, "weight")


@pytest.mark.parametrize(
    ("loss", "value", "pull"),
    [
        (IMAE(T=9.0), 4 / 3, math.exp(2) / 2),  # w = exp(9 * 1/3 * 2/3) = e^2
        (IMAEGuarded(T=9.0, epsilon=1 / 9), 4 / 3, math.exp(2) * 4 / 9),  # times 8/9 / (8/9 + 1/9)
        (SCE(alpha=0.5, beta=2.0, A=-3.0), math.log(3) / 2 + 4, 5 / 3),  # (1/2 + 6/3) * 2/3
        (NCERCE(alpha=1.0, beta=0.5, A=-4.0), 5 / 3, 2 / 9 / math.log(3) + 4 / 9),  # 2/3 / (3 log 3) + 2 * 1/3 * 2/3
        (LabelSmoothing(epsilon=0.3), math.log(3), 7 / 15),  # 1/3 - (0.7 + 0.1)
    ],
    ids=repr,
)
def test_hand_worked_with_equal_logits(loss: torch.nn.Module, value: float, pull: float) -> None:
    # K = 3 and p = 1/3 each: y is pulled up, the two others share the same length downwards.
    logits, target = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True), torch.tensor([1])
    expected = torch.tensor([[pull / 2, -pull, pull / 2]], dtype=torch.float64)
    torch.testing.assert_close(gradient(loss, logits, target), expected)
    assert loss(logits, target).tolist() == pytest.approx([value])


def test_the_guard_lets_saturated_samples_go() -> None:
    logits = torch.tensor([[1e4, 0.0], [0.0, 1e4], [9.0, 0.0]], requires_grad=True)  # p = 1, 0 and nearly 1
    target = torch.zeros(3, dtype=torch.int64)
    exact, guarded = (gradient(loss, logits, target).abs().sum(1) for loss in (IMAE(), IMAEGuarded()))
    torch.testing.assert_close(exact, torch.ones(3), rtol=1e-3, atol=0)
    assert guarded[:2].tolist() == [0, 0]
    assert 0.04 < float(guarded[2]) < 0.05  # 4 * e^-9 / (4 * e^-9 + 0.01) = 0.047
    p = torch.linspace(0.1, 0.9, 9)
    torch.testing.assert_close(IMAEGuarded(epsilon=1e-5).weight(p), IMAE().weight(p), rtol=1e-4, atol=0)


@pytest.mark.parametrize("loss", PLAIN, ids=repr)
def test_only_differences_of_logits_matter(loss: torch.nn.Module) -> None:
    logits, target = sample(6)
    shifted = (logits + 17.0).detach().requires_grad_()
    torch.testing.assert_close(gradient(loss, shifted, target), gradient(loss, logits, target))


@pytest.mark.parametrize("classes", [2, 625, 100_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", [*PLAIN, IMAE(T=32.0)], ids=repr)  # exp(32/4) is about the most that float16 holds
def test_finite_at_extreme_logits(loss: torch.nn.Module, dtype: torch.dtype, classes: int) -> None:
    logits = torch.zeros(4, classes, dtype=dtype)
    logits[0, 0], logits[1, 1], logits[2, 0] = 1e4, 1e4, -1e4  # right for sure, wrong for sure, least likely, uniform
    logits.requires_grad_()
    values = loss(logits, torch.zeros(4, dtype=torch.int64))
    values.sum().backward()
    assert values.dtype == torch.float32
    assert torch.isfinite(values).all()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("loss", [IMAE(T=300.0), IMAEReleased(T=300.0), DM(T=75.0, lam=0.0)], ids=repr)
def test_finite_at_the_largest_T(loss: torch.nn.Module) -> None:
    logits = torch.tensor([[0.0, 0.0], [1e4, 0.0], [0.0, 1e4]], requires_grad=True)
    loss(logits, torch.zeros(3, dtype=torch.int64)).sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", sorted(LOSSES.keys() - {"gce_truncated", "elr"}))
def test_float32_under_autocast(name: str, dtype: torch.dtype) -> None:
    logits, target = sample(10)
    low, loss = logits.detach().to(dtype), LOSSES[name]()
    with torch.autocast("cpu", dtype):
        inside = loss(low, target)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, loss(low.float(), target))


@pytest.mark.parametrize(
    ("T", "sigma"), [(16, 354.113), (8, 4.546), (4, 0.299), (2, 0.040), (1, 0.007), (0.5, 0.002), (0, 0.0)]
)
def test_table_4(T: float, sigma: float) -> None:
    weight = IMAE(T=float(T)).weight
    first = quad(lambda p: float(weight(torch.tensor(p, dtype=torch.float64))), 0, 1)[0]
    second = quad(lambda p: float(weight(torch.tensor(p, dtype=torch.float64))) ** 2, 0, 1)[0]
    assert second - first**2 == pytest.approx(sigma, abs=6e-4)
    if T:  # Eq. 26, the closed form
        closed = math.sqrt(math.pi) * erf(math.sqrt(2 * T) / 2) * math.exp(T / 2) / math.sqrt(2 * T)
        closed -= math.pi * erf(math.sqrt(T) / 2) ** 2 * math.exp(T / 2) / T
        assert second - first**2 == pytest.approx(closed, rel=1e-6)


@pytest.mark.parametrize(("loss", "sigma"), [(MAE(), 4 / 45), (CCE(), 1 / 3)], ids=["mae", "cce"])
def test_weighting_variance(loss: torch.nn.Module, sigma: float) -> None:
    p = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    assert float(loss.weight(p).var(correction=0)) == pytest.approx(sigma, rel=1e-6)


def test_first_gradient_with_625_classes() -> None:
    p = torch.tensor(1 / 625, dtype=torch.float64)
    norms = [float(loss.weight(p)) for loss in (CCE(), IMAE(T=8.0), GCE(q=0.7), MAE())]
    assert norms == pytest.approx([1.9968, 1.0128, 0.02205, 0.00639], rel=1e-3)


def test_gce_lies_between_cce_and_mae() -> None:
    logits, target = sample(10)
    torch.testing.assert_close(GCE(q=1.0)(logits, target), MAE()(logits, target) / 2)
    torch.testing.assert_close(GCE(q=1e-7)(logits, target), CCE()(logits, target), rtol=1e-4, atol=1e-5)


def test_truncated_gce_prunes_and_takes_back() -> None:
    loss = GCETruncated(num_samples=4, iterations=10, q=0.7, k=0.5, start=0.1, every=0.1)
    index, target = torch.arange(3), torch.zeros(3, dtype=torch.int64)
    p = torch.tensor([0.9, 0.3, 0.6], dtype=torch.float64)

    def call(p: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        logits = torch.stack([p.log(), (1 - p).log()], 1).requires_grad_()
        values = loss(logits, target, index)
        (grad,) = torch.autograd.grad(values.sum(), logits)
        return values.detach().numpy(), grad.abs().sum(1).numpy()

    plain, constant = (1 - p.numpy() ** 0.7) / 0.7, (1 - 0.5**0.7) / 0.7
    values, weights = call(p)  # call 0: before `start`, everything is kept
    np.testing.assert_allclose(values, plain)
    np.testing.assert_allclose(weights, 2 * p.numpy() ** 0.7 * (1 - p.numpy()))
    values, weights = call(p)  # call 1: the second sample's p is at most k
    np.testing.assert_allclose(values, [plain[0], constant, plain[2]], rtol=1e-6)
    assert weights[1] == 0
    assert weights[0] > 0
    call(torch.tensor([0.9, 0.8, 0.5], dtype=torch.float64))  # it has learnt; the third falls to exactly k
    assert loss.keep_N.tolist() == [True, True, False, True]
    loss.eval()
    call(torch.tensor([0.1, 0.1, 0.1], dtype=torch.float64))
    assert loss.keep_N.tolist() == [True, True, False, True]
    with pytest.raises(ValueError, match="index_B"):
        loss(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64))


def test_truncated_gce_takes_the_mean_of_a_sample_drawn_twice() -> None:
    p = torch.tensor([0.9, 0.3, 0.6])
    for order in ([0, 1, 2], [2, 1, 0]):
        loss = GCETruncated(num_samples=2, iterations=10)
        loss(torch.stack([p.log(), (1 - p).log()], 1)[order], torch.zeros(3).long(), torch.tensor([1, 0, 1])[order])
        torch.testing.assert_close(loss.latest_N, torch.tensor([0.3, 0.75]))


def test_truncated_gce_resumes_from_its_state() -> None:
    loss, other = (GCETruncated(num_samples=3, iterations=10, start=0.0, every=0.1) for _ in range(2))
    loss(torch.tensor([[-5.0, 5.0]]), torch.tensor([0]), torch.tensor([1]))
    other.load_state_dict(loss.state_dict())
    assert other.keep_N.tolist() == [True, False, True]
    assert int(other.calls) == 1


def test_agce_lies_between_gce_and_mae() -> None:
    logits, target = sample(10)
    torch.testing.assert_close(AGCE(a=1e-9, q=0.7)(logits, target), GCE(q=0.7)(logits, target), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(AGCE(a=0.3, q=1.0)(logits, target), MAE()(logits, target) / 2)
    assert float(AGCE().weight(torch.tensor(1 / 625))) == pytest.approx(0.0039, abs=1e-4)


def elr_by_hand(
    steps: list[tuple[torch.Tensor, list[int]]], lam: float, beta: float, target: torch.Tensor
) -> torch.Tensor:
    """The values of the last step, sample by sample: the paper's Eq. 6 and 9 on lists of numbers."""
    memory: dict[int, list[float]] = {}
    for logits, index in steps:
        p = [[math.exp(z) / sum(math.exp(other) for other in row) for z in row] for row in logits.tolist()]
        for sample_number in set(index):
            mine = [row for row, i in zip(p, index, strict=True) if i == sample_number]
            said = [sum(column) / len(mine) for column in zip(*mine, strict=True)]
            before = memory.get(sample_number, [0.0] * len(said))
            memory[sample_number] = [beta * old + (1 - beta) * new for old, new in zip(before, said, strict=True)]
    values = [
        -math.log(row[y]) + lam * math.log(1 - sum(a * b for a, b in zip(row, memory[i], strict=True)))
        for row, i, y in zip(p, index, target.tolist(), strict=True)
    ]
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("top", [None, 5, 50])
def test_elr_holds_samples_to_what_was_said_of_them(top: int | None) -> None:
    loss, generator = ELR(num_samples=9, num_classes=5, lam=3.0, beta=0.7, top=top), torch.Generator().manual_seed(0)
    steps = [
        (torch.randn(4, 5, generator=generator, dtype=torch.float64), index)
        for index in ([0, 3, 8, 5], [3, 3, 1, 0], [3, 5, 3, 3])
    ]
    target = torch.tensor([0, 4, 2, 1])
    for logits, index in steps:
        values = loss(logits, target, torch.tensor(index))
    torch.testing.assert_close(values, elr_by_hand(steps, 3.0, 0.7, target), rtol=1e-6, atol=1e-6)
    logits, index = steps[-1][0].requires_grad_(), torch.tensor(steps[-1][1])
    loss.eval()
    before = loss.memory.clone()
    assert torch.autograd.gradcheck(lambda z: loss(z, target, index), logits)
    assert torch.equal(loss.memory, before)
    # Eq. 7: the gradient of the second term is p_j sum_k (t_k - t_j) p_k, times -lam / (1 - <t, p>), and t has none.
    (grad,) = torch.autograd.grad(
        (loss(logits, target, index) + F.log_softmax(logits, 1)[range(4), target]).sum(), logits
    )
    p, t = logits.detach().softmax(1), loss.remembered(index).double()
    inner = (t * p).sum(1, keepdim=True)
    torch.testing.assert_close(grad, -3.0 / (1 - inner) * p * (t - inner), rtol=1e-6, atol=1e-9)


def test_elr_keeps_the_largest_entries_of_what_was_said() -> None:
    whole, part = (ELR(num_samples=1, num_classes=6, beta=0.5, top=top) for top in (None, 2))
    index, target = torch.tensor([0]), torch.tensor([3])
    for peak in (1, 1, 4):
        logits = F.one_hot(torch.tensor([peak]), 6) * 4.0
        whole(logits, target, index), part(logits, target, index)
    t, kept = whole.remembered(index)[0], part.remembered(index)[0]
    assert sorted(kept.nonzero().flatten().tolist()) == [1, 4] == sorted(t.topk(2).indices.tolist())
    torch.testing.assert_close(kept[[1, 4]], t[[1, 4]], rtol=0.05, atol=0)
    assert bool((kept <= t + 1e-6).all())
    assert part.memory.numel() + part.classes.numel() == 4


def learnt_of_wrong_labels(loss: torch.nn.Module, steps: int = 100) -> tuple[float, float]:
    """Shares of wrongly labelled points that a small network ends up giving their wrong label, and their true one."""
    generator, N, K = torch.Generator().manual_seed(0), 200, 5
    true = torch.arange(N) % K
    points = 1.2 * torch.randn(K, 20, generator=generator)[true] + torch.randn(N, 20, generator=generator)
    wrong = torch.rand(N, generator=generator) < 0.4
    given = torch.where(wrong, (true + torch.randint(1, K, (N,), generator=generator)) % K, true)
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(20, 256), torch.nn.ReLU(), torch.nn.Linear(256, K))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(network(points), given, torch.arange(N)).mean().backward()
        optimizer.step()
    said = network(points).argmax(1)
    return float((said == given)[wrong].float().mean()), float((said == true)[wrong].float().mean())


def test_elr_does_not_learn_by_heart_what_cce_does() -> None:
    by_heart, _ = learnt_of_wrong_labels(CCE())
    assert by_heart > 0.9
    by_heart, right = learnt_of_wrong_labels(ELR(200, 5, top=2))
    assert by_heart < 0.1
    assert right > 0.9


def test_elr_with_lam_0_is_cce_and_stays_finite() -> None:
    logits, target = sample(10)
    index = torch.arange(64)
    torch.testing.assert_close(ELR(64, 10, lam=0.0)(logits, target, index), CCE()(logits, target))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        sure = torch.tensor([[1e4, 0.0], [0.0, 1e4]], dtype=dtype, requires_grad=True)
        loss = ELR(2, 2)
        for _ in range(50):
            values = loss(sure, torch.zeros(2, dtype=torch.int64), torch.arange(2))
        values.sum().backward()
        assert values.dtype == torch.float32
        assert torch.isfinite(values).all()
        assert torch.isfinite(sure.grad).all()
    with pytest.raises(ValueError, match="index_B"):
        ELR(2, 2)(sure, torch.zeros(2, dtype=torch.int64))
    assert not hasattr(loss, "weight")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: IMAE(T=-1.0), "T: expected >= 0 and <= 300, got -1"),
        (lambda: IMAE(T=301.0), "T: expected"),
        (lambda: IMAE(T=math.nan), "T: expected"),
        (lambda: GCE(q=0.0), "q: expected > 0 and <= 1, got 0"),
        (lambda: GCE(q=1.5), "q: expected"),
        (lambda: IMAEGuarded(T=301.0), "T: expected"),
        (lambda: IMAEReleased(T=301.0), "T: expected >= 0 and <= 300, got 301"),
        (lambda: IMAEReleased(epsilon=-1e-9), "epsilon: expected >= 0, got -1e-09"),
        (lambda: IMAEReleased(normalise="mean"), "normalise: expected weights or size, got 'mean'"),  # type: ignore[arg-type]
        (lambda: DM(T=76.0, lam=0.0), "T: expected >= 0 and <= 75, got 76"),
        (lambda: DM(lam=-1.0), "lam: expected >= 0, got -1"),
        (lambda: IMAEGuarded(epsilon=0.0), "epsilon: expected >= 1e-05 and <= 1, got 0"),
        (lambda: SCE(alpha=-0.1), "alpha: expected >= 0, got -0.1"),
        (lambda: SCE(A=4.0), "A: expected"),
        (lambda: NCERCE(beta=math.inf), "beta: expected"),
        (lambda: NCERCE(A=math.nan), "A: expected"),
        (lambda: LabelSmoothing(epsilon=1.1), "epsilon: expected >= 0 and <= 1, got 1.1"),
        (lambda: GCETruncated(num_samples=3, iterations=9, k=1.0), "k: expected"),
        (lambda: AGCE(a=0.0), "a: expected > 0 and <= 100, got 0"),
        (lambda: AGCE(q=11.0), "q: expected > 0 and <= 10, got 11"),
        (lambda: ELR(3, 2, lam=-1.0), "lam: expected >= 0, got -1"),
        (lambda: ELR(3, 2, beta=1.0), "beta: expected"),
        (lambda: ELR(3, 2, top=0), "top: expected >= 1, got 0"),
        (lambda: GCETruncated(num_samples=3, iterations=9, every=0.0), "every: expected"),
    ],
)
def test_ranges_are_checked(build, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()


@pytest.mark.parametrize("loss", PLAIN, ids=repr)
def test_one_class_is_refused(loss: torch.nn.Module) -> None:
    with pytest.raises(ValueError, match="K >= 2"):
        loss(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64))
