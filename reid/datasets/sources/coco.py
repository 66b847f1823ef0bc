"""COCO JSON whose annotations have track ids: ``images`` (id, file_name), ``annotations`` (image_id, bbox, track_id or instance_id).

A track id names a person within its video (``video_id`` in ``videos``, else the image's folder), and the video is the camera. A ``pid``,
``person_id`` or ``identity`` of an annotation or of its ``attributes`` names the person across videos.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from reid.datasets.sources.base import Options, Rows, require_folder
from reid.datasets.sources.boxes import box_of, check_boxes
from reid.errors import DataError
from reid.files import JSON_ERRORS, holds_json_list

SHAPE = "a .json with images and annotations that have bbox and track_id"
_TRACK = ("track_id", "instance_id", "tracklet_id", "object_id")
_PERSON = ("pid", "person_id", "identity")
_CAMERA = ("camid", "camera", "camera_id", "cam_id")
_IDS = {
    "images": ("id", "video_id"),
    "annotations": ("id", "image_id", "category_id"),
    "videos": ("id",),
    "categories": ("id",),
}
_FRAME = ("frame_id", "frame_index", "frame")


def recognise(source: Path) -> str | None:
    """Return why the source is of this kind, or None."""
    found = source.is_file() and source.suffix.lower() == ".json" and not holds_json_list(source)
    return "a .json file" if found else None


def read(source: Path, options: Options) -> Rows:
    """Read one row per annotated box, with the path of its whole image.

    Raises:
        DataError: the file is not COCO JSON, an annotation has no track or box, or an image is missing.
    """
    content = _load(source)
    folder = require_folder(options.images or source.parent, "the folder that file_name is relative to")
    images = {image.get("id"): image for image in content["images"]}
    videos = {video.get("id"): str(video.get("name", video.get("id"))) for video in content["videos"]}
    persons, other = _person_categories(content)
    rows, left_out = Rows(source.stem), {"crowds": 0, "other categories": 0}
    for number, annotation in enumerate(content["annotations"]):
        where = f"{source}: annotation {annotation.get('id', number)}"
        if annotation.get("iscrowd"):
            left_out["crowds"] += 1
        elif other and annotation.get("category_id") not in persons:
            left_out["other categories"] += 1
        else:
            image = images.get(annotation.get("image_id"))
            if image is None or "file_name" not in image:
                raise DataError(
                    f"{where}: expected an image with a file_name, got image_id {annotation.get('image_id')!r}"
                )
            _add(rows, where, annotation, image, folder, videos, shared=options.ids == "shared")
    if not len(rows):
        raise DataError(f"{source}: expected annotations of persons, got none")
    missing = next((path for path in dict.fromkeys(rows.columns["path"]) if not os.path.isfile(path)), None)
    if missing:
        raise DataError(
            f"{missing}: {source.name} names this image, but it is missing; set --images to the folder of the images"
        )
    check_boxes(rows)
    rows.said += [f"{count} annotations of {what} were left out" for what, count in left_out.items() if count]
    return _sorted(rows)


def _add(
    rows: Rows,
    where: str,
    annotation: dict[str, Any],
    image: dict[str, Any],
    folder: Path,
    videos: dict[Any, str],
    *,
    shared: bool,
) -> None:
    attributes = annotation.get("attributes")
    held = {**(attributes if isinstance(attributes, dict) else {}), **annotation}
    track, person = (_first(where, held, names) for names in (_TRACK, _PERSON))
    if track is None:
        raise DataError(
            f"{where}: expected a track ({', '.join(_TRACK)}), got none; detections without track ids do not form tracklets"
        )
    sides = box_of(where, annotation.get("bbox"))
    name = str(image["file_name"])
    video = videos.get(image.get("video_id"), str(Path(name).parent.as_posix()))
    camera = _first(where, image, _CAMERA)
    if person is None:
        person = str(track) if shared else f"{video}:{track}"
    place = "" if video == "." else f"{video}/"
    rows.add(
        folder / name,
        f"{place}{track}",
        pid=str(person),
        camid=str(video if camera is None else camera) if camera is not None or video != "." else None,
        frame=_first(where, image, _FRAME),
        **sides,
    )


def _first(where: str, held: dict[str, Any], names: tuple[str, ...]) -> str | int | float | None:
    name = next((name for name in names if held.get(name) is not None), None)
    if name is None:
        return None
    value = held[name]
    if not isinstance(value, str | int | float):
        raise DataError(f"{where}: expected {name} to be a text or a number, got {str(value)[:60]}")
    return value


def _sorted(rows: Rows) -> Rows:
    """Sort a tracklet's frames by number if they have one, else by name."""
    frames = rows.column("frame")
    order = sorted(
        range(len(rows)),
        key=lambda i: (
            rows.columns["tracklet"][i],
            frames[i] if isinstance(frames[i], int) else -1,
            rows.columns["path"][i],
        ),
    )
    return Rows(rows.name, {name: [values[i] for i in order] for name, values in rows.columns.items()}, rows.said)


def _person_categories(content: dict[str, Any]) -> tuple[set[Any], bool]:
    """The ids of person categories, and whether there are other categories beside them."""
    categories = {item.get("id"): str(item.get("name", "")).lower() for item in content["categories"]}
    persons = {number for number, name in categories.items() if name in ("person", "pedestrian", "people", "human")}
    return persons, bool(persons) and len(persons) < len(categories)


def _load(source: Path) -> dict[str, Any]:
    try:
        content = json.loads(source.read_bytes())
    except JSON_ERRORS as error:
        raise DataError(f"{source}: not a readable JSON file ({str(error)[:120]})") from None
    if not isinstance(content, dict) or not all(_is_list(content.get(part)) for part in ("images", "annotations")):
        raise DataError(
            f"{source}: expected COCO JSON, an object with lists of objects images and annotations; got "
            + ("a list; --as jsonl takes a list of objects" if isinstance(content, list) else "something else")
        )
    for part in ("videos", "categories"):
        if not _is_list(content.setdefault(part, [])):
            raise DataError(f"{source}: expected {part} to be a list of objects, got {str(content[part])[:60]}")
    for part, keys in _IDS.items():
        for item in content[part]:
            for key in keys:
                if not isinstance(item.get(key), str | int | float | None):
                    raise DataError(f"{source}: {part}: expected {key} to be a number, got {str(item[key])[:60]}")
    return content


def _is_list(part: Any) -> bool:
    return isinstance(part, list) and all(isinstance(item, dict) for item in part)
