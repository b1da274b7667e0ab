"""Softmax cross-entropy over the catalogue."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from prmkd_jax.ops.arrays import Array
from prmkd_jax.ops.row_blocks import blocks_of_rows, sum_in_blocks
from prmkd_jax.ops.shards import in_parts, over_parts, scores_of, shards

# Up to here the logits of a batch are kept for the backward pass; above, blocks of items
# are scored again instead, so memory stays flat as the catalogue grows.
BLOCK = 16_384


def cross_entropy(
    score: Callable[[Array, Array], Array],
    queries: Float[Array, "B D"],
    items: Float[Array, "V E"],
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
    count = shards()
    if len(items) <= block * count:
        return softmax_loss(scores_of(score, queries, items, len(items)), targets)
    if count == 1:
        total, own = _blocked(score, queries, items, 0, len(items), targets, block)
        return total - own
    parts = in_parts(items, count)
    firsts = jnp.arange(count) * parts.shape[1]

    def of_part(part: Array, first: Array) -> tuple[Array, Array]:
        return _blocked(score, queries, part, first, len(items), targets, block)

    totals, owns = over_parts(of_part, parts, firsts)
    return jax.nn.logsumexp(totals, axis=0) - owns.sum(0)


def mean_cross_entropy(
    score: Callable[[Array, Array], Array],
    queries: Float[Array, "B D"],
    items: Float[Array, "V E"],
    targets: Int[Array, " B"],
    counted: Bool[Array, " B"],
) -> Float[Array, ""]:
    """Mean `cross_entropy` of the rows that count, 0 where none does.

    On a processor a large catalogue's logits are made block by block of rows.

    Args:
        score: (queries, items) → float32 logits.
        queries: user vectors.
        items: item vectors.
        targets: item ids, 0 ≤ id < V.
        counted: False for rows that may hold anything.

    >>> score = lambda queries, items: queries @ items.T
    >>> rows = jnp.ones((2, 1)), jnp.zeros((3, 1)), jnp.array([1, 0]), jnp.array([True, False])
    >>> round(float(mean_cross_entropy(score, *rows)), 4)  # log 3
    1.0986
    """
    number = jnp.maximum(counted.sum(), 1)
    blocks = blocks_of_rows(len(queries), len(items))
    if blocks == 1:
        losses = cross_entropy(score, queries, items, targets)
        return losses.sum(where=counted) / number

    def total(queries: Array, items: Array, rows: tuple[Array, Array]) -> tuple[Array, tuple]:
        targets, counted = rows
        # So few rows that no item need be scored twice.
        losses = cross_entropy(score, queries, items, targets, len(items))
        return losses.sum(where=counted), ()

    block = -(-len(queries) // blocks)
    more = blocks * block - len(queries)
    # By the last row, not by zeros: a cosine's gradient at zero is nan.
    queries = jnp.pad(queries, ((0, more), (0, 0)), mode="edge")
    targets, counted = (jnp.pad(each, (0, more)) for each in (targets, counted))
    return sum_in_blocks(total, queries, items, (targets, counted), block)[0] / number


def softmax_loss(logits: Float[Array, "B V"], targets: Int[Array, " B"]) -> Float[Array, " B"]:
    """`cross_entropy` of logits that are there already."""
    own = jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    return jax.nn.logsumexp(logits, axis=-1) - own


def _blocked(score, queries, items, offset, num_items, targets, block):
    """The log of the sum over some of the items, from id `offset` on, and the target's logit.

    The logit is 0 where the target is not among them.
    """
    count = -(-len(items) // block)
    # Padded with the last item, not with zeros: a cosine's gradient at zero is nan.
    padded = jnp.pad(items, ((0, count * block - len(items)), (0, 0)), mode="edge")
    end = jnp.minimum(offset + len(items), num_items)

    @jax.checkpoint
    def add_block(carry, inputs):
        total, own = carry
        table, first = inputs
        logits = score(queries, table)
        ids = first + jnp.arange(block)
        inside = ids < end
        logits = jnp.where(inside, logits, jnp.finfo(logits.dtype).min)
        hit = inside & (ids == targets[:, None])
        own = own + jnp.sum(jnp.where(hit, logits, 0.0), axis=-1)
        return (jnp.logaddexp(total, jax.nn.logsumexp(logits, axis=-1)), own), None

    start = jnp.full(len(queries), -jnp.inf, jnp.float32), jnp.zeros(len(queries), jnp.float32)
    blocks = padded.reshape(count, block, -1), offset + jnp.arange(count) * block
    (total, own), _ = jax.lax.scan(add_block, start, blocks)
    return total, own
