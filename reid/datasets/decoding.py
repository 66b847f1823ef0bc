"""The bytes of a picture to RGB: one rule for every format and encoding, for every command.

JPEG goes through simplejpeg, strictly; everything else through Pillow. Grey and palette become RGB, an alpha channel is left out, of 16
bits the upper eight are kept, and a picture that its EXIF entry says lies on its side is turned upright. What cannot become one picture
of 8 bits without a choice (several frames, 32-bit values) is refused by name, and so is a checksum that differs.

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

# Two frames of 8K video. A header that claims more is damaged or a bomb, and is refused before any pixel is decoded.
MOST_PIXELS = 2**26
_HEADER = 2**12  # bytes of a JPEG in which its EXIF segment begins: it comes first
_ORIENTATION = 0x0112  # of EXIF; 1 is upright
# Pillow knows forty formats more. No tracker writes them, and each is a parser of untrusted bytes (EPS starts Ghostscript).
_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N")  # Pillow's names for grey of 16 bits
_VALUES_NOT_8_BIT = {"I": "whole numbers of 32 bits", "F": "fractions"}


def decode(path: str | Path) -> np.ndarray:
    """One image file, or the part of a picture or video that a name says (`reid.datasets.regions`), as (H, W, 3) uint8 RGB.

    Raises:
        DataError: the file is missing, unreadable or damaged, or of a kind that is no picture of 8 or 16 bits; the part lies outside.
    """
    file, region = regions.split(str(path))
    if region is None:
        return decode_bytes(frames.read(path), path)
    whole = decode_bytes(frames.read(file), path) if region.frame is None else videos.frame_of(file, region.frame)
    if region.box is None:
        return whole
    if (part := region.box.cut(whole)) is None:
        raise DataError(f"{path}: the box lies outside of the picture, which is {whole.shape[1]} x {whole.shape[0]}")
    return np.ascontiguousarray(part)


def decode_bytes(data: bytes, path: str | Path) -> np.ndarray:
    """The same from a file's content; `path` is for errors."""
    try:
        if simplejpeg.is_jpeg(data):
            height, width, *_ = simplejpeg.decode_jpeg_header(data)
            _require_size(width, height)
            return _upright(decode_jpeg(data), data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow has to say of odd metadata
            return _by_pillow(data)
    except MemoryError:
        raise
    except Exception as error:  # damaged pictures raise nearly anything: a TIFF without a width is a TypeError
        what = f"{len(data)} bytes" if data else "an empty file"
        why = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):  # which names an object in memory
            why = f"none of {', '.join(_FORMATS)}"
        raise DataError(f"{path}: damaged image ({what}): {why}; restore the file from the dataset's archive") from None


def decode_jpeg(data: bytes, buffer: np.ndarray | None = None) -> np.ndarray:
    """(H, W, 3) uint8 as a JPEG lies in its file, into `buffer` where that is given.

    Strict: a damaged stream is an error, not a half-grey picture.

    Raises:
        ValueError: it is no JPEG, a damaged one, or larger than the buffer.
    """
    return simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False, buffer=buffer, strict=True)


def may_be_turned(data: bytes) -> bool:
    """Whether a JPEG has an EXIF segment, which may say that it lies on its side."""
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
        image.verify()  # the checksums of a PNG, which loading passes over; afterwards the file is to be opened anew
    with _open(data) as image:
        return rgb_of(image)


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=_FORMATS)


def rgb_of(image: Image.Image) -> np.ndarray:
    """A Pillow image as (H, W, 3) uint8 RGB, upright; of 16 bits the upper 8.

    Raises:
        ValueError: it has several frames, or values of which nobody says which is white.
    """
    if (number := getattr(image, "n_frames", 1)) > 1:
        raise ValueError(f"{image.format} of {number} frames, expected one picture; save each frame as a file")
    if image.mode in _VALUES_NOT_8_BIT:
        held = f"{image.format or 'image'} of {_VALUES_NOT_8_BIT[image.mode]}"
        raise ValueError(f"{held}, expected 8 or 16 bits; which value is white must be said, so convert it first")
    if image.mode in _DEEP:
        pixels = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.array(ImageOps.exif_transpose(Image.fromarray(pixels)).convert("RGB"))
    return np.array(ImageOps.exif_transpose(image).convert("RGB"))


def _require_size(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise ValueError(f"its header claims {width} x {height} pixels, more than {MOST_PIXELS:,}")
