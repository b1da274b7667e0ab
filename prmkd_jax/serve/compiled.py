"""The programs that a `Recommender` compiles; what is static in them is hashed once."""

import functools

import jax
from flax import nnx
from jaxtyping import Float, Int

from prmkd_jax.data.packing import PackedRows
from prmkd_jax.ops.arrays import Array
from prmkd_jax.ops.ranking import item_ranks
from prmkd_jax.ops.top_k import TopK, top_k
from prmkd_jax.students.layers import dot
from prmkd_jax.students.student import Params


class Structure:
    """A student's structure that is hashed once, not at each call: that takes longer than a score.

    Args:
        graphdef: the structure.
    """

    def __init__(self, graphdef: nnx.GraphDef):
        self.graphdef = graphdef
        self._hash = hash(graphdef)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Structure)
            and self._hash == other._hash
            and self.graphdef == other.graphdef
        )


# The structure is static: a newer model of the same sizes shares the compiled code.
@functools.partial(jax.jit, static_argnums=0)
def encode_rows(
    graphdef: Structure, params: Params, rows: PackedRows, slots: Int[Array, " B"]
) -> Float[Array, "B D"]:
    """User vectors at some slots of packed rows."""
    return nnx.merge(graphdef.graphdef, nnx.State(params)).queries(rows)[slots]


@functools.partial(jax.jit, static_argnums=(0, 4))
def best_items(
    graphdef: Structure,
    params: Params,
    queries: Array,
    items: Array,
    k: int,
    excluded: Array,
    included: Array | None,
    valid: Array,
) -> TopK:
    """The best items of each query; see `ops.top_k`."""
    student = nnx.merge(graphdef.graphdef, nnx.State(params))
    return top_k(
        student.score, queries, items, k, excluded=excluded, included=included, valid=valid
    )


@functools.partial(jax.jit, static_argnums=0)
def ranks_of(
    graphdef: Structure,
    params: Params,
    queries: Array,
    items: Array,
    wanted: Array,
    excluded: Array,
) -> Float[Array, "B W"]:
    """The ranks of some items for each query; see `ops.ranking.item_ranks`."""
    student = nnx.merge(graphdef.graphdef, nnx.State(params))
    return item_ranks(student.score, queries, items, wanted, excluded)


@functools.partial(jax.jit, static_argnums=2)
def similar_items(directions: Array, row: Array, k: int) -> TopK:
    """The rows with the largest cosine with a row of unit vectors, itself left out."""
    return top_k(dot, directions[row][None], directions, k, excluded=row[None, None])
