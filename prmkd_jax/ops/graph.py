"""Sums over a bipartite graph's edges."""

import dataclasses
import hashlib
from functools import cached_property

import jax
import numpy as np
from jaxtyping import Float, Float32, Int32

from prmkd_jax.ops.arrays import Array


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """The symmetrically normalised adjacency of users and items, D^-1/2 A D^-1/2.

    Its edges are kept in two orders, so that the sums on either side run over sorted segments.
    Graphs of equal content are equal: one may be a static argument of a compiled function.

    Attributes:
        num_users: rows of the users' table.
        num_items: rows of the items' table.
        by_user: (users, items, weights) of the edges, sorted by user.
        by_item: (items, users, weights) of the edges, sorted by item.
        item_weights: 1 / sqrt(degree) of every item, 0 for one without an edge.
    """

    num_users: int
    num_items: int
    by_user: tuple[Int32[np.ndarray, " E"], Int32[np.ndarray, " E"], Float32[np.ndarray, " E"]]
    by_item: tuple[Int32[np.ndarray, " E"], Int32[np.ndarray, " E"], Float32[np.ndarray, " E"]]
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
    >>> graph.by_user[2].tolist()  # the user has four items, each of them one user
    [0.5, 0.5, 0.5, 0.5]
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
        (users[first], items[first], weights[first]),
        (items[second], users[second], weights[second]),
        item_weights.astype(np.float32),
    )


def _propagate(
    users: Float[Array, "U D"], items: Float[Array, "V D"], graph: Graph
) -> tuple[Float[Array, "U D"], Float[Array, "V D"]]:
    """One step over the graph: each side becomes the weighted sum of its neighbours."""
    return (
        _sum(items, *graph.by_user, rows=graph.num_users),
        _sum(users, *graph.by_item, rows=graph.num_items),
    )


# Called, not used as a decorator through `partial`, which would hide its type.
propagate = jax.custom_vjp(_propagate, nondiff_argnums=(2,))


def _sum(table, to, given, weights, *, rows):
    # The weights make the products float32; the sums have the table's dtype again, since a
    # derivative must have that of what it is taken by.
    gathered = table[given] * weights[:, None]
    summed = jax.ops.segment_sum(gathered, to, rows, indices_are_sorted=True)
    return summed.astype(table.dtype)


def _forward(users, items, graph):
    return propagate(users, items, graph), None


def _backward(graph, _, gradients):
    # The operator is symmetric, so it is its own transpose, sorted segments included.
    return propagate(*gradients, graph)


propagate.defvjp(_forward, _backward)
