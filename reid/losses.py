"""Losses of the label-noise study: each a small module beside its weight function w(p).

Every loss maps logits and the annotated class to one value per sample; the caller takes the mean. w(p) is the L1 norm of
the loss's gradient with respect to the logits, as a function of p, the softmax probability of the annotated class: the
weight that the loss gives to the sample (Wang et al., "Improving MAE against CCE under Label Noise", Sec. 3).

All of them compute in float32 whatever the autocast state (float64 stays float64), and in log space before any power.
Shapes: B batch, K classes (K >= 2), N training samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reid.errors import in_range
from reid.runtime import gather_rows


def _log_prob(logits_BK: Tensor, target_B: Tensor) -> Tensor:
    """log p of the annotated class, (B,), in at least float32."""
    if logits_BK.ndim != 2 or logits_BK.shape[1] < 2:
        raise ValueError(f"logits must be (B, K) with K >= 2 classes, got {tuple(logits_BK.shape)}")
    if logits_BK.dtype != torch.float64:
        logits_BK = logits_BK.float()
    return F.log_softmax(logits_BK, dim=1).gather(1, target_B[:, None]).squeeze(1)


class CCE(nn.Module):
    """Categorical cross entropy, -log p (Eq. 2); w(p) = 2(1 - p) (Eq. 19)."""

    def forward(self, logits_BK: Tensor, target_B: Tensor, index_B: Tensor | None = None) -> Tensor:
        """Loss per sample.

        Args:
            logits_BK: (B, K) float, any finite value.
            target_B: (B,) int64 in [0, K).
            index_B: (B,) int64, each sample's number in the training set; ignored here.

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
        q: 0 < q <= 1; q -> 0 is CCE, q = 1 is MAE / 2.

    Source: Zhang & Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels", 2018.
    """

    def __init__(self, q: float = 0.7) -> None:
        super().__init__()
        self.q = in_range("q", q, 0, 1, above=True)

    def forward(self, logits_BK: Tensor, target_B: Tensor, index_B: Tensor | None = None) -> Tensor:
        # p^q as exp(q log p): a power of an underflowed p would have an inf * 0 gradient.
        return -torch.expm1(self.q * _log_prob(logits_BK, target_B)) / self.q

    def weight(self, p: Tensor) -> Tensor:
        return 2 * p**self.q * (1 - p)


class GCETruncated(GCE):
    """GCE on kept samples, the constant (1 - k^q)/q on pruned ones, by alternating convex search (Zhang & Sabuncu, Sec. 3.3).

    All samples are kept at first. From a point of training on, and every so often, those whose latest p is at most k are pruned; a
    pruned sample comes back when its p has risen. p is the one seen when the sample was last drawn.

    Args:
        num_samples: N, the size of the training set that `index_B` counts in.
        iterations: training steps in all.
        q: as in `GCE`.
        k: 0 < k < 1, the probability at and below which a sample is pruned.
        start: share of training before the first pruning; the source prunes from epoch 40 of 120 on.
        every: share of training between prunings; the source takes 10 epochs of 120.
    """

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
        self.register_buffer("latest_N", torch.ones(num_samples))  # never drawn = never pruned
        self.register_buffer("keep_N", torch.ones(num_samples, dtype=torch.bool))

    def forward(self, logits_BK: Tensor, target_B: Tensor, index_B: Tensor | None = None) -> Tensor:
        if index_B is None:
            raise ValueError("GCETruncated remembers samples: pass index_B, their numbers in the training set")
        log_p_B = _log_prob(logits_BK, target_B)
        if self.training:
            self._remember(log_p_B.detach().exp(), index_B)
        pruned_loss = (1 - self.k**self.q) / self.q
        return torch.where(self.keep_N[index_B], -torch.expm1(self.q * log_p_B) / self.q, pruned_loss)

    def _remember(self, p_B: Tensor, index_B: Tensor) -> None:
        # Every process of a distributed run keeps the same record, so pruning needs no further exchange.
        self.latest_N[gather_rows(index_B)] = gather_rows(p_B.to(self.latest_N.dtype))
        due = (self.calls >= self.start) & ((self.calls - self.start) % self.every == 0)
        self.keep_N |= due  # keep_N := latest > k when due, unchanged otherwise, without asking the device
        self.keep_N &= ~due | (self.latest_N > self.k)
        self.calls += 1


class IMAE(nn.Module):
    """Improved MAE: MAE's value 2(1 - p), and MAE's gradient rescaled to the L1 norm w(p) = exp(T p(1 - p)) (Eq. 21-22).

    Eq. 22 divides by w_MAE, which vanishes at p = 0 and p = 1. The same gradient without the division: for the annotated class y
    dL/dz_y = -w/2, and for j != y dL/dz_j = (w/2) softmax over the K - 1 other logits, which is the gradient of
    (w.detach()/2) (logsumexp_{j != y} z_j - z_y), finite for every finite logit. At p -> 1 the weight tends to 1, not to 0: samples
    that are already fitted go on pulling. Arguments of `forward` as in `CCE`.

    Args:
        T: 0 <= T <= 300 (exp(T/4) overflows float32 near 354). The paper takes 8 on noisy labels, 0.5 on clean ones.
    """

    def __init__(self, T: float = 8.0) -> None:
        super().__init__()
        self.T = in_range("T", T, 0, 300)

    def forward(self, logits_BK: Tensor, target_B: Tensor, index_B: Tensor | None = None) -> Tensor:
        log_p_B = _log_prob(logits_BK, target_B).detach()
        p_B, mae_B = log_p_B.exp(), 2 * -torch.expm1(log_p_B)
        logits_BK = logits_BK.to(p_B.dtype)
        others_BK = logits_BK.scatter(1, target_B[:, None], -math.inf)
        margin_B = others_BK.logsumexp(dim=1) - logits_BK.gather(1, target_B[:, None]).squeeze(1)
        pull_B = self.weight(p_B) / 2 * margin_B
        return mae_B + (pull_B - pull_B.detach())

    def weight(self, p: Tensor) -> Tensor:
        return torch.exp(self.T * p * (1 - p))


LOSSES: dict[str, Callable[..., nn.Module]] = {
    "cce": CCE,
    "mae": MAE,
    "gce": GCE,
    "gce_truncated": GCETruncated,
    "imae": IMAE,
}
