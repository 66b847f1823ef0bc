"""Decode a video's frames by number, counted from 0 in presentation order."""

from __future__ import annotations

from collections.abc import Iterator, Set
from pathlib import Path

import numpy as np

from reid.datasets.videos import pyav
from reid.errors import DataError


def frames_of_video(path: Path, wanted: Set[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the wanted frames in ascending order, each (H, W, 3) uint8 RGB.

    Every frame up to the last wanted one is decoded, because containers find frames by time, and times are rounded.

    Raises:
        DataError: PyAV is not installed, the file is missing or not a video, or it ends before the last wanted frame.
    """
    if not wanted:
        return
    av = pyav(path)
    last, count = max(wanted), 0
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            for number, frame in enumerate(container.decode(video=0)):
                count = number + 1
                if number in wanted:
                    yield number, frame.to_ndarray(format="rgb24")
                if number == last:
                    return
    except MemoryError:
        raise
    except Exception as error:  # damaged videos raise nearly anything: one without a picture is an IndexError
        raise DataError(f"{path}: cannot decode this video after frame {count}: {error}") from None
    raise DataError(f"{path}: has no frame {last} (counted from 0); it is a video of {count} frames")
