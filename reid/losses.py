"""Losses of the label-noise study, with their weight functions w(p).

Every loss maps logits and the annotated class to one value per sample; the caller takes the mean. w(p) is the L1 norm of
the gradient of the loss with respect to the logits, as a function of p, the softmax probability of the annotated class: the
weight that the loss gives to the sample (Wang et al., "Improving MAE against CCE under Label Noise", Sec. 3). A loss has no
method `weight` if the norm of its gradient also depends on the other probabilities.

Losses whose `needs_whole_batch` is true need all samples of a step at once; they cannot be computed in parts.

All losses are computed in float32 even under autocast (float64 stays float64), and powers are computed in log space.
Shapes: B batch, K classes (K >= 2), N training samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reid.errors import ConfigError, in_range
from reid.runtime import gather_rows, sum_over_processes


def _log_probs(logits_BK: Tensor) -> Tensor:
    """log p of every class, (B, K), in at least float32."""
    if logits_BK.ndim != 2 or logits_BK.shape[1] < 2:
        raise ValueError(f"logits must be (B, K) with K >= 2 classes, got {tuple(logits_BK.shape)}")
    if logits_BK.dtype != torch.float64:
        logits_BK = logits_BK.float()
    return F.log_softmax(logits_BK, dim=1)


def _of_target(values_BK: Tensor, target_B: Tensor) -> Tensor:
    return values_BK.gather(1, target_B[:, None]).squeeze(1)


def _log_prob(logits_BK: Tensor, target_B: Tensor) -> Tensor:
    """log p of the annotated class, (B,), in at least float32."""
    return _of_target(_log_probs(logits_BK), target_B)


def _margin(logits_BK: Tensor, target_B: Tensor) -> Tensor:
    """logsumexp of the other logits minus that of the annotated class, (B,): log((1 - p) / p)."""
    others_BK = logits_BK.scatter(1, target_B[:, None], -math.inf)
    return others_BK.logsumexp(dim=1) - _of_target(logits_BK, target_B)


def _reverse_cross_entropy(log_p_B: Tensor, A: float) -> Tensor:
    """-sum_j p_j log q_j over the one-hot annotation q with log 0 := A: -A(1 - p)."""
    return A * torch.expm1(log_p_B)


class CCE(nn.Module):
    """Categorical cross entropy, -log p (Eq. 2); w(p) = 2(1 - p) (Eq. 19)."""

    def forward(self, logits_BK: Tensor, target_B: Tensor, index_B: Tensor | None = None) -> Tensor:
        """Loss per sample.

        Args:
            logits_BK: (B, K) float, any finite value.
            target_B: (B,) int64 in [0, K).
            index_B: (B,) int64, index of each sample in the training set; ignored here.

        Returns:
            (B,) float32 (float64 for float64 logits).
        """
        return -_log_prob(logits_BK, target_B)

    def weight(self, p: Tensor) -> Tensor:
        """w(p) for p in [0, 1], any shape."""
        return 2 * (1 - p)


class MAE(nn.Module):
    """Mean absolute error, 2(1 - p) (Eq. 3); w(p) = 4p(1 - p) (Eq. 20). Arguments of `forward` as in `CCE`."""

    def forward(self, logits_BK: Tensor, target_B: Tensor, index_B: Tensor | None = None) -> Tensor:
        return 2 * -torch.expm1(_log_prob(logits_BK, target_B))

    def weight(self, p: Tensor) -> Tensor:
        return 4 * p * (1 - p)


class GCE(nn.Module):
    """Generalised cross entropy, (1 - p^q)/q; w(p) = 2 p^q (1 - p). Arguments of `forward` as in `CCE`.

    Args:
        q: 0 < q <= 1; q -> 0 gives CCE, q = 1 gives MAE / 2.

    Source: Zhang & Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels", 2018.
    """

    def __init__(self, q: float = 0.7) -> None:
        super().__init__()
        self.q = in_range("q", q, 0, 1, above=True)

    def forward(self, logits_BK: Tensor, target_B: Tensor, index_B: Tensor | None = None) -> Tensor:
        # p^q as exp(q log p): if p underflows, the gradient of a power of p would be inf * 0.
        return -torch.expm1(self.q * _log_prob(logits_BK, target_B)) / self.q

    def weight(self, p: Tensor) -> Tensor:
        return 2 * p**self.q * (1 - p)


def _mean_of_repeats(index_B: Tensor, value_BX: Tensor) -> Tensor:
    """(B, X): each row replaced by the mean over all rows of its sample, so that writing them to one place does not depend on the order.

    Samplers may draw a sample several times in one step, and CUDA writes to one index in any order.
    """
    first_B = (index_B[:, None] == index_B).int().argmax(dim=1)  # first position of each sample in the step
    sum_BX = torch.zeros_like(value_BX).index_add_(0, first_B, value_BX)
    count_B = torch.zeros_like(value_BX[:, 0]).index_add_(0, first_B, torch.ones_like(value_BX[:, 0]))
    return (sum_BX / count_B.clamp(min=1)[:, None])[first_B]


class GCETruncated(GCE):
    """Truncated GCE: GCE on kept samples, the constant (1 - k^q)/q on pruned ones (Zhang & Sabuncu, Sec. 3.3: alternating convex search).

    All samples are kept at first. From `start` on, at intervals of `every`, the samples whose latest p is at most k are pruned; a pruned
    sample is kept again if its p is above k at a later pruning. The latest p is that of the step in which the sample was last drawn,
    the mean where it was drawn several times.

    Args:
        num_samples: N, the size of the training set, which `index_B` refers to.
        iterations: total number of training steps.
        q: as in `GCE`.
        k: 0 < k < 1, the probability at and below which a sample is pruned.
        start: share of training before the first pruning; the source prunes from epoch 40 of 120 on.
        every: share of training between prunings; the source uses 10 epochs of 120.
    """

    needs_whole_batch = True

    def __init__(
        self,
        num_samples: int,
        iterations: int,
        q: float = 0.7,
        k: float = 0.5,
        start: float = 1 / 3,
        every: float = 1 / 12,
    ) -> None:
        super().__init__(q)
        self.k = in_range("k", k, 0, 1 - 1e-6, above=True)
        self.start = round(in_range("start", start, 0, 1) * iterations)
        self.every = max(1, round(in_range("every", every, 0, 1, above=True) * iterations))
        self.calls: Tensor
        self.latest_N: Tensor
        self.keep_N: Tensor
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("latest_N", torch.ones(num_samples))  # samples never drawn are never pruned
        self.register_buffer("keep_N", torch.ones(num_samples, dtype=torch.bool))

    def forward(self, logits_BK: Tensor, target_B: Tensor, index_B: Tensor | None = None) -> Tensor:
        if index_B is None:
            raise ValueError("GCETruncated keeps state per sample: pass index_B, their indices in the training set")
        log_p_B = _log_prob(logits_BK, target_B)
        if self.training:
            self._remember(log_p_B.detach().exp(), index_B)
        pruned_loss = (1 - self.k**self.q) / self.q
        return torch.where(self.keep_N[index_B], -torch.expm1(self.q * log_p_B) / self.q, pruned_loss)

    def _remember(self, p_B: Tensor, index_B: Tensor) -> None:
        # Every process of a distributed run keeps the same record, so pruning needs no further communication.
        index_B = gather_rows(index_B)
        self.latest_N[index_B] = _mean_of_repeats(index_B, gather_rows(p_B.to(self.latest_N.dtype))[:, None])[:, 0]
        due = (self.calls >= self.start) & ((self.calls - self.start) % self.every == 0)
        self.keep_N |= due  # keep_N := latest > k when due, else unchanged, without a device sync
        self.keep_N &= ~due | (self.latest_N > self.k)
        self.calls += 1


class AGCE(nn.Module):
    """Asymmetric generalised cross entropy, ((a + 1)^q - (a + p)^q) / q; w(p) = 2p(1 - p) (a + p)^(q - 1).

    a -> 0 gives GCE. A larger a gives less weight to samples at p -> 0, so that with many classes training starts as slowly as with MAE:
    w(1/625) is 0.004 with the defaults, 2.0 for CCE. Arguments of `forward` as in `CCE`.

    Args:
        a: 0 < a <= 100.
        q: 0 < q <= 10; with q >= 1 the loss is asymmetric, hence robust, for every a. The defaults are those of public
            code for CIFAR-10; we have not found them in the source.

    Source: Zhou et al., "Asymmetric Loss Functions for Learning with Noisy Labels", ICML 2021.
    """

    def __init__(self, a: float = 0.6, q: float = 0.6) -> None:
        super().__init__()
        self.a, self.q = in_range("a", a, 0, 100, above=True), in_range("q", q, 0, 10, above=True)

    def forward(self, logits_BK: Tensor, target_B: Tensor, index_B: Tensor | None = None) -> Tensor:
        p_B = _log_prob(logits_BK, target_B).exp()
        return ((self.a + 1) ** self.q - (self.a + p_B) ** self.q) / self.q

    def weight(self, p: Tensor) -> Tensor:
        return 2 * p * (1 - p) * (self.a + p) ** (self.q - 1)


class ELR(nn.Module):
    """Early-learning regularisation, -log p + lam log(1 - <t, p>), where t is the moving average of the predictions for the sample.

    t is initialised with 0 and updated with the softmax probabilities p of each step, t := beta t + (1 - beta) p, before the loss is
    computed; no gradient goes through it. The second term keeps a sample close to its early predictions, before wrong labels are
    memorised. 1 - <t, p> is clamped to at least 1e-4. If a step holds a sample several times, t is updated once with the mean of its
    predictions. No `weight`: the gradient depends on the memory.

    The memory is N K numbers of 4 bytes, on the training device and in every checkpoint: 20 MB for 50,000 samples of 100 classes, 1.3 GB
    for the 509,914 frames of MARS. With `top` it is 2 N top numbers, 65 MB for MARS and top = 16: only the largest entries of each t are
    stored, and the others are taken as 0, which is exact if K <= top.

    Args:
        num_samples: N, the size of the training set, which `index_B` refers to.
        num_classes: K.
        lam: >= 0, factor of the second term; 0 gives CCE. The authors' code uses 3 on CIFAR-10 and 7 on CIFAR-100.
        beta: 0 <= beta < 1. The authors' code uses 0.7 on CIFAR-10 and 0.9 on CIFAR-100.
        top: number of entries of each t that are stored, at least 1; None stores all.

    Source: Liu et al., "Early-Learning Regularization Prevents Memorization of Noisy Labels", NeurIPS 2020; its code clamps
    every probability to [1e-4, 1 - 1e-4] instead.
    """

    needs_whole_batch = True

    def __init__(
        self, num_samples: int, num_classes: int, lam: float = 3.0, beta: float = 0.7, top: int | None = None
    ) -> None:
        super().__init__()
        self.lam, self.beta = in_range("lam", lam, 0), in_range("beta", beta, 0, 1 - 1e-6)
        if top is not None:
            in_range("top", top, 1)
        self.num_classes, kept = num_classes, num_classes if top is None else min(top, num_classes)
        self.memory: Tensor  # (N, kept) entries of t
        self.classes: Tensor | None  # (N, kept) the classes of these entries; None if all are stored
        self.of_samples = ("memory", "classes")  # a step changes only the rows of its samples
        self.register_buffer("memory", torch.zeros(num_samples, kept))
        of_class = None if kept == num_classes else torch.zeros(num_samples, kept, dtype=torch.int32)
        self.register_buffer("classes", of_class)

    def forward(self, logits_BK: Tensor, target_B: Tensor, index_B: Tensor | None = None) -> Tensor:
        if index_B is None:
            raise ValueError("ELR keeps state per sample: pass index_B, their indices in the training set")
        log_p_BK = _log_probs(logits_BK)
        p_BK = log_p_BK.exp()
        if self.training:
            self._remember(p_BK.detach(), index_B)
        agreed_B = (self.remembered(index_B).to(p_BK.dtype) * p_BK).sum(dim=1).clamp(max=1 - 1e-4)
        return self.lam * torch.log1p(-agreed_B) - _of_target(log_p_BK, target_B)

    def remembered(self, index_B: Tensor) -> Tensor:
        """t of the samples `index_B`, (B, K) float32."""
        if self.classes is None:
            return self.memory[index_B]
        empty_BK = self.memory.new_zeros(len(index_B), self.num_classes)
        return empty_BK.scatter_add_(1, self.classes[index_B].long(), self.memory[index_B])

    def _remember(self, p_BK: Tensor, index_B: Tensor) -> None:
        # Every process of a distributed run keeps the same memory, with the samples of all processes.
        index_B, p_BK = gather_rows(index_B), gather_rows(p_BK.to(self.memory.dtype))
        t_BK = self.beta * self.remembered(index_B) + (1 - self.beta) * _mean_of_repeats(index_B, p_BK)
        if self.classes is None:
            self.memory[index_B] = t_BK
        else:
            kept = t_BK.topk(self.memory.shape[1], dim=1)
            self.memory[index_B], self.classes[index_B] = kept.values, kept.indices.int()


class IMAE(nn.Module):
    """Improved MAE: MAE's value 2(1 - p), and MAE's gradient rescaled to the L1 norm w(p) = exp(T p(1 - p)) (Eq. 21-22).

    Eq. 22 divides by w_MAE, which vanishes at p = 0 and p = 1. The same gradient without the division: for the annotated class y
    dL/dz_y = -w/2, and for j != y dL/dz_j = (w/2) softmax over the K - 1 other logits, which is the gradient of
    (w.detach()/2) (logsumexp_{j != y} z_j - z_y), finite for every finite logit. At p -> 1 the weight tends to 1, not to 0: samples
    that are already fitted still have a gradient. Arguments of `forward` as in `CCE`.

    Args:
        T: 0 <= T <= 300 (exp(T/4) overflows float32 near 354). The paper uses 8 for noisy labels, 0.5 for clean ones.
    """

    def __init__(self, T: float = 8.0) -> None:
        super().__init__()
        self.T = in_range("T", T, 0, 300)

    def forward(self, logits_BK: Tensor, target_B: Tensor, index_B: Tensor | None = None) -> Tensor:
        log_p_B = _log_prob(logits_BK, target_B).detach()
        p_B, mae_B = log_p_B.exp(), 2 * -torch.expm1(log_p_B)
        pull_B = self.weight(p_B) / 2 * _margin(logits_BK.to(p_B.dtype), target_B)
        return mae_B + (pull_B - pull_B.detach())

    def weight(self, p: Tensor) -> Tensor:
        return torch.exp(self.T * p * (1 - p))


class IMAEGuarded(IMAE):
    """IMAE with a guard on its division: w(p) = exp(T p(1 - p)) g, g = w_MAE / (w_MAE + epsilon), w_MAE = 4p(1 - p).

    This is Eq. 22 with the division by w_MAE + epsilon instead of w_MAE. The value of the loss and the direction of the gradient
    are those of `IMAE`; the norm of the gradient vanishes at p -> 0 and p -> 1, where that of the exact form stays at w = 1. g is
    one half where w_MAE = epsilon: with epsilon = 0.01, at p or 1 - p = 0.0025.

    Args:
        T: as in `IMAE`.
        epsilon: 1e-5 <= epsilon <= 1; below that, float32 does not resolve w_MAE near p = 1.
    """

    def __init__(self, T: float = 8.0, epsilon: float = 1e-2) -> None:
        super().__init__(T)
        self.epsilon = in_range("epsilon", epsilon, 1e-5, 1)

    def weight(self, p: Tensor) -> Tensor:
        mae = 4 * p * (1 - p)
        return super().weight(p) * mae / (mae + self.epsilon)


class DM(nn.Module):
    """Derivative manipulation: MAE's value 2(1 - p), and a gradient with a weight of free choice, here exp(T p^lam (1 - p)).

    For sample i of the batch of all processes, and its annotated class y,

        dL/dz_j = (p_j - [j = y]) / (2(1 - p) + epsilon) * w_i / mean(w),    w = exp(T p^lam (1 - p)),

    so that the gradient of the batch's mean loss has the L1 norm 1 for every T, as long as no sample is fitted. With
    ``normalise="size"`` the weights are not divided by their mean, as in `IMAE`. The direction is that of `IMAE`. The gradient
    of a sample vanishes where 1 - p falls below epsilon / 2; at p -> 0, w stays at 1. 1 - p is computed as the sigmoid of the
    margin log((1 - p) / p), which resolves it down to 1e-38 in float32. Arguments of `forward` as in `CCE`.

    Args:
        T: >= 0, and at most 75 divided by the maximum of p^lam (1 - p), so that exp does not overflow float32: 300 for lam = 1.
        lam: >= 0; the largest weight is at p above 1/2 for lam > 1, below 1/2 for lam < 1; 1 gives IMAE.
        epsilon: >= 0; with 0, the gradient does not vanish for fitted samples.
        normalise: ``weights`` divides the weights by their mean over the batch, ``size`` does not.

    Source: Wang et al., "Derivative Manipulation for General Example Weighting", arXiv 1905.11233, and the code that the
    authors of IMAE released, which has epsilon = 1e-6 and ``weights``.
    """

    def __init__(
        self,
        T: float = 8.0,
        lam: float = 0.5,
        epsilon: float = 1e-6,
        normalise: Literal["weights", "size"] = "weights",
    ) -> None:
        super().__init__()
        self.lam = in_range("lam", lam, 0)
        peak = self.lam / (1 + self.lam)
        self.T = in_range("T", T, 0, 75 / (peak**self.lam * (1 - peak)))
        self.epsilon = in_range("epsilon", epsilon, 0)
        if normalise not in ("weights", "size"):
            raise ConfigError(f"normalise: expected weights or size, got {normalise!r}")
        self.needs_whole_batch = normalise == "weights"

    def forward(self, logits_BK: Tensor, target_B: Tensor, index_B: Tensor | None = None) -> Tensor:
        mae_B = 2 * -torch.expm1(_log_prob(logits_BK, target_B).detach())
        margin_B = _margin(logits_BK.to(mae_B.dtype), target_B)
        weight_B = self._emphasis(margin_B.detach())
        if self.needs_whole_batch:
            total, count = sum_over_processes(torch.stack([weight_B.sum(), torch.ones_like(weight_B).sum()]))
            weight_B = weight_B * (count / total)
        pull_B = weight_B * self._kept(margin_B.detach()) / 2 * margin_B
        return mae_B + (pull_B - pull_B.detach())

    def _emphasis(self, margin: Tensor) -> Tensor:
        """exp(T p^lam (1 - p))."""
        log_p = F.logsigmoid(-margin).nan_to_num()  # -inf times lam = 0 would be NaN
        return torch.exp(self.T * torch.exp(self.lam * log_p) * torch.sigmoid(margin))

    def _kept(self, margin: Tensor) -> Tensor:
        """2(1 - p) / (2(1 - p) + epsilon), computed in log space, because 1 - p may be too small for float32."""
        if not self.epsilon:
            return torch.ones_like(margin)
        return torch.sigmoid(F.logsigmoid(margin) - math.log(self.epsilon / 2))

    def weight(self, p: Tensor) -> Tensor:
        """w(p) for p in [0, 1], any shape, before the division by the batch's mean weight."""
        margin = torch.log1p(-p) - torch.log(p)
        return self._emphasis(margin) * self._kept(margin)


