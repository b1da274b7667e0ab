"""Vectors of some items, found by the ids of all."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from prmkd_jax.ops.arrays import Array


@dataclasses.dataclass(frozen=True)
class ItemRows:
    """Vectors of some items, which stand for the table of all.

    Attributes:
        vectors: the items' vectors.
        ids: the item ids of these rows, ascending; beyond the last item at padding.
        num_items: number of all items.

    >>> rows = ItemRows(jnp.array([[0.1], [0.7]]), jnp.array([1, 7]), num_items=9)
    >>> rows[jnp.array([7, 7, 1])].ravel().tolist() == jnp.array([0.7, 0.7, 0.1]).tolist()
    True
    """

    vectors: Float[Array, "M E"]
    ids: Int[Array, " M"]
    num_items: int

    def __getitem__(self, items: Int[Array, "..."]) -> Float[Array, "... E"]:
        """Vectors of items, all of which must be among `ids`."""
        return self.vectors[rows_of(self, items)]


@dataclasses.dataclass(frozen=True)
class MadeRows:
    """Vectors of items that are made when they are asked for.

    Attributes:
        make: computes the vectors of the given item ids.
        num_items: number of all items.
    """

    make: Callable[[Int[Array, " C"]], Float[Array, "C E"]]
    num_items: int

    def __getitem__(self, items: Int[Array, " C"]) -> Float[Array, "C E"]:
        """Vectors of items."""
        return self.make(items)


Items = Float[Array, "V E"] | ItemRows | MadeRows
"""Vectors of all items, or of some, all found by item id."""


def places(
    ids: Int[Array, " M"], items: Int[Array, "..."] | Int[np.ndarray, "..."]
) -> Int[Array, "..."]:
    """Where items stand among ascending ids."""
    return jnp.searchsorted(ids, jnp.asarray(items)).astype(jnp.int32)


def rows_of(vectors: Items, items: Int[Array, "..."]) -> Int[Array, "..."]:
    """Where items stand in tables that have the same rows as `vectors`."""
    return places(vectors.ids, items) if isinstance(vectors, ItemRows) else items


def count(items: Items) -> int:
    """The number of all items."""
    return items.num_items if isinstance(items, ItemRows | MadeRows) else len(items)
