"""Files that a stranger made, read by the readers themselves: each is refused in its line.

What damage at random rarely makes: archives that say two things, sizes that lie, types that nobody
expects, images that are something else.
"""

import io
import json
import os
import struct
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from prmkd_jax.common.arrays import open_npy
from prmkd_jax.common.errors import UserError
from prmkd_jax.serve.exported import _load_arrays
from teachers_torch.items.image_file import BrokenImage, read_image
from teachers_torch.torch_file import read_torch_file


def saved(content, **options):
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def zipped(extra=(), compression=zipfile.ZIP_STORED, comment=b""):
    """An archive of torch's, written again by Python."""
    source, out = zipfile.ZipFile(io.BytesIO(saved({"a": torch.ones(3)}))), io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
        for name, content in extra:
            target.writestr(name, content)
        target.comment = comment
    return out.getvalue()


def entry(at, new):
    """An archive whose directory says something else of its first record."""
    content = bytearray(zipped())
    start = content.find(b"PK\x01\x02") + at
    content[start : start + len(new)] = new
    return bytes(content)


TORCH = {
    "compressed": (zipped(compression=zipfile.ZIP_DEFLATED), "an archive with a compressed record"),
    "with a comment": (zipped(comment=b"hello"), "no archive"),
    "with a path of its own": (zipped([("/etc/x", b"")]), "several folders"),
    "encrypted": (entry(8, b"\1"), "is encrypted"),
    "patched": (entry(8, b"\x20"), "compressed patched data"),
    "two names of a record": (entry(46, b"X"), "several folders"),
    "a record far away": (entry(42, b"\xff\xff\xff\x7f"), "Truncated file header"),
    "a record larger than the file": (entry(20, b"\xff\xff\xff\x7f" * 2), "records that overlap"),
    "sparse": (saved(torch.eye(2).to_sparse()), "_rebuild_sparse_tensor"),
    "without values": (saved(torch.empty(2, device="meta")), "_rebuild_meta_tensor_no_storage"),
    "of 8 bits": (saved(torch.ones(2).to(torch.float8_e4m3fn)), "torch.float8_e4m3fn"),
    "conjugated": (saved(torch.ones(2, dtype=torch.complex64).conj()), "of an unknown form"),
    "a module": (saved(torch.nn.Linear(2, 3)), "torch.nn.modules.linear.Linear"),
    "NumPy's": (saved({"a": np.ones(3)}), "numpy._core.multiarray._reconstruct"),
    "before 1.6": (saved([1], _use_new_zipfile_serialization=False), "before 1.6"),
    "an empty archive": (b"PK\x05\x06" + bytes(18), "several folders"),
    "empty": (b"", "no archive"),
}


def npy(header, data=bytes(8)):
    text = header.encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def described(descr="'<f4'", order="False", shape="(2,)"):
    return npy(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}")


def objects():
    stream = io.BytesIO()
    np.save(stream, np.array([{}], dtype=object))
    return stream.getvalue()


ARRAYS = {
    "objects": (objects(), "Python objects"),
    "objects without bytes": (described("'|O'"), "Python objects"),
    "larger than the file": (described(shape="(10**12,)"), "malformed node"),
    "of a trillion rows": (described(shape="(1000000000000,)"), "mmap length"),
    "of fewer than no rows": (described(shape="(-1,)"), "negative dimensions"),
    "of half a row": (described(shape="(2.0,)"), "shape is not valid"),
    "of a yes": (described(shape="(True,)"), "a damaged header"),
    "a list as shape": (described(shape="[2]"), "shape is not valid"),
    "of an order 2": (described(order="2"), "not a valid bool"),
    "too large to count": (
        described(shape="(0, 9223372036854775807, 9223372036854775807)"),
        "too big",
    ),
    "a call": (npy("__import__('os').system('true')"), "malformed node"),
    "nested": (npy("[" * 3000), "a damaged header"),
    "an archive": (zipped(), "magic string"),
}


def safe(header, data=bytes(4)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(dtype="F32", shape=(1,), ends=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(ends)}


SAFE = {
    "overlapping": (safe({"a": tensor(), "b": tensor()}), "invalid offset"),
    "with a gap": (safe({"a": tensor(ends=(4, 8))}, bytes(8)), "invalid offset"),
    "a header of terabytes": (struct.pack("<Q", 2**40), "header too large"),
    "sizes that overflow": (safe({"a": tensor(shape=(2**40, 2**40))}), "overflow"),
    "fewer than no rows": (safe({"a": tensor(shape=(-1,))}), "invalid JSON in header"),
    "of 8 bits": (safe({"a": tensor("F8_E4M3", (4,))}), "float8_e4m3fn"),
    "of 4 bits": (safe({"a": tensor("F4", (8,))}), "float4_e2m1fn_x2"),
    "of no type": (safe({"a": tensor("X")}), "unknown variant"),
    "bytes behind": (safe({"a": tensor()}, bytes(9)), "not fully covered"),
    "nested": (safe(b"[" * 100_000), "invalid JSON in header"),
}


def image(kind, mode="RGB", **options):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 4), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert("RGB").convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def png(width, height, data=b"", before=b""):
    def chunk(name, content):
        crc = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + crc

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    extra = chunk(b"zTXt", before) if before else b""
    data = chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + extra + data


NONE = "it is none of PNG, JPEG, WEBP, GIF, BMP, TIFF, AVIF"
IMAGES = {
    **{kind: (image(kind), NONE) for kind in ("EPS", "PPM", "ICO", "TGA", "PCX", "PDF", "DDS")},
    "JPEG 2000": (image("JPEG2000"), NONE),
    "Photoshop": (b"8BPS\0\1" + bytes(40), NONE),
    "a drawing": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', NONE),
    "a page": (b"<html>404</html>", NONE),
    "empty": (b"", NONE),
    "a telephone's": (b"\0\0\0\x18ftypheic" + bytes(30), NONE),
    "bytes before": (b"\n" + image("JPEG"), NONE),
    "4 × 10^18 pixels": (png(2**31 - 1, 2**31 - 1), "it has more than 67,108,864 pixels"),
    "thin": (png(60_000, 1), "it has 60000 × 1 pixels, too thin to show a thing"),
    "a text of 100 MB": (png(1, 1, before=b"a\0\0" + zlib.compress(bytes(10**8))), "too large"),
    "32 bits": (image("TIFF", "F"), "32 bits a pixel"),
    "other colours": (image("TIFF", "LAB"), "colours of the kind LAB"),
    "half": (image("JPEG")[:-40], "truncated"),
}

READERS = {
    "torch": (read_torch_file, UserError, TORCH),
    "npy": (open_npy, ValueError, ARRAYS),
    "safetensors": (_load_arrays, UserError, SAFE),
    "image": (read_image, BrokenImage, IMAGES),
}
CASES = [(reader, name) for reader, (_, _, files) in READERS.items() for name in files]


@pytest.mark.parametrize(("reader", "name"), CASES)
def test_a_strangers_file_is_refused_in_its_line(reader, name, tmp_path):
    """Nothing in it is believed, and the line says what is wrong."""
    read, error, files = READERS[reader]
    content, line = files[name]
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(error) as refused:
        read(path)
    assert line in str(refused.value)
    if error is not ValueError:  # of arrays the caller says which file it is
        assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("reader", READERS)
def test_a_pipe_is_refused_at_once(reader, tmp_path):
    """No reader waits for whoever writes into it."""
    read, _, _ = READERS[reader]
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises((UserError, BrokenImage, OSError), match="no regular file"):
        read(tmp_path / "pipe")
