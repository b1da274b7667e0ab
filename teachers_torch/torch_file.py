"""Files of `torch.save`, read without `torch.load`: one reader, and no code of the file runs.

`torch.load(weights_only=False)` runs what a file says. It also runs TorchScript, which can write
files, in an archive whose directory it reads at another place than a check before it did. Here an
archive is opened once, its directory must be the only one, the records are copied into tensors and
the pickle is read by `teachers_torch.pickled`.
"""

import io
import os
import struct
import sys
import zipfile
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.reading import open_regular
from teachers_torch.pickled import Damaged, Foreign, Inert, Name, expanded, unpickle

PICKLE, BYTE_ORDER, TORCHSCRIPT = "data.pkl", "byteorder", "constants.pkl"
LONGEST_PICKLE = 2**26  # bytes; two million items' ids. What it becomes takes ten times as much
LONGEST_DIRECTORY = 2**22  # bytes of the archive's directory: some 50 000 records
CHUNK = 2**24
# Tensors that share storages may take so many times the file's bytes once each is on its own.
MOST_COPIES = 8
SMALLEST_BOUND = 2**20
MOST_DIMENSIONS = 25
LARGEST_EMPTY = 2**40  # product of the sizes, zeros left out, of a tensor of no elements
Stream = io.BufferedReader | io.BytesIO
"""An archive that is read, of a file or of memory."""
# How the archive's last 22 bytes begin, and those of the records before them for large files.
_END, _LOCATOR, _END64 = b"PK\x05\x06", b"PK\x06\x07", b"PK\x06\x06"

_STORAGES = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
        "ComplexFloat": torch.complex64,
        "ComplexDouble": torch.complex128,
    }.items()
} | {"torch.storage.UntypedStorage": torch.uint8}
_DTYPES = {
    f"torch.{name}": getattr(torch, name)
    for name in (
        *("float64", "float32", "float16", "bfloat16", "complex64", "complex128"),
        *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"),
    )
}


# What a damaged archive ends in, and a missing file; `Damaged` is a ValueError.
_UNREADABLE = (
    *(OSError, EOFError, ValueError, LookupError, ArithmeticError, MemoryError),
    *(RuntimeError, struct.error, zipfile.BadZipFile, zlib.error),
)


@dataclass(frozen=True, slots=True)
class _Stored:
    """A record of the archive: its values, the file's byte order undone, and their type."""

    values: Tensor


def read_torch_file(path: Path, ignored: tuple[str, ...] = ()) -> object:
    """The content of a file of `torch.save`, on the CPU.

    Parameters come back as tensors, and no tensor asks for a gradient. Tensors that share a
    storage in the file share it here.

    Args:
        path: the file, an archive as PyTorch writes since 1.6.
        ignored: beginnings of the names whose objects become `Inert`.

    Raises:
        UserError: it is no such file, it is damaged, it names something that has no place in
            it, or it claims more than it holds.
    """
    try:
        with open_regular(path) as file:
            return read_torch_stream(path, file, os.fstat(file.fileno()).st_size, ignored)
    except OSError as error:
        raise _no_checkpoint(path, error) from error


def read_torch_stream(path: Path, file: Stream, size: int, ignored: tuple[str, ...] = ()) -> object:
    """As `read_torch_file`, of an open file.

    Args:
        path: the file's path in error messages.
        file: a seekable stream at its beginning.
        size: bytes that it has.
        ignored: see `read_torch_file`.

    Raises:
        UserError: as `read_torch_file`.
    """
    try:
        return _content(_open(file, size), size, ignored)
    except Foreign as error:
        raise UserError(
            f"{path}: found {_one_line(str(error))}, which no checkpoint needs, expected tensors "
            "and plain values"
        ) from error
    except _UNREADABLE as error:
        raise _no_checkpoint(path, error) from error


def _no_checkpoint(path: Path, error: BaseException) -> UserError:
    return UserError(
        f"{path}: found no checkpoint of torch.save ({_one_line(str(error))}), expected one"
    )


def _one_line(text: str) -> str:
    """Words of a file or a library, fit for one line."""
    return (text if text.isprintable() else ascii(text)[1:-1])[:200]


# The archive.


class _Archive(NamedTuple):
    """An open archive.

    Attributes:
        file: the reader.
        records: name, the folder that all records stand in left out → its entry.
    """

    file: zipfile.ZipFile
    records: dict[str, zipfile.ZipInfo]


