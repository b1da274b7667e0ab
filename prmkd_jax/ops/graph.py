"""Sums over a bipartite graph's edges."""

import dataclasses
import hashlib
from functools import cached_property
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Float32, Int32

from prmkd_jax.ops.arrays import Array

# Of 2, 4 and 8 the fastest on a CPU for Amazon Scientific: twice as fast as one edge at a time.
_TERMS = 8


class Parts(NamedTuple):
    """Weighted sums over a table's rows, one a row of another table, in parts of eight terms.

    Eight rows are read and added up in one pass that writes nothing but the part; only the parts
    are scattered.

    Attributes:
        given: the rows that a part adds up; 0 where it has fewer.
        weights: the weights of these rows; 0 where a part has fewer.
        to: the row that a part belongs to, ascending.
    """

    given: Int32[np.ndarray, "P terms"]
    weights: Float32[np.ndarray, "P terms"]
    to: Int32[np.ndarray, " P"]


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """The symmetrically normalised adjacency of users and items, D^-1/2 A D^-1/2.

    Its edges are kept in two orders, so that the sums on either side run over sorted segments.
    Graphs of equal content are equal: one may be a static argument of a compiled function.

    Attributes:
        num_users: rows of the users' table.
        num_items: rows of the items' table.
        by_user: every user's sum over its items.
        by_item: every item's sum over its users.
        item_weights: 1 / sqrt(degree) of every item, 0 for one without an edge.
    """

    num_users: int
    num_items: int
    by_user: Parts
    by_item: Parts
    item_weights: Float32[np.ndarray, " V"]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content, 64 hex digits; `by_item` holds the same edges again."""
        digest = hashlib.sha256(f"{self.num_users} {self.num_items}".encode())
        for array in self.by_user:
            digest.update(f"|{array.dtype} {array.shape}|".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graph) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def normalized_graph(num_users: int, num_items: int, edges: Int32[np.ndarray, "2 edges"]) -> Graph:
    """The graph of distinct (user, item) pairs; an edge weighs 1 / sqrt(degree · degree).

    >>> graph = normalized_graph(1, 4, np.array([[0, 0, 0, 0], [0, 1, 2, 3]], np.int32))
    >>> graph.by_user.weights.tolist()  # the user has four items, each of them one user
    [[0.5, 0.5, 0.5, 0.5, 0.0, 0.0, 0.0, 0.0]]
    """
    users, items = edges
    item_degrees = np.bincount(items, minlength=num_items)
    degrees = np.bincount(users, minlength=num_users)[users] * item_degrees[items]
    weights: Float32[np.ndarray, " edges"] = (degrees**-0.5).astype(np.float32)
    item_weights = np.where(item_degrees > 0, np.maximum(item_degrees, 1) ** -0.5, 0.0)
    first, second = np.lexsort((items, users)), np.lexsort((users, items))
    return Graph(
        num_users,
        num_items,
        _parts(users[first], items[first], weights[first]),
        _parts(items[second], users[second], weights[second]),
        item_weights.astype(np.float32),
    )


def _parts(
    to: Int32[np.ndarray, " E"], given: Int32[np.ndarray, " E"], weights: Float32[np.ndarray, " E"]
) -> Parts:
    """Divides sums, whose terms are sorted by `to`, into parts."""
    rows, first, counts = np.unique(to, return_index=True, return_counts=True)
    within = np.arange(len(to)) - np.repeat(first, counts)
    sizes = -(-counts // _TERMS)
    part = np.repeat(np.cumsum(sizes) - sizes, counts) + within // _TERMS
    shape = sizes.sum(), _TERMS
    parts = Parts(np.zeros(shape, np.int32), np.zeros(shape, np.float32), np.repeat(rows, sizes))
    parts.given[part, within % _TERMS] = given
    parts.weights[part, within % _TERMS] = weights
    return parts


def _to_users(items: Float[Array, "V D"], graph: Graph) -> Float[Array, "U D"]:
    """Every user's weighted sum over its items."""
    return _sum(items, graph.by_user, graph.num_users)


def _to_items(users: Float[Array, "U D"], graph: Graph) -> Float[Array, "V D"]:
    """Every item's weighted sum over its users."""
    return _sum(users, graph.by_item, graph.num_items)


# Called, not used as decorators through `partial`, which would hide their types.
to_users = jax.custom_vjp(_to_users, nondiff_argnums=(1,))
to_items = jax.custom_vjp(_to_items, nondiff_argnums=(1,))
# The operator is symmetric: the transpose of either is the other, sorted segments included.
to_users.defvjp(
    lambda items, graph: (to_users(items, graph), None),
    lambda graph, _, gradient: (to_items(gradient, graph),),
)
to_items.defvjp(
    lambda users, graph: (to_items(users, graph), None),
    lambda graph, _, gradient: (to_users(gradient, graph),),
)


def _sum(table: Float[Array, "N D"], parts: Parts, rows: int) -> Float[Array, "rows D"]:
    # The weights make the products float32; the sums have the table's dtype again, since a
    # derivative must have that of what it is taken by.
    columns = zip(parts.given.T, parts.weights.T, strict=True)
    total = sum(table[given] * weights[:, None] for given, weights in columns)
    summed = jax.ops.segment_sum(total, parts.to, rows, indices_are_sorted=True)
    return summed.astype(table.dtype)
