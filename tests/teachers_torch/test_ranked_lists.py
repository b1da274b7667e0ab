"""Ranked lists: what is listed comes back, the rest is assumed, nothing is mixed up."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from teachers_torch.ranked_lists import SparseRows, as_lists, best, lowest, narrow, sparse_counts

# Each row: item → value.
ROWS = st.lists(
    st.dictionaries(st.integers(0, 9), st.integers(-8, 8), max_size=10), min_size=1, max_size=6
)


def rows_of(entries) -> SparseRows:
    """The rows' entries in the order in which they are given."""
    offsets = np.cumsum([0, *map(len, entries)])
    ids = np.array([item for row in entries for item in row], dtype=np.uint16)
    values = np.array([value for row in entries for value in row.values()], dtype=np.float32)
    return SparseRows(offsets, ids, values)


@given(
    ROWS,
    st.lists(st.integers(0, 5), max_size=5),
    st.lists(st.integers(0, 9), min_size=1, max_size=8),
)
def test_a_block_equals_a_search_by_hand(entries, asked, columns):
    """It holds for empty rows and repeated columns, and each row has a rest of its own."""
    asked = [row % len(entries) for row in asked]
    rest = np.arange(len(asked)) + 100.0
    found = rows_of(entries).block(np.array(asked, int), np.array(columns), rest)
    expected = [
        [entries[row].get(item, 100 + place) for item in columns] for place, row in enumerate(asked)
    ]
    np.testing.assert_array_equal(found, np.reshape(expected, (len(asked), len(columns))))


@given(ROWS)
def test_the_lowest_value_of_each_row(entries):
    """An empty row has 0, not its neighbour's minimum."""
    expected = [min(row.values(), default=0) for row in entries]
    assert lowest(rows_of(entries)).tolist() == expected


@given(st.integers(1, 12), st.integers(0, 2**31))
def test_the_best_items_of_each_row_are_listed(top, seed):
    """The best come first, all other items share their mean, and an unknown row has no list."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(-3, 4, size=(4, 9)).astype(np.float32)
    scores[2] = np.nan
    lists = as_lists("a", best(scores, top), 9)
    found = lists.score(np.arange(4), np.arange(9))
    assert np.isnan(found[2]).all()
    count = min(top, 9)
    assert np.diff(lists.rows.offsets).tolist() == [count, count, 0, count]
    for row in (0, 1, 3):
        order = sorted(range(9), key=lambda item: (-scores[row, item], item))
        part = slice(lists.rows.offsets[row], lists.rows.offsets[row + 1])
        assert lists.rows.ids[part].tolist() == order[:count]
        expected = scores[row].copy()
        if count < 9:
            expected[order[count:]] = expected[order[count:]].mean()
        np.testing.assert_allclose(found[row], expected, rtol=1e-6)


def test_pairs_are_counted():
    """The order of a pair matters, and a pair that occurs twice counts twice."""
    counts = sparse_counts(np.array([2, 0, 2, 2]), np.array([1, 2, 1, 0]), 3)
    dense = counts.block(np.arange(3), np.arange(3), 0.0)
    assert dense.tolist() == [[0, 0, 1], [0, 0, 0], [1, 2, 0]]


def test_ids_take_as_few_bytes_as_the_catalogue_allows():
    """With up to 65,536 items an id takes two bytes, with more it takes four."""
    assert narrow(np.array([65535]), 65536).dtype == np.uint16
    assert narrow(np.array([65536]), 65537).tolist() == [65536]
    assert narrow(np.array([65536]), 65537).dtype == np.uint32
