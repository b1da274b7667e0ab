"""Sums over a bipartite graph's edges."""

import dataclasses
import hashlib

import jax
import numpy as np
from jaxtyping import Float, Float32, Int32

from prmkd_jax.ops.arrays import Array


# Compared by content: a static argument that holds arrays, equal for all seeds of a study.
@dataclasses.dataclass(frozen=True)
class Graph:
    """The symmetrically normalised adjacency of users and items, D^-1/2 A D^-1/2.

    Its edges stand in two orders, so that the sums on either side run over sorted segments.

    Attributes:
        num_users: rows of the users' table.
        num_items: rows of the items' table.
        by_user: (users, items, weights) of the edges, sorted by user.
        by_item: (items, users, weights) of the edges, sorted by item.
        digest: SHA-256 of the edges, 64 hex digits.
    """

    num_users: int
    num_items: int
    by_user: tuple[np.ndarray, np.ndarray, np.ndarray] = dataclasses.field(compare=False)
    by_item: tuple[np.ndarray, np.ndarray, np.ndarray] = dataclasses.field(compare=False)
    digest: str


def normalized_graph(num_users: int, num_items: int, edges: Int32[np.ndarray, "2 edges"]) -> Graph:
    """The graph of distinct (user, item) pairs; an edge weighs 1 / sqrt(degree · degree)."""
    users, items = edges
    degrees = (
        np.bincount(users, minlength=num_users)[users]
        * np.bincount(items, minlength=num_items)[items]
    )
    weights: Float32[np.ndarray, " edges"] = (degrees**-0.5).astype(np.float32)
    first, second = np.lexsort((items, users)), np.lexsort((users, items))
    return Graph(
        num_users,
        num_items,
        (users[first], items[first], weights[first]),
        (items[second], users[second], weights[second]),
        hashlib.sha256(np.stack([users[first], items[first]]).tobytes()).hexdigest(),
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
    gathered = table[given] * weights[:, None]
    return jax.ops.segment_sum(gathered, to, rows, indices_are_sorted=True)


def _forward(users, items, graph):
    return propagate(users, items, graph), None


def _backward(graph, _, gradients):
    # The operator is symmetric, so it is its own transpose, sorted segments included.
    return propagate(*gradients, graph)


propagate.defvjp(_forward, _backward)
