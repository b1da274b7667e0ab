"""A seeded stream of training batches."""

import dataclasses
import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32

from prmkd_jax.data.dataset import Interactions
from prmkd_jax.data.packing import (
    PackedRows,
    Segments,
    history_segments,
    instance_segments,
    pack,
    row_length,
)
from prmkd_jax.data.task import Task

# Items, from which on a width of 64 spends more on their scores than on the prefixes.
_LARGE_CATALOGUE = 8_192


class Batch(NamedTuple):
    """B instances and the packed rows in which a model reads their prefixes.

    NumPy arrays on the host; inside a jitted function the same record holds JAX arrays.

    Attributes:
        rows: R × L token slots.
        instance_ids: CSR offsets of the targets; 0, which is no instance, at padding.
        targets: target items; 0 at padding.
        is_instance: False at padding, which is masked everywhere.
        slots: flat index (row · L + column) of the slot that predicts each target; None where
            B = R × L and instance b belongs to slot b.
    """

    rows: PackedRows
    instance_ids: Int32[np.ndarray, " B"]
    targets: Int32[np.ndarray, " B"]
    is_instance: Bool[np.ndarray, " B"]
    slots: Int32[np.ndarray, " B"] | None = None

    def at_targets(self, values: Any) -> Any:
        """Picks the slots that predict: from [R × L, …] to [B, …]."""
        return values if self.slots is None else values[self.slots]


@dataclasses.dataclass(frozen=True)
class TrainingBatches:
    """All training instances of a task, in another order each epoch.

    The batches of epoch e depend on (seed, e) alone, so a resumed run sees what an
    uninterrupted one would.

    Attributes:
        task: the data and split whose training instances are read.
        window: longest prefix that a model reads.
        batch_size: B, the instances of a batch.
        seed: seed of the order.
        own_slot: True for models that append a token of their own to each prefix: one segment
            an instance. False: the instances of a history share a segment.
    """

    task: Task
    window: int
    batch_size: int
    seed: int
    own_slot: bool = False

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch; the last one is padded."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self._segments))
        segments = self._segments[order]
        interactions = self.task.dataset.interactions
        size = None if self.dense else self.batch_size
        for rows in pack(interactions, segments, self.rows, self._length, self.batch_size):
            yield as_batch(interactions, rows, size)

    @cached_property
    def dense(self) -> bool:
        """Whether so many slots predict that a batch is simply B slots.

        Few do where each instance has a segment of its own, and in histories much longer than
        `window`, most of whose instances have a segment of their own. In a large catalogue the
        scores of all items are most of a step, so that no slot may get them for nothing.
        """
        large = self.task.dataset.num_items > _LARGE_CATALOGUE
        return not self.own_slot and bool(self._slots_per_instance <= (1.25 if large else 3))

    @property
    def rows(self) -> int:
        """Packed rows of a batch: B slots if they are dense, else what B instances need on average.

        Then a multiple of 8, so that several devices can share them.
        """
        if self.dense:
            return self.batch_size // self._length
        slots = self.batch_size * self._slots_per_instance
        return 8 * max(1, math.ceil(slots / (8 * self._length)))

    @property
    def steps_about(self) -> int:
        """Steps of an epoch if every slot were filled; packing adds a few in a hundred."""
        return -(-int(self._segments.sizes.sum()) // (self.rows * self._length))

    @property
    def _length(self) -> int:
        if self.own_slot:
            return self.window + 1
        dense = row_length(self.batch_size, self.window)
        return dense if self.dense else self.window

    @property
    def _slots_per_instance(self) -> float:
        return self._segments.sizes.sum() / max(self._segments.num_instances.sum(), 1)

    @cached_property
    def _segments(self) -> Segments:
        interactions = self.task.dataset.interactions
        split = self.task.split
        if self.own_slot:
            return instance_segments(interactions, split.train, self.window, own_slot=True)
        return history_segments(interactions, split.train_end, self.window)


def as_batch(interactions: Interactions, rows: PackedRows, size: int | None = None) -> Batch:
    """Adds the targets to packed rows.

    Args:
        interactions: the histories that were packed.
        rows: packed rows.
        size: B, at least the number of instances in the rows; None for one a slot.
    """
    instance_ids = rows.instance_ids.reshape(-1)
    slots = None
    if size is not None:
        (places,) = np.nonzero(instance_ids >= 0)
        missing = size - len(places)
        slots = np.pad(places, (0, missing)).astype(np.int32)
        instance_ids = np.pad(instance_ids[places], (0, missing), constant_values=-1)
    is_instance = instance_ids >= 0
    instance_ids = np.where(is_instance, instance_ids, 0)
    targets = np.where(is_instance, interactions.items[instance_ids], 0)
    return Batch(rows, instance_ids, targets, is_instance, slots)
