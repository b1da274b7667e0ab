"""Ranks of all users' targets under a student: all items, no sampling."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Float64, Int32, Int64

from prmkd_jax.data.dataset import Dataset, Interactions
from prmkd_jax.data.packing import PackedRows, instance_segments, pack, row_length
from prmkd_jax.ops.arrays import Array
from prmkd_jax.ops.ranking import Ranks, rank_targets

# Scores held at once, as a number: 256 MiB in float32 whatever the catalogue's size.
MOST_SCORES = 2**26


class UserRanks(NamedTuple):
    """Expected 0-based ranks, one an instance, in the order of the instance ids given.

    Attributes:
        all_items: primary protocol: history not masked.
        unseen_items: history masked; infinite where the target is in the history.
    """

    all_items: Float64[np.ndarray, " instances"]
    unseen_items: Float64[np.ndarray, " instances"]


class Evaluator:
    """Ranks a fixed list of instances; packs them once and compiles once.

    Args:
        graphdef: the student's structure.
        dataset: histories and the number of items.
        instance_ids: CSR offsets of the targets; a prefix is everything before its target.
        window: longest prefix that the student reads.
        batch_size: token slots encoded at once.
        eval_batch_size: users ranked at once, fewer where the catalogue is large.
        own_slot: whether the student appends a token of its own to every prefix.
    """

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        dataset: Dataset,
        instance_ids: Int64[np.ndarray, " instances"],
        window: int,
        batch_size: int,
        eval_batch_size: int,
        *,
        own_slot: bool = False,
    ):
        interactions = dataset.interactions
        self._count = len(instance_ids)
        self._block = max(1, min(eval_batch_size, MOST_SCORES // dataset.num_items))
        self._padded = -(-self._count // self._block) * self._block
        length = row_length(batch_size, window + own_slot)
        segments = instance_segments(interactions, instance_ids, window, own_slot=own_slot)
        # The row of each instance's query; past the end, so dropped, for all other slots.
        place = np.full(len(interactions.items) + 1, self._padded, dtype=np.int32)
        place[instance_ids] = np.arange(self._count)
        self._batches = [
            (rows, place[rows.instance_ids.reshape(-1)])
            for rows in pack(interactions, segments, batch_size // length, length)
        ]
        self._targets = _pad(interactions.items[instance_ids], self._padded, 0)
        self._history = _pad(distinct_histories(interactions, instance_ids), self._padded, -1)

        self._graphdef = graphdef

    def __call__(self, params: dict) -> UserRanks:
        """Ranks every instance.

        Raises:
            FloatingPointError: if a score is nan or infinite; such a row has no rank.
        """
        queries = self.queries(params)
        items = _items(self._graphdef, params)
        parts = []
        for first in range(0, self._padded, self._block):
            block = slice(first, first + self._block)
            parts.append(
                _rank(
                    self._graphdef,
                    params,
                    queries[block],
                    items,
                    self._targets[block],
                    self._history[block],
                )
            )
        all_items, unseen_items, finite = (
            np.concatenate(part)[: self._count] for part in zip(*parts, strict=True)
        )
        if not finite.all():
            raise FloatingPointError(
                f"{np.sum(~finite)} of {self._count} users have a score that is not finite, "
                "which has no rank"
            )
        return UserRanks(all_items.astype(float), unseen_items.astype(float))

    def queries(self, params: dict) -> Float[Array, "padded D"]:
        """The instances' user vectors, padded with zeros to whole blocks."""
        out = jnp.zeros((self._padded, 0))
        for rows, places in self._batches:
            encoded = _encode(self._graphdef, params, rows)
            if not out.size:  # the width is known from the first batch on
                out = jnp.zeros((self._padded, encoded.shape[-1]), encoded.dtype)
            out = _scatter(out, encoded, places)
        return out


def distinct_histories(
    interactions: Interactions, instance_ids: Int64[np.ndarray, " instances"]
) -> Int32[np.ndarray, "instances most_items"]:
    """The distinct items before each instance, padded with −1 to the longest.

    >>> histories = Interactions(np.array([0, 4]), np.array([5, 2, 5, 7], np.int32))
    >>> distinct_histories(histories, np.array([1, 3])).tolist()
    [[5, -1], [2, 5]]
    """
    start = interactions.indptr[interactions.users[instance_ids]]
    histories = [
        np.unique(interactions.items[first:end])
        for first, end in zip(start, instance_ids, strict=True)
    ]
    out = np.full((len(histories), max(map(len, histories), default=0)), -1, dtype=np.int32)
    for row, history in zip(out, histories, strict=True):
        row[: len(history)] = history
    return out


# The structure is static: students that differ in their parameters alone share the compiled code.
@functools.partial(jax.jit, static_argnums=0)
def _encode(graphdef: nnx.GraphDef, params: dict, rows: PackedRows) -> Array:
    return nnx.merge(graphdef, nnx.State(params)).queries(rows)


@functools.partial(jax.jit, static_argnums=0)
def _items(graphdef: nnx.GraphDef, params: dict) -> Array:
    return nnx.merge(graphdef, nnx.State(params)).items()


@functools.partial(jax.jit, static_argnums=0)
def _rank(
    graphdef: nnx.GraphDef,
    params: dict,
    queries: Array,
    items: Array,
    targets: Array,
    history: Array,
) -> Ranks:
    student = nnx.merge(graphdef, nnx.State(params))
    return rank_targets(student.score(queries, items), targets, history)


@functools.partial(jax.jit, donate_argnums=0)
def _scatter(out: Array, encoded: Array, places: Array) -> Array:
    return out.at[places].set(encoded, mode="drop")


def _pad(array: np.ndarray, rows: int, fill: int) -> np.ndarray:
    out = np.full((rows, *array.shape[1:]), fill, dtype=np.int32)
    out[: len(array)] = array
    return out
