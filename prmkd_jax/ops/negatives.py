"""Items drawn as negatives, inside a jitted function."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int, Int32

from prmkd_jax.ops.arrays import Array


class Popularity(NamedTuple):
    """Items' chances in proportion to how often each was trained on, plus one.

    The targets of the batches follow that distribution, so the items that weigh most in a
    softmax over them are drawn most. One more for each, so that an item without training data
    is pushed down too: full ranking has it among the candidates.

    Attributes:
        cumulative: running sum of the counts.
        log_q: log of each item's chance.
    """

    cumulative: Int32[np.ndarray, " V"]
    log_q: Float32[np.ndarray, " V"]


class Seen(NamedTuple):
    """Every user's distinct training items, prepared for drawing from all other items.

    Attributes:
        first: offset of a user's first item in `gaps`.
        count: number of the user's items.
        gaps: the number, for each of them, of smaller item ids that the user has not seen.
    """

    first: Int32[np.ndarray, " U"]
    count: Int32[np.ndarray, " U"]
    gaps: Int32[np.ndarray, " pairs"]


def popularity(counts: Int[np.ndarray, " V"]) -> Popularity:
    """The distribution that belongs to the items' training counts.

    >>> popularity(np.array([0, 2])).cumulative.tolist()  # one more for each
    [1, 4]
    """
    counts = counts + 1
    log_q = np.log(counts / counts.sum())
    return Popularity(np.cumsum(counts).astype(np.int32), log_q.astype(np.float32))


def seen_items(num_users: int, pairs: Int32[np.ndarray, "2 pairs"]) -> Seen:
    """Prepares distinct (user, item) pairs, sorted; no user may have all items."""
    users, items = pairs
    count = np.bincount(users, minlength=num_users)
    first = np.cumsum(count) - count
    gaps = items - (np.arange(len(items)) - first[users])
    return Seen(first.astype(np.int32), count.astype(np.int32), gaps.astype(np.int32))


def popular_items(key: Array, items: Popularity, size: int) -> Int[Array, " N"]:
    """Draws with replacement."""
    cumulative = jnp.asarray(items.cumulative)
    places = jax.random.randint(key, (size,), 0, cumulative[-1])
    return jnp.searchsorted(cumulative, places, side="right")


def unseen_items(
    key: Array, seen: Seen, users: Int[Array, " B"], num_items: int
) -> Int[Array, " B"]:
    """One item a row, uniform among those that its user has not seen.

    >>> seen = seen_items(2, np.array([[0, 0, 1], [0, 2, 1]], np.int32))
    >>> drawn = unseen_items(jax.random.key(0), seen, jnp.array([0, 0]), num_items=3)
    >>> drawn.tolist()  # user 0 has seen items 0 and 2
    [1, 1]
    """
    gaps = jnp.asarray(seen.gaps)
    first, count = jnp.asarray(seen.first)[users], jnp.asarray(seen.count)[users]
    number = jax.random.randint(key, users.shape, 0, num_items - count)

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) // 2
        passed = gaps[middle] <= number
        return jnp.where((low < high) & passed, middle + 1, low), jnp.where(passed, high, middle)

    # The unseen item with that number lies after all seen ones with no more unseen before them.
    bounds = jax.lax.fori_loop(0, len(gaps).bit_length(), halve, (first, first + count))
    return number + bounds[0] - first
