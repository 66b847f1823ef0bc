"""CIFAR-10 and CIFAR-100 for the study: images, labels, human labels, and fixed subsets of the training set.

Shapes: N images, K classes, C = 3 channels, H = W = 32.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid.cifar.official import (
    IMAGE,
    NUM_TEST,
    NUM_TRAIN,
    Labels,
    coarse_classes,
    find_folder,
    layout_of,
    read_classes,
    read_images,
    unofficial_files,
)
from reid.cifar.pickled import load_arrays
from reid.errors import ConfigError, DataError, in_range, nearest
from reid.runtime import seed_of

log = logging.getLogger(__name__)

CIFAR10_FLIPS = {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}  # truck, bird, deer, cat, dog -> automobile, airplane, horse, dog, cat
HUMAN_KINDS = {
    "aggregate": "aggre_label",
    "random1": "random_label1",
    "random2": "random_label2",
    "random3": "random_label3",
    "worse": "worse_label",
    "noisy": "noisy_label",
}


@dataclass(frozen=True)
class ImageSet:
    """Images and their labels.

    Args:
        images_NCHW: (N, 3, 32, 32) uint8, RGB.
        labels_N: (N,) int64, 0..K-1.
    """

    images_NCHW: NDArray[np.uint8]
    labels_N: Labels

    def __post_init__(self) -> None:
        assert self.images_NCHW.shape == (len(self.labels_N), *IMAGE), (self.images_NCHW.shape, self.labels_N.shape)

    def __len__(self) -> int:
        return len(self.labels_N)


@dataclass(frozen=True)
class Cifar:
    """A dataset, or one with a subset of its training images.

    Args:
        name: cifar10 or cifar100.
        classes: K names, in the order of the labels.
        train, test: images and labels.
        index_N: (N,) int64, ascending: rows of the training images in the official training set.
        coarse_K: (K,) int64, 0..19: superclass of each class; None for CIFAR-10, which has none.
        note: names the files that are not the official ones; else empty.
    """

    name: str
    classes: tuple[str, ...]
    train: ImageSet
    test: ImageSet
    index_N: Labels
    coarse_K: Labels | None
    note: str


def load_cifar(root: Path, name: str) -> Cifar:
    """Loads ``cifar-10-batches-py`` or ``cifar-100-python``. A file whose MD5 is not the official one is noted and logged.

    Args:
        root: the folder itself, or the folder that contains it.
        name: cifar10 or cifar100.

    Raises:
        ConfigError: unknown name.
        DataError: a file is missing, damaged, of another dataset, or a pickle with globals that are not allowed.
    """
    layout = layout_of(name)
    folder, official = find_folder(Path(root), name), layout.official
    train_files, test_files = (
        [folder / file for file, _ in files] for files in (official.train_list, official.test_list)
    )
    images, labels_N, coarse_N = read_images(train_files, NUM_TRAIN, layout)
    train, test = ImageSet(images, labels_N), ImageSet(*read_images(test_files, NUM_TEST, layout)[:2])
    classes = read_classes(folder / official.meta["filename"], layout)
    coarse_K = coarse_classes(train_files[0], labels_N, coarse_N, len(classes)) if layout.coarse else None
    note = ""
    if others := unofficial_files(folder, layout):
        note = f"{folder.name}: not the official {', '.join(others)} (MD5 differs): a re-encoded or changed copy"
        log.warning("%s", note)
    return Cifar(name, classes, train, test, np.arange(NUM_TRAIN), coarse_K, note)


def load_human_labels(path: Path, kind: str, clean_N: Labels) -> Labels:
    """Loads human labels of the training images, CIFAR-10N or CIFAR-100N, from the public ``CIFAR-10_human.pt`` or from .npz.

    Args:
        path: the file.
        kind: aggregate, random1, random2, random3 or worse (CIFAR-10N); noisy (CIFAR-100N).
        clean_N: (N,) int64, labels of the whole training set; `clean_label` in the file must be the same.

    Returns:
        (N,) int64, 0..K-1.

    Raises:
        ConfigError: unknown kind.
        DataError: the file is missing or damaged, does not contain these labels, or its clean labels differ (other images or order).
    Source: Wei et al., Learning with Noisy Labels Revisited, ICLR 2022.
    """
    path = Path(path)
    if kind not in HUMAN_KINDS:
        raise ConfigError(f"human labels: unknown kind {kind!r}; {nearest(kind, list(HUMAN_KINDS))}")
    content = load_arrays(path)
    known_N, given_N = (_human_labels(path, content, key, clean_N) for key in ("clean_label", HUMAN_KINDS[kind]))
    wrong = int((known_N != clean_N).sum())
    if wrong:
        raise DataError(
            f"{path}: clean_label does not match the dataset's labels: got {wrong} of {len(clean_N)} that differ; "
            "the images are in another order, or the file is another dataset's"
        )
    return given_N


def _human_labels(path: Path, content: dict[str, Any], key: str, clean_N: Labels) -> Labels:
    if key not in content:
        raise DataError(f"{path}: expected {key} in it, got {', '.join(map(str, content)) or 'nothing'}")
    labels_N = content[key]
    if not isinstance(labels_N, np.ndarray) or labels_N.dtype.kind not in "iu" or labels_N.shape != clean_N.shape:
        got = f"{labels_N.dtype} {labels_N.shape}" if isinstance(labels_N, np.ndarray) else type(labels_N).__name__
        raise DataError(f"{path}: expected {key} to be {len(clean_N)} whole numbers, one per training image, got {got}")
    if len(labels_N) and not (labels_N.min() >= 0 and labels_N.max() <= clean_N.max()):
        got = f"{labels_N.min()}..{labels_N.max()}"
        raise DataError(f"{path}: expected {key} in 0..{clean_N.max()}, got {got}")
    return labels_N.astype(np.int64)


def subset(cifar: Cifar, num_train: int, seed: int) -> Cifar:
    """The same dataset with fewer training images, balanced over the classes (counts differ by at most 1 while images last).

    For one seed, a smaller subset is contained in a larger one.

    Args:
        cifar: the whole dataset, or a subset.
        num_train: images to keep, 1..N.
        seed: of the random choice.

    Raises:
        ConfigError: num_train is out of range.
    """
    in_range("num_train", num_train, 1, len(cifar.train))
    rows = np.sort(_balanced_order(cifar.train.labels_N, seed)[:num_train])
    train = ImageSet(cifar.train.images_NCHW[rows], cifar.train.labels_N[rows])
    return replace(cifar, train=train, index_N=cifar.index_N[rows])


def _balanced_order(labels_N: Labels, seed: int) -> Labels:
    """(N,) all rows in a random order in which every prefix is balanced: each class occurs equally often while it has rows left."""
    rng = np.random.default_rng(seed_of(seed, "subset"))
    shuffled = rng.permutation(len(labels_N))
    by_class = shuffled[np.argsort(labels_N[shuffled], kind="stable")]
    counts_K = np.bincount(labels_N)
    turn_N = np.arange(len(labels_N)) - np.repeat(np.cumsum(counts_K) - counts_K, counts_K)
    return by_class[np.lexsort((rng.random(len(labels_N)), turn_N))]


def hold_out(num_samples: int, share: float, seed: int) -> tuple[Labels, Labels]:
    """Splits the training samples at random, independently of their labels: the same samples are held out under every noise.

    Args:
        num_samples: N.
        share: share of the samples to hold out, 0 < share < 1.
        seed: of the split.

    Returns:
        Rows to train on and held-out rows, both int64 and ascending.

    Raises:
        ConfigError: share is out of range, or one of the two parts would be empty.
    """
    in_range("holdout", share, 0, 1)
    count = round(share * num_samples)
    if not 0 < count < num_samples:
        raise ConfigError(f"holdout: {share} of {num_samples} samples is {count}; expected at least 1 on either side")
    order = np.random.default_rng(seed_of(seed, "holdout")).permutation(num_samples)
    return np.sort(order[count:]), np.sort(order[:count])


def asymmetric_target(cifar: Cifar) -> list[int]:
    """Target class of asymmetric noise for each class: the usual five flips of CIFAR-10, or the next class of the superclass, circular.

    Returns:
        K target classes; a class that is its own target never flips.
    Source: Patrini et al., Making Deep Neural Networks Robust to Label Noise, CVPR 2017, Sec. 5.
    """
    if cifar.coarse_K is None:
        return [CIFAR10_FLIPS.get(label, label) for label in range(len(cifar.classes))]
    target = [0] * len(cifar.classes)
    for coarse in np.unique(cifar.coarse_K):
        members = np.flatnonzero(cifar.coarse_K == coarse).tolist()
        for label, following in zip(members, members[1:] + members[:1], strict=True):
            target[label] = following
    return target
