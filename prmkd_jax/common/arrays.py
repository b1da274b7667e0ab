"""Arrays in `.npy` files that others made."""

import tokenize
import warnings
from pathlib import Path

import numpy as np

from prmkd_jax.common.files import open_regular


def half_fault(vectors: np.ndarray, first: int = 0) -> str:
    """What float16 would make of vectors; "" where it holds them.

    Args:
        vectors: one row each; rows of zeros stand for what isn't known.
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
    # A damaged header is a damaged Python expression.
    broken = (SyntaxError, TypeError, OverflowError, EOFError, RecursionError, tokenize.TokenError)
    try:
        with warnings.catch_warnings(), np.errstate(over="ignore"):
            warnings.simplefilter("ignore", SyntaxWarning)
            return np.lib.format.open_memmap(path, mode="r")
    except broken as error:
        raise ValueError(f"a damaged header: {error}") from error
