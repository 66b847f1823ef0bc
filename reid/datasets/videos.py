"""Single frames of videos, exactly: by their number, in whatever order they are asked for.

A container finds frames by time. So the times of all frames are listed first, without decoding; a frame is then decoded from the last key
frame before it on, or from the frame that was read last where that is nearer. Reading in order decodes every frame once.

Shapes: H W pixels.
"""

from __future__ import annotations

import bisect
import os
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from reid.errors import DataError

_OPEN = 8  # videos that a process keeps open


def frame_of(path: str, number: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB of one frame, counted from 0 in the order in which they are shown.

    Raises:
        DataError: PyAV is not installed; the file is missing or no video; it has no such frame, or not a time for each.
    """
    return _video(os.getpid(), os.path.abspath(path)).frame(number)


@lru_cache(maxsize=_OPEN)
def _video(process: int, path: str) -> _Video:
    return _Video(path)  # of this process: one that was forked would share the place in the file


class _Video:
    def __init__(self, path: str) -> None:
        self.path, self._lock = path, threading.Lock()
        if not Path(path).is_file():
            raise DataError(f"{path}: cannot read this video: no such file")
        self._av = _av(path)
        self._failures: tuple[type[BaseException], ...] = (self._av.FFmpegError, IndexError)
        try:
            self._open()
            packets = [
                (packet.pts, packet.is_keyframe)
                for packet in self._container.demux(self._stream)
                if packet.size and not packet.is_discard
            ]
        except self._failures as error:
            raise DataError(f"{path}: cannot read this video: {error}") from None
        times = [time for time, _ in packets]
        if None in times or len(set(times)) < len(times):
            raise DataError(f"{path}: its frames have no times of their own; {self._advice()}")
        self._times: list[int] = sorted(times)
        place = {time: number for number, time in enumerate(self._times)}
        self._keys = sorted(place[time] for time, key in packets if key)
        self._at, self._picture = -1, np.zeros((0, 0, 3), np.uint8)
        self._decoded: Iterator[Any] = iter(())

    def _open(self) -> None:
        self._container = self._av.open(self.path)
        self._stream = self._container.streams.video[0]

    def frame(self, number: int) -> np.ndarray:
        if number >= len(self._times):
            raise DataError(
                f"{self.path}: expected a frame {number} (counted from 0), got a video of {len(self._times)} frames"
            )
        with self._lock:
            if number != self._at:
                self._picture, self._at = self._read(number), number
            return self._picture

    def _read(self, number: int) -> np.ndarray:
        place = max(bisect.bisect_right(self._keys, number) - 1, 0)
        going_on = self._keys[place] <= self._at < number
        self._at = -1  # where it fails
        try:
            if going_on and (picture := self._decoded_up_to(number)) is not None:
                return picture
            # Seeking may land behind a key frame; the one before will do, and the beginning always.
            for key in [*reversed(self._keys[: place + 1]), None]:
                if key is None:
                    self._open()
                else:
                    self._container.seek(self._times[key], stream=self._stream)
                self._decoded = self._container.decode(self._stream)
                if (picture := self._decoded_up_to(number)) is not None:
                    return picture
        except self._failures as error:
            raise DataError(f"{self.path}: cannot decode frame {number}: {error}") from None
        raise DataError(f"{self.path}: cannot find frame {number} by its time; {self._advice()}")

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

    def _advice(self) -> str:
        return "robust-reid import TABLE --crops crops --out cut.csv reads it from its beginning"


def _av(path: str) -> Any:
    try:
        import av
    except ImportError:
        raise DataError(
            f"{path}: videos are decoded by PyAV, which is not installed: pip install 'robust-reid[video]'"
        ) from None
    return av
