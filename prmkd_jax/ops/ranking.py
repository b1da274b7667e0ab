"""The rank of known items among all, by counting."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from prmkd_jax.ops.arrays import Array

# Comparisons made at once, as a number.
MOST_COMPARED = 2**24


class Ranks(NamedTuple):
    """Expected 0-based ranks, and whether they mean anything.

    Attributes:
        all_items: among all items (primary).
        unseen_items: among the items outside the user's history (secondary); infinite
            where the target is in the history and so can't be reached.
        finite: False where a score of the row was nan or infinite.
    """

    all_items: Float[Array, " B"]
    unseen_items: Float[Array, " B"]
    finite: Bool[Array, " B"]


def rank_targets(
    scores: Float[Array, "B V"], targets: Int[Array, " B"], seen: Int[Array, "2 pairs"]
) -> Ranks:
    """Rank = #greater + ½·#equal, the target's own column left out by index.

    The target's score is read from the same product as its rivals': one computed apart
    differs in the last bits. A tie is worth half a place, so a model that gives everything
    one score is ranked in the middle, not first.

    Args:
        scores: score of every item.
        targets: item ids.
        seen: distinct (row, item) pairs of the users' histories, padded with row −1. Pairs, for
            in a table of rows the longest history would decide the size of all.

    >>> scores = jnp.array([[3.0, 2.0, 2.0, 1.0]])
    >>> ranks = rank_targets(scores, jnp.array([1]), jnp.array([[0, -1], [0, 0]]))
    >>> float(ranks.all_items[0]), float(ranks.unseen_items[0])  # one above, one equal; 0 was seen
    (1.5, 0.5)
    """
    own = jnp.take_along_axis(scores, targets[:, None], axis=-1)
    rank = _beaten_by(scores, own).sum(-1) - 0.5
    rows, items = seen
    own_item = items == targets[rows]
    beaten = jnp.where(own_item, 0.0, _beaten_by(scores[rows, items], own[rows, 0]))
    # Row −1 would be the last one; past the end it is dropped.
    rows = jnp.where(rows >= 0, rows, len(targets))
    seen_beaten = jnp.zeros_like(rank).at[rows].add(beaten, mode="drop")
    reachable = jnp.ones_like(targets, bool).at[rows].min(~own_item, mode="drop")
    return Ranks(
        all_items=rank,
        unseen_items=jnp.where(reachable, rank - seen_beaten, jnp.inf),
        finite=jnp.isfinite(scores).all(-1),
    )


def item_ranks(
    score: Callable[[Array, Array], Array],
    queries: Float[Array, "B Q"],
    items: Float[Array, "V E"],
    wanted: Int[Array, "B W"],
    excluded: Int[Array, "B H"],
    most_compared: int = MOST_COMPARED,
) -> Float[Array, "B W"]:
    """0-based ranks of some items of every row among all: #greater + ½·#equal.

    Blocks of items are scored one after another, so memory doesn't grow with B · V. An item's
    score is the one that stands in its own block. Call it inside `jax.jit`.

    Args:
        score: scores [B, C] of all queries with some items' vectors.
        queries: user vectors.
        items: item vectors; row = item id.
        wanted: the items asked about; their ranks where it is negative mean nothing.
        excluded: distinct items that don't count as rivals, padded with −1.
        most_compared: comparisons made at once; decides the block's size.

    >>> import jax.numpy as jnp
    >>> scores = jnp.array([[0.0, 2.0, 2.0, 1.0]])
    >>> none = jnp.array([[-1]])
    >>> item_ranks(lambda q, i: q @ i.T, scores, jnp.eye(4), jnp.array([[0, 2]]), none).tolist()
    [[3.0, 0.5]]
    """
    rows, count = queries.shape[0], len(items)
    block = min(count, max(1, most_compared // max(1, rows * wanted.shape[1])))
    starts = jnp.arange(-(-count // block)) * block

    def of_block(start: Array) -> tuple[Array, Array, Array]:
        # The last block is moved back to end with the table; what it repeats doesn't count.
        first = jnp.minimum(start, count - block)
        found = score(queries, jax.lax.dynamic_slice_in_dim(items, first, block))
        return found.astype(jnp.float32), first, first + jnp.arange(block) >= start

    def own_scores(own: Array, start: Array) -> tuple[Array, None]:
        found, first, _ = of_block(start)
        places = jnp.clip(wanted - first, 0, block - 1)
        here = (wanted >= start) & (wanted < first + block)
        return jnp.where(here, jnp.take_along_axis(found, places, axis=1), own), None

    def count_better(ranks: Array, start: Array) -> tuple[Array, None]:
        found, first, fresh = of_block(start)
        hidden = excluded - first
        hidden = jnp.where((excluded >= 0) & (hidden >= 0), hidden, block)
        rivals = jnp.broadcast_to(fresh, found.shape)
        rivals = rivals.at[jnp.arange(rows)[:, None], hidden].set(False, mode="drop")
        beaten = _beaten_by(found[:, None, :], own[:, :, None])
        return ranks + jnp.where(rivals[:, None, :], beaten, 0.0).sum(-1), None

    zeros = jnp.zeros(wanted.shape, jnp.float32)
    own, _ = jax.lax.scan(own_scores, zeros, starts)
    ranks, _ = jax.lax.scan(count_better, zeros, starts)
    # An item ties with itself, unless it was taken out.
    itself = (wanted[:, :, None] != excluded[:, None, :]).all(-1)
    return ranks - 0.5 * itself


def _beaten_by(scores, own):
    """1 where the target loses, ½ where it ties (as it does with itself)."""
    return (scores > own).astype(jnp.float32) + 0.5 * (scores == own)
