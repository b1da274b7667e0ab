"""Many short histories in one row, told apart by segment ids.

A history of n items holds n − 1 instances (prefix → next item), and a causal model sees
all of them in one pass. Real histories are short (7 items on Scientific), so padding each
to `max_seq_len` would waste most of the work, and one row a prefix most of the rest.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.dataset import Interactions


@dataclasses.dataclass(frozen=True)
class Segments:
    """Windows of the histories that a causal model reads, and where it is asked.

    Segment s reads the items at CSR offsets `start[s] … stop[s] − 1`. Reading offset o it
    has seen the prefix of instance o + 1, and it is asked for that instance where
    o ≥ `first_asked[s]`. With `own_slot` it is asked one slot later: behind every segment stands
    a slot for a token of the model's own.
    """

    start: Int64[np.ndarray, " segments"]
    stop: Int64[np.ndarray, " segments"]
    first_asked: Int64[np.ndarray, " segments"]
    own_slot: bool = False

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, index: np.ndarray) -> "Segments":
        return dataclasses.replace(
            self,
            start=self.start[index],
            stop=self.stop[index],
            first_asked=self.first_asked[index],
        )

    @property
    def sizes(self) -> Int64[np.ndarray, " segments"]:
        """Slots of each."""
        return self.stop - self.start + self.own_slot

    @property
    def asked(self) -> Int64[np.ndarray, " segments"]:
        """Instances that each is asked for."""
        return self.stop - self.first_asked


class PackedRows(NamedTuple):
    """Rows of token slots; several segments a row. A slot with segment id 0 is padding.

    Attributes:
        item_seq: item id read at the slot; 0 at padding and where the token is the model's own.
        segment_ids: positive and distinct within a batch; 0 at padding.
        positions: place in the segment, counted from its oldest item; 0 at padding.
        users: user whose history is read; 0 at padding.
        instance_ids: instance asked at the slot (CSR offset of its target); −1 for none.
    """

    item_seq: Int32[np.ndarray, "rows length"]
    segment_ids: Int32[np.ndarray, "rows length"]
    positions: Int32[np.ndarray, "rows length"]
    users: Int32[np.ndarray, "rows length"]
    instance_ids: Int32[np.ndarray, "rows length"]


def history_segments(
    interactions: Interactions, end: Int64[np.ndarray, " users"], max_seq_len: int
) -> Segments:
    """Segments that ask for every instance below `end`, each with its exact prefix.

    The first `max_seq_len` instances of a user share one segment; each later one has a
    window of its own with the `max_seq_len` items before it, so that every instance sees
    the prefix (and the positions) that prefix enumeration would show it.

    Args:
        interactions: the histories.
        end: per user, the offset after the last item used (`Split.train_end`, say).
        max_seq_len: the longest prefix that a model sees.
    """
    begin = interactions.indptr[:-1]
    shared_stop = np.minimum(end - 1, begin + max_seq_len)
    has_target = shared_stop > begin
    long_targets = np.maximum(end - begin - 1 - max_seq_len, 0)
    # The targets after the shared segment: begin + max_seq_len + 1, … , end − 1.
    own = np.repeat(shared_stop, long_targets) + 1 + _ranges(long_targets)
    return Segments(
        start=np.concatenate([begin[has_target], own - max_seq_len]),
        stop=np.concatenate([shared_stop[has_target], own]),
        first_asked=np.concatenate([begin[has_target], own - 1]),
    )


def instance_segments(
    interactions: Interactions,
    instance_ids: Int64[np.ndarray, " instances"],
    max_seq_len: int,
    *,
    own_slot: bool = False,
) -> Segments:
    """One segment an instance, asked at its last slot only; `max_seq_len` counts its items."""
    begin = interactions.indptr[interactions.users[instance_ids]]
    start = np.maximum(begin, instance_ids - max_seq_len)
    return Segments(start, instance_ids, first_asked=instance_ids - 1, own_slot=own_slot)


def pack(
    interactions: Interactions,
    segments: Segments,
    rows: int,
    length: int,
    most: float = float("inf"),
) -> Iterator[PackedRows]:
    """Fills batches of `rows` × `length` slots with segments, in the order given.

    A segment goes into the first row of the open batch that has room; where none has, or where
    `most` instances would be passed, it is closed. The last batch is padded. No segment is split.

    Raises:
        ValueError: if a segment is longer than a row, or empty: the instance of a user's
            first item has no prefix, and no slot could ask for it.
    """
    sizes = segments.sizes
    if len(sizes) and sizes.max() > length:
        raise ValueError(f"a segment of {sizes.max()} slots does not fit rows of {length}")
    if len(sizes) and sizes.min() < 1 + segments.own_slot:
        raise ValueError(f"segment {sizes.argmin()} is empty")
    fill = [0] * rows
    placed: list[tuple[int, int]] = []
    first = instances = 0
    for index, (size, asked) in enumerate(
        zip(sizes.tolist(), segments.asked.tolist(), strict=True)
    ):
        row = next((row for row in range(rows) if fill[row] + size <= length), None)
        if row is None or instances + asked > most:
            yield _place(interactions, segments, first, placed, rows, length)
            fill, placed, first, row, instances = [0] * rows, [], index, 0, 0
        placed.append((row, fill[row]))
        fill[row] += size
        instances += asked
    if placed:
        yield _place(interactions, segments, first, placed, rows, length)


def row_length(batch_size: int, max_seq_len: int) -> int:
    """The shortest row that divides `batch_size` slots and holds the longest segment.

    Raises:
        UserError: if the whole batch is shorter than the longest segment.
    """
    if batch_size < max_seq_len:
        raise UserError(
            f"batch size: found {batch_size} slots, expected at least --max_seq_len={max_seq_len}"
        )
    return next(n for n in range(max_seq_len, batch_size + 1) if batch_size % n == 0)


def _place(
    interactions: Interactions,
    segments: Segments,
    first: int,
    placed: list[tuple[int, int]],
    rows: int,
    length: int,
) -> PackedRows:
    """Writes the segments `first …` into fresh rows at the (row, column) in `placed`."""
    chosen = segments[np.arange(first, first + len(placed))]
    row, column = np.array(placed, dtype=np.int64).T
    sizes = chosen.sizes
    within = _ranges(sizes)
    offsets = np.repeat(chosen.start, sizes) + within
    slots = np.repeat(row * length + column, sizes) + within
    # Segments are numbered 1, 2, … per batch; within a row that is still distinct.
    numbers = np.repeat(np.arange(1, len(placed) + 1), sizes)
    # The last item that has been read; of the model's own slot, the offset is the target's.
    read = offsets - chosen.own_slot
    asked = read >= np.repeat(chosen.first_asked, sizes)
    item_seq = np.where(asked & chosen.own_slot, 0, interactions.items[offsets])

    def rows_of(values: np.ndarray, fill: int) -> Int32[np.ndarray, "rows length"]:
        flat = np.full(rows * length, fill, dtype=np.int32)
        flat[slots] = values
        return flat.reshape(rows, length)

    return PackedRows(
        item_seq=rows_of(item_seq, 0),
        segment_ids=rows_of(numbers, 0),
        positions=rows_of(within, 0),
        users=rows_of(interactions.users[offsets], 0),
        instance_ids=rows_of(np.where(asked, read + 1, -1), -1),
    )


def _ranges(counts: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " total"]:
    """0 … counts[0] − 1, 0 … counts[1] − 1, and so on."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)
