"""Label noise as it arises in re-identification: on tracklets, on the frames inside them, and on whole persons.

Every kind draws a fixed order and takes a prefix of it, so with one seed the changes of a lower rate are a subset of those of a higher
one. No image is duplicated: frames are exchanged, not copied. `noise.py` has the rules for plain labels.

Identity switches and fragments are the two tracker faults that Teng et al. ("A Free Lunch to Person Re-identification: Learning from
Automatically Generated Noisy Tracklets", arXiv 2204.00891) add to MARS by hand. As in that paper, a tracklet may continue with another
person, and one person's track may be cut into pieces with new identities. The number of changes (`rate`), the cut positions and the
partner of a switch are drawn by rules of our own, so results on MARS are not comparable with those of the paper.

Shapes: T tracklets, K persons, D feature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from reid.datasets.changes import Change, Noisy, applied
from reid.datasets.noise import exact_count, symmetric, uniform_others
from reid.errors import ConfigError, in_range
from reid.runtime import seed_of
from reid.tracklets import Split


@dataclass(frozen=True, eq=False)
class World:
    """Inputs of a noise besides the training set.

    Args:
        nobody: distractor and junk tracklets.
        taken: pids of persons outside the training set, which new persons must not get.
        order: (T,) rows of the training set before any noise, in the order that is drawn from.
        reference: computes (T, D) unit features of a split's tracklets; its second argument is the `gallery` of `Nearest`.
    """

    nobody: Split
    taken: frozenset[int]
    order: np.ndarray
    reference: Callable[[Split, str | None], np.ndarray]


class TrackletNoise(Protocol):
    """Interface of the noises that a config's `data.noise` builds."""

    def apply(self, noisy: Noisy, world: World) -> Noisy:
        """Apply the noise to the training set.

        Raises:
            ConfigError: the rate is too high for this training set. DataError: a change does not fit it.
        """
        ...


@dataclass(frozen=True)
class _Drawn:
    """Base of the drawn noises.

    Args:
        rate: share of the items drawn from, in [0, 1].
        seed: of this noise alone.
    """

    rate: float
    seed: int

    kind: ClassVar[str]

    def __post_init__(self) -> None:
        in_range("rate", self.rate, 0, 1)
        in_range("seed", self.seed, 0)

    def apply(self, noisy: Noisy, world: World) -> Noisy:
        return applied(noisy, list(self.draw(noisy, world)), world.nobody)

    def draw(self, noisy: Noisy, world: World) -> Iterator[Change]:
        raise NotImplementedError

    def _rng(self) -> np.random.Generator:
        return np.random.default_rng(seed_of(self.seed, "noise", self.kind))

    def _relabelled(self, noisy: Noisy, row: int, pid: int) -> Change:
        true_pid = int(noisy.before.pid_T[row])
        return Change(noisy.split.key(row), None, true_pid, int(pid), self.kind, self.seed)

    def _enough(self, wanted: int, found: int, what: str, most: float) -> None:
        if wanted > found:
            raise ConfigError(
                f"data.noise: {self.kind}: rate {self.rate:g} asks for {wanted} {what}, but there are {found}; "
                f"expected at most {np.floor(most * 1000) / 1000:g}"
            )


def _rows(noisy: Noisy, world: World) -> np.ndarray:
    """(T,) rows to draw from: the given order, then the tracklets added by other noise."""
    return np.concatenate([world.order, np.arange(len(world.order), len(noisy.split))])


@dataclass(frozen=True)
class _OfLabels(_Drawn):
    """Whole tracklets relabelled by one of the rules of `noise.py`, which defines `rate`."""

    rule: ClassVar[Callable[..., np.ndarray]]

    def draw(self, noisy: Noisy, world: World) -> Iterator[Change]:
        order = _rows(noisy, world)
        labels, pids = noisy.split.labels()
        drawn = labels.copy()
        drawn[order] = type(self).rule(labels[order], len(pids), self.rate, self.seed)
        for row in np.flatnonzero(drawn != labels).tolist():
            yield self._relabelled(noisy, row, pids[drawn[row]])


class Symmetric(_OfLabels):
    """Each tracklet, with probability `rate`, gets a random person's label; the original may come up again."""

    kind, rule = "symmetric", staticmethod(symmetric)


class ExactCount(_OfLabels):
    """Exactly a share `rate` of the tracklets gets a random person's label; the original may come up again."""

    kind, rule = "exact_count", staticmethod(exact_count)


class UniformOthers(_OfLabels):
    """Exactly a share `rate` of the tracklets gets the label of another person, each with equal probability."""

    kind, rule = "uniform_others", staticmethod(uniform_others)


