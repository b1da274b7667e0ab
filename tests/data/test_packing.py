import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.dataset import Interactions
from prmkd_jax.data.packing import (
    Segments,
    history_segments,
    instance_segments,
    pack,
    row_length,
)


def from_lengths(lengths: list[int]) -> Interactions:
    """Histories whose items are all distinct, so that a misplaced slot cannot pass."""
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    items = np.random.default_rng(0).permutation(int(indptr[-1])).astype(np.int32)
    return Interactions(indptr, items)


def enumerate_prefixes(interactions: Interactions, end, max_seq_len: int) -> dict[int, list[int]]:
    """Instance → the items that prefix enumeration shows for it, one user after the other."""
    prefixes = {}
    for user in range(interactions.num_users):
        first = int(interactions.indptr[user])
        for target in range(first + 1, int(end[user])):
            history = interactions.items[first:target].tolist()
            prefixes[target] = history[-max_seq_len:]
    return prefixes


def visible_prefixes(batches) -> dict[int, list[int]]:
    """Instance → what a causal model sees where it is asked: its segment up to that slot."""
    seen: dict[int, list[int]] = {}
    for batch in batches:
        for row, column in np.argwhere(batch.instance_ids >= 0):
            segment = batch.segment_ids[row] == batch.segment_ids[row, column]
            columns = [c for c in np.flatnonzero(segment) if c <= column]
            assert batch.segment_ids[row, column] > 0
            assert batch.positions[row, columns].tolist() == list(range(len(columns)))
            instance = int(batch.instance_ids[row, column])
            assert instance not in seen, "asked twice"
            seen[instance] = batch.item_seq[row, columns].tolist()
    return seen


def check_shape(batches, rows: int, length: int) -> None:
    for batch in batches:
        padding = batch.segment_ids == 0
        for field in batch:
            assert field.shape == (rows, length)
            assert field.dtype == np.int32
        assert (batch.item_seq[padding] == 0).all()
        assert (batch.positions[padding] == 0).all()
        assert (batch.instance_ids[padding] == -1).all()
        for row in batch.segment_ids:
            # A segment that appears, stops and appears again would be read as one history.
            runs = row[np.flatnonzero(np.diff(row, prepend=-1))]
            assert len(runs[runs > 0]) == len(set(runs[runs > 0]))


LENGTHS = st.lists(st.integers(0, 12), min_size=1, max_size=8)


@given(LENGTHS, st.integers(1, 5), st.integers(0, 4), st.integers(1, 4), st.data())
def test_history_segments_equal_prefix_enumeration(lengths, max_seq_len, spare, rows, data):
    """Each instance is asked once, with the prefix and positions of the enumeration."""
    interactions = from_lengths(lengths)
    end = interactions.indptr[:-1] + [data.draw(st.integers(0, length)) for length in lengths]
    segments = history_segments(interactions, end, max_seq_len)
    order = np.array(data.draw(st.permutations(range(len(segments)))), dtype=np.int64)
    length = max_seq_len + spare
    batches = list(pack(interactions, segments[order], rows, length))
    check_shape(batches, rows, length)
    assert visible_prefixes(batches) == enumerate_prefixes(interactions, end, max_seq_len)


def test_own_slots_by_hand():
    """Each own slot is empty and comes right after its prefix; padding has none."""
    interactions = Interactions(np.array([0, 2, 6]), np.array([9, 8, 10, 11, 12, 13], np.int32))
    segments = instance_segments(interactions, np.array([1, 5, 4]), 2, own_slot=True)
    (batch,) = pack(interactions, segments, rows=2, length=6)
    assert batch.item_seq.tolist() == [[9, 0, 11, 12, 0, 0], [10, 11, 0, 0, 0, 0]]
    assert batch.segment_ids.tolist() == [[1, 1, 2, 2, 2, 0], [3, 3, 3, 0, 0, 0]]
    assert batch.positions.tolist() == [[0, 1, 0, 1, 2, 0], [0, 1, 2, 0, 0, 0]]
    assert batch.instance_ids.tolist() == [[-1, 1, -1, -1, 5, -1], [-1, -1, 4, -1, -1, -1]]
    assert batch.users.tolist() == [[0, 0, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0]]
    first = instance_segments(interactions, np.array([2]), 2, own_slot=True)
    with pytest.raises(ValueError, match="segment 0 is empty"):
        list(pack(interactions, first, 2, 6))


