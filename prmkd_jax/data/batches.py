"""A seeded stream of training batches, and the in-batch columns of the distillation."""

import dataclasses
import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64

from prmkd_jax.data.dataset import Dataset, Interactions
from prmkd_jax.data.packing import (
    PackedRows,
    Segments,
    history_segments,
    instance_segments,
    pack,
    row_length,
)
from prmkd_jax.data.splits import Split


class Batch(NamedTuple):
    """Token slots in packed rows, and B instances that are asked there.

    Attributes:
        rows: what a model reads, R × L slots.
        instance_ids: the instances; 0 where there is none.
        targets: their target items; 0 where there is none.
        real: where an instance is asked; everything else is masked everywhere.
        slots: where each is asked, as a number in the flattened rows; None where every slot
            asks, B = R × L.
    """

    rows: PackedRows
    instance_ids: Int32[np.ndarray, " B"]
    targets: Int32[np.ndarray, " B"]
    real: Bool[np.ndarray, " B"]
    slots: Int32[np.ndarray, " B"] | None = None

    def asked(self, values: Any) -> Any:
        """What stands at the asked slots [B, …] of an array over all slots [R × L, …]."""
        return values if self.slots is None else values[self.slots]


class Columns(NamedTuple):
    """The items that the distillation scores, and for whom.

    Attributes:
        candidates: item ids; of the batch's targets C = B, padded with item 0, of the whole
            catalogue C = V.
        target_columns: column of each row's own target.
        valid: columns of each row that count: real candidates, without the other items of
            the user's training history if so asked; the own target always counts.
    """

    candidates: Int32[np.ndarray, " C"]
    target_columns: Int32[np.ndarray, " B"]
    valid: Bool[np.ndarray, "B C"]


