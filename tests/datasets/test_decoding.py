"""One picture in every encoding that people have gives the same pixels; what cannot is refused by name, and so is what is damaged."""

import io
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from reid.datasets.decoding import MOST_PIXELS, decode
from reid.datasets.loader import load_batches
from reid.errors import DataError
from reid.tracklets import Split

RNG = np.random.default_rng(0)
SMOOTH = np.kron(
    RNG.integers(20, 236, (6, 4, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8)
)  # 48 x 32, JPEG keeps it
GREY = SMOOTH[..., 0]
RGB, L = Image.fromarray(SMOOTH), Image.fromarray(GREY)
GREY_RGB = np.repeat(GREY[..., None], 3, 2)


def deep(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.astype(np.uint16) * 257)


# name of the file -> how it is written; what it must decode to; how far off it may be
KINDS: dict[str, tuple[Callable[[Path], None], np.ndarray, int]] = {
    "rgb.png": (RGB.save, SMOOTH, 0),
    "rgb.bmp": (RGB.save, SMOOTH, 0),
    "rgb.tif": (RGB.save, SMOOTH, 0),
    "lossless.webp": (lambda file: RGB.save(file, lossless=True), SMOOTH, 0),
    "alpha.png": (lambda file: RGB.convert("RGBA").save(file), SMOOTH, 0),
    "palette.png": (lambda file: L.convert("P").save(file), GREY_RGB, 0),
    "grey.png": (L.save, GREY_RGB, 0),
    "grey and alpha.png": (lambda file: L.convert("LA").save(file), GREY_RGB, 0),
    "16 bits.png": (lambda file: deep(GREY).save(file), GREY_RGB, 0),
    "16 bits.tif": (lambda file: deep(GREY).save(file), GREY_RGB, 0),
    "rgb.jpg": (lambda file: RGB.save(file, quality=98, subsampling=0), SMOOTH, 6),
    "grey.jpg": (lambda file: L.save(file, quality=98), GREY_RGB, 6),
    "cmyk.jpg": (lambda file: RGB.convert("CMYK").save(file, quality=98, subsampling=0), SMOOTH, 12),
    "progressive.jpg": (lambda file: RGB.save(file, quality=98, subsampling=0, progressive=True), SMOOTH, 6),
    "a PNG.jpg": (lambda file: RGB.save(file, "PNG"), SMOOTH, 0),
    "a JPEG.png": (lambda file: RGB.save(file, "JPEG", quality=98, subsampling=0), SMOOTH, 6),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_encoding_gives_the_same_picture(name: str, tmp_path: Path) -> None:
    write, expected, off = KINDS[name]
    write(tmp_path / name)
    np.testing.assert_allclose(decode(tmp_path / name).astype(int), expected.astype(int), atol=off)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_picture_that_lies_on_its_side_is_turned_upright(orientation: int, suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    RGB.save(tmp_path / f"a.{suffix}", exif=exif, quality=98, subsampling=0)
    with Image.open(tmp_path / f"a.{suffix}") as stored:
        upright = np.asarray(ImageOps.exif_transpose(stored))
    assert upright.shape[:2] == ((48, 32) if orientation < 5 else (32, 48))
    assert np.array_equal(decode(tmp_path / f"a.{suffix}"), upright)
    names = np.array([f"a.{suffix}".encode()])
    split = Split(tmp_path, names, np.array([0]), np.array([1]), np.array([1]), np.array([1]))
    [batch] = load_batches(split, [np.array([0])], workers=0)
    assert np.array_equal(batch.images[0].numpy(), upright)


def several(file: Path, **more: object) -> None:
    RGB.save(file, save_all=True, append_images=[RGB.transpose(Image.Transpose.FLIP_LEFT_RIGHT)], **more)


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "animated.png": (several, "PNG of 2 frames, expected a single image"),
    "animated.webp": (several, "WEBP of 2 frames, expected a single image"),
    "pages.tif": (several, "TIFF of 2 frames, expected a single image"),
    "fractions.tif": (lambda file: Image.fromarray(np.ones((4, 4), np.float32)).save(file), "TIFF of fractions"),
    "32 bits.tif": (lambda file: Image.fromarray(np.ones((4, 4), np.int32)).save(file), "TIFF of whole numbers of 32"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_picture_of_8_or_16_bits_is_refused_by_name(name: str, tmp_path: Path) -> None:
    write, says = REFUSED[name]
    write(tmp_path / name)
    with pytest.raises(DataError, match=says):
        decode(tmp_path / name)


def test_a_flipped_bit_of_a_png_is_found_wherever_it_is(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (16, 8, 3), dtype=np.uint8)).save(file, "PNG", compress_level=0)
    good = file.getvalue()
    begin, end = good.index(b"IDAT"), good.index(b"IEND") - 4
    for place in range(begin + 4, end):  # the pixels and their checksum
        (tmp_path / "a.png").write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(DataError, match="damaged image"):
            decode(tmp_path / "a.png")


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content).to_bytes(4, "big")
    return len(content).to_bytes(4, "big") + kind + content + checksum


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    side = 13_300
    header = side.to_bytes(4, "big") * 2 + b"\x08\x00\x00\x00\x00"
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )
    assert side * side > MOST_PIXELS
    with pytest.raises(DataError, match="its header claims 13300 x 13300 pixels, more than 67,108,864"):
        decode(tmp_path / "a.png")


def test_whatever_the_library_raises_on_a_damaged_picture_is_one_line(tmp_path: Path) -> None:
    RGB.save(tmp_path / "a.tif")
    tiff = (tmp_path / "a.tif").read_bytes()
    for tag in (
        256,
        257,
        258,
        259,
        262,
        273,
        277,
        279,
    ):  # width, height, bits, compression, colours, strips and their lengths
        (tmp_path / "a.tif").write_bytes(tiff.replace(tag.to_bytes(2, "little"), b"\xff\x7f"))
        try:
            decode(tmp_path / "a.tif")
        except DataError as error:
            assert "a.tif: damaged image" in str(error)


def test_formats_that_no_tracker_writes_are_not_even_looked_into(tmp_path: Path) -> None:
    RGB.save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"damaged image .*none of BMP, GIF, JPEG, JPEG2000, PNG"):
        decode(tmp_path / "a.png")
