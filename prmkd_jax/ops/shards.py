"""Tables whose rows lie on several devices, inside a jitted function.

The mesh that is set while a function is traced says over how many devices: those of its axis
`model`. What works on rows is then mapped over as many contiguous parts, so that a loop over blocks
of rows runs on each device over its own, and only the results cross.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding
from jaxtyping import Float

from prmkd_jax.ops.arrays import Array

DATA, MODEL = "data", "model"
"""The mesh's axes: batches are divided over the first, rows of tables over the second."""
ROWS = PartitionSpec(MODEL)

T = TypeVar("T")
TreeT = TypeVar("TreeT")


def shards() -> int:
    """Devices that share a table's rows in the function that is being traced; 1 without a mesh."""
    return dict(jax.sharding.get_abstract_mesh().shape).get(MODEL, 1)


def place(tree: TreeT, shardings: object) -> TreeT:
    """Puts arrays on devices; of those of several processes each fills its own.

    Args:
        tree: a pytree of arrays, the same in every process.
        shardings: a sharding for each array, or for a part of the tree.
    """
    if all(each.is_fully_addressable for each in jax.tree.leaves(shardings)):
        return jax.device_put(tree, shardings)

    def put(sharding: Sharding, part: object) -> object:
        return jax.tree.map(lambda array: _own_share(sharding, array), part)

    return jax.tree.map(put, shardings, tree)


def whole(tree: TreeT) -> TreeT:
    """Complete arrays in the host's memory; of those of several processes, in each one's."""
    return jax.tree.map(_complete, tree)


def here(tree: TreeT) -> TreeT:
    """Arrays of which every device has all: this process's own ones, that need no other process."""

    def own(array: Array) -> Array:
        shared = isinstance(array, jax.Array) and not array.is_fully_addressable
        return array.addressable_data(0) if shared else array

    return tree if jax.process_count() == 1 else jax.tree.map(own, tree)


def in_turn(tree: TreeT) -> TreeT:
    """Waits for results that CPUs of several processes made together.

    Two programs at a time would take each other's messages there, or wait for each other for ever;
    GPUs and TPUs keep them in order.
    """
    if jax.process_count() > 1 and jax.default_backend() == "cpu":
        jax.block_until_ready(tree)
    return tree


def on_each_device(tree: TreeT) -> TreeT:
    """Has every device hold these results, so that any process can read them."""
    return jax.lax.with_sharding_constraint(tree, PartitionSpec()) if shards() > 1 else tree


def _own_share(sharding: Sharding, array: Array) -> Array:
    shared = isinstance(array, jax.Array) and not array.is_fully_addressable
    if shared and array.sharding.is_equivalent_to(sharding, array.ndim):
        return array
    host = _complete(array)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def _complete(array: Array) -> np.ndarray:
    if isinstance(array, jax.Array) and not (
        array.is_fully_addressable or array.is_fully_replicated
    ):
        # Not `process_allgather`, which waits for one device's result and not for all of them.
        assert isinstance(array.sharding, NamedSharding)
        everywhere = NamedSharding(array.sharding.mesh, PartitionSpec())
        array = in_turn(jax.jit(_same, out_shardings=everywhere)(array))
    return np.asarray(array)


def _same(array: Array) -> Array:
    return array


def padded_rows(rows: int, count: int) -> int:
    """The least multiple of `count` that is no smaller.

    >>> padded_rows(10, 4), padded_rows(8, 4)
    (12, 8)
    """
    return -(-rows // count) * count


def in_parts(table: Float[Array, "V ..."], count: int) -> Float[Array, "parts rows ..."]:
    """The table as `count` parts of equal size, one a device; the last row fills up the last.

    >>> in_parts(jnp.arange(5.0), 2).tolist()
    [[0.0, 1.0, 2.0], [3.0, 4.0, 4.0]]
    """
    rows = padded_rows(len(table), count)
    padded = jnp.pad(table, ((0, rows - len(table)), *((0, 0),) * (table.ndim - 1)))
    if rows > len(table):
        real = jnp.arange(rows) < len(table)
        # Not left at zero: a cosine has no gradient there. And not by jnp.pad's "edge", for which
        # devices send each other their rows.
        padded = jnp.where(real.reshape(-1, *[1] * (table.ndim - 1)), padded, table[-1])
    return on_devices(padded.reshape(count, -1, *table.shape[1:]))


def on_devices(parts: Float[Array, "parts ..."]) -> Float[Array, "parts ..."]:
    """Lays as many parts as there are devices on one each."""
    if len(parts) == shards() > 1:
        return jax.lax.with_sharding_constraint(parts, ROWS)
    return parts


def over_parts(function: Callable[..., T], *parts: Array) -> T:
    """Maps over the parts of tables, each on its device.

    Args:
        function: computes a result from one part of each table.
        parts: made by `in_parts`, or one number a part.
    """
    axis = MODEL if shards() > 1 else None
    return jax.vmap(function, spmd_axis_name=axis)(*parts)


def scores_of(
    score: Callable[[Array, Array], Array],
    queries: Float[Array, "B Q"],
    items: Float[Array, "V E"] | Float[Array, "parts rows E"],
    num_items: int,
) -> Float[Array, "B V"]:
    """The score of every query with every item, the columns on the devices that have the items.

    Args:
        score: scores [B, C] of all queries with some items' vectors.
        queries: user vectors.
        items: item vectors, row = item id, or what `in_parts` has made of them.
        num_items: V.
    """
    if items.ndim == 2:
        if shards() == 1:
            return score(queries, items)
        items = in_parts(items, shards())
    scores = over_parts(lambda part: score(queries, part), items)
    return scores.swapaxes(0, 1).reshape(queries.shape[0], -1)[:, :num_items]
