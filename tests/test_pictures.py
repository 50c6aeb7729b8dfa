"""The one reader of pictures: every form of pixels, every orientation, and what is refused."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from odd_videos import UPRIGHT_CORNERS, corners, four_colours
from PIL import Image

from hierasurg_core.errors import DataError
from hierasurg_core.pictures import read_head, read_image, read_picture, write_png

GREY_16 = np.array([[0, 128, 129, 257 * 40], [12000, 65535, 65534, 385]], np.uint16)
GREY_8 = [
    [0, 0, 1, 40],
    [47, 255, 255, 1],
]  # 12000 / 257 = 46.7; 128 / 257 < 1/2 < 129 / 257; 385 / 257 = 1.498


def png_bytes(value_HWC: np.ndarray, colour_type: int, chunks: bytes = b"", behind: bytes = b"") -> bytes:
    """A PNG of 16 bits a channel, written by hand: Pillow and its kin cannot write most of them."""
    height, width = value_HWC.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in value_HWC)
    head = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunks + chunk(b"IDAT", zlib.compress(rows)) + behind
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[274] = orientation
    return tags


def one_line(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_png_comes_back(tmp_path: Path) -> None:
    image = four_colours(6, 10)
    write_png(tmp_path / "a.png", image)
    assert np.array_equal(read_image(tmp_path / "a.png"), image)
    assert read_picture(tmp_path / "a.png").done == ()


def test_16_bit_grey_is_divided_by_257(tmp_path: Path) -> None:
    Image.fromarray(GREY_16).save(tmp_path / "a.png")
    Image.fromarray(GREY_16).save(tmp_path / "a.tif")
    (tmp_path / "a.pgm").write_bytes(b"P5 4 2 65535\n" + GREY_16.astype(">u2").tobytes())
    for name in ("a.png", "a.tif", "a.pgm"):
        picture = read_picture(tmp_path / name)
        assert picture.pixels_HWC[..., 0].tolist() == GREY_8, name
        assert np.ptp(picture.pixels_HWC, axis=2).max() == 0
        assert picture.done == ("16 bit scaled to 8",)


def test_16_bit_colour_keeps_its_lower_byte(tmp_path: Path) -> None:
    colour = np.dstack([GREY_16, GREY_16[::-1], GREY_16[:, ::-1]])
    (tmp_path / "a.png").write_bytes(png_bytes(colour, 2))
    picture = read_picture(tmp_path / "a.png")
    grey = np.array(GREY_8)
    assert np.array_equal(picture.pixels_HWC, np.dstack([grey, grey[::-1], grey[:, ::-1]]))
    assert picture.done == ("16 bit scaled to 8",)


def test_16_bit_with_transparency(tmp_path: Path) -> None:
    alpha = np.full_like(GREY_16, 65535)
    alpha[1] = 0
    (tmp_path / "rgba.png").write_bytes(png_bytes(np.dstack([GREY_16, GREY_16, GREY_16, alpha]), 6))
    (tmp_path / "la.png").write_bytes(png_bytes(np.dstack([GREY_16, alpha]), 4))
    for name in ("rgba.png", "la.png"):
        picture = read_picture(tmp_path / name)
        assert picture.pixels_HWC[..., 0].tolist() == [[0, 0, 1, 40], [0, 0, 0, 0]]
        assert picture.done == ("16 bit scaled to 8", "transparency laid over black")
    transparent = chunk(b"tRNS", struct.pack(">H", 65535))
    (tmp_path / "l.png").write_bytes(png_bytes(GREY_16, 0, transparent))
    assert read_image(tmp_path / "l.png")[1, :, 0].tolist() == [47, 0, 255, 1]


def test_transparency_is_laid_over_black(tmp_path: Path) -> None:
    rgb = np.array([[[200, 100, 50], [10, 20, 30]]], np.uint8)
    half = np.dstack([rgb, np.array([[51, 255]], np.uint8)])  # 51 of 255 is a fifth
    Image.fromarray(half).save(tmp_path / "rgba.png")
    assert read_image(tmp_path / "rgba.png").tolist() == [[[40, 20, 10], [10, 20, 30]]]
    assert read_picture(tmp_path / "rgba.png").done == ("transparency laid over black",)
    Image.fromarray(np.dstack([rgb, np.full((1, 2), 255, np.uint8)])).save(tmp_path / "opaque.png")
    assert read_image(tmp_path / "opaque.png").tolist() == rgb.tolist()
    assert read_picture(tmp_path / "opaque.png").done == ()
    Image.fromarray(np.array([[[100, 51], [100, 255]]], np.uint8), "LA").save(tmp_path / "la.png")
    assert read_image(tmp_path / "la.png")[..., 0].tolist() == [[20, 100]]
    Image.fromarray(rgb).save(tmp_path / "one.png", transparency=(10, 20, 30))
    assert read_image(tmp_path / "one.png").tolist() == [[[200, 100, 50], [0, 0, 0]]]


def test_palettes(tmp_path: Path) -> None:
    picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    picture.putpalette([200, 100, 50, 10, 20, 30, 7, 8, 9])
    picture.save(tmp_path / "plain.png")
    assert read_image(tmp_path / "plain.png").tolist() == [[[200, 100, 50], [10, 20, 30], [7, 8, 9]]]
    picture.save(tmp_path / "one.png", transparency=1)
    assert read_image(tmp_path / "one.png").tolist() == [[[200, 100, 50], [0, 0, 0], [7, 8, 9]]]
    picture.save(tmp_path / "each.png", transparency=bytes([51, 0, 255]))
    assert read_image(tmp_path / "each.png").tolist() == [[[40, 20, 10], [0, 0, 0], [7, 8, 9]]]
    picture.save(tmp_path / "one.gif")
    assert read_image(tmp_path / "one.gif").tolist() == [[[200, 100, 50], [10, 20, 30], [7, 8, 9]]]


def test_one_bit_and_grey(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255, 255, 0]], np.uint8)).convert("1").save(tmp_path / "bit.png")
    assert read_image(tmp_path / "bit.png")[0].tolist() == [[0] * 3, [255] * 3, [255] * 3, [0] * 3]
    Image.fromarray(np.array([[7, 200]], np.uint8)).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png")[0].tolist() == [[7] * 3, [200] * 3]


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk(tmp_path: Path, suffix: str) -> None:
    """A JPEG of CMYK is stored inverted, as Adobe does it."""
    path = tmp_path / f"a{suffix}"
    Image.fromarray(four_colours(32, 48)).convert("CMYK").save(path, quality=100)
    picture = read_picture(path)
    assert np.abs(np.array(corners(picture.pixels_HWC)) - np.array(UPRIGHT_CORNERS[1])).max() <= 2
    assert picture.done == ("CMYK to RGB",)
    assert not picture.plain_jpeg


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_is_applied_once(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    picture = Image.fromarray(four_colours(32, 48))
    if suffix == ".tif":
        picture.save(path, tiffinfo={274: orientation})
    else:
        picture.save(path, quality=100, exif=exif(orientation))
    picture = read_picture(path)
    assert picture.pixels_HWC.shape == ((48, 32, 3) if orientation >= 5 else (32, 48, 3))
    found = np.array(corners(picture.pixels_HWC))
    assert np.abs(found - np.array(UPRIGHT_CORNERS[orientation])).max() <= 12
    assert read_head(path).size_hw == picture.pixels_HWC.shape[:2]
    assert picture.plain_jpeg == read_head(path).plain_jpeg == (suffix == ".jpg" and orientation == 1)
    assert [word.endswith("(EXIF orientation)") for word in picture.done] == [True] * (orientation > 1)


def test_an_orientation_behind_the_pixels_of_a_png_with_16_bits(tmp_path: Path) -> None:
    colour = four_colours(8, 12).astype(np.uint16) * 257
    behind = chunk(b"eXIf", exif(6).tobytes().removeprefix(b"Exif\0\0"))
    (tmp_path / "a.png").write_bytes(png_bytes(colour, 2, behind=behind))
    picture = read_picture(tmp_path / "a.png")
    assert corners(picture.pixels_HWC) == [list(colour) for colour in UPRIGHT_CORNERS[6]]
    assert read_head(tmp_path / "a.png").size_hw == (12, 8)
    assert picture.done == ("16 bit scaled to 8", "rotated 90 degrees clockwise (EXIF orientation)")


def test_an_orientation_that_is_none_is_left_alone(tmp_path: Path) -> None:
    for orientation in (0, 9):
        Image.fromarray(four_colours(32, 48)).save(tmp_path / "a.jpg", exif=exif(orientation))
        assert read_picture(tmp_path / "a.jpg").plain_jpeg
        assert read_image(tmp_path / "a.jpg").shape == (32, 48, 3)


def test_what_is_no_picture_of_8_or_16_bits(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.ones((4, 4), np.int32)).save(tmp_path / "int.tif")
    frames = [Image.fromarray(np.roll(four_colours(8, 8), shift, 0)) for shift in range(3)]
    for name in ("a.gif", "a.png", "a.webp", "a.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    assert "TIFF of 32-bit floating point" in one_line(tmp_path / "float.tif")
    assert "TIFF of 32-bit integers" in one_line(tmp_path / "int.tif")
    for name in ("a.gif", "a.png", "a.webp", "a.tif"):
        assert "with 3 frames" in one_line(tmp_path / name)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "it is empty"),
        (b"hello", "it is text"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "it is a HEIC photo"),
        (bytes(128) + b"DICM" + bytes(40), "it is a DICOM file"),
        (b"\0\1\2\xff" * 40, "it is no readable image"),
    ],
)
def test_other_files_are_named(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "a.png").write_bytes(data)
    assert said in one_line(tmp_path / "a.png")


def test_a_format_that_runs_programs_is_not_opened(tmp_path: Path) -> None:
    Image.fromarray(four_colours(8, 8)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    assert "of the format EPS" in one_line(tmp_path / "a.png")
    assert "No such file" in one_line(tmp_path / "none.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp", ".bmp", ".gif"])
def test_a_cut_off_picture_is_refused(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format=Image.registered_extensions()[suffix])
    for share in (0.2, 0.5, 0.8):
        (tmp_path / f"a{suffix}").write_bytes(buffer.getvalue()[: int(share * len(buffer.getvalue()))])
        one_line(tmp_path / f"a{suffix}")


def test_a_picture_beyond_64_megapixels_is_refused_by_its_head(tmp_path: Path) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    for rows, columns, said in ((8000, 8001, "64.0 megapixels"), (20000, 20000, "400.0 megapixels")):
        head = struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0)
        data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
        (tmp_path / "a.png").write_bytes(data)
        message = one_line(tmp_path / "a.png")
        assert f"is {rows}x{columns} (rows x columns), {said}: at most 64 megapixels are read" in message
        with pytest.raises(DataError, match="at most 64 megapixels"):
            read_head(tmp_path / "a.png")
    assert limit == Image.MAX_IMAGE_PIXELS