class IMAEReleased(DM):
    """IMAE as its authors released it, `DM` with lam = 1: `IMAE` (Eq. 22) with a guard at p -> 1 and normalised weights.

    Args:
        T: as in `DM`. At the same learning rate, a step is smaller than with `IMAE` by a factor, the batch's mean weight:
            with T = 8 it is 1.01 at the start of training with 625 classes, 2.05 with 10.
        epsilon: as in `DM`.
        normalise: as in `DM`.
    """

    def __init__(
        self, T: float = 8.0, epsilon: float = 1e-6, normalise: Literal["weights", "size"] = "weights"
    ) -> None:
        super().__init__(T, 1.0, epsilon, normalise)


class SCE(nn.Module):
    """Symmetric cross entropy, -alpha log p - beta A(1 - p); w(p) = 2(1 - p)(alpha - beta A p). Arguments of `forward` as in `CCE`.

    Args:
        alpha: >= 0, factor of the cross entropy. The source uses 0.1 on CIFAR-10 and 6 on CIFAR-100.
        beta: >= 0, factor of the reverse cross entropy. The source uses 1 on CIFAR-10 and 0.1 on CIFAR-100.
        A: <= 0, replaces log 0. The paper uses -4; its code clamps the annotation at 1e-4, so that A = ln 1e-4 = -9.21.

    Source: Wang et al., "Symmetric Cross Entropy for Robust Learning with Noisy Labels", ICCV 2019.
    """

    def __init__(self, alpha: float = 0.1, beta: float = 1.0, A: float = -4.0) -> None:
        super().__init__()
        self.alpha, self.beta = in_range("alpha", alpha, 0), in_range("beta", beta, 0)
        self.A = in_range("A", A, -math.inf, 0)

    def forward(self, logits_BK: Tensor, target_B: Tensor, index_B: Tensor | None = None) -> Tensor:
        log_p_B = _log_prob(logits_BK, target_B)
        return self.beta * _reverse_cross_entropy(log_p_B, self.A) - self.alpha * log_p_B

    def weight(self, p: Tensor) -> Tensor:
        return 2 * (1 - p) * (self.alpha - self.beta * self.A * p)


