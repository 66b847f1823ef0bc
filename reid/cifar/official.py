"""Reader for the official folders of CIFAR-10 and CIFAR-100; the content of every file is checked. Shapes: N images, K classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_md5

from reid.cifar.pickled import unpickle
from reid.errors import ConfigError, DataError, nearest

Labels = NDArray[np.int64]
NUM_TRAIN, NUM_TEST = 50_000, 10_000
IMAGE = (3, 32, 32)
_ROW = 3 * 32 * 32  # one image: the red, green and blue channel one after the other, each row by row
_ADVICE = "unpack the official archive again (see data/README.md)"


@dataclass(frozen=True)
class Layout:
    """File layout of a dataset.

    Args:
        official: torchvision's class, for names, URLs and MD5s of folder, archive and files.
        num_classes: K.
        labels: key of the labels in a file.
        coarse: key of the superclasses; None if there are none.
    """

    official: type[CIFAR10]
    num_classes: int
    labels: str
    coarse: str | None = None

    @property
    def keys(self) -> list[str]:
        """Keys that are read from a file of images; files have others, which are ignored."""
        return ["data", self.labels] + ([self.coarse] if self.coarse else [])


LAYOUTS = {
    "cifar10": Layout(CIFAR10, 10, "labels"),
    "cifar100": Layout(CIFAR100, 100, "fine_labels", "coarse_labels"),
}
_NUM_COARSE = 20


def layout_of(name: str) -> Layout:
    """The layout of a dataset.

    Raises:
        ConfigError: unknown name.
    """
    if name not in LAYOUTS:
        raise ConfigError(f"unknown dataset {name!r}; {nearest(name, list(LAYOUTS))}")
    return LAYOUTS[name]


def find_folder(root: Path, name: str) -> Path:
    """The dataset's folder in `root`, or `root` itself.

    Raises:
        DataError: there is no such folder; the message names another dataset found there.
    """
    official = LAYOUTS[name].official
    if (root / official.base_folder).is_dir():
        return root / official.base_folder
    if (root / official.meta["filename"]).is_file():
        return root
    place = str(root) if root.is_dir() else f"{root}, which is not a folder"
    hint = (
        f"set data.download=true, set --data-root to the folder that contains it, or unpack {official.filename} there"
    )
    for other, layout in LAYOUTS.items():
        if (root / layout.official.base_folder).is_dir() or (root / layout.official.meta["filename"]).is_file():
            hint = f"found {other}"
    raise DataError(f"dataset {name}: expected a folder {official.base_folder} in {place}; {hint} (see data/README.md)")


def unofficial_files(folder: Path, layout: Layout) -> list[str]:
    """Names of the folder's files whose MD5 is not the official one."""
    official = layout.official
    listed = [*official.train_list, *official.test_list, [official.meta["filename"], official.meta["md5"]]]
    return [file for file, md5 in listed if not check_md5(folder / file, md5)]


def read_images(files: list[Path], total: int, layout: Layout) -> tuple[NDArray[np.uint8], Labels, Labels]:
    """Images, labels and superclasses of files that hold `total` images in equal parts.

    Returns:
        Images (N, 3, 32, 32) uint8, labels (N,) int64, superclasses (N,) int64 (the labels again if the dataset has none).

    Raises:
        DataError: a file is missing, damaged, of another dataset, or a pickle with globals that are not allowed.
    """
    rows, labels, coarse = zip(*(_read_batch(file, total // len(files), layout) for file in files), strict=True)
    return np.concatenate(rows).reshape(-1, *IMAGE), np.concatenate(labels), np.concatenate(coarse)


def _read_batch(path: Path, num: int, layout: Layout) -> tuple[NDArray[np.uint8], Labels, Labels]:
    content = unpickle(path)
    if not set(layout.keys) <= content.keys():
        found = ", ".join(sorted(map(str, content))) or "nothing"
        raise DataError(
            f"{path}: expected {', '.join(layout.keys)} in it, got {found:.200}; is it another dataset's file?"
        )
    rows = content["data"]
    if not isinstance(rows, np.ndarray) or rows.shape != (num, _ROW):
        got = f"shape {rows.shape}" if isinstance(rows, np.ndarray) else type(rows).__name__
        raise DataError(f"{path}: expected data of shape {(num, _ROW)}, got {got}; {_ADVICE}")
    labels_N = _whole_numbers(path, layout.labels, content, num, layout.num_classes)
    return rows, labels_N, _whole_numbers(path, layout.coarse, content, num, _NUM_COARSE) if layout.coarse else labels_N


def _whole_numbers(path: Path, key: str, content: dict[str, Any], num: int, limit: int) -> Labels:
    labels = content[key]
    if not isinstance(labels, list) or any(type(label) is not int for label in labels):
        raise DataError(f"{path}: expected {key} to be a list of whole numbers, got something else; {_ADVICE}")
    if len(labels) != num:
        raise DataError(f"{path}: expected {num} {key}, one per image, got {len(labels)}; {_ADVICE}")
    if min(labels) < 0 or max(labels) >= limit:
        got = f"{min(labels)}..{max(labels)}"
        raise DataError(f"{path}: expected {key} in 0..{limit - 1}, got {got}; {_ADVICE}")
    return np.array(labels, dtype=np.int64)


def coarse_classes(path: Path, labels_N: Labels, coarse_N: Labels, num_classes: int) -> Labels:
    """The superclass of each class.

    Returns:
        (K,) int64.

    Raises:
        DataError: a class has samples of two superclasses, or no sample.
    """
    coarse_K = np.full(num_classes, -1)
    coarse_K[labels_N] = coarse_N
    wrong = np.union1d(labels_N[coarse_K[labels_N] != coarse_N], np.flatnonzero(coarse_K < 0))
    if len(wrong):
        raise DataError(
            f"{path}: expected one superclass for each class, got none or several for {wrong[0]}; {_ADVICE}"
        )
    return coarse_K


def read_classes(path: Path, layout: Layout) -> tuple[str, ...]:
    """The K class names, in the order of the labels.

    Raises:
        DataError: the file is missing or damaged, or does not hold K names.
    """
    key, num = layout.official.meta["key"], layout.num_classes
    names = unpickle(path).get(key)
    if not isinstance(names, list) or len(names) != num or not all(isinstance(name, (str, bytes)) for name in names):
        raise DataError(f"{path}: expected {key} to be {num} names, got {names!r:.80}; {_ADVICE}")
    return tuple(name.decode("latin1") if isinstance(name, bytes) else name for name in names)