def _open(file: Stream, size: int) -> _Archive:
    """Reads the directory, in which every record must be stored as it is, and once."""
    _require_one_directory(file, size)
    archive = zipfile.ZipFile(file)
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    folders = {name.partition("/")[0] for name in names}
    if len(folders) != 1 or len(set(names)) != len(names):
        raise Damaged("an archive with several folders or with records of the same name")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise Damaged("an archive with a compressed record")
    if sum(entry.file_size for entry in entries) > size:
        raise Damaged("an archive with records that overlap")
    records = {entry.filename.partition("/")[2]: entry for entry in entries}
    if PICKLE not in records:
        raise Damaged(f"an archive without {PICKLE}")
    if TORCHSCRIPT in records or any(name.startswith("code/") for name in records):
        raise Damaged("a TorchScript program")
    return _Archive(archive, records)


def _require_one_directory(file: Stream, size: int) -> None:
    """Refuses an archive in which two readers could find two directories.

    PyTorch reads the directory where the end record says it is, Python right before the end
    record. Here both must be the same place, and the end record the last thing in the file.
    """
    file.seek(max(0, size - 98))
    tail = file.read(98)
    end = tail[-22:]
    if len(end) != 22 or end[:4] != _END or end[20:] != b"\0\0":
        raise Damaged(
            "no archive (a file of PyTorch before 1.6 is written again by its torch.load and a "
            "newer torch.save)"
        )
    length, offset = struct.unpack("<2L", end[12:20])
    stop = size - 22
    if len(tail) == 98 and tail[56:60] == _LOCATOR:
        stop = size - 98
        if tail[:4] != _END64 or struct.unpack("<Q", tail[64:72])[0] != stop:
            raise Damaged("an archive with a damaged end")
        length, offset = struct.unpack("<2Q", tail[40:56])
    if offset + length != stop:
        raise Damaged("an archive whose directory isn't where its end says")
    if length > LONGEST_DIRECTORY:
        raise Damaged(f"an archive with a directory of {length} bytes")


def _read(archive: _Archive, name: str) -> np.ndarray:
    """A record's bytes, whose checksum must hold."""
    entry = archive.records[name]
    out = np.empty(entry.file_size, dtype=np.uint8)
    done = 0
    with archive.file.open(entry) as record:
        while chunk := record.read(CHUNK):
            if done + len(chunk) > len(out):
                raise Damaged(f"a record {name} of another size than its archive says")
            out[done : done + len(chunk)] = np.frombuffer(chunk, dtype=np.uint8)
            done += len(chunk)
    if done != len(out):
        raise Damaged(f"a record {name} of another size than its archive says")
    return out


# The content.


def _content(archive: _Archive, size: int, ignored: tuple[str, ...]) -> object:
    if archive.records[PICKLE].file_size > LONGEST_PICKLE:
        raise Damaged(f"a {PICKLE} of more than {LONGEST_PICKLE} bytes")
    data = _read(archive, PICKLE).tobytes()
    tensors = _TensorBuilder(archive, size)
    makers = {
        "torch._utils._rebuild_tensor_v2": tensors.rebuild,
        "torch._utils._rebuild_tensor_v3": tensors.rebuild_of_type,
        "torch._utils._rebuild_parameter": _parameter,
        "torch.Size": _size,
        "collections.OrderedDict": _ordered,
        "torch.device": lambda _: Inert(),
        **dict.fromkeys([*_STORAGES, *_DTYPES], _uncallable),
    }
    content = unpickle(data, makers, ignored, tensors.stored)
    # Without sharing there are no more values than bytes.
    expanded(content, 2 * len(data) + SMALLEST_BOUND)
    return content


def _uncallable(_: tuple) -> object:
    raise Damaged("a pickle that calls a type")


def _ordered(arguments: tuple) -> OrderedDict:
    if arguments:
        raise Damaged("a pickle with an OrderedDict that isn't empty at first")
    return OrderedDict()


def _size(arguments: tuple) -> tuple:
    match arguments:
        case (tuple() as sizes,):
            return sizes
    raise Damaged("a pickle with a torch.Size of no tuple")


def _parameter(arguments: tuple) -> Tensor:
    match arguments:
        case (Tensor() as tensor, bool(), _):
            return tensor
    raise Damaged("a pickle with a parameter that is no tensor")