@dataclasses.dataclass(frozen=True)
class TrainingBatches:
    """All training instances of a split, shuffled anew each epoch.

    The batches of epoch e depend on (seed, e) alone, so a resumed run sees what an
    uninterrupted one would.

    Attributes:
        interactions: the histories.
        split: whose training part it is.
        max_seq_len: longest prefix that a model sees.
        batch_size: B, the instances of a batch.
        seed: of the order.
        one_by_one: a segment for each instance and a slot for a token of the model's own behind
            it, for models that see prefixes whole; else a history's instances share a segment.
    """

    interactions: Interactions
    split: Split
    max_seq_len: int
    batch_size: int
    seed: int
    one_by_one: bool = False

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch; the last one is padded."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self._segments))
        segments, most = self._segments[order], self.batch_size
        for packed in pack(self.interactions, segments, self.rows, self._length, most):
            yield as_batch(self.interactions, packed, None if self.dense else most)

    @cached_property
    def dense(self) -> bool:
        """Whether a third of the slots ask, or more, so that a batch is simply B slots.

        They don't where each instance has a segment, nor in histories much longer than
        `max_seq_len`, most of whose instances have a window of their own.
        """
        return not self.one_by_one and self._slots_an_instance <= 3

    @property
    def rows(self) -> int:
        """Packed rows of a batch: B slots if they are dense, else what B instances need on average.

        Then a multiple of 8, so that several devices can share them.
        """
        if self.dense:
            return self.batch_size // self._length
        slots = self.batch_size * self._slots_an_instance
        return 8 * max(1, math.ceil(slots / (8 * self._length)))

    @property
    def steps_about(self) -> int:
        """Steps of an epoch if every slot were filled; packing adds a few in a hundred."""
        return -(-int(self._segments.sizes.sum()) // (self.rows * self._length))

    @property
    def _length(self) -> int:
        if self.one_by_one:
            return self.max_seq_len + 1
        dense = row_length(self.batch_size, self.max_seq_len)
        return dense if self.dense else self.max_seq_len

    @property
    def _slots_an_instance(self) -> float:
        return self._segments.sizes.sum() / max(self._segments.asked.sum(), 1)

    @cached_property
    def _segments(self) -> Segments:
        if self.one_by_one:
            return instance_segments(
                self.interactions, self.split.train, self.max_seq_len, own_slot=True
            )
        return history_segments(self.interactions, self.split.train_end, self.max_seq_len)


def as_batch(interactions: Interactions, packed: PackedRows, size: int | None = None) -> Batch:
    """Reads the targets of packed rows.

    Args:
        interactions: the histories.
        packed: the rows.
        size: B, at least as many as are asked; None for one a slot.
    """
    instance_ids, slots = packed.instance_ids.reshape(-1), None
    if size is not None:
        (places,) = np.nonzero(instance_ids >= 0)
        slots = np.pad(places, (0, size - len(places))).astype(np.int32)
        instance_ids = np.pad(instance_ids[places], (0, size - len(places)), constant_values=-1)
    real = instance_ids >= 0
    instance_ids = np.where(real, instance_ids, 0)
    targets = np.where(real, interactions.items[instance_ids], 0)
    return Batch(packed, instance_ids, targets, real, slots)


def in_batch_columns(
    interactions: Interactions,
    train_end: Int64[np.ndarray, " users"],
    batch: Batch,
    *,
    mask_history: bool,
    deduplicate: bool = True,
) -> Columns:
    """The batch's targets as columns, and which of them count in which row.

    Args:
        interactions: the histories.
        train_end: `Split.train_end`; later items of a user are never looked at.
        batch: the batch.
        mask_history: take the other items of the user's training history out of the row.
        deduplicate: one column an item, in the order of the ids; else one a row, in the order
            of the rows, so that an item may count several times, the row's own target too.
    """
    distinct, inverse = np.unique(batch.targets[batch.real], return_inverse=True)
    columns = _columns(interactions, train_end, batch, distinct, inverse, mask_history)
    size = len(batch.targets)
    if deduplicate:
        missing = size - len(distinct)
        return columns._replace(
            candidates=np.pad(columns.candidates, (0, missing)),
            valid=np.pad(columns.valid, ((0, 0), (0, missing))),
        )
    valid = np.zeros((size, size), dtype=bool)
    valid[:, batch.real] = columns.valid[:, inverse]
    return Columns(batch.targets, np.arange(size, dtype=np.int32), valid)


def catalogue_columns(
    interactions: Interactions,
    train_end: Int64[np.ndarray, " users"],
    batch: Batch,
    num_items: int,
    *,
    mask_history: bool,
) -> Columns:
    """All items as columns, under the same masks as `in_batch_columns`."""
    items = np.arange(num_items, dtype=np.int32)
    own = batch.targets[batch.real]
    return _columns(interactions, train_end, batch, items, own, mask_history)


def _columns(
    interactions: Interactions,
    train_end: np.ndarray,
    batch: Batch,
    items: Int32[np.ndarray, " C"],
    own: np.ndarray,
    mask_history: bool,
) -> Columns:
    """Ascending items as columns; `own` is the column of each real row's target."""
    size = len(batch.targets)
    target_columns = np.zeros(size, dtype=np.int32)
    target_columns[batch.real] = own
    valid = np.zeros((size, len(items)), dtype=bool)
    valid[batch.real] = True
    if mask_history:
        rows, known = _history_pairs(interactions, train_end, batch)
        place = np.searchsorted(items, known)
        place[place == len(items)] = 0
        found = items[place] == known
        valid[rows[found], place[found]] = False
        valid[batch.real, own] = True
    return Columns(items, target_columns, valid)


def training_counts(dataset: Dataset, split: Split) -> Int64[np.ndarray, " V"]:
    """How often each item stands in the training part."""
    interactions = dataset.interactions
    in_train = np.arange(len(interactions.items)) < split.train_end[interactions.users]
    return np.bincount(interactions.items[in_train], minlength=dataset.num_items)


def popularity_groups(dataset: Dataset, split: Split, groups: int) -> Int32[np.ndarray, " V"]:
    """Every item's group, 0 the least popular; all have about equally many interactions.

    As UnKD (Chen et al., 2023) divides the items: in the order of their training interactions
    (equal ones in the order of their ids), cut where the running sum passes an equal share.
    """
    counts = training_counts(dataset, split)
    order = np.argsort(counts, kind="stable")
    # The middle of its own interactions decides which share of the sum an item falls in.
    middle = np.cumsum(counts[order]) - counts[order] / 2
    group = np.empty(dataset.num_items, dtype=np.int32)
    group[order] = np.minimum(groups * middle // max(counts.sum(), 1), groups - 1)
    return group


def _history_pairs(
    interactions: Interactions, train_end: np.ndarray, batch: Batch
) -> tuple[Int64[np.ndarray, " pairs"], Int32[np.ndarray, " pairs"]]:
    """(batch row, item) for every training item of every real row's user."""
    rows = np.flatnonzero(batch.real)
    users = interactions.users[batch.instance_ids[rows]]
    start, sizes = interactions.indptr[users], train_end[users] - interactions.indptr[users]
    ends = np.cumsum(sizes)
    offsets = np.arange(ends[-1]) - np.repeat(ends - sizes, sizes) + np.repeat(start, sizes)
    return np.repeat(rows, sizes), interactions.items[offsets]
