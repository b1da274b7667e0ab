"""Arrays in `.npy` files that others made."""

import tokenize
import warnings
from pathlib import Path

import numpy as np


def open_npy(path: Path) -> np.ndarray:
    """Maps a `.npy` file of numbers into memory, read-only.

    Unlike `np.load` it takes no archives, no Python objects, and no shape that the file lacks the
    bytes for.

    Raises:
        OSError: the file can't be read.
        ValueError: it is no such file.
    """
    # A damaged header is a damaged Python expression.
    broken = (SyntaxError, TypeError, OverflowError, EOFError, RecursionError, tokenize.TokenError)
    try:
        with warnings.catch_warnings(), np.errstate(over="ignore"):
            warnings.simplefilter("ignore", SyntaxWarning)
            return np.lib.format.open_memmap(path, mode="r")
    except broken as error:
        raise ValueError(f"a damaged header: {error}") from error
