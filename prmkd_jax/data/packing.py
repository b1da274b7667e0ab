"""Many short histories in one row, separated by segment ids.

A history of n items holds n − 1 instances (prefix → next item), and a causal model sees
all of them in one pass. Real histories are short (7 items on Scientific), so padding each
to the longest prefix would waste most of the work, and one row a prefix most of the rest.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.ragged import places_within
from prmkd_jax.data.dataset import Interactions


@dataclasses.dataclass(frozen=True)
class Segments:
    """Windows of the histories that a model reads, and which instances they predict.

    Segment s reads the items at CSR offsets `start[s] … stop[s] − 1`. After offset o it has
    read the prefix of instance o + 1, which it predicts where o ≥ `predict_from[s]`. With
    `own_slot` the prediction is made one slot later: every segment ends in a slot for a token
    of the model's own.
    """

    start: Int64[np.ndarray, " segments"]
    stop: Int64[np.ndarray, " segments"]
    predict_from: Int64[np.ndarray, " segments"]
    own_slot: bool = False

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, index: np.ndarray) -> "Segments":
        return dataclasses.replace(
            self,
            start=self.start[index],
            stop=self.stop[index],
            predict_from=self.predict_from[index],
        )

    @property
    def sizes(self) -> Int64[np.ndarray, " segments"]:
        """Slots of each."""
        return self.stop - self.start + self.own_slot

    @property
    def num_instances(self) -> Int64[np.ndarray, " segments"]:
        """Instances that each predicts."""
        return self.stop - self.predict_from


class PackedRows(NamedTuple):
    """Rows of token slots; several segments a row. A slot with segment id 0 is padding.

    Attributes:
        item_seq: item id read at the slot; 0 at padding and at a token of the model's own.
        segment_ids: positive and distinct within a batch; 0 at padding.
        positions: place in the segment, counted from its oldest item; 0 at padding.
        users: user whose history is read; 0 at padding.
        instance_ids: instance predicted at the slot (CSR offset of its target); −1 for none.
    """

    item_seq: Int32[np.ndarray, "rows length"]
    segment_ids: Int32[np.ndarray, "rows length"]
    positions: Int32[np.ndarray, "rows length"]
    users: Int32[np.ndarray, "rows length"]
    instance_ids: Int32[np.ndarray, "rows length"]


def history_segments(
    interactions: Interactions, end: Int64[np.ndarray, " users"], window: int
) -> Segments:
    """Segments that predict every instance below `end`, each from its exact prefix.

    The first `window` instances of a user share one segment; each later one has a segment of
    its own with the `window` items before it, so that every instance sees the prefix (and the
    positions) that prefix enumeration would show it.

    Args:
        interactions: the histories.
        end: offset after each user's last item that is used (`Split.train_end`, say).
        window: longest prefix that a model reads.

    >>> histories = Interactions(np.array([0, 4]), np.array([7, 8, 9, 5], np.int32))
    >>> segments = history_segments(histories, np.array([4]), window=2)
    >>> segments.start.tolist(), segments.stop.tolist(), segments.num_instances.tolist()
    ([0, 1], [2, 3], [2, 1])
    """
    begin = interactions.indptr[:-1]
    shared_stop = np.minimum(end - 1, begin + window)
    has_target = shared_stop > begin
    long_targets = np.maximum(end - begin - 1 - window, 0)
    # The targets after the shared segment: begin + window + 1, … , end − 1.
    own = np.repeat(shared_stop, long_targets) + 1 + places_within(long_targets)
    return Segments(
        start=np.concatenate([begin[has_target], own - window]),
        stop=np.concatenate([shared_stop[has_target], own]),
        predict_from=np.concatenate([begin[has_target], own - 1]),
    )


def instance_segments(
    interactions: Interactions,
    instance_ids: Int64[np.ndarray, " instances"],
    window: int,
    *,
    own_slot: bool = False,
) -> Segments:
    """One segment an instance, which predicts at its last slot only.

    Args:
        interactions: the histories.
        instance_ids: CSR offsets of the targets.
        window: longest prefix that a model reads, in items.
        own_slot: whether a slot for a token of the model's own follows the prefix.
    """
    begin = interactions.indptr[interactions.users[instance_ids]]
    start = np.maximum(begin, instance_ids - window)
    return Segments(start, instance_ids, predict_from=instance_ids - 1, own_slot=own_slot)


def pack(
    interactions: Interactions,
    segments: Segments,
    rows: int,
    length: int,
    most: float = float("inf"),
) -> Iterator[PackedRows]:
    """Fills batches of `rows` × `length` slots with segments, in the order given.

    A segment goes into the first row of the open batch that has room. Where none has, or where
    the batch would hold more than `most` instances, the next batch is opened. The last batch is
    padded. No segment is split.

    Raises:
        ValueError: a segment is longer than a row, or empty: the instance of a user's first
            item has no prefix, so no slot can predict it.

    >>> histories = Interactions(np.array([0, 3, 5]), np.array([7, 8, 9, 5, 6], np.int32))
    >>> segments = history_segments(histories, np.array([3, 5]), window=4)
    >>> (batch,) = pack(histories, segments, rows=1, length=4)
    >>> batch.item_seq.tolist(), batch.segment_ids.tolist(), batch.instance_ids.tolist()
    ([[7, 8, 5, 0]], [[1, 1, 2, 0]], [[1, 2, 4, -1]])
    """
    sizes = segments.sizes
    if len(sizes) and sizes.max() > length:
        raise ValueError(f"a segment of {sizes.max()} slots does not fit rows of {length}")
    if len(sizes) and sizes.min() < 1 + segments.own_slot:
        raise ValueError(f"segment {sizes.argmin()} is empty")
    fill = [0] * rows
    placed: list[tuple[int, int]] = []
    first = 0
    instances = 0
    # By size, the first row that may have room: rows fill up, so those before it have none left.
    with_room = [0] * (length + 1)
    counts = segments.num_instances.tolist()
    for index, (size, count) in enumerate(zip(sizes.tolist(), counts, strict=True)):
        row = with_room[size]
        while row < rows and fill[row] + size > length:
            row += 1
        with_room[size] = row
        if row == rows or instances + count > most:
            yield _place(interactions, segments, first, placed, rows, length)
            fill = [0] * rows
            placed = []
            first = index
            instances = 0
            with_room = [0] * (length + 1)
            row = 0
        placed.append((row, fill[row]))
        fill[row] += size
        instances += count
    if placed:
        yield _place(interactions, segments, first, placed, rows, length)


def row_length(batch_size: int, window: int) -> int:
    """The shortest row that divides `batch_size` slots and holds the longest segment.

    Raises:
        UserError: the whole batch is shorter than the longest segment.

    >>> row_length(512, 50)
    64
    """
    if batch_size < window:
        raise UserError(
            f"batch size: found {batch_size} slots, expected at least --max_seq_len={window}"
        )
    return next(n for n in range(window, batch_size + 1) if batch_size % n == 0)


def _place(
    interactions: Interactions,
    segments: Segments,
    first: int,
    placed: list[tuple[int, int]],
    rows: int,
    length: int,
) -> PackedRows:
    """Writes the segments from `first` on into new rows, at the (row, column) in `placed`."""
    chosen = segments[np.arange(first, first + len(placed))]
    row, column = np.array(placed, dtype=np.int64).T
    sizes = chosen.sizes
    within = places_within(sizes)
    offsets = np.repeat(chosen.start, sizes) + within
    slots = np.repeat(row * length + column, sizes) + within
    # Segments are numbered 1, 2, … per batch; within a row that is still distinct.
    numbers = np.repeat(np.arange(1, len(placed) + 1), sizes)
    # The last item that has been read; at the model's own slot, the offset is the target's.
    read = offsets - chosen.own_slot
    predicts = read >= np.repeat(chosen.predict_from, sizes)
    item_seq = np.where(predicts & chosen.own_slot, 0, interactions.items[offsets])

    def rows_of(values: np.ndarray, fill: int) -> Int32[np.ndarray, "rows length"]:
        flat = np.full(rows * length, fill, dtype=np.int32)
        flat[slots] = values
        return flat.reshape(rows, length)

    return PackedRows(
        item_seq=rows_of(item_seq, 0),
        segment_ids=rows_of(numbers, 0),
        positions=rows_of(within, 0),
        users=rows_of(interactions.users[offsets], 0),
        instance_ids=rows_of(np.where(predicts, read + 1, -1), -1),
    )
