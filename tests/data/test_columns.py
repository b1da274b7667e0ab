import dataclasses
import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import prmkd_jax.data.columns as columns_module
from prmkd_jax.data.batches import TrainingBatches, as_batch
from prmkd_jax.data.columns import SEEN, catalogue_columns, closed_columns, in_batch_columns
from prmkd_jax.data.dataset import Interactions
from prmkd_jax.data.packing import history_segments, instance_segments, pack
from tests.worlds import BATCH_SIZE, from_histories, random_world, task_of

WORLD = random_world(longest=25)
TASK = task_of(WORLD)
# Few items, so that rows share targets and users repeat items.
WORLDS = st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=9), min_size=1, max_size=8)


def batches_of(task):
    return TrainingBatches(task, 24, BATCH_SIZE, 0).epoch(0)


def columns_by_hand(task, batch, row, seen):
    """The columns' items that count in a row, as a set."""
    histories, split = task.dataset.interactions, task.split
    if not batch.is_instance[row]:
        return set()
    own = int(batch.targets[row])
    counted = set(batch.targets[batch.is_instance].tolist())
    if seen == "out":
        user = int(histories.users[batch.instance_ids[row]])
        known = histories.items[histories.indptr[user] : split.train_end[user]]
        counted -= set(known.tolist())
    return counted | {own}


@given(WORLDS, st.sampled_from(SEEN))
def test_columns_equal_a_search_by_hand(worlds, seen):
    """Duplicates and padding don't count, known items are out, and the own target stays."""
    task = task_of(from_histories(worlds, 9))
    for batch in batches_of(task):
        columns = in_batch_columns(task, batch, seen=seen)
        distinct = sorted(set(batch.targets[batch.is_instance].tolist()))
        assert columns.candidates.tolist() == distinct + [0] * (BATCH_SIZE - len(distinct))
        assert columns.candidates.dtype == columns.target_column.dtype == np.int32
        assert columns.valid.shape == (BATCH_SIZE, BATCH_SIZE)
        assert not columns.valid[:, len(distinct) :].any()
        for row in range(BATCH_SIZE):
            counted = columns.candidates[columns.valid[row]].tolist()
            expected = columns_by_hand(task, batch, row, seen)
            assert counted == sorted(expected)
            if batch.is_instance[row]:
                assert columns.candidates[columns.target_column[row]] == batch.targets[row]
                assert columns.valid[row, columns.target_column[row]]


def test_held_out_items_mask_nothing():
    """Other validation and test items change no column and no mask."""
    histories, split = TASK.dataset.interactions, TASK.split
    held_out = np.concatenate([split.validation, split.test])
    items = histories.items.copy()
    items[held_out] = (items[held_out] + 1 + np.arange(len(held_out)) % 39) % 40
    assert (items[held_out] != histories.items[held_out]).all()
    changed = dataclasses.replace(WORLD, interactions=Interactions(histories.indptr, items))
    for batch in batches_of(TASK):
        before = in_batch_columns(TASK, batch, seen="out")
        after = in_batch_columns(task_of(changed), batch, seen="out")
        assert all(map(np.array_equal, before, after))


def test_columns_of_a_small_batch_by_hand():
    """Target, duplicate, later training item and held-out item each treated by its own rule."""
    task = task_of(from_histories([[0, 1, 2, 1, 7, 8], [3, 2, 7, 5, 6]], 9))
    histories = task.dataset.interactions
    segments = history_segments(histories, task.split.train_end, 5)
    (packed,) = pack(histories, segments, 1, 6)
    batch = as_batch(histories, packed)
    assert batch.targets.tolist() == [1, 2, 1, 2, 7, 0]
    assert batch.is_instance.tolist() == [True] * 5 + [False]
    columns = in_batch_columns(task, batch, seen="out")
    assert columns.candidates.tolist() == [1, 2, 7, 0, 0, 0]
    assert columns.target_column.tolist() == [0, 1, 0, 1, 2, 0]
    # User 0 trains on 0 1 2 1 and is tested on 8 after 7, so 7 stays; user 1 on 3 2 7.
    marks = ["".join(".#"[int(value)] for value in row) for row in columns.valid]
    assert marks == ["#.#...", ".##...", "#.#...", "##....", "#.#...", "......"]
    every = in_batch_columns(task, batch, seen="scored")
    assert every.valid[:5, :3].all()
    assert every.valid.sum() == 15


@given(WORLDS, st.sampled_from(SEEN))
def test_catalogue_columns_equal_a_search_by_hand(worlds, seen):
    """Each column is its item, with the masks of a batch, and the own target stays."""
    task = task_of(from_histories(worlds, 9))
    histories, split = task.dataset.interactions, task.split
    for batch in batches_of(task):
        columns = catalogue_columns(task, batch, seen=seen)
        assert columns.candidates.tolist() == list(range(9))
        assert columns.candidates.dtype == columns.target_column.dtype == np.int32
        for row in np.flatnonzero(batch.is_instance):
            own = int(batch.targets[row])
            assert columns.target_column[row] == own
            counted = set(range(9))
            if seen == "out":
                user = int(histories.users[batch.instance_ids[row]])
                known = histories.items[histories.indptr[user] : split.train_end[user]]
                counted -= set(known.tolist())
            assert set(np.flatnonzero(columns.valid[row])) == counted | {own}
        assert not columns.valid[~batch.is_instance].any()


