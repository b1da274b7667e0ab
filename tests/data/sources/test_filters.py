import time
from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.sources import filters
from prmkd_jax.data.sources.config import PrepareConfig
from prmkd_jax.data.sources.filters import Ties, apply, in_order, k_core
from prmkd_jax.data.sources.log import Log

BY_ITEM = Ties(by_item=True)
DAY = 86_400_000_000


def log(rows, **columns) -> Log:
    users, items, times = (np.array(column) for column in zip(*rows, strict=True))
    return Log(
        users=users.astype(np.int32),
        items=items.astype(np.int32),
        times=times.astype(np.int64),
        timed=True,
        user_ids=pl.Series([f"u{number}" for number in range(users.max() + 1)]),
        item_ids=pl.Series([f"i{number}" for number in range(items.max() + 1)]),
        **columns,
    )


def kept(data: Log, ties: Ties = BY_ITEM, titled=None, **options) -> list[tuple]:
    left, steps = apply(data, PrepareConfig(**options), ties, titled)
    assert steps[-1].left == len(left)
    assert sum(step.removed for step in steps) == len(data) - len(left)
    return [*zip(left.users.tolist(), left.items.tolist(), left.times.tolist(), strict=True)]


ROWS = [(0, 0, 3 * DAY), (0, 1, 1 * DAY), (0, 0, 3 * DAY), (0, 0, 4 * DAY), (1, 1, 2 * DAY)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"deduplicate": ("exact",)}, [0, 1, 3, 4]),
        ({"deduplicate": ("consecutive",)}, [0, 1, 4]),
        ({"deduplicate": ("pairs",)}, [0, 1, 4]),
        ({"date_from": "1970-01-03"}, [0, 2, 3, 4]),
        ({"date_until": "1970-01-04"}, [1, 4]),
        ({"date_from": "1970-01-03", "date_until": "1970-01-04 00:00:01"}, [0, 2, 4]),
        ({"max_history": 3}, [4]),
        ({"min_history": 2}, [0, 1, 2, 3]),
        ({"user_core": 2, "item_core": 2}, [0, 2, 3]),
    ],
    ids=str,
)
def test_each_filter_keeps_what_it_should(options, expected):
    assert kept(log(ROWS), **options) == [ROWS[row] for row in expected]


def test_ratings_and_events_filter_by_their_columns():
    rated = log(ROWS, ratings=np.array([5, 4, np.nan, 3, 4], np.float32))
    assert kept(rated, min_rating=4.0) == [ROWS[0], ROWS[1], ROWS[4]]
    events = log(ROWS, events=np.array([0, 1, -1, 1, 0], np.int32), event_names=("buy", "view"))
    assert kept(events, events=("buy",)) == [ROWS[0], ROWS[4]]
    with pytest.raises(UserError, match="--events: found 'click', expected some of buy, view"):
        kept(events, events=("click",))
    with pytest.raises(UserError, match="--min_rating: found no column of ratings"):
        kept(log(ROWS), min_rating=4.0)
    with pytest.raises(UserError, match="--events: found no column of events"):
        kept(log(ROWS), events=("buy",))


def test_equal_rows_of_another_rating_are_no_duplicates():
    rated = log(ROWS[:3], ratings=np.array([5, 4, 1], np.float32))
    assert len(kept(rated, deduplicate=("exact",))) == 3
    unrated = log(ROWS[:3], ratings=np.full(3, np.nan, np.float32))
    assert len(kept(unrated, deduplicate=("exact",))) == 2


def test_items_without_a_title_leave():
    assert kept(log(ROWS), titled=np.array([False, True]), need_title=True) == [ROWS[1], ROWS[4]]
    with pytest.raises(UserError, match="--need_title: found no catalogue"):
        kept(log(ROWS), need_title=True)


def test_filters_work_in_the_documented_order_and_each_says_what_it_removed():
    """Exact duplicates go first, then long histories, then the k-core, then short histories."""
    rows = [(0, item, item * DAY) for item in (0, 0, 1, 2)] + [(1, 0, 0), (1, 1, 0), (2, 2, 0)]
    config = PrepareConfig(deduplicate=("exact",), max_history=2, user_core=2, min_history=1)
    left, steps = apply(log(rows), config, BY_ITEM, None)
    assert [(step.name, step.removed, step.left) for step in steps] == [
        ("--deduplicate=exact", 1, 6),
        ("--max_history=2", 3, 3),
        ("--user_core=2 --item_core=0", 1, 2),
        ("--min_history=1", 0, 2),
    ]
    assert set(left.users.tolist()) == {1}


def test_a_filter_that_leaves_nothing_is_refused():
    with pytest.raises(UserError, match="--min_history=9: found no interaction of 5 left"):
        kept(log(ROWS), min_history=9)


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=60),
    st.integers(0, 4),
    st.integers(0, 4),
)
def test_k_core_is_the_largest_set_that_holds(pairs, user_core, item_core):
    """The result equals that of removing rows one at a time."""
    rows = list(range(len(pairs)))
    while True:
        users = Counter(pairs[row][0] for row in rows)
        items = Counter(pairs[row][1] for row in rows)
        rare = [
            row
            for row in rows
            if users[pairs[row][0]] < user_core or items[pairs[row][1]] < item_core
        ]
        if not rare:
            break
        rows.remove(rare[-1])
    columns = (np.array(column, np.int32) for column in zip(*pairs, strict=True))
    assert np.flatnonzero(k_core(*columns, user_core, item_core)).tolist() == rows


@pytest.mark.parametrize("core", [0, 1, 2, 3])
def test_k_core_is_the_same_without_passes_over_all_rows(monkeypatch, core):
    rng = np.random.default_rng(core)
    for size in (0, 1, 40, 400):
        users, items = rng.integers(0, 20 + size // 3, (2, size))
        expected = k_core(users, items, 2, core)
        monkeypatch.setattr(filters, "_PASSES", 0)
        np.testing.assert_array_equal(k_core(users, items, 2, core), expected)
        monkeypatch.undo()


def test_a_chain_of_rows_is_taken_apart_in_the_time_of_its_rows():
    """Each row that leaves makes the next one rare: 200,000 passes took half an hour."""
    users, items = np.repeat(np.arange(100_000), 2), np.repeat(np.arange(100_001), 2)[1:-1]
    began = time.process_time()
    assert not k_core(users, items, 2, 2).any()
    assert time.process_time() - began < 20


def test_equal_times_are_ordered_by_the_rule():
    rows = [(1, 2, 5), (0, 3, 5), (1, 1, 5), (1, 0, 7), (0, 4, 4)]
    assert in_order(log(rows), Ties(by_item=False)).tolist() == [4, 1, 0, 2, 3]
    assert in_order(log(rows), BY_ITEM).tolist() == [4, 1, 2, 0, 3]