class NCERCE(nn.Module):
    """Active passive loss NCE + RCE, alpha log p / sum_j log p_j - beta A(1 - p). Arguments of `forward` as in `CCE`.

    No `weight`: the gradient of the normalised cross entropy depends on the distribution over the other classes.

    Args:
        alpha: >= 0, factor of the normalised cross entropy. The source uses 1 on CIFAR-10 and 10 on CIFAR-100.
        beta: >= 0, factor of the reverse cross entropy. The source uses 1 on CIFAR-10 and 0.1 on CIFAR-100.
        A: <= 0, replaces log 0; ln 1e-4 in the source's code.

    Source: Ma et al., "Normalized Loss Functions for Deep Learning with Noisy Labels", ICML 2020; the factors are from the
    configs of its code.
    """

    def __init__(self, alpha: float = 1.0, beta: float = 1.0, A: float = math.log(1e-4)) -> None:
        super().__init__()
        self.alpha, self.beta = in_range("alpha", alpha, 0), in_range("beta", beta, 0)
        self.A = in_range("A", A, -math.inf, 0)

    def forward(self, logits_BK: Tensor, target_B: Tensor, index_B: Tensor | None = None) -> Tensor:
        log_p_BK = _log_probs(logits_BK)
        log_p_B = _of_target(log_p_BK, target_B)
        # No guard: the sum is at most -K log K, reached when all classes are equally likely.
        normalised_B = log_p_B / log_p_BK.sum(dim=1)
        return self.alpha * normalised_B + self.beta * _reverse_cross_entropy(log_p_B, self.A)