@given(WORLDS, st.sampled_from(["in_batch", "repeated", "closed", "catalogue"]))
def test_unwanted_items_count_but_are_not_scored(worlds, made):
    """Teachers score every valid column but those of the prefix; the own target stays."""
    task = task_of(from_histories(worlds, 9))
    histories = task.dataset.interactions
    make = {
        "in_batch": in_batch_columns,
        "repeated": functools.partial(in_batch_columns, deduplicate=False),
        "closed": lambda *to, seen: closed_columns(
            *to, np.ones((BATCH_SIZE, 1), int), 9, seen=seen
        )[0],
        "catalogue": catalogue_columns,
    }[made]
    for batch in batches_of(task):
        columns, every = make(task, batch, seen="unwanted"), make(task, batch, seen="scored")
        assert every.scored is None
        assert make(task, batch, seen="out").scored is None
        np.testing.assert_array_equal(columns.valid, every.valid)
        for row in np.flatnonzero(batch.is_instance):
            instance = int(batch.instance_ids[row])
            first = histories.indptr[histories.users[instance]]
            prefix = set(histories.items[first:instance].tolist()) - {int(batch.targets[row])}
            scored = [
                bool(v) and int(i) not in prefix
                for v, i in zip(columns.valid[row], columns.candidates, strict=True)
            ]
            assert columns.scored[row].tolist() == scored
        assert not columns.scored[~batch.is_instance].any()


@given(WORLDS, st.sampled_from(SEEN))
def test_without_deduplication_every_rows_target_is_a_column(worlds, seen):
    """A duplicate keeps its column with the same mask, and a padded row's target never counts."""
    task = task_of(from_histories(worlds, 9))
    for batch in batches_of(task):
        columns = in_batch_columns(task, batch, seen=seen, deduplicate=False)
        assert columns.candidates.tolist() == batch.targets.tolist()
        assert columns.target_column.tolist() == list(range(BATCH_SIZE))
        assert columns.target_column.dtype == np.int32
        for row in range(BATCH_SIZE):
            counted = columns_by_hand(task, batch, row, seen)
            expected = [
                bool(batch.is_instance[other]) and int(batch.targets[other]) in counted
                for other in range(BATCH_SIZE)
            ]
            assert columns.valid[row].tolist() == expected


@given(WORLDS, st.sampled_from(SEEN), st.integers(0, 2**31), st.integers(0, 9))
def test_closed_columns_equal_a_search_by_hand(worlds, seen, seed, room):
    """Targets come first, then the most wanted items; those that find no room are counted."""
    task = task_of(from_histories(worlds, 9))
    rng = np.random.default_rng(seed)
    for batch in batches_of(task):
        wanted = rng.integers(0, 9, size=(BATCH_SIZE, 2))
        targets = set(batch.targets[batch.is_instance].tolist())
        size = max(len(targets), room)
        columns, left_out = closed_columns(task, batch, wanted, size, seen=seen)
        asked = wanted[batch.is_instance].reshape(-1).tolist()
        more = sorted(set(asked) - targets, key=lambda item: (-asked.count(item), item))
        items = sorted(targets | set(more[: size - len(targets)]))
        assert left_out == len(targets | set(asked)) - len(items)
        assert columns.candidates.tolist() == items + [0] * (size - len(items))
        assert not columns.valid[:, len(items) :].any()
        whole = catalogue_columns(task, batch, seen=seen)
        np.testing.assert_array_equal(columns.valid[:, : len(items)], whole.valid[:, items])
        chosen = columns.candidates[columns.target_column[batch.is_instance]]
        np.testing.assert_array_equal(chosen, batch.targets[batch.is_instance])


def test_more_targets_than_closed_columns_are_refused():
    """A target never silently lacks its column."""
    batch = next(batches_of(TASK))
    wanted = np.zeros((BATCH_SIZE, 1), int)
    with pytest.raises(ValueError, match="targets for 3 columns"):
        closed_columns(TASK, batch, wanted, 3, seen="out")


@pytest.mark.parametrize("seen", ["out", "unwanted"])
def test_a_long_history_is_read_once_and_no_more_of_it_than_there_are_columns(monkeypatch, seen):
    """A user's 4,000 items aren't repeated for each of its rows, and the masks are right."""
    rng = np.random.default_rng(0)
    worlds = [rng.permutation(5000)[:4000].tolist(), *([[0, 1, 2, 3]] * 3)]
    task = task_of(from_histories(worlds, 5000))
    ids = np.concatenate([np.arange(1, 60), task.dataset.interactions.indptr[1:4] + 1])
    segments = instance_segments(task.dataset.interactions, ids, 24)
    (packed,) = pack(task.dataset.interactions, segments, 64, 24)
    batch = as_batch(task.dataset.interactions, packed, 64)
    sizes = []
    search = np.searchsorted

    def watched(array, values, *rest):
        sizes.append(np.size(values))
        return search(array, values, *rest)

    assert task.read_items.offsets[1] > 3000  # made before the batches
    monkeypatch.setattr(columns_module.np, "searchsorted", watched)
    found = in_batch_columns(task, batch, seen=seen)
    assert max(sizes) <= len(ids)
    histories, split = task.dataset.interactions, task.split
    targets = set(batch.targets[batch.is_instance].tolist())
    mask = found.valid if seen == "out" else found.scored
    for row in np.flatnonzero(batch.is_instance):
        user = histories.users[batch.instance_ids[row]]
        end = split.train_end[user] if seen == "out" else batch.instance_ids[row]
        known = set(histories.items[histories.indptr[user] : end].tolist())
        counted = found.candidates[mask[row]].tolist()
        assert counted == sorted(targets - known | {int(batch.targets[row])})
