"""The k best items of every query, exact, in blocks of items."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from prmkd_jax.ops.arrays import Array
from prmkd_jax.ops.shards import in_parts, on_devices, over_parts, padded_rows, shards

# Scores held at once, as a number: 64 MiB in float32 whatever the catalogue's size.
MOST_SCORES = 2**24
# Rows that the blocks of a program for any batch are made for.
ANY_BATCH_ROWS = 512


class TopK(NamedTuple):
    """The best items, best first; where there are fewer than k, id −1 and score −inf.

    Attributes:
        scores: descending.
        items: item ids; of equal scores the lower id comes first.
    """

    scores: Float[Array, "B k"]
    items: Int[Array, "B k"]


def top_k(
    score: Callable[[Array, Array], Array],
    queries: Float[Array, "B Q"],
    items: Float[Array, "V E"],
    k: int,
    *,
    excluded: Int[Array, "B H"] | None = None,
    included: Int[Array, "B A"] | None = None,
    valid: Bool[Array, " V"] | None = None,
    most_scores: int = MOST_SCORES,
) -> TopK:
    """Scores blocks of items one after another and keeps the k best of each row.

    Memory grows with B · k, the block and the two tables, not with B · V. Shapes depend on those
    of the arguments alone; call it inside `jax.jit`. An item whose score is nan or −inf is never
    returned.

    Args:
        score: scores [B, C] of all queries with some items' vectors.
        queries: user vectors.
        items: item vectors; row = item id.
        k: how many.
        excluded: items that a row must not get, padded with −1.
        included: the only items that a row may get, padded with −1; None for all.
        valid: items that any row may get; None for all.
        most_scores: scores held at once; decides the block's size.

    >>> import jax.numpy as jnp
    >>> scores = jnp.array([[0.0, 2.0, 2.0, 1.0]])
    >>> best = top_k(lambda q, i: q @ i.T, scores, jnp.eye(4), 3, excluded=jnp.array([[3, -1]]))
    >>> best.items.tolist(), best.scores.tolist()
    ([[1, 2, 0]], [[2.0, 2.0, 0.0]])
    """
    rows, count = queries.shape[0], len(items)
    # A program for any batch doesn't know how many rows there are.
    known = rows if isinstance(rows, int) else ANY_BATCH_ROWS
    block = min(count, max(1, most_scores // max(known, 1)))
    starts = jnp.arange(-(-count // block)) * block

    def step(best: TopK, start: Array) -> tuple[TopK, None]:
        # The last block is moved back to end with the table; what it repeats is masked.
        first = jnp.minimum(start, count - block)
        ids = first + jnp.arange(block)
        found = score(queries, jax.lax.dynamic_slice_in_dim(items, first, block))
        allowed = jnp.broadcast_to((ids >= start) & ~jnp.isnan(found), found.shape)
        if valid is not None:
            allowed &= jax.lax.dynamic_slice_in_dim(valid, first, block)
        if excluded is not None:
            allowed &= ~_members(excluded, first, block)
        if included is not None:
            allowed &= _members(included, first, block)
        found = jnp.where(allowed, found.astype(jnp.float32), -jnp.inf)
        # `lax.top_k` gives the first of equal scores first: those kept have the lower ids.
        scores, places = jax.lax.top_k(jnp.concatenate([best.scores, found], axis=1), k)
        # Places below k are of those kept so far; no table of ids as large as the scores is made.
        kept = jnp.take_along_axis(best.items, jnp.minimum(places, k - 1), axis=1)
        return TopK(scores, jnp.where(places < k, kept, first + places - k)), None

    none = TopK(jnp.full((rows, k), -jnp.inf), jnp.full((rows, k), -1, starts.dtype))
    best, _ = jax.lax.scan(step, none, starts)
    return best._replace(items=jnp.where(best.scores > -jnp.inf, best.items, -1))


def _members(ids: Int[Array, "B H"], first: Array, block: int) -> Bool[Array, "B block"]:
    """Whether each of the items first, first + 1, … is among a row's ids."""
    places = ids - first
    # A negative index would count from the end; past the end it is dropped.
    places = jnp.where((ids >= 0) & (places >= 0), places, block)
    mask = jnp.zeros((ids.shape[0], block), bool)
    return mask.at[jnp.arange(ids.shape[0])[:, None], places].set(True, mode="drop")


def top_k_of_all(
    score: Callable[[Array, Array], Array],
    queries: Float[Array, "B Q"],
    items: Float[Array, "V E"],
    k: int,
) -> TopK:
    """`top_k` of a table whose rows lie on several devices: each finds k, the best of these stay.

    Exact, and of equal scores the lower id comes first, as on one device. Only B · k candidates of
    each device cross.

    Args:
        score: computes scores from user and item vectors, as in `top_k`.
        queries: user vectors.
        items: item vectors; row = item id.
        k: how many.
    """
    count = shards()
    if count == 1:
        return top_k(score, queries, items, k)
    parts = in_parts(items, count)
    size = parts.shape[1]
    firsts = jnp.arange(count) * size

    def of_part(part: Array, first: Array) -> TopK:
        real = first + jnp.arange(size) < len(items)
        found = top_k(score, queries, part, min(k, size), valid=real)
        return found._replace(items=jnp.where(found.items >= 0, found.items + first, -1))

    return _best_of_parts(over_parts(of_part, parts, firsts), k)


def top_k_of_scores(scores: Float[Array, "B V"], k: int) -> TopK:
    """`lax.top_k` of scores whose columns lie on several devices, as `scores_of` gives them.

    Args:
        scores: scores of all items; none is −inf.
        k: how many, no more than there are items.
    """
    count = shards()
    if count == 1:
        return TopK(*jax.lax.top_k(scores, k))
    rows, num_items = scores.shape
    size = padded_rows(num_items, count) // count
    missing = ((0, 0), (0, count * size - num_items))
    padded = jnp.pad(scores, missing, constant_values=-jnp.inf)
    parts = on_devices(padded.reshape(rows, count, size).swapaxes(0, 1))

    def of_part(part: Array, first: Array) -> TopK:
        best, places = jax.lax.top_k(part, min(k, size))
        return TopK(best, first + places)

    return _best_of_parts(over_parts(of_part, parts, jnp.arange(count) * size), k)


def _best_of_parts(found: TopK, k: int) -> TopK:
    """The best of what each part has found, [parts, B, k of the part].

    Parts stand one after the other, so where scores are equal, lower ids come first.
    """
    rows = found.scores.shape[1]
    scores, ids = (each.swapaxes(0, 1).reshape(rows, -1) for each in found)
    missing = k - scores.shape[1]
    if missing > 0:
        scores = jnp.pad(scores, ((0, 0), (0, missing)), constant_values=-jnp.inf)
        ids = jnp.pad(ids, ((0, 0), (0, missing)), constant_values=-1)
    best, places = jax.lax.top_k(scores, k)
    return TopK(best, jnp.take_along_axis(ids, places, axis=1))
