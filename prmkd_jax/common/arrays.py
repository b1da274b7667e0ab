"""Arrays in `.npy` and `.npz` files that others made."""

import tokenize
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np

from prmkd_jax.common.reading import open_regular

MOST_BYTES = 2**34
# A damaged header is a damaged Python expression.
_BROKEN = (SyntaxError, TypeError, OverflowError, EOFError, RecursionError, tokenize.TokenError)
# What an archive says that is none, or is packed or locked in a way that NumPy never writes:
# RuntimeError from zipfile. MemoryError: NumPy makes room for what a header claims before it reads.
_NO_ARCHIVE = (
    zipfile.BadZipFile,
    zlib.error,
    RuntimeError,
    LookupError,
    AttributeError,
    MemoryError,
)


def half_fault(vectors: np.ndarray, first: int = 0) -> str:
    """What float16 would make of vectors; "" where it holds them.

    Args:
        vectors: vectors, a row for each item or instance; a row of zeros where it isn't known.
        first: number of the first row, for the message.

    >>> half_fault(np.array([[1e-9, 0.0]]))[:45]
    'row 0: found values up to 1e-09, expected lar'
    >>> half_fault(np.array([[0.0, 0.0], [1.0, 2.0]]))
    ''
    """
    with np.errstate(over="ignore", invalid="ignore"):
        half = np.asarray(vectors).astype(np.float16)
    if not np.isfinite(half).all():
        row = int(np.argmin(np.isfinite(half).all(axis=1)))
        found = "nan" if np.isnan(vectors[row]).any() else f"{np.abs(vectors[row]).max():g}"
        return (
            f"row {first + row}: found a value of {found}, expected finite ones up to 65504, for "
            "float16: scale vectors down, the teacher's scale up"
        )
    vanished = np.asarray(vectors).any(axis=1) & ~half.any(axis=1)
    if vanished.any():
        row = int(np.argmax(vanished))
        largest = np.abs(vectors[row]).max()
        return (
            f"row {first + row}: found values up to {largest:g}, expected larger ones, for "
            "float16, which would hold 0: scale vectors up, the teacher's scale down"
        )
    return ""


def open_npy(path: Path) -> np.ndarray:
    """Maps a `.npy` file of numbers into memory, read-only.

    Unlike `np.load` it takes no archives, no Python objects, and no shape that the file lacks the
    bytes for.

    Raises:
        OSError: the file can't be read.
        ValueError: it is no such file.
    """
    with open_regular(path):
        pass
    try:
        with warnings.catch_warnings(), np.errstate(over="ignore"):
            warnings.simplefilter("ignore", SyntaxWarning)
            array = np.lib.format.open_memmap(path, mode="r")
    except _BROKEN as error:
        raise ValueError(f"a damaged header: {error}") from error
    if not array.dtype.itemsize:
        raise ValueError(f"type {array.dtype}, of which a file of any size has any number")
    return array


def read_npz(path: Path, most_bytes: int = MOST_BYTES) -> dict[str, np.ndarray]:
    """The arrays of a `.npz` archive, by name.

    Unlike `np.load` it takes no Python objects, and says of any damage that it is some.

    Args:
        path: the archive.
        most_bytes: bytes that an array may have, unpacked: a few may claim terabytes.

    Raises:
        OSError: the file can't be read.
        ValueError: it is no such archive, or holds a larger array.
    """
    try:
        with open_regular(path) as stream, zipfile.ZipFile(stream) as archive:
            largest = max((member.file_size for member in archive.infolist()), default=0)
        if largest > most_bytes:
            raise ValueError(f"an array of {largest:,} bytes")
        # NumPy leaves a file open that it opened itself and can't read.
        with open_regular(path) as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            with np.load(stream, allow_pickle=False) as file:
                arrays = dict(file)
        # Of a file that is none of its own NumPy gives the bytes.
        others = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
        if others:
            raise ValueError(f"{others[0]!r}, which is no array")
        return arrays
    except (*_BROKEN, *_NO_ARCHIVE) as error:
        raise ValueError(f"a damaged archive: {error or type(error).__name__}") from error
