"""The programs that a `Recommender` compiles, and how long they are kept."""

import functools
from collections.abc import Callable

import jax
from flax import nnx
from jaxtyping import Float, Int

from prmkd_jax.data.packing import PackedRows
from prmkd_jax.ops.arrays import Array
from prmkd_jax.ops.ranking import item_ranks
from prmkd_jax.ops.top_k import TopK, top_k
from prmkd_jax.students.layers import dot
from prmkd_jax.students.student import Params, Student

Shapes = tuple[jax.ShapeDtypeStruct, ...]


class Programs:
    """What is compiled for one structure and one size of its tables.

    What `jax.jit` has compiled lives as long as the function that it was made of. Functions of a
    module would keep the programs of every catalogue's size that a service has ever served.

    Args:
        graphdef: the student's structure.
    """

    def __init__(self, graphdef: nnx.GraphDef):
        def student(params: Params) -> Student:
            return nnx.merge(graphdef, nnx.State(params))

        def encode_rows(
            params: Params, rows: PackedRows, slots: Int[Array, " B"]
        ) -> Float[Array, "B D"]:
            return student(params).queries(rows)[slots]

        def best_items(
            params: Params,
            queries: Array,
            items: Array,
            k: int,
            excluded: Array,
            included: Array | None,
            valid: Array,
        ) -> TopK:
            score = student(params).score
            return top_k(
                score, queries, items, k, excluded=excluded, included=included, valid=valid
            )

        def ranks_of(
            params: Params, queries: Array, items: Array, wanted: Array, excluded: Array
        ) -> Float[Array, "B W"]:
            return item_ranks(student(params).score, queries, items, wanted, excluded)

        def similar_items(directions: Array, row: Array, k: int) -> TopK:
            return top_k(dot, directions[row][None], directions, k, excluded=row[None, None])

        self.encode_rows: Callable[..., Array] = jax.jit(encode_rows)
        """User vectors at some slots of packed rows."""
        self.best_items: Callable[..., TopK] = jax.jit(best_items, static_argnames="k")
        """The best items of each query; see `ops.top_k`."""
        self.ranks_of: Callable[..., Array] = jax.jit(ranks_of)
        """The ranks of some items for each query; see `ops.ranking.item_ranks`."""
        self.similar_items: Callable[..., TopK] = jax.jit(similar_items, static_argnames="k")
        """The rows with the largest cosine with a row of unit vectors, itself left out."""


def programs_for(graphdef: nnx.GraphDef, params: Params, items: Array) -> Programs:
    """The programs of a student: those of the model before, where its sizes are the same.

    Args:
        graphdef: the student's structure.
        params: the student's parameters.
        items: the items' vectors.
    """
    leaves = jax.tree.leaves((params, items))
    return _kept(graphdef, tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves))


# Two models and the plain students beside them.
@functools.lru_cache(maxsize=4)
def _kept(graphdef: nnx.GraphDef, shapes: Shapes) -> Programs:
    return Programs(graphdef)
