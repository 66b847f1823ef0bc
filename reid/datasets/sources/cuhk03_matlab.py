"""Unpack the images of CUHK03 from ``cuhk-03.mat`` of its archive: a MATLAB 7.3 file (HDF5) whose cells are references.

``detected`` and ``labeled`` hold one cell for each of five camera pairs: persons x ten images, five of each view; some are empty. In
HDF5 the axes are reversed. Files are named as in the new protocol's ``filelist``: ``1_001_2_06.png`` is camera pair 1, person 1, view 2,
image 6.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from reid.errors import DataError, counted
from reid.files import atomic

logger = logging.getLogger(__name__)

_PLACES = ("cuhk-03.mat", "cuhk03_release/cuhk-03.mat")
_PER_VIEW = 5


def find(folder: Path) -> Path | None:
    """Find the file below a dataset's folder; None if it does not exist."""
    return next((folder / place for place in _PLACES if (folder / place).is_file()), None)


def unpack(file: Path, boxes: str, folder: Path) -> int:
    """Write the images as PNG (lossless). The folder appears once it is complete; a call after an interruption resumes.

    Args:
        file: `cuhk-03.mat`.
        boxes: `detected` or `labeled`.
        folder: to create.

    Returns:
        the number of images.

    Raises:
        DataError: h5py is not installed, or the file is damaged or not `cuhk-03.mat`.
    """
    unfinished, count = folder.with_name(f"{folder.name}.unfinished"), 0
    logger.info("%s: unpacking the images of %s to %s", file, boxes, folder)

    def is_there(name: str) -> bool:
        image = unfinished / name
        return image.is_file() and image.stat().st_size > 0

    for name, pixels_HWC in _images(file, boxes, is_there):
        count += 1
        if pixels_HWC is not None:
            with atomic(unfinished / name, flush=False) as temporary:
                Image.fromarray(pixels_HWC).save(temporary, format="PNG")
    if not count:
        raise DataError(f"{file}: {boxes}: expected images, got only empty cells")
    unfinished.rename(folder)
    logger.info("%s: %s", folder, counted(count, "image"))
    return count


def _images(file: Path, boxes: str, is_there: Callable[[str], bool]) -> Iterator[tuple[str, np.ndarray | None]]:
    """Yield every image's name, and its (H, W, 3) uint8 pixels or None if the file exists already."""
    try:
        import h5py
    except ImportError:
        raise DataError(
            f"{file}: MATLAB 7.3 files are read by h5py, which is not installed: pip install 'robust-reid[hdf5]'"
        ) from None
    try:
        with h5py.File(file) as content:
            for pair, cell in enumerate(content[boxes][0], start=1):
                for person, images in enumerate(content[cell][:].T, start=1):
                    for number, image in enumerate(images, start=1):
                        held = content[image]
                        if held.ndim < 3:  # an empty cell is stored as the sizes of its axes
                            continue
                        name = f"{pair}_{person:03d}_{1 if number <= _PER_VIEW else 2}_{number:02d}.png"
                        yield name, None if is_there(name) else _pixels(held[:])
    except (OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:  # a damaged file
        reason = str(error) or type(error).__name__
        raise DataError(
            f"{file}: expected cuhk-03.mat with {boxes}: camera pairs of persons x images ({reason})"
        ) from None


def _pixels(stored: np.ndarray) -> np.ndarray:
    if stored.dtype != np.uint8 or stored.ndim != 3 or len(stored) != 3:
        raise ValueError(f"expected an 8-bit image with three colour channels, got {stored.dtype} {stored.shape[::-1]}")
    return np.ascontiguousarray(stored.T)