class LabelSmoothing(nn.Module):
    """Cross entropy with the target (1 - epsilon) one-hot + epsilon / K. Arguments of `forward` as in `CCE`.

    No `weight`: the gradient is softmax minus target, so its norm depends on which other classes have p below epsilon / K.

    Args:
        epsilon: 0 <= epsilon <= 1; 0 gives CCE.

    Source: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016, Sec. 7.
    """

    def __init__(self, epsilon: float = 0.1) -> None:
        super().__init__()
        self.epsilon = in_range("epsilon", epsilon, 0, 1)

    def forward(self, logits_BK: Tensor, target_B: Tensor, index_B: Tensor | None = None) -> Tensor:
        log_p_BK = _log_probs(logits_BK)
        return -(1 - self.epsilon) * _of_target(log_p_BK, target_B) - self.epsilon * log_p_BK.mean(dim=1)


LOSSES: dict[str, Callable[..., nn.Module]] = {
    "cce": CCE,
    "mae": MAE,
    "gce": GCE,
    "gce_truncated": GCETruncated,
    "agce": AGCE,
    "imae": IMAE,
    "imae_guarded": IMAEGuarded,
    "imae_released": IMAEReleased,
    "dm": DM,
    "sce": SCE,
    "nce_rce": NCERCE,
    "elr": ELR,
    "label_smoothing": LabelSmoothing,
}
