"""Image files as shops have them; expected pixels are typed by hand."""

import io
import os
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from teachers_torch.items.image_file import MOST_PIXELS, BrokenImage, read_image
from tests.reliability.damage import damaged

RED, WHITE, BLACK = (255, 0, 0), (255, 255, 255), (0, 0, 0)


def saved(path, image, **options):
    image.save(path, **options)
    return np.asarray(read_image(path)).tolist()


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_grey_of_16_bits_keeps_its_high_byte(name, order, tmp_path):
    """The values 0 to 255 become 0, 256 becomes 1 and 65535 becomes 255, not all white."""
    grey = np.array([[0, 255, 256], [32896, 65280, 65535]], dtype=order)
    rows = saved(tmp_path / name, Image.fromarray(grey))
    assert rows == [[[0] * 3, [0] * 3, [1] * 3], [[128] * 3, [255] * 3, [255] * 3]]


def test_grey_of_16_bits_may_name_what_is_clear_or_count_from_white(tmp_path):
    """A PNG's clear value becomes white, and a TIFF in which 0 is white isn't a negative."""
    grey = Image.fromarray(np.array([[0, 65280]], dtype=np.uint16))
    assert saved(tmp_path / "a.png", grey, transparency=0) == [[[255] * 3, [255] * 3]]
    assert saved(tmp_path / "a.tif", grey, tiffinfo={262: 0}) == [[[255] * 3, [0] * 3]]


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGBA", (0, 0, 0, 0), WHITE),
        ("RGBA", (255, 0, 0, 255), RED),
        ("RGBA", (0, 0, 255, 51), (204, 204, 255)),
        ("LA", (0, 0), WHITE),
        ("LA", (0, 204), (51, 51, 51)),
        ("1", 1, WHITE),
        ("L", 7, (7, 7, 7)),
    ],
)
def test_what_is_transparent_shows_white(mode, colour, expected, tmp_path):
    """Clear pixels become white, and partly clear ones are mixed with white."""
    assert saved(tmp_path / "a.png", Image.new(mode, (1, 1), colour)) == [[list(expected)]]


@pytest.mark.parametrize("clear", [1, bytes([255, 0]), None])
@pytest.mark.parametrize("kind", ["png", "gif"])
def test_a_palette_may_have_a_clear_colour(clear, kind, tmp_path):
    """The palette's clear colour becomes white, and the others keep their colours."""
    if kind == "gif" and isinstance(clear, bytes):
        clear = 1
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, 0, 255, 0])
    image.putpixel((1, 0), 1)
    options = {} if clear is None else {"transparency": clear}
    second = (0, 255, 0) if clear is None else WHITE
    assert saved(tmp_path / f"a.{kind}", image, **options) == [[list(RED), list(second)]]


def test_a_named_clear_colour_of_plain_colours_shows_white(tmp_path):
    """A PNG's tRNS chunk is followed without an alpha channel, too."""
    image = Image.new("RGB", (1, 1), (9, 8, 7))
    assert saved(tmp_path / "a.png", image, transparency=(9, 8, 7)) == [[list(WHITE)]]


