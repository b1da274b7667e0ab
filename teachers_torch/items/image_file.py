"""Image files as shops have them, read as RGB, whatever is wrong with some of them.

Nothing is decoded before the header has said how large it is, and only by Pillow's own decoders:
for EPS it would start Ghostscript.
"""

import io
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from prmkd_jax.common.errors import first_line
from prmkd_jax.common.reading import open_regular

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""What is read, by Pillow's names, whatever a file's name ends in."""
READING = 2
"""Goes up when files give other pixels: encoded images of before aren't used then."""
MOST_BYTES = 2**27  # of a file
MOST_PIXELS = 2**26  # 8192 × 8192: 200 MB as RGB
# Encoders scale the short side to theirs: of 60,000 × 1 pixels that would make a bomb.
MOST_RATIO = 100
_WHITE = (255, 255, 255)
# What Pillow converts to RGB or RGBA as one would expect; it does otherwise with LAB.
_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr")
# EXIF's tag and what turns the pixels as it says; 1 is as they stand.
_ORIENTATION = 0x0112
_TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# TIFF's tags.
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0


class BrokenImage(ValueError):
    """A file that is no image which is read here; the text says why, in part of a line."""


class _Header(NamedTuple):
    """What the header says and decoding may change."""

    sizes: tuple[int, int]
    bits: int
    white_is_zero: bool
    orientation: int


def read_image(path: str | Path) -> Image.Image:
    """The first image of a file, as RGB, turned as its EXIF data say, on white.

    Grey of 16 bits keeps its high byte, transparency is composed on white, CMYK and palettes are
    converted, colour profiles are not applied.

    Raises:
        BrokenImage: it isn't there, is no regular file, of no format of `FORMATS`, damaged, too
            large, too thin, or of values whose white nobody knows.
    """
    try:
        with open_regular(Path(path)) as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise BrokenImage(f"it has more than {MOST_BYTES >> 20} MB")
        # Pillow warns of what doesn't matter here, such as damaged EXIF data.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decoded(content)
    except BrokenImage:
        raise
    except Exception as error:  # decoders fail in many ways, all of them the file's
        raise BrokenImage(_reason(error)) from error


def _decoded(content: bytes) -> Image.Image:
    Image.init()
    known = [kind for kind in FORMATS if kind in Image.OPEN]  # some Pillows lack AVIF
    with Image.open(io.BytesIO(content), formats=known) as image:
        header = _header(image)
        image.load()
        rgb = _on_white(_eight_bits(image, header))
    turned = _TURNED.get(header.orientation)
    return rgb if turned is None else rgb.transpose(turned)


def _header(image: Image.Image) -> _Header:
    """Checks what the header says; nothing is decoded yet.

    Raises:
        BrokenImage: no image of this size is read.
    """
    short, long = sorted(image.size)
    if short * long > MOST_PIXELS:
        raise BrokenImage(f"it has {short * long:,} pixels, more than {MOST_PIXELS:,}")
    if long > MOST_RATIO * short:
        raise BrokenImage(f"it has {image.width} × {image.height} pixels, too thin to show a thing")
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(_BITS, (16,))
    return _Header(
        image.size,
        bits[0] if isinstance(bits, tuple) and bits else 16,
        tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO,
        _orientation(image),
    )


def _orientation(image: Image.Image) -> int:
    """How the camera was held; 1 where damaged EXIF data don't say."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # it fails in many ways, and the pixels may be good
        return 1
    return found if isinstance(found, int) else 1


def _eight_bits(image: Image.Image, header: _Header) -> Image.Image:
    """The image in a mode that Pillow converts rightly; it cuts 16 bits off at 255."""
    if image.mode in ("I", "F"):
        raise BrokenImage("it has 32 bits a pixel, of which nobody knows what is white")
    if not image.mode.startswith("I;16"):
        if image.mode not in _MODES:
            raise BrokenImage(f"it has colours of the kind {image.mode}")
        return image
    values = np.asarray(image).astype(np.uint16)
    grey = (values >> (min(header.bits, 16) - 8)).astype(np.uint8)
    if header.white_is_zero:
        grey = 255 - grey
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey[values == clear] = 255
    return Image.fromarray(grey)


def _on_white(image: Image.Image) -> Image.Image:
    """RGB, of what is transparent the white below."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    shown = image.convert("RGBA")
    below = Image.new("RGB", shown.size, _WHITE)
    below.paste(shown, mask=shown.getchannel("A"))
    return below


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, Image.UnidentifiedImageError):
        return f"it is none of {', '.join(FORMATS)}"
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {MOST_PIXELS:,} pixels"
    text = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
    return (text if text.isprintable() else ascii(text)[1:-1])[:200]
