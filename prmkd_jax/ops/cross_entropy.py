"""Softmax cross-entropy over the catalogue."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from prmkd_jax.ops.arrays import Array

# Up to here the logits of a batch are kept for the backward pass; above, blocks of items
# are scored again instead, so memory stays flat as the catalogue grows.
BLOCK = 16_384


def cross_entropy(
    score: Callable[[Array, Array], Array],
    queries: Float[Array, "B D"],
    items: Float[Array, "V D"],
    targets: Int[Array, " B"],
    block: int = BLOCK,
) -> Float[Array, " B"]:
    """−log softmax of each row's target over all items (eq. 4 of arXiv 2401.00797).

    The target is part of the denominator.

    Args:
        score: (queries, items) → float32 logits.
        queries: user vectors.
        items: item vectors.
        targets: item ids, 0 ≤ id < V.
        block: items scored at once.

    >>> score = lambda queries, items: queries @ items.T
    >>> losses = cross_entropy(score, jnp.ones((1, 2)), jnp.zeros((3, 2)), jnp.array([1]))
    >>> round(float(losses[0]), 4)  # log 3: three items with the same score
    1.0986
    """
    targets = jnp.asarray(targets)
    if len(items) <= block:
        return softmax_loss(score(queries, items), targets)
    return _blocked(score, queries, items, targets, block)


def softmax_loss(logits: Float[Array, "B V"], targets: Int[Array, " B"]) -> Float[Array, " B"]:
    """`cross_entropy` of logits that are there already."""
    own = jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    return jax.nn.logsumexp(logits, axis=-1) - own


def _blocked(score, queries, items, targets, block):
    count = -(-len(items) // block)
    # Padded with the last item, not with zeros: a cosine's gradient at zero is nan.
    padded = jnp.pad(items, ((0, count * block - len(items)), (0, 0)), mode="edge")

    @jax.checkpoint
    def add_block(carry, inputs):
        total, own = carry
        table, first = inputs
        logits = score(queries, table)
        ids = first + jnp.arange(block)
        logits = jnp.where(ids < len(items), logits, jnp.finfo(logits.dtype).min)
        own = own + jnp.sum(jnp.where(ids == targets[:, None], logits, 0.0), axis=-1)
        return (jnp.logaddexp(total, jax.nn.logsumexp(logits, axis=-1)), own), None

    start = jnp.full(len(queries), -jnp.inf, jnp.float32), jnp.zeros(len(queries), jnp.float32)
    blocks = padded.reshape(count, block, -1), jnp.arange(count) * block
    (total, own), _ = jax.lax.scan(add_block, start, blocks)
    return total - own
