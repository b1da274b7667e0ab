"""Histories of any number and length as arrays of a few sizes, so that little is compiled."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32

from prmkd_jax.data.packing import PackedRows

# Histories encoded at once. Smaller batches are padded to the next of 1, 8, 64, 512.
MOST_ROWS = 512
_ROWS_STEP = 8
# Least length of a padded list of items, and what it grows by: 64, 1024, 16384, …
_LEAST_LIST = 64
_LIST_STEP = 16
# Numbers in the padded lists of items of one call, 64 MiB; one history's own list may be longer.
MOST_LISTED = 2**24
# Least length of a row of history; it grows by doubling. Most histories are short.
_LEAST_WINDOW = 16


def padded_rows(count: int) -> int:
    """The size to which a batch of histories is padded.

    >>> [padded_rows(count) for count in (1, 2, 8, 65)]
    [1, 8, 8, 512]
    """
    size = 1
    while size < count:
        size *= _ROWS_STEP
    return size


def doubled(count: int, least: int) -> int:
    """The first of `least`, 2 · `least`, 4 · `least`, … that is at least `count`.

    >>> doubled(3, 16), doubled(40, 16)
    (16, 64)
    """
    size = least
    while size < count:
        size *= 2
    return size


def padded_window(longest: int, window: int) -> int:
    """The slots that histories get: 16, 32, 64, … up to the window.

    >>> [padded_window(longest, 50) for longest in (3, 17, 40, 99)]
    [16, 32, 50, 50]
    """
    return min(window, doubled(longest, _LEAST_WINDOW))


def padded_list(longest: int, least: int = _LEAST_LIST) -> int:
    """The length that lists of items get: `least`, 16 · `least`, 256 · `least`, …

    >>> [padded_list(longest) for longest in (0, 64, 65)]
    [64, 64, 1024]
    """
    most = least
    while most < longest:
        most *= _LIST_STEP
    return most


def padded_lists(
    lists: Sequence[Sequence[int]], rows: int, least: int = _LEAST_LIST
) -> Int32[np.ndarray, "rows most"]:
    """Lists of item rows, padded with −1 to `least` or more; rows past the last list are empty."""
    most = padded_list(max(map(len, lists), default=0), least)
    out = np.full((rows, most), -1, dtype=np.int32)
    for row, values in zip(out, lists, strict=False):
        row[: len(values)] = values
    return out


def history_rows(
    histories: Sequence[Sequence[int]], users: Sequence[int], window: int, own_slot: bool, rows: int
) -> tuple[PackedRows, Int32[np.ndarray, " rows"]]:
    """One history a row, its newest items where it is longer than the window.

    Args:
        histories: item rows, oldest first; at least one history.
        users: each history's row in the users' table.
        window: longest prefix that the student sees.
        own_slot: whether a slot for a token of the student's own follows each prefix.
        rows: padded size; further rows repeat the last history.

    Returns:
        the rows, and the slot of each at which the user vector is read.
    """
    shape = rows, padded_window(max(map(len, histories)), window) + own_slot
    item_seq, segments, positions, owners = (np.zeros(shape, np.int32) for _ in range(4))
    instances = np.full(shape, -1, np.int32)
    slots = np.zeros(rows, np.int32)
    for row in range(rows):
        source = min(row, len(histories) - 1)
        read = histories[source][-window:]
        # An empty history has one slot, whose vector means nothing.
        length = max(1, len(read) + own_slot)
        item_seq[row, : len(read)] = read
        segments[row, :length] = row + 1
        positions[row, :length] = np.arange(length)
        owners[row, :length] = users[source]
        instances[row, length - 1] = 0
        slots[row] = row * shape[1] + length - 1
    return PackedRows(item_seq, segments, positions, owners, instances), slots
