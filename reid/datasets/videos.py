"""Single frames of videos, exactly: by their number, in whatever order they are asked for.

A container finds frames by time. So the times of all frames are listed first, without decoding; a frame is then decoded from the last key
frame before it on, or from the frame that was read last where that is nearer. Reading in order decodes every frame once.

Shapes: H W pixels.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np

from reid.errors import DataError

_OPEN = 8  # videos that a process keeps open
_ADVICE = "robust-reid import TABLE --crops crops --out cut.csv reads it sequentially"


class _Index(NamedTuple):
    """`times` (F,) int64, rising, when each frame is shown · `keys` (K,) int64, rising, the numbers of those that need no other."""

    times: np.ndarray
    keys: np.ndarray


def frame_of(path: str, number: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB of one frame, counted from 0 in the order in which they are shown.

    Raises:
        DataError: PyAV is not installed; the file is missing or no video; it has no such frame, or not a time for each.
    """
    return _video(os.getpid(), *_file(path)).frame(number)


def count(path: str) -> int:
    """How many frames a video has. The file is read to its end, once: processes that are forked afterwards know it too.

    Raises:
        DataError: as for `frame_of`.
    """
    return len(_index(*_file(path)).times)


def _file(path: str) -> tuple[str, tuple[int, int]]:
    """The absolute path, and what changes when the file does."""
    try:
        held = os.stat(path)
    except OSError as error:
        raise DataError(f"{path}: cannot read this video: {error.strerror}") from None
    return os.path.abspath(path), (held.st_mtime_ns, held.st_size)


@lru_cache(maxsize=_OPEN)
def _video(process: int, path: str, state: tuple[int, int]) -> _Video:
    return _Video(path, _index(path, state))  # of this process: one that was forked would share the place in the file


@cache
def _index(path: str, state: tuple[int, int]) -> _Index:
    av = pyav(path)
    try:
        with av.open(path, metadata_errors="replace") as container:
            packets = [
                (packet.pts, packet.is_keyframe)
                for packet in container.demux(container.streams.video[0])
                if packet.size and not packet.is_discard
            ]
    except MemoryError:
        raise
    except Exception as error:  # damaged videos raise nearly anything: one without a picture is an IndexError
        raise DataError(f"{path}: cannot read this video: {error}") from None
    times = [time for time, _ in packets]
    if None in times or len(set(times)) < len(times):
        raise DataError(f"{path}: its frames have no timestamps; {_ADVICE}")
    rising = np.array(sorted(times), np.int64)
    keys = np.array(sorted(time for time, is_key in packets if is_key), np.int64)
    if len(rising) and not len(keys):
        raise DataError(f"{path}: damaged: a video of {len(rising)} frames without a key frame; copy the file again")
    return _Index(rising, np.searchsorted(rising, keys))


class _Video:
    def __init__(self, path: str, index: _Index) -> None:
        self.path, self._lock = path, threading.Lock()
        self._times, self._keys = index
        self._av = pyav(path)
        self._at, self._picture = -1, np.zeros((0, 0, 3), np.uint8)
        self._decoded: Iterator[Any] = iter(())
        self._open()

    def _open(self) -> None:
        self._container = self._av.open(self.path, metadata_errors="replace")
        self._stream = self._container.streams.video[0]

    def frame(self, number: int) -> np.ndarray:
        if number >= len(self._times):
            raise DataError(
                f"{self.path}: has no frame {number} (counted from 0); it is a video of {len(self._times)} frames"
            )
        with self._lock:
            if number != self._at:
                self._picture, self._at = self._read(number), number
            return self._picture

    def _read(self, number: int) -> np.ndarray:
        place = max(int(np.searchsorted(self._keys, number, side="right")) - 1, 0)
        going_on = self._keys[place] <= self._at < number
        self._at = -1  # where it fails
        try:
            if going_on and (picture := self._decoded_up_to(number)) is not None:
                return picture
            # Seeking may land behind a key frame; the one before will do, and the beginning always.
            for key in [*self._keys[: place + 1][::-1], None]:
                if key is None:
                    self._open()
                else:
                    self._container.seek(int(self._times[key]), stream=self._stream)
                self._decoded = self._container.decode(self._stream)
                if (picture := self._decoded_up_to(number)) is not None:
                    return picture
        except MemoryError:
            raise
        except Exception as error:  # as in `_index`
            raise DataError(f"{self.path}: cannot decode frame {number}: {error}") from None
        raise DataError(f"{self.path}: cannot find frame {number} by its timestamp; {_ADVICE}")

    def _decoded_up_to(self, number: int) -> np.ndarray | None:
        """The frame of this number, where it comes next or after others before it."""
        wanted = self._times[number]
        for frame in self._decoded:
            if frame.pts == wanted:
                picture: np.ndarray = frame.to_ndarray(format="rgb24")
                return picture
            if frame.pts is None or frame.pts > wanted:
                break
        return None


def pyav(path: str | os.PathLike[str]) -> Any:
    """The library that decodes videos.

    Raises:
        DataError: it is not installed.
    """
    try:
        import av
    except ImportError:
        raise DataError(
            f"{path}: videos are decoded by PyAV, which is not installed: pip install 'robust-reid[video]'"
        ) from None
    return av
