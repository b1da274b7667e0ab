"""Ranks of all users' targets under a student: all items, no sampling."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Float32, Float64, Int32, Int64

from prmkd_jax.common.ragged import places_within
from prmkd_jax.data.dataset import Dataset, Interactions
from prmkd_jax.data.packing import (
    PackedRows,
    history_segments,
    instance_segments,
    pack,
    row_length,
)
from prmkd_jax.ops.arrays import Array
from prmkd_jax.ops.ranking import Ranks, rank_targets
from prmkd_jax.ops.shards import in_parts, in_turn, on_each_device, scores_of, shards
from prmkd_jax.ops.top_k import top_k_of_scores
from prmkd_jax.students.student import HashedStructure, Student
from prmkd_jax.students.tables import ONE_DEVICE, Divided, trim_tables

# Scores held at once, as a number: 256 MiB in float32 whatever the catalogue's size.
MOST_SCORES = 2**26
# Fewest pairs of a block, so that small blocks share one shape.
FEWEST_PAIRS = 1024
LISTED = 10
"""Items of a list whose coverage, novelty and so on are measured."""


class UserRanks(NamedTuple):
    """Expected 0-based ranks, one an instance, in the order of the instance ids given.

    Attributes:
        all_items: primary protocol: history not masked.
        unseen_items: history masked; infinite where the target is in the history.
    """

    all_items: Float64[np.ndarray, " instances"]
    unseen_items: Float64[np.ndarray, " instances"]


class BestItems(NamedTuple):
    """The best items of every instance, history not masked.

    Attributes:
        items: item ids, best first; of equal scores the lower id comes first.
        confidence: the items' share of the softmax over all items.
    """

    items: Int32[np.ndarray, "instances k"]
    confidence: Float64[np.ndarray, " instances"]


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
        divided: the tables that devices share; scores stay where their items are, and only ranks
            cross.
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
        divided: Divided = ONE_DEVICE,
    ):
        interactions = dataset.interactions
        self._count = len(instance_ids)
        self._num_items = dataset.num_items
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
        self._targets = np.pad(interactions.items[instance_ids], (0, self._padded - self._count))
        self._seen = seen_items(interactions, instance_ids)
        # Twice the mean: nearly all blocks have this shape, and so share compiled code.
        mean = len(self._seen.items) * self._block / max(self._count, 1)
        self._pairs = _power_of_two(max(FEWEST_PAIRS, int(2 * mean)))
        self._structure = HashedStructure(graphdef)
        # Where nothing is divided, all share one compiled program.
        self._divided = divided if divided.tables else ONE_DEVICE

    def __call__(self, params: dict) -> UserRanks:
        """Ranks every instance.

        Raises:
            FloatingPointError: if a score is nan or infinite; such a row has no rank.
        """
        return self.with_best(params, 0)[0]

    def with_best(self, params: dict, k: int) -> tuple[UserRanks, BestItems]:
        """Ranks every instance and finds its k best items, fewer where there are fewer items.

        Raises:
            FloatingPointError: as `__call__`.
        """
        params = self._divided.place(params)
        queries = self.queries(params)
        items = in_turn(_items(self._structure, self._divided, params))
        parts = []
        for first in range(0, self._padded, self._block):
            block = slice(first, first + self._block)
            seen = self._seen.pairs(first, min(block.stop, self._count), self._pairs)
            ranks, best = _rank(
                self._structure,
                self._divided,
                self._num_items,
                min(k, self._num_items),
                params,
                in_turn(queries[block]),
                items,
                self._targets[block],
                seen,
            )
            parts.append(in_turn((*ranks, *best)))
        all_items, unseen_items, finite, found, confidence = (
            np.concatenate(part)[: self._count] for part in zip(*parts, strict=True)
        )
        if not finite.all():
            raise FloatingPointError(
                f"{np.sum(~finite)} of {self._count} users have a score that is not finite, "
                "which has no rank"
            )
        ranks = UserRanks(all_items.astype(float), unseen_items.astype(float))
        return ranks, BestItems(found, confidence.astype(float))

    def queries(self, params: dict) -> Float[Array, "padded D"]:
        """The instances' user vectors, padded with zeros to whole blocks."""
        params = self._divided.place(params)
        out = jnp.zeros((self._padded, 0))
        for rows, places in self._batches:
            encoded = in_turn(_encode(self._structure, self._divided, params, rows))
            if not out.size:  # the width is known from the first batch on
                empty = jnp.zeros((self._padded, encoded.shape[-1]), encoded.dtype)
                out = self._divided.place(empty)
            out = in_turn(_scatter(out, encoded, places))
        return out


