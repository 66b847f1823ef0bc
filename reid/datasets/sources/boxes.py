"""Cut crops of persons from whole images: only once, atomically, and resumable after a kill."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

import numpy as np
from PIL import Image

from reid.datasets.images import is_video
from reid.datasets.regions import SIDES, Box
from reid.datasets.sources.base import Rows
from reid.errors import DataError
from reid.files import JSON_ERRORS, atomic, remove_left_behind

logger = logging.getLogger(__name__)

SCHEMA = 1
_RECORD = "crops.json"
_MOST = 1e9  # pixels, more than any image has
_WHOLE = (0.0, 0.0, _MOST, _MOST)  # the whole image, as boxes are clipped
_NOT_OF_A_CROP = {*SIDES, "first", "last"}


@dataclass(frozen=True)
class CropFormat:
    """Format of the crop files.

    Args:
        suffix: ``jpg`` or ``png``.
        quality: of JPEG, 1 to 100, without chroma subsampling; PNG is lossless.
    """

    suffix: Literal["jpg", "png"] = "jpg"
    quality: int = 95

    def __str__(self) -> str:
        return "PNG" if self.suffix == "png" else f"JPEG of quality {self.quality}"


class _Crop(NamedTuple):
    row: int
    box: tuple[float, float, float, float]
    file: Path


def cut(rows: Rows, folder: Path, form: CropFormat, *, overwrite: bool, tick: Callable[[int], object]) -> Rows:
    """Cut the boxes of all rows, write them as files, and return the rows with the paths of these files.

    Files are ``folder/tracklet/frame.jpg``. Existing files from a run with the same boxes and format are kept. A box is rounded to whole
    pixels and clipped to its image; one outside its image is left out.

    Args:
        rows: with columns x, y, w, h; and `first` if the path is a video, of which whole frames are cut for rows without a box. An image
            without a box keeps its path.
        folder: of this source's crops; created if missing.
        form: of the files.
        overwrite: whether crops of other boxes or another format are replaced.
        tick: called with the number of crops just finished.

    Raises:
        DataError: an image cannot be read, or the folder holds other files or other crops.
    """
    crops = _planned(rows, folder, form)
    _begin(folder, _digest(rows, crops, form), form, overwrite)
    outside: set[int] = set()
    pictures: dict[str, list[_Crop]] = {}
    for crop in crops:
        pictures.setdefault(rows.columns["path"][crop.row], []).append(crop)
    images = [(path, wanted) for path, wanted in pictures.items() if not is_video(path)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for done, missed in pool.map(lambda item: _cut_image(item[0], item[1], form), images):
            outside |= missed
            tick(done)
    for path, wanted in pictures.items():
        if is_video(path):
            for done, missed in _cut_video(path, wanted, rows.column("first"), form):
                outside |= missed
                tick(done)
    return _with_files(rows, crops, outside)


def box_of(where: str, box: Any) -> dict[str, Any]:
    """Convert a JSON box, a list of four numbers, to cells; `check_boxes` checks its size.

    Raises:
        DataError: it is not such a list; the message begins with `where`.
    """
    numbers = isinstance(box, list) and all(isinstance(side, int | float) and abs(side) <= _MOST for side in box)
    if not numbers or len(box) != 4:
        raise DataError(f"{where}: expected bbox [x, y, w, h], got {str(box)[:60]}")
    return dict(zip(SIDES, map(float, box), strict=True))


def num_crops(rows: Rows) -> int:
    """Count the files that `cut` would write."""
    pairs = zip(rows.columns["path"], rows.column("x"), strict=True)
    return sum(x is not None or is_video(path) for path, x in pairs)


def check_boxes(rows: Rows) -> None:
    """Check that boxes are finite and have an area, and that no tracklet has two boxes in one frame.

    Raises:
        DataError: names tracklet, frame and box.
    """
    seen = set()
    cells = zip(rows.columns["tracklet"], rows.column("frame"), *(rows.column(side) for side in SIDES), strict=True)
    for tracklet, frame, *box in cells:
        if box[0] is None:
            continue
        if not all(isinstance(side, int | float) and abs(side) <= _MOST for side in box) or box[2] <= 0 or box[3] <= 0:
            raise DataError(f"{rows.name}: tracklet {tracklet}, frame {frame}: expected a non-empty box, got {box}")
        if frame is not None and (tracklet, frame) in seen:
            raise DataError(f"{rows.name}: tracklet {tracklet}: expected one box in frame {frame}, got two")
        seen.add((tracklet, frame))


def _planned(rows: Rows, folder: Path, form: CropFormat) -> list[_Crop]:
    crops, position = [], dict[str, int]()
    frames, boxes = rows.column("frame"), list(zip(*(rows.column(side) for side in SIDES), strict=True))
    for row, tracklet in enumerate(rows.columns["tracklet"]):
        position[tracklet] = position.get(tracklet, -1) + 1
        box = boxes[row]
        if box[0] is None:
            if not is_video(rows.columns["path"][row]):
                continue
            box = _WHOLE
        frame = frames[row] if isinstance(frames[row], int) else position[tracklet]
        # The quoting is injective and leaves no "..": two tracklets never share a folder, and none is outside `folder`.
        place = "/".join(
            quote(part, safe=" ") if set(part) - {"."} else part.replace(".", "%2E") for part in tracklet.split("/")
        )
        crops.append(_Crop(row, box, folder / place / f"{frame:06d}.{form.suffix}"))
    return crops


def _digest(rows: Rows, crops: list[_Crop], form: CropFormat) -> str:
    digest = hashlib.sha256(str(form).encode())
    for crop in crops:
        digest.update(
            repr((rows.columns["path"][crop.row], rows.column("first")[crop.row], crop.box, crop.file.name)).encode()
        )
    return digest.hexdigest()


def _begin(folder: Path, digest: str, form: CropFormat, overwrite: bool) -> None:
    """Record the boxes and the format before the first crop is written; refuse a folder that holds others."""
    record = folder / _RECORD
    if record.is_file():
        try:
            held: dict[str, Any] = dict(json.loads(record.read_bytes()))
        except (*JSON_ERRORS, TypeError):
            held = {}
        for place in {folder, *(file.parent for file in folder.rglob(".*.tmp"))}:
            remove_left_behind(place)
        if held.get("boxes") == digest:
            return
        if not overwrite:
            was = held.get("format", "an unknown form")
            raise DataError(
                f"{folder}: contains crops of other boxes or of another format ({was}); --overwrite replaces them"
            )
        for file in [*folder.rglob("*.jpg"), *folder.rglob("*.png")]:
            if not file.is_dir():  # a tracklet's folder may have such a name
                file.unlink()
    elif folder.is_dir() and any(folder.iterdir()):
        raise DataError(f"{folder}: contains files that are not crops made by import; choose another --crops folder")
    with atomic(record) as temporary:
        temporary.write_text(json.dumps({"schema": SCHEMA, "format": str(form), "boxes": digest}) + "\n")


def _is_there(file: Path) -> bool:
    """Whether a crop was written; a power failure may leave empty files."""
    return os.path.isfile(file) and os.path.getsize(file) > 0


def _cut_image(path: str, crops: list[_Crop], form: CropFormat) -> tuple[int, set[int]]:
    from reid.datasets.decoding import decode  # its imports are not needed by an import without crops

    missing = [crop for crop in crops if not _is_there(crop.file)]
    if not missing:
        return len(crops), set()
    return len(crops), _cut(decode(path), missing, form)


def _cut_video(
    path: str, crops: list[_Crop], first: list[int | None], form: CropFormat
) -> Iterator[tuple[int, set[int]]]:
    """Decode from the first frame on, because seeking to a frame number is inexact."""
    from reid.datasets.sources.frames_of_video import frames_of_video

    wanted: dict[int, list[_Crop]] = {}
    for crop in crops:
        frame = first[crop.row]
        assert frame is not None, "rows of a video have the number of their frame"
        wanted.setdefault(frame, []).append(crop)
    needed = {frame for frame, held in wanted.items() if not all(_is_there(crop.file) for crop in held)}
    yield sum(len(held) for frame, held in wanted.items() if frame not in needed), set()
    for frame, picture in frames_of_video(Path(path), needed):
        missing = [crop for crop in wanted[frame] if not _is_there(crop.file)]
        yield len(wanted[frame]), _cut(picture, missing, form)


def _cut(picture_HWC: np.ndarray, crops: list[_Crop], form: CropFormat) -> set[int]:
    """Write the crops; return the rows whose box lies outside of the picture."""
    outside = set()
    for row, sides, file in crops:
        box = Box.of(*sides)
        part = None if box is None else box.cut(picture_HWC)
        if part is None:
            outside.add(row)
            continue
        options = (
            {"format": "PNG"} if form.suffix == "png" else {"format": "JPEG", "quality": form.quality, "subsampling": 0}
        )
        with atomic(file, flush=False) as temporary:
            Image.fromarray(part).save(temporary, **options)
    return outside


def _with_files(rows: Rows, crops: list[_Crop], outside: set[int]) -> Rows:
    if outside:
        logger.warning("%s: %d boxes lie outside their image and were left out", rows.name, len(outside))
    kept = [row for row in range(len(rows)) if row not in outside]
    columns = {
        name: [values[row] for row in kept] for name, values in rows.columns.items() if name not in _NOT_OF_A_CROP
    }
    files = {crop.row: os.fspath(crop.file.absolute()) for crop in crops}
    columns["path"] = [files.get(row, rows.columns["path"][row]) for row in kept]
    return Rows(rows.name, columns, rows.said, rows.is_dataset, rows.published)
