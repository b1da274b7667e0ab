"""Rows of different lengths, one after the other in one array."""

import numpy as np
from jaxtyping import Bool, Int, Int64


def offsets_of(
    counts: Int[np.ndarray, " n"] | Bool[np.ndarray, " n"],
) -> Int64[np.ndarray, " n_plus_1"]:
    """Where each row begins, and last where all end; of a mask, how many are True before.

    >>> offsets_of(np.array([2, 0, 3])).tolist()
    [0, 2, 2, 5]
    """
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def places_within(counts: Int[np.ndarray, " n"]) -> Int64[np.ndarray, " total"]:
    """Each entry's place in its row: 0 … counts[0] − 1, 0 … counts[1] − 1, and so on.

    >>> places_within(np.array([2, 0, 3])).tolist()
    [0, 1, 0, 1, 2]
    """
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)