def test_a_batch_has_at_most_so_many_segments():
    """Five instances, at most two to a batch, give batches of 2, 2 and 1."""
    interactions = from_lengths([50])
    segments = instance_segments(interactions, np.array([1, 2, 3, 4, 5]), 3)
    batches = list(pack(interactions, segments, 3, 9, most=2))
    asked = [batch.instance_ids[batch.instance_ids >= 0].tolist() for batch in batches]
    assert asked == [[1, 2], [3, 4], [5]]


@given(LENGTHS, st.integers(1, 5), st.integers(0, 4), st.integers(1, 4), st.data())
def test_instance_segments_ask_only_the_given_instances(lengths, max_seq_len, spare, rows, data):
    """No other instance is asked for, and no prefix holds its target."""
    interactions = from_lengths(lengths)
    prefixes = enumerate_prefixes(interactions, interactions.indptr[1:], max_seq_len)
    chosen = data.draw(st.lists(st.sampled_from(sorted(prefixes)), unique=True)) if prefixes else []
    ids = np.array(chosen, dtype=np.int64)
    segments = instance_segments(interactions, ids, max_seq_len)
    batches = list(pack(interactions, segments, rows, max_seq_len + spare))
    check_shape(batches, rows, max_seq_len + spare)
    assert visible_prefixes(batches) == {instance: prefixes[instance] for instance in chosen}


def test_segments_of_a_long_history_by_hand():
    """The window of a late instance holds exactly `max_seq_len` items."""
    interactions = Interactions(
        np.array([0, 2, 8]), np.array([9, 8, 10, 11, 12, 13, 14, 15], np.int32)
    )
    segments = history_segments(interactions, interactions.indptr[1:], window=3)
    windows = [
        interactions.items[start:stop].tolist()
        for start, stop in zip(segments.start, segments.stop, strict=True)
    ]
    assert windows == [[9], [10, 11, 12], [11, 12, 13], [12, 13, 14]]
    assert segments.predict_from.tolist() == [0, 2, 5, 6]
    (batch,) = pack(interactions, segments, rows=2, length=6)
    assert batch.item_seq.tolist() == [[9, 10, 11, 12, 0, 0], [11, 12, 13, 12, 13, 14]]
    assert batch.instance_ids.tolist() == [[1, 3, 4, 5, -1, -1], [-1, -1, 6, -1, -1, 7]]
    assert batch.positions.tolist() == [[0, 0, 1, 2, 0, 0], [0, 1, 2, 0, 1, 2]]
    assert batch.segment_ids.tolist() == [[1, 2, 2, 2, 0, 0], [3, 3, 3, 4, 4, 4]]


def test_a_batch_is_closed_only_when_no_row_has_room():
    """A segment that fits any row goes there, and one that fits none opens the next batch."""
    interactions = from_lengths([50])
    sizes = np.array([3, 3, 2, 1, 2, 4, 1])
    segments = Segments(np.zeros(7, np.int64), sizes, np.zeros(7, np.int64))
    batches = list(pack(interactions, segments, rows=2, length=5))
    # Row 0: 3 + 2, row 1: 3 + 1; 2 fits nowhere. Then 2 + 1 in row 0 and 4 in row 1.
    assert [batch.segment_ids.tolist() for batch in batches] == [
        [[1, 1, 1, 3, 3], [2, 2, 2, 4, 0]],
        [[1, 1, 3, 0, 0], [2, 2, 2, 2, 0]],
    ]