class _TensorBuilder:
    """Makes tensors of an archive's records; every claim is compared with what is there."""

    def __init__(self, archive: _Archive, size: int):
        self.archive = archive
        self.left = MOST_COPIES * size + SMALLEST_BOUND
        self.known: dict[str, _Stored] = {}
        self.swapped = _byte_order(archive) != sys.byteorder

    def stored(self, identity: tuple) -> _Stored:
        """The record that a persistent id names: ("storage", type, key, device, elements)."""
        match identity:
            case ("storage", Name(path), str() as key, str(), int() as count) if path in _STORAGES:
                dtype = _STORAGES[path]
            case _:
                raise Damaged("a pickle with a storage of an unknown form")
        name = f"data/{key}"
        if name not in self.archive.records:
            raise Damaged(f"no record {_one_line(name)}")
        if self.archive.records[name].file_size != count * dtype.itemsize:
            raise Damaged(f"a record {name} of another size than its pickle says")
        if name not in self.known:
            raw = _read(self.archive, name)
            if self.swapped:
                raw = _swap(raw, dtype)
            if dtype == torch.bool:  # any other byte than 0 and 1 would be neither true nor false
                raw = (raw != 0).view(np.uint8)
            # PyTorch can't view no bytes at all as another type.
            empty = torch.empty(0, dtype=dtype)
            self.known[name] = _Stored(torch.from_numpy(raw).view(dtype) if count else empty)
        if self.known[name].values.dtype != dtype:
            raise Damaged(f"a record {name} of two types")
        return self.known[name]

    def rebuild(self, arguments: tuple) -> Tensor:
        """(storage, offset, sizes, strides, asks for a gradient, hooks)."""
        match arguments:
            case (
                _Stored(values),
                int() as offset,
                tuple() as sizes,
                tuple() as strides,
                bool(),
                _,
            ):
                return self._view(values, offset, sizes, strides)
        raise Damaged("a pickle with a tensor of an unknown form")

    def rebuild_of_type(self, arguments: tuple) -> Tensor:
        """As `rebuild`, and the type, of a storage of plain bytes."""
        match arguments:
            case (_Stored(values), int() as offset, tuple() as sizes, tuple() as strides, _, _, t):
                dtype = _DTYPES.get(t.path) if isinstance(t, Name) else None
                fits = dtype is not None and len(values) % dtype.itemsize == 0
                if dtype is None or not fits or values.dtype != torch.uint8:
                    raise Damaged("a pickle with a tensor of an unknown type")
                if self.swapped and dtype.itemsize > 1:
                    raise Damaged("a tensor of a rare type in another byte order")
                typed = values.view(dtype) if len(values) else torch.empty(0, dtype=dtype)
                return self._view(typed, offset, sizes, strides)
        raise Damaged("a pickle with a tensor of an unknown form")

    def _view(self, values: Tensor, offset: int, sizes: tuple, strides: tuple) -> Tensor:
        numbers = (offset, *sizes, *strides)
        whole = all(type(one) is int and 0 <= one < 2**63 for one in numbers)
        if not whole or len(sizes) != len(strides) or len(sizes) > MOST_DIMENSIONS:
            raise Damaged("a pickle with a tensor of impossible sizes")
        count, width = 1, 1
        for one in sizes:
            count, width = count * one, width * max(one, 1)
        if count == 0:
            if width > LARGEST_EMPTY:
                raise Damaged("a pickle with a tensor of impossible sizes")
            return torch.empty(sizes, dtype=values.dtype)
        last = offset + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))
        if last >= len(values):
            raise Damaged("a pickle with a tensor larger than its storage")
        self.left -= count * values.dtype.itemsize
        if self.left < 0:
            raise Damaged("a pickle with tensors many times larger than the file")
        return values.as_strided(sizes, strides, offset)


def _byte_order(archive: _Archive) -> str:
    if BYTE_ORDER not in archive.records:
        return "little"  # before PyTorch 2.1
    found = bytes(_read(archive, BYTE_ORDER)) if archive.records[BYTE_ORDER].file_size < 9 else b""
    if found not in (b"little", b"big"):
        raise Damaged(f"a record {BYTE_ORDER} that says neither little nor big")
    return found.decode()


def _swap(raw: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    width = dtype.itemsize // (2 if dtype.is_complex else 1)
    return raw.view(f"u{width}").byteswap().view(np.uint8)