def prefix_queries(
    graphdef: nnx.GraphDef,
    params: dict,
    interactions: Interactions,
    window: int,
    slots: int,
    *,
    own_slot: bool = False,
    alone: bool = False,
) -> Float32[np.ndarray, "interactions Q"]:
    """The user vectors of all prefixes, those that `Evaluator` ranks with.

    Args:
        graphdef: the student's structure.
        params: the student's parameters.
        interactions: the histories; users in the student's order where it has vectors of them.
        window: longest prefix that the student reads.
        slots: token slots encoded at once, at least one longest prefix.
        own_slot: whether the student appends a token of its own to every prefix.
        alone: whether each prefix is encoded by itself, as with a token of its own; otherwise all
            of a history together, as in training.

    Returns:
        Each prefix's vector at the CSR offset of its target; zeros at users' first items, which
        have no prefix.
    """
    if own_slot or alone:
        ids = np.setdiff1d(np.arange(len(interactions.items)), interactions.indptr[:-1])
        segments = instance_segments(interactions, ids, window, own_slot=own_slot)
    else:
        segments = history_segments(interactions, interactions.indptr[1:], window)
    length = row_length(slots, window + own_slot)
    structure = HashedStructure(graphdef)
    out = np.zeros((len(interactions.items), 0), np.float32)
    for rows in pack(interactions, segments, slots // length, length):
        encoded = np.asarray(_encode(structure, ONE_DEVICE, params, rows), np.float32)
        if not out.size:  # the width is known from the first batch on
            out = np.zeros((len(out), encoded.shape[1]), np.float32)
        ids = rows.instance_ids.reshape(-1)
        out[ids[ids >= 0]] = encoded[ids >= 0]
    return out


class SeenItems(NamedTuple):
    """Distinct items of some histories, one after the other: a long one costs nobody else.

    Attributes:
        offsets: history h is `items[offsets[h]:offsets[h + 1]]`.
        items: item ids, ascending in each history.
    """

    offsets: Int64[np.ndarray, " histories_plus_1"]
    items: Int32[np.ndarray, " distinct"]

    def pairs(self, first: int, stop: int, fewest: int) -> Int32[np.ndarray, "2 pairs"]:
        """(row, item) of some histories, rows counted from `first`, padded with row −1.

        Args:
            first: first history.
            stop: number of the history after the last one.
            fewest: pairs, with padding; where there are more, a power of two.
        """
        begin, end = self.offsets[first], self.offsets[stop]
        size = fewest if end - begin <= fewest else _power_of_two(int(end - begin))
        out = np.full((2, size), -1, dtype=np.int32)
        counts = np.diff(self.offsets[first : stop + 1])
        out[0, : end - begin] = np.repeat(np.arange(stop - first), counts)
        out[1, : end - begin] = self.items[begin:end]
        return out


def seen_items(
    interactions: Interactions, instance_ids: Int64[np.ndarray, " instances"]
) -> SeenItems:
    """The distinct items before each instance.

    >>> histories = Interactions(np.array([0, 4]), np.array([5, 2, 5, 7], np.int32))
    >>> found = seen_items(histories, np.array([1, 3]))
    >>> found.offsets.tolist(), found.items.tolist()
    ([0, 1, 3], [5, 2, 5])
    """
    start = interactions.indptr[interactions.users[instance_ids]]
    counts = instance_ids - start
    items = interactions.items[np.repeat(start, counts) + places_within(counts)]
    width = int(items.max(initial=0)) + 1
    # One number a pair: sorting these is quick, and sorts by history, then by item.
    keys = np.unique(np.repeat(np.arange(len(counts)), counts) * width + items)
    offsets = np.searchsorted(keys, np.arange(len(counts) + 1) * width)
    return SeenItems(offsets, (keys % width).astype(np.int32))


# The structure is static: students that differ in their parameters alone share the compiled code.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _encode(structure: HashedStructure, divided: Divided, params: dict, rows: PackedRows) -> Array:
    with divided.tracing():
        return _merged(structure, divided, params).queries(rows)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _items(structure: HashedStructure, divided: Divided, params: dict) -> Array:
    """The items' vectors; where devices share them, filled up to equal parts as the tables are."""
    with divided.tracing():
        items = _merged(structure, divided, params).items()
        count = shards()
        return items if count == 1 else in_parts(items, count)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _rank(
    structure: HashedStructure,
    divided: Divided,
    num_items: int,
    k: int,
    params: dict,
    queries: Array,
    items: Array,
    targets: Array,
    seen: Array,
) -> tuple[Ranks, tuple[Array, Array]]:
    """The ranks of a block, its k best items and their share of the softmax."""
    with divided.tracing():
        student = _merged(structure, divided, params)
        scores = scores_of(student.score, queries, items, num_items)
        best, found = top_k_of_scores(scores, k)
        share = _share(best.astype(jnp.float32), scores.astype(jnp.float32))
        return on_each_device((rank_targets(scores, targets, seen), (found, share)))


def _share(best: Float[Array, "B k"], scores: Float[Array, "B V"]) -> Float[Array, " B"]:
    """The softmax of all scores summed over the best.

    The highest is taken off both sums: the difference of two large logarithms has few digits.
    """
    top = scores.max(axis=-1, keepdims=True)
    return jnp.exp(best - top).sum(-1) / jnp.exp(scores - top).sum(-1)


def _merged(structure: HashedStructure, divided: Divided, params: dict) -> Student:
    return structure.student(trim_tables(params, divided.tables))


@functools.partial(jax.jit, donate_argnums=0)
def _scatter(out: Array, encoded: Array, places: Array) -> Array:
    return out.at[places].set(encoded, mode="drop")


def _power_of_two(number: int) -> int:
    """The least power of two that is not below."""
    return 1 << (number - 1).bit_length()