@given(st.lists(st.integers(1, 6), max_size=30), st.integers(1, 4), st.integers(6, 12))
def test_no_slot_is_lost_and_every_batch_was_full(sizes, rows, length):
    """Slots don't overlap, and the first segment of a batch didn't fit the last batch."""
    interactions = from_lengths([200])
    stop = np.array(sizes, dtype=np.int64)
    segments = Segments(np.zeros_like(stop), stop, np.zeros_like(stop))
    batches = list(pack(interactions, segments, rows, length))
    filled = [int((batch.segment_ids > 0).sum()) for batch in batches]
    assert sum(filled) == sum(sizes)
    first = 0
    for i, batch in enumerate(batches):
        count = int(batch.segment_ids.max())
        held = np.bincount(batch.segment_ids.reshape(-1), minlength=count + 1)[1:]
        assert held.tolist() == sizes[first : first + count], "order and sizes are kept"
        first += count
        if i + 1 < len(batches):
            room = length - (batch.segment_ids > 0).sum(axis=1)
            assert room.max() < sizes[first]
    assert first == len(sizes)


@given(st.lists(st.integers(1, 6), max_size=60), st.integers(1, 5), st.integers(6, 12))
def test_a_segment_goes_into_the_first_row_with_room(sizes, rows, length):
    """As when all rows are asked each time, in their order."""
    expected, fill = [], [0] * rows
    for size in sizes:
        row = next((row for row in range(rows) if fill[row] + size <= length), None)
        if row is None:
            fill, row = [0] * rows, 0
        expected.append((row, fill[row]))
        fill[row] += size
    stop = np.array(sizes, dtype=np.int64)
    segments = Segments(np.zeros_like(stop), stop, np.zeros_like(stop))
    found = []
    for batch in pack(from_lengths([200]), segments, rows, length):
        for number in range(1, int(batch.segment_ids.max()) + 1):
            found.append(tuple(np.argwhere(batch.segment_ids == number)[0].tolist()))
    assert found == expected


def test_nothing_to_pack_gives_no_batch():
    """A domain whose users have one item each gives no batch and no index error."""
    interactions = from_lengths([1, 0, 1])
    segments = history_segments(interactions, interactions.indptr[1:], 5)
    assert len(segments) == 0
    assert list(pack(interactions, segments, 2, 8)) == []
    none = instance_segments(interactions, np.array([], dtype=np.int64), 5)
    assert list(pack(interactions, none, 2, 8)) == []


def test_segments_that_cannot_be_placed_are_refused():
    """A segment that is too long or empty is neither cut nor dropped in silence."""
    interactions = from_lengths([6, 3])
    segments = history_segments(interactions, interactions.indptr[1:], 5)
    with pytest.raises(ValueError, match="5 slots does not fit rows of 4"):
        list(pack(interactions, segments, 2, 4))
    first_items = instance_segments(interactions, np.array([3, 6]), 5)
    with pytest.raises(ValueError, match="segment 1 is empty"):
        list(pack(interactions, first_items, 2, 8))


@pytest.mark.parametrize(
    ("batch_size", "max_seq_len", "length"),
    [(512, 50, 64), (512, 64, 64), (512, 65, 128), (512, 1, 1), (509, 50, 509), (50, 50, 50)],
)
def test_row_length(batch_size, max_seq_len, length):
    """Rows divide the batch, so no batch has a shape of its own."""
    assert row_length(batch_size, max_seq_len) == length


@given(st.integers(1, 400), st.integers(1, 400))
def test_row_length_is_the_least_divisor_that_holds_a_segment(batch_size, max_seq_len):
    """The shortest row that will do wastes the fewest slots."""
    if batch_size < max_seq_len:
        with pytest.raises(
            UserError, match=f"{batch_size} slots, expected at least .*{max_seq_len}"
        ):
            row_length(batch_size, max_seq_len)
        return
    fitting = [n for n in range(1, batch_size + 1) if batch_size % n == 0 and n >= max_seq_len]
    assert row_length(batch_size, max_seq_len) == fitting[0]