def test_cmyk_becomes_rgb(tmp_path):
    """Print colours aren't inverted: full magenta and yellow are red."""
    (((red, green, blue),),) = saved(
        tmp_path / "a.jpg", Image.new("CMYK", (1, 1), (0, 255, 255, 0)), quality=100
    )
    assert red > 250
    assert max(green, blue) < 5


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "tiff"])
def test_of_an_animation_the_first_image_is_read(kind, tmp_path):
    """The later frames don't show, whatever the file format."""
    first, other = Image.new("RGB", (4, 4), RED), Image.new("RGB", (4, 4), BLACK)
    rows = saved(tmp_path / f"a.{kind}", first, save_all=True, append_images=[other])
    np.testing.assert_allclose(rows, np.full((4, 4, 3), RED), atol=2)


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (1, [[1, 2, 3], [4, 5, 6]]),
        (2, [[3, 2, 1], [6, 5, 4]]),
        (3, [[6, 5, 4], [3, 2, 1]]),
        (4, [[4, 5, 6], [1, 2, 3]]),
        (5, [[1, 4], [2, 5], [3, 6]]),
        (6, [[4, 1], [5, 2], [6, 3]]),
        (7, [[6, 3], [5, 2], [4, 1]]),
        (8, [[3, 6], [2, 5], [1, 4]]),
        (99, [[1, 2, 3], [4, 5, 6]]),
    ],
)
@pytest.mark.parametrize("kind", ["png", "webp"])
def test_a_turned_camera_is_turned_back(orientation, expected, kind, tmp_path):
    """Each EXIF orientation gives the rows of its definition (CIPA DC-008, 4.6.4)."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint8).repeat(3).reshape(2, 3, 3)
    options = {"lossless": True} if kind == "webp" else {}
    rows = saved(tmp_path / f"a.{kind}", Image.fromarray(stored), exif=exif, **options)
    np.testing.assert_array_equal(np.array(rows)[..., 0], expected)


def test_damaged_exif_data_cost_nothing_but_the_turn(tmp_path):
    """The image is still read, in its own colours and without a warning."""
    stored = Image.new("RGB", (1, 1), RED)
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x03\xff\xff"
    assert saved(tmp_path / "a.png", stored, exif=exif) == [[list(RED)]]


def png_header(width, height):
    """A PNG that says its size and has one byte of pixels."""

    def chunk(kind, content):
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0"))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("width", "height", "why"),
    [
        (8193, 8192, f"it has 67,117,056 pixels, more than {MOST_PIXELS:,}"),
        (2**31 - 1, 2**31 - 1, f"it has more than {MOST_PIXELS:,} pixels"),
        (101, 1, "it has 101 × 1 pixels, too thin to show a thing"),
        (1, 60000, "it has 1 × 60000 pixels, too thin to show a thing"),
        (0, 5, "it is none of PNG, JPEG, WEBP, GIF, BMP, TIFF, AVIF"),
    ],
)
def test_sizes_are_refused_by_the_header_alone(width, height, why, tmp_path, monkeypatch):
    """An image too large or too thin is refused before a pixel of it is decoded."""
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    (tmp_path / "a.png").write_bytes(png_header(width, height))
    with pytest.raises(BrokenImage) as caught:
        read_image(tmp_path / "a.png")
    assert str(caught.value) == why


def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
    """A pipe, a folder and a device are refused at once; a missing file is named as missing."""
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", tmp_path, "/dev/zero", "/dev/null"):
        with pytest.raises(BrokenImage, match=r"^it is no regular file$"):
            read_image(place)
    with pytest.raises(BrokenImage, match=r"^there is no such file$"):
        read_image(tmp_path / "missing")


@pytest.mark.parametrize(
    ("name", "mode", "why"),
    [
        ("a.eps", "RGB", "it is none of PNG, JPEG, WEBP, GIF, BMP, TIFF, AVIF"),
        ("a.ppm", "RGB", "it is none of PNG, JPEG, WEBP, GIF, BMP, TIFF, AVIF"),
        ("a.tif", "F", "it has 32 bits a pixel, of which nobody knows what is white"),
        ("a.tif", "LAB", "it has colours of the kind LAB"),
    ],
)
def test_other_kinds_are_refused_whatever_they_are_called(name, mode, why, tmp_path):
    """The content decides, not the name: an .eps called a.jpg is refused with a reason."""
    Image.new(mode, (2, 2)).save(tmp_path / name)
    os.rename(tmp_path / name, tmp_path / "a.jpg")
    with pytest.raises(BrokenImage) as caught:
        read_image(tmp_path / "a.jpg")
    assert str(caught.value) == why


def sound_files():
    """One small image in every format and in modes that decoders have code of their own for."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 17, 4), dtype=np.uint8)
    colour, clear = Image.fromarray(noise[..., :3]), Image.fromarray(noise)
    deep = Image.fromarray(noise[..., :2].copy().view(np.uint16)[..., 0])
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [colour.rotate(180)]}
    for name, image, kind, options in (
        ("png", clear, "PNG", {"exif": exif}),
        ("png-16", deep, "PNG", {}),
        ("png-palette", colour.quantize(16), "PNG", {"transparency": 3}),
        ("jpeg", colour, "JPEG", {"exif": exif}),
        ("jpeg-progressive", colour, "JPEG", {"progressive": True}),
        ("jpeg-cmyk", colour.convert("CMYK"), "JPEG", {}),
        ("webp", clear, "WEBP", {"exif": exif}),
        ("webp-animated", colour, "WEBP", frames),
        ("gif", colour.quantize(16), "GIF", {"transparency": 3}),
        ("gif-animated", colour, "GIF", frames),
        ("bmp", colour, "BMP", {}),
        ("bmp-1", colour.convert("1"), "BMP", {}),
        ("tiff", clear, "TIFF", {}),
        ("tiff-16", deep, "TIFF", {"compression": "tiff_lzw"}),
        ("tiff-jpeg", colour, "TIFF", {"compression": "jpeg"}),
        ("avif", colour, "AVIF", {}),
    ):
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        yield name, stream.getvalue()


SOUND = dict(sound_files())


@pytest.mark.parametrize(("name", "content"), SOUND.items(), ids=SOUND)
def test_a_damaged_file_is_an_image_or_a_broken_one(name, content, tmp_path):
    """Each of 16 × 150 damaged files gives an RGB image or one short, printable reason."""
    path = tmp_path / "a"
    path.write_bytes(content)
    assert read_image(path).mode == "RGB"
    chance = random.Random(name)
    faults = []
    for _ in range(150):
        path.write_bytes(damaged(content, chance))
        try:
            assert read_image(path).mode == "RGB"
        except BrokenImage as error:
            faults.append(str(error))
    assert len(faults) > 15
    assert all(fault.isprintable() and 0 < len(fault) <= 200 for fault in faults)
