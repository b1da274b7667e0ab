"""The rank of a known target among all items, by counting."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from prmkd_jax.ops.arrays import Array


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
    scores: Float[Array, "B V"], targets: Int[Array, " B"], history: Int[Array, "B H"]
) -> Ranks:
    """Rank = #greater + ½·#equal, the target's own column left out by index.

    The target's score is read from the same product as its rivals': one computed apart
    differs in the last bits. A tie is worth half a place, so a model that gives everything
    one score is ranked in the middle, not first.

    Args:
        scores: score of every item.
        targets: item ids.
        history: distinct item ids of the user's history, padded with −1.

    >>> scores = jnp.array([[3.0, 2.0, 2.0, 1.0]])
    >>> ranks = rank_targets(scores, jnp.array([1]), jnp.array([[0, -1]]))
    >>> float(ranks.all_items[0]), float(ranks.unseen_items[0])  # one above, one equal; 0 was seen
    (1.5, 0.5)
    """
    own = jnp.take_along_axis(scores, targets[:, None], axis=-1)
    rank = _beaten_by(scores, own).sum(-1) - 0.5
    seen = jnp.take_along_axis(scores, jnp.maximum(history, 0), axis=-1)
    rivals = (history >= 0) & (history != targets[:, None])
    rank_unseen = rank - jnp.where(rivals, _beaten_by(seen, own), 0.0).sum(-1)
    reachable = (history != targets[:, None]).all(-1)
    return Ranks(
        all_items=rank,
        unseen_items=jnp.where(reachable, rank_unseen, jnp.inf),
        finite=jnp.isfinite(scores).all(-1),
    )


def _beaten_by(scores, own):
    """1 where the target loses, ½ where it ties (as it does with itself)."""
    return (scores > own).astype(jnp.float32) + 0.5 * (scores == own)
