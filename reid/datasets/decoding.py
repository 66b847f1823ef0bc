"""Decode the bytes of an image to RGB: the one rule for every format, used by every command.

JPEG is decoded strictly by simplejpeg, everything else by Pillow. Grey and palette images become RGB, an alpha channel is dropped, the
upper eight of 16 bits are kept, and the EXIF orientation is applied. Images that cannot be converted to one 8-bit image without a choice
(several frames, 32-bit values) raise an error that says so, and so do images with a wrong checksum.

Shapes: H W pixels.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from reid.datasets import frames, regions, videos
from reid.errors import DataError

# Two frames of 8K video. A header that claims more is damaged or a decompression bomb; it is refused before any pixel is decoded.
MOST_PIXELS = 2**26
_HEADER = 2**12  # first bytes of a JPEG that are searched for its EXIF segment, which comes first
_ORIENTATION = 0x0112  # EXIF tag; 1 is upright
# Pillow has about forty more formats. No tracker writes them, and each is a parser of untrusted bytes (EPS starts Ghostscript).
_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N")  # Pillow's modes for 16-bit grey
_VALUES_NOT_8_BIT = {"I": "whole numbers of 32 bits", "F": "fractions"}


def decode(path: str | Path) -> np.ndarray:
    """Decode one image file, or the part of a picture or video that the name gives (`reid.datasets.regions`), to (H, W, 3) uint8 RGB.

    Raises:
        DataError: the file is missing, unreadable, damaged, or not an 8- or 16-bit image; or the part lies outside of the picture.
    """
    file, region = regions.split(str(path))
    if region is None:
        return decode_bytes(frames.read(path), path)
    whole = decode_bytes(frames.read(file), path) if region.frame is None else videos.frame_of(file, region.frame)
    if region.box is None:
        return whole
    if (part := region.box.cut(whole)) is None:
        raise DataError(f"{path}: the box lies outside the image of {whole.shape[1]} x {whole.shape[0]}")
    return np.ascontiguousarray(part)


def decode_bytes(data: bytes, path: str | Path) -> np.ndarray:
    """Decode a file's content, as `decode` does; `path` is for error messages."""
    try:
        if simplejpeg.is_jpeg(data):
            height, width, *_ = simplejpeg.decode_jpeg_header(data)
            _require_size(width, height)
            return _upright(decode_jpeg(data), data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about odd metadata
            return _by_pillow(data)
    except MemoryError:
        raise
    except Exception as error:  # damaged images raise almost any exception: a TIFF without a width raises TypeError
        what = f"{len(data)} bytes" if data else "an empty file"
        why = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):  # its message names an object in memory
            why = f"none of {', '.join(_FORMATS)}"
        raise DataError(f"{path}: damaged image ({what}): {why}; restore the file from the dataset's archive") from None


def decode_jpeg(data: bytes, buffer: np.ndarray | None = None) -> np.ndarray:
    """Decode a JPEG to (H, W, 3) uint8, without applying its orientation; into `buffer` if given.

    Strict: a damaged stream raises an error instead of giving a half-grey image.

    Raises:
        ValueError: the data are not a JPEG, are damaged, or larger than the buffer.
    """
    return simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False, buffer=buffer, strict=True)


def may_be_turned(data: bytes) -> bool:
    """Whether a JPEG has an EXIF segment, and so possibly an orientation other than upright."""
    return data.find(b"Exif\0\0", 0, _HEADER) >= 0


def _upright(pixels_HWC: np.ndarray, data: bytes) -> np.ndarray:
    if not may_be_turned(data):
        return pixels_HWC
    with _open(data) as image:
        orientation = image.getexif().get(_ORIENTATION, 1)
    if orientation == 1:
        return pixels_HWC
    picture = Image.fromarray(pixels_HWC)
    picture.getexif()[_ORIENTATION] = orientation
    return np.array(ImageOps.exif_transpose(picture))


def _by_pillow(data: bytes) -> np.ndarray:
    with _open(data) as image:
        _require_size(*image.size)
        image.verify()  # checks PNG checksums, which loading ignores; the file must be reopened afterwards
    with _open(data) as image:
        return rgb_of(image)


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=_FORMATS)


def rgb_of(image: Image.Image) -> np.ndarray:
    """Convert a Pillow image to (H, W, 3) uint8 RGB, upright; of 16 bits the upper 8.

    Raises:
        ValueError: the image has several frames, or 32-bit values, whose white level is unknown.
    """
    if (number := getattr(image, "n_frames", 1)) > 1:
        raise ValueError(f"{image.format} of {number} frames, expected a single image; save each frame as a file")
    if image.mode in _VALUES_NOT_8_BIT:
        held = f"{image.format or 'image'} of {_VALUES_NOT_8_BIT[image.mode]}"
        raise ValueError(f"{held}, expected 8 or 16 bits; the value of white is unknown; convert it to 8 bits first")
    if image.mode in _DEEP:
        pixels = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.array(ImageOps.exif_transpose(Image.fromarray(pixels)).convert("RGB"))
    return np.array(ImageOps.exif_transpose(image).convert("RGB"))


def _require_size(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise ValueError(f"its header claims {width} x {height} pixels, more than {MOST_PIXELS:,}")