@dataclass(frozen=True)
class Nearest(_Drawn):
    """Whole tracklets relabelled to the person they look most like: a typical mistake of human annotators.

    That is the person whose mean of unit features has the highest cosine similarity, the tracklet's own person excluded.

    Args:
        rate: share of the tracklets.
        seed: of this noise alone.
        gallery: folder or .npz file of features that holds every training tracklet by its key; preferably of a model that was not
            trained on these labels. By default, colour histograms of six stripes of the middle of the image are used: they need no
            weights, and confuse people in similar clothes.
    """

    gallery: str | None = None
    kind: ClassVar[str] = "nearest"

    def draw(self, noisy: Noisy, world: World) -> Iterator[Change]:
        split = noisy.split
        labels, pids = split.labels()
        if len(pids) < 2:
            raise ConfigError("data.noise: nearest: expected at least 2 persons, got 1")
        features_TD = world.reference(split, self.gallery).astype(np.float64)
        mean_KD = np.zeros((len(pids), features_TD.shape[1]))
        np.add.at(mean_KD, labels, features_TD)
        mean_KD /= np.linalg.norm(mean_KD, axis=1, keepdims=True)
        drawn = self._rng().permutation(_rows(noisy, world))[: round(self.rate * len(split))]
        for row in drawn.tolist():
            similarity_K = mean_KD @ features_TD[row]
            similarity_K[labels[row]] = -np.inf
            yield self._relabelled(noisy, row, pids[similarity_K.argmax()])


@dataclass(frozen=True)
class _Exchange(_Drawn):
    """Pairs of tracklets of different persons, from the same camera if possible, exchange frames."""

    def draw(self, noisy: Noisy, world: World) -> Iterator[Change]:
        rng, lengths = self._rng(), noisy.split.lengths
        pairs = _pairs(noisy, rng.permutation(_rows(noisy, world)))
        wanted = round(self.rate * len(lengths) / 2)
        self._enough(wanted, len(pairs), "pairs of tracklets of two frames or more", 2 * len(pairs) / len(lengths))
        for a, b in pairs[:wanted]:
            first_a, first_b, count = self._places(int(lengths[a]), int(lengths[b]), rng)
            yield from self._shown(noisy, (a, first_a), (b, first_b), count)
            yield from self._shown(noisy, (b, first_b), (a, first_a), count)

    def _places(self, length_a: int, length_b: int, rng: np.random.Generator) -> tuple[int, int, int]:
        """Draw the first position in each tracklet, and the number of frames to exchange."""
        raise NotImplementedError

    def _shown(self, noisy: Noisy, to: tuple[int, int], source: tuple[int, int], count: int) -> Iterator[Change]:
        split, (row, first), (other, other_first) = noisy.split, to, source
        for i in range(count):
            true_pid = int(noisy.before.pid_F[split.start[other] + other_first + i])
            here = (split.key(row), first + i, true_pid, int(split.pid[row]), self.kind, self.seed)
            yield Change(*here, split.key(other), other_first + i)


class Switches(_Exchange):
    """Identity switches: from a drawn frame on, two tracklets continue with each other's person, to their end.

    A share `rate` of the tracklets takes part. The number of exchanged frames is uniform between 1 and one less than the length of the
    shorter one, so that tracklets keep their lengths and begin with their own person.
    """

    kind = "switches"

    def _places(self, length_a: int, length_b: int, rng: np.random.Generator) -> tuple[int, int, int]:
        count = int(rng.integers(1, min(length_a, length_b)))
        return length_a - count, length_b - count, count


