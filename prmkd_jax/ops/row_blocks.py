"""A sum over the rows of a batch, block by block, with its gradient made in the same pass.

The logits of all rows over a large catalogue don't fit a processor's cache: each operation on
them, forward and backward, then reads and writes main memory. A block's do.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import jax
import jax.numpy as jnp
from jaxtyping import Float, PyTree

from prmkd_jax.ops.arrays import Array

LARGE = 16 * 2**20
"""Bytes of a batch's logits up to which they stay in the cache of a server's processor anyway."""
CACHED = 8 * 2**20
"""Bytes of a block's logits."""
LEAST_ROWS = 32
"""Rows of a block at least: the gradient of all items is read and written once a block."""

_GAIN = ContextVar("gain", default=False)

Total = Callable[..., tuple[Array, PyTree]]
"""(queries [b, D], items, rows) → what is minimised, a scalar, and what else is summed."""


def rows_in_block(num_rows: int, num_items: int) -> int | None:
    """Rows of a block that divides the batch; None where blocks gain nothing.

    >>> rows_in_block(512, 4_386), rows_in_block(512, 12_000), rows_in_block(512, 1_000_000)
    (None, 128, 32)
    """
    if 4 * num_rows * num_items <= LARGE:
        return None
    most = max(LEAST_ROWS, CACHED // (4 * num_items))
    block = next(rows for rows in range(min(most, num_rows), 0, -1) if num_rows % rows == 0)
    return block if 2 * block > most and block < num_rows else None


@contextlib.contextmanager
def blocks_gain(gain: bool) -> Iterator[None]:
    """Says of what is traced meanwhile whether blocks of rows gain anything where it will run."""
    token = _GAIN.set(gain)
    try:
        yield
    finally:
        _GAIN.reset(token)


def blocks_of_rows(num_rows: int, num_items: int) -> int:
    """Blocks that the logits of so many rows are divided into, where rows can be added.

    1 where blocks gain nothing, as they do only inside `blocks_gain`.

    >>> blocks_of_rows(953, 12_000)
    1
    >>> with blocks_gain(True):
    ...     blocks_of_rows(512, 4_386), blocks_of_rows(953, 12_000)
    (1, 6)
    """
    if not _GAIN.get() or 4 * num_rows * num_items <= LARGE:
        return 1
    return -(-num_rows // max(LEAST_ROWS, CACHED // (4 * num_items)))


def sum_in_blocks(
    total: Total,
    queries: Float[Array, "B D"],
    items: PyTree,
    rows: PyTree,
    block: int,
) -> tuple[Float[Array, ""], PyTree]:
    """Sums `total` over blocks of rows.

    Its gradient is that of the sum, added up in the order of the blocks. None reaches `rows`, nor
    anything through what else is summed.

    Args:
        total: may read arrays from around it, a student's parameters, say; gradients reach them.
        queries: user vectors.
        items: the items' vectors, which each block reads all of.
        rows: a pytree with the leading axis B: targets, weights, a teacher's scores.
        block: rows of a block, which divides B.

    >>> total = lambda queries, items, rows: ((rows * (queries @ items.T)[:, 0]).sum(), rows.sum())
    >>> queries, items, rows = jnp.arange(4.0).reshape(4, 1), jnp.ones((1, 1)), jnp.ones(4)
    >>> value, count = sum_in_blocks(total, queries, items, rows, block=2)
    >>> float(value), float(count)
    (6.0, 4.0)
    """
    blocks = jax.tree.map(lambda leaf: leaf.reshape(-1, block, *leaf.shape[1:]), (queries, rows))
    first_queries, first_rows = jax.tree.map(lambda leaf: leaf[0], blocks)
    pure, around = jax.closure_convert(total, first_queries, items, first_rows)
    return _summed(pure, around, *blocks, items)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _summed(
    total: Total, around: list[Array], queries: Array, rows: PyTree, items: PyTree
) -> tuple[Array, PyTree]:
    def add(carry: PyTree, each: PyTree) -> tuple[PyTree, None]:
        found = total(each[0], items, each[1], *around)
        return jax.tree.map(jnp.add, carry, found), None

    first = (queries[0], jax.tree.map(lambda leaf: leaf[0], rows))
    zeros = _zeros(jax.eval_shape(lambda q, r: total(q, items, r, *around), *first))
    return jax.lax.scan(add, zeros, (queries, rows))[0]


def _forward(
    total: Total, around: list[Array], queries: Array, rows: PyTree, items: PyTree
) -> tuple[tuple[Array, PyTree], tuple[PyTree, Array]]:
    """The sums, and with them the gradients by `around` and `items`, and by the queries."""

    def value(shared: PyTree, queries: Array, rows: PyTree) -> tuple[Array, PyTree]:
        return total(queries, shared[1], rows, *shared[0])

    differentiate = jax.value_and_grad(value, argnums=(0, 1), has_aux=True)
    shared = (around, items)

    def add(carry: PyTree, each: PyTree) -> tuple[PyTree, Array]:
        sums, gradients = carry
        found, (of_shared, of_queries) = differentiate(shared, *each)
        added = jax.tree.map(jnp.add, (sums, gradients), (found, of_shared))
        return added, of_queries

    first = (queries[0], jax.tree.map(lambda leaf: leaf[0], rows))
    start = _zeros((jax.eval_shape(value, shared, *first), shared))
    (sums, of_shared), of_queries = jax.lax.scan(add, start, (queries, rows))
    return sums, (of_shared, of_queries)


def _backward(
    total: Total, gradients: PyTree, cotangent: PyTree
) -> tuple[PyTree, Array, None, PyTree]:
    scaled = jax.tree.map(lambda leaf: leaf * cotangent[0].astype(leaf.dtype), gradients)
    (of_around, of_items), of_queries = scaled
    return of_around, of_queries, None, of_items


_summed.defvjp(_forward, _backward)


def _zeros(shapes: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
