"""Label noise as it comes about in re-identification: on tracklets, on the frames inside them, and on whole persons.

Every kind draws in one order and takes a beginning of it, so with one seed the changes of a lower rate are among those of a higher one.
No picture is shown twice: frames are exchanged, not copied. `noise.py` has the rules for labels alone.

Identity switches and fragments are the two faults that trackers make, and that Teng et al. ("A Free Lunch to Person Re-identification:
Learning from Automatically Generated Noisy Tracklets", arXiv 2204.00891) add to MARS by hand. That a tracklet may go on with another
person, and that one person's track comes in pieces whose identity is new, follows them. How many there are (`rate`), where they are cut
and whom a switch leads to is drawn as is said here; their figures on MARS and ours are not comparable.

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
    """What a noise may draw on beside the training set.

    Args:
        nobody: tracklets of distractors and junk.
        taken: pids of persons outside the training set, which no new person may get.
        order: (T,) rows of the training set before any noise, in the order that is drawn from.
        reference: (T, D) unit rows of a reference model for the tracklets of a split; the text says which model.
    """

    nobody: Split
    taken: frozenset[int]
    order: np.ndarray
    reference: Callable[[Split, str | None], np.ndarray]


class TrackletNoise(Protocol):
    """What a config's `data.noise` is built to."""

    def apply(self, noisy: Noisy, world: World) -> Noisy:
        """The training set after it.

        Raises:
            ConfigError: the set does not have what the rate asks for. DataError: a change fits nothing.
        """
        ...


@dataclass(frozen=True)
class _Drawn:
    """A noise that is drawn.

    Args:
        rate: share of what is drawn from, in [0, 1].
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
                f"data.noise: {self.kind}: rate {self.rate:g} asks for {wanted} {what}, and there are {found}; "
                f"expected at most {np.floor(most * 1000) / 1000:g}"
            )


def _rows(noisy: Noisy, world: World) -> np.ndarray:
    """(T,) rows to draw from: the order given, then what other noise has added."""
    return np.concatenate([world.order, np.arange(len(world.order), len(noisy.split))])


@dataclass(frozen=True)
class _OfLabels(_Drawn):
    """Whole tracklets relabelled by one of the rules of `noise.py`, which says what `rate` is."""

    rule: ClassVar[Callable[..., np.ndarray]]

    def draw(self, noisy: Noisy, world: World) -> Iterator[Change]:
        order = _rows(noisy, world)
        labels, pids = noisy.split.labels()
        drawn = labels.copy()
        drawn[order] = type(self).rule(labels[order], len(pids), self.rate, self.seed)
        for row in np.flatnonzero(drawn != labels).tolist():
            yield self._relabelled(noisy, row, pids[drawn[row]])


class Symmetric(_OfLabels):
    """Each tracklet, with probability `rate`, gets a random person's label; its own may come up again."""

    kind, rule = "symmetric", staticmethod(symmetric)


class ExactCount(_OfLabels):
    """Exactly a share `rate` of the tracklets gets a random person's label; its own may come up again."""

    kind, rule = "exact_count", staticmethod(exact_count)


class UniformOthers(_OfLabels):
    """Exactly a share `rate` of the tracklets gets the label of another person, each with equal probability."""

    kind, rule = "uniform_others", staticmethod(uniform_others)


@dataclass(frozen=True)
class Nearest(_Drawn):
    """Whole tracklets relabelled to the person they look most like: the mistake that people who label make.

    The nearest person is the one with the most similar mean of unit features, the tracklet's own person left out.

    Args:
        rate: share of the tracklets.
        seed: of this noise alone.
        gallery: folder or .npz file of features that holds every training tracklet by its key, of a model that has not been trained on
            these labels if possible. Without one, colour histograms of six stripes of the middle of the picture are the
            reference: they need no weights, and mistake people who are dressed alike.
    """

    gallery: str | None = None
    kind: ClassVar[str] = "nearest"

    def draw(self, noisy: Noisy, world: World) -> Iterator[Change]:
        split = noisy.split
        labels, pids = split.labels()
        if len(pids) < 2:
            raise ConfigError("data.noise: nearest: there is one person, and nobody else to be taken for")
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
    """Pairs of tracklets of different persons, seen by one camera where there is such a partner, exchange frames."""

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
        """First position in either tracklet, and how many frames are exchanged."""
        raise NotImplementedError

    def _shown(self, noisy: Noisy, to: tuple[int, int], source: tuple[int, int], count: int) -> Iterator[Change]:
        split, (row, first), (other, other_first) = noisy.split, to, source
        for i in range(count):
            true_pid = int(noisy.before.pid_F[split.start[other] + other_first + i])
            here = (split.key(row), first + i, true_pid, int(split.pid[row]), self.kind, self.seed)
            yield Change(*here, split.key(other), other_first + i)


class Switches(_Exchange):
    """Identity switches: from a drawn frame on, two tracklets go on with each other's person, to their end.

    A share `rate` of the tracklets takes part. The number of frames exchanged is uniform between 1 and one less than the shorter of the
    two has, so that tracklets keep their lengths and begin with their own person.
    """

    kind = "switches"

    def _places(self, length_a: int, length_b: int, rng: np.random.Generator) -> tuple[int, int, int]:
        count = int(rng.integers(1, min(length_a, length_b)))
        return length_a - count, length_b - count, count


@dataclass(frozen=True)
class Intruders(_Exchange):
    """Intruding frames: two tracklets exchange a short run of frames at places drawn in each.

    Args:
        rate: share of the tracklets that take part.
        seed: of this noise alone.
        longest: most frames of a run, uniform from 1 on; never more than half of the shorter tracklet.
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
    """Tracklets of two frames or more, each with the next one drawn of another person and the same camera, then the rest anyhow."""
    person, camera = noisy.before.pid_T, noisy.split.camid
    waiting: dict[int, list[int]] = {}  # by camera; those that wait for a partner are all of one person
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
    """Fragments: tracklets cut into pieces; the first keeps its person, every other is of a new one, as to a tracker that lost it.

    Args:
        rate: share of the tracklets that are cut.
        seed: of this noise alone.
        pieces: of a cut tracklet, at least 2; where it is cut is uniform, and no piece is empty.
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
    """One person under two pids: half of the tracklets (rounded down) of a share `rate` of the persons get a new pid."""

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
    """Two persons under one pid: a share `rate` of the persons, in pairs, of which the second is labelled as the first."""

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
    """Tracklets of nobody under persons' pids: the dataset's own distractors and junk, as many as a share `rate` of the tracklets.

    Each is added under the person of a tracklet drawn at random. They come from the test set, which then is not unseen any more.
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
        self._enough(wanted, len(free), "tracklets of nobody", len(free) / len(split))
        for row in free[:wanted]:
            key, pid = nobody.key(row), int(split.pid[rng.integers(len(split))])
            yield Change(key, None, int(nobody.pid[row]), pid, self.kind, self.seed, key)


def _first_free(noisy: Noisy, world: World) -> int:
    """A pid above everybody's."""
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
NEW_PERSONS = frozenset({Fragments.kind, SplitIdentities.kind})  # kinds that make some