@dataclass(frozen=True)
class Intruders(_Exchange):
    """Intruding frames: two tracklets exchange a short run of frames at positions drawn in each.

    Args:
        rate: share of the tracklets that take part.
        seed: of this noise alone.
        longest: largest number of frames in a run, uniform from 1 on; never more than half of the shorter tracklet.
    """

    longest: int = 3
    kind: ClassVar[str] = "intruders"

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("longest", self.longest, 1)

    def _places(self, length_a: int, length_b: int, rng: np.random.Generator) -> tuple[int, int, int]:
        count = int(rng.integers(1, min(self.longest, length_a // 2, length_b // 2) + 1))
        first_a, first_b = (int(rng.integers(0, length - count + 1)) for length in (length_a, length_b))
        return first_a, first_b, count


def _pairs(noisy: Noisy, drawn: np.ndarray) -> list[tuple[int, int]]:
    """Pair tracklets of two frames or more with the next one drawn of another person and the same camera, then the rest of any camera."""
    person, camera = noisy.before.pid_T, noisy.split.camid
    waiting: dict[int, list[int]] = {}  # by camera; those in one queue are all of one person
    pairs: list[tuple[int, int]] = []

    def offer(row: int, queue: list[int]) -> None:
        if queue and person[queue[0]] != person[row]:
            pairs.append((queue.pop(0), row))
        else:
            queue.append(row)

    able = [row for row in drawn.tolist() if noisy.split.lengths[row] > 1]
    anywhere = [row for row in able if camera[row] < 0]
    for row in able:
        if camera[row] >= 0:
            offer(row, waiting.setdefault(int(camera[row]), []))
    left = [row for queue in waiting.values() for row in queue]
    rest: list[int] = []
    for row in [*anywhere, *left]:
        offer(row, rest)
    return pairs


@dataclass(frozen=True)
class Fragments(_Drawn):
    """Fragments: tracklets cut into pieces, as by a tracker that lost its person; the first piece keeps the pid, the others get new ones.

    Args:
        rate: share of the tracklets that are cut.
        seed: of this noise alone.
        pieces: per cut tracklet, at least 2; cut positions are uniform, and no piece is empty.
    """

    pieces: int = 2
    kind: ClassVar[str] = "fragments"

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("pieces", self.pieces, 2)

    def draw(self, noisy: Noisy, world: World) -> Iterator[Change]:
        rng, split, pid = self._rng(), noisy.split, _first_free(noisy, world)
        able = [row for row in rng.permutation(_rows(noisy, world)).tolist() if split.lengths[row] >= self.pieces]
        wanted = round(self.rate * len(split))
        self._enough(wanted, len(able), f"tracklets of {self.pieces} frames or more", len(able) / len(split))
        for row in able[:wanted]:
            length, start = int(split.lengths[row]), int(split.start[row])
            cuts = 1 + np.sort(rng.permutation(length - 1)[: self.pieces - 1])
            for first, end in zip(cuts.tolist(), [*cuts[1:].tolist(), length], strict=True):
                for frame in range(first, end):
                    true_pid = int(noisy.before.pid_F[start + frame])
                    yield Change(split.key(row), frame, true_pid, pid, self.kind, self.seed)
                pid += 1


class SplitIdentities(_Drawn):
    """One person under two pids: for a share `rate` of the persons, half of the tracklets (rounded down) get a new pid."""

    kind = "split_identities"

    def draw(self, noisy: Noisy, world: World) -> Iterator[Change]:
        rng, split, pid = self._rng(), noisy.split, _first_free(noisy, world)
        order = _rows(noisy, world)
        persons, counts = np.unique(split.pid, return_counts=True)
        able = rng.permutation(persons[counts > 1])
        wanted = round(self.rate * len(persons))
        self._enough(wanted, len(able), "persons of two tracklets or more", len(able) / len(persons))
        for person in able[:wanted]:
            rows = rng.permutation(order[split.pid[order] == person])
            for row in rows[: len(rows) // 2].tolist():
                yield self._relabelled(noisy, row, pid)
            pid += 1


class MergedIdentities(_Drawn):
    """Two persons under one pid: a share `rate` of the persons is paired, and the second of each pair gets the label of the first."""

    kind = "merged_identities"

    def draw(self, noisy: Noisy, world: World) -> Iterator[Change]:
        order, persons = _rows(noisy, world), np.unique(noisy.split.pid)
        drawn, wanted = self._rng().permutation(persons), round(self.rate * len(persons) / 2)
        if wanted and len(persons) - wanted < 2:
            raise ConfigError(
                f"data.noise: {self.kind}: rate {self.rate:g} leaves {len(persons) - wanted} of {len(persons)} persons; expected 2 or more"
            )
        for first, second in drawn[: 2 * wanted].reshape(-1, 2).tolist():
            for row in order[noisy.split.pid[order] == second].tolist():
                yield self._relabelled(noisy, row, first)


class Background(_Drawn):
    """Distractor and junk tracklets of the dataset under persons' pids, as many as a share `rate` of the training tracklets.

    Each is added under the person of a tracklet drawn at random. They are taken from the test set, which is then no longer unseen.
    """

    kind = "background"

    def draw(self, noisy: Noisy, world: World) -> Iterator[Change]:
        rng, split, nobody = self._rng(), noisy.split, world.nobody
        if not len(nobody):
            raise ConfigError(
                "data.noise: background: the dataset has no distractors (pid 0) and no junk (pid -1) in its test set to mix in"
            )
        there = set() if split.keys is None else set(split.keys.tolist())
        free = [row for row in rng.permutation(len(nobody)).tolist() if nobody.key(row) not in there]
        wanted = round(self.rate * len(split))
        self._enough(wanted, len(free), "tracklets of no known person", len(free) / len(split))
        for row in free[:wanted]:
            key, pid = nobody.key(row), int(split.pid[rng.integers(len(split))])
            yield Change(key, None, int(nobody.pid[row]), pid, self.kind, self.seed, key)


def _first_free(noisy: Noisy, world: World) -> int:
    """A pid above all that are in use."""
    return 1 + max(int(noisy.split.pid.max()), *world.taken, *noisy.names.pid, 0)


DRAWN: dict[str, type[_Drawn]] = {
    noise.kind: noise
    for noise in (
        Symmetric,
        ExactCount,
        UniformOthers,
        Nearest,
        Switches,
        Fragments,
        Intruders,
        SplitIdentities,
        MergedIdentities,
        Background,
    )
}
NEW_PERSONS = frozenset({Fragments.kind, SplitIdentities.kind})  # kinds that create new persons
