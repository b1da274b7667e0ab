import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prmkd_jax.data.batches import (
    TrainingBatches,
    as_batch,
    catalogue_columns,
    in_batch_columns,
    popularity_groups,
)
from prmkd_jax.data.dataset import Interactions
from prmkd_jax.data.packing import history_segments, pack
from prmkd_jax.data.splits import leave_one_out
from tests.worlds import BATCH_SIZE, MAX_SEQ_LEN, from_histories, random_world

WORLD = random_world(longest=25)
HISTORIES, SPLIT = WORLD.interactions, leave_one_out(WORLD.interactions)
# Few items, so that rows share targets and users repeat items.
WORLDS = st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=9), min_size=1, max_size=8)


# Longest prefix and `one_by_one`: histories in a segment each, mostly in windows, prefix by prefix.
KINDS = {"dense": (24, False), "windows": (MAX_SEQ_LEN, False), "one_by_one": (MAX_SEQ_LEN, True)}


def stream(seed=0, histories=HISTORIES, kind="dense"):
    split, (longest, one_by_one) = leave_one_out(histories), KINDS[kind]
    return TrainingBatches(histories, split, longest, BATCH_SIZE, seed, one_by_one)


def flat(batches):
    return [leaf for batch in batches for leaf in (*batch.rows, *batch[1:])]


def equal(one, other):
    one, other = flat(one), flat(other)
    return len(one) == len(other) and all(map(np.array_equal, one, other))


@pytest.mark.parametrize(
    ("epoch", "kind"),
    [(0, "dense"), (1, "dense"), (17, "dense"), (0, "windows"), (1, "windows"), (1, "one_by_one")],
)
def test_an_epoch_asks_every_training_instance_once(epoch, kind):
    """An instance lost in the shuffle or at the end, or a held-out one that is trained on."""
    batches = list(stream(kind=kind).epoch(epoch))
    asked = np.concatenate([batch.instance_ids[batch.real] for batch in batches])
    np.testing.assert_array_equal(np.sort(asked), SPLIT.train)
    for batch in batches:
        targets = HISTORIES.items[batch.instance_ids]
        np.testing.assert_array_equal(batch.targets, np.where(batch.real, targets, 0))
        assert (batch.instance_ids[~batch.real] == 0).all()
        assert batch.instance_ids.shape == (BATCH_SIZE,)
        found = batch.asked(batch.rows.instance_ids.reshape(-1))
        np.testing.assert_array_equal(found[batch.real], batch.instance_ids[batch.real])
        assert batch.rows.item_seq.shape == batches[0].rows.item_seq.shape
        assert (batch.slots is None) == (kind == "dense")
        if batch.slots is None:
            np.testing.assert_array_equal(batch.real, found >= 0)


def test_one_by_one_each_instance_has_a_segment_that_ends_before_its_target():
    """A model that sees its segment whole and finds the target, or a later item, in it."""
    for batch in stream(kind="one_by_one").epoch(0):
        rows = batch.rows
        for row, column in np.argwhere(rows.segment_ids > 0):
            segment = rows.segment_ids[row] == rows.segment_ids[row, column]
            asked = rows.instance_ids[row, segment]
            assert (asked[:-1] == -1).all()
            first = max(HISTORIES.indptr[HISTORIES.users[asked[-1]]], asked[-1] - MAX_SEQ_LEN)
            prefix = HISTORIES.items[first : asked[-1]]
            np.testing.assert_array_equal(rows.item_seq[row, segment], [*prefix, 0])


@pytest.mark.parametrize(("longest", "most", "one_by_one"), [(14, 30, True), (80, 8, False)])
def test_nearly_all_of_a_batchs_instances_are_there(longest, most, one_by_one):
    """Slots for one prefix in ten: a batch of 64 that is one of 6, in long histories as well."""
    world = random_world(users=400 * 14 // longest, longest=longest)
    split = leave_one_out(world.interactions)
    batches = TrainingBatches(world.interactions, split, most, 64, 0, one_by_one)
    real = [batch.real.sum() for batch in batches.epoch(0)]
    assert np.mean(real[:-1]) > 0.9 * 64


@pytest.mark.parametrize("kind", KINDS)
def test_no_held_out_item_is_read(kind):
    """Validation or test items among a batch's inputs or targets."""
    items = HISTORIES.items.copy()
    held_out = np.concatenate([SPLIT.validation, SPLIT.test])
    items[held_out] = 999
    changed = Interactions(HISTORIES.indptr, items)
    batches = list(stream(histories=changed, kind=kind).epoch(0))
    assert equal(batches, list(stream(kind=kind).epoch(0)))


def test_the_order_depends_on_seed_and_epoch_alone():
    """The same order every epoch, or one that a resumed run can't repeat."""
    first = list(stream(seed=1).epoch(3))
    assert equal(first, list(stream(seed=1).epoch(3)))
    again = stream(seed=1)
    for epoch in range(3):
        list(again.epoch(epoch))
    assert equal(first, list(again.epoch(3)))
    orders = [list(stream(seed).epoch(epoch)) for seed in (1, 2, 3) for epoch in (1, 2, 3)]
    assert not any(equal(a, b) for a, b in itertools.combinations(orders, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_about_how_many_steps_there_are(kind):
    """A progress bar that ends at half, or never."""
    batches = stream(kind=kind)
    epoch = list(batches.epoch(0))
    assert batches.rows % 8 == 0 or kind == "dense"
    filled = sum((batch.rows.segment_ids > 0).sum() for batch in epoch)
    assert batches.steps_about == -(-filled // epoch[0].rows.item_seq.size)
    assert batches.steps_about <= len(list(batches.epoch(0))) <= 1.5 * batches.steps_about


def columns_by_hand(histories, split, batch, row, mask_history):
    """The columns' items that count in a row, as a set."""
    if not batch.real[row]:
        return set()
    own = int(batch.targets[row])
    counted = set(batch.targets[batch.real].tolist())
    if mask_history:
        user = int(histories.users[batch.instance_ids[row]])
        known = histories.items[histories.indptr[user] : split.train_end[user]]
        counted -= set(known.tolist())
    return counted | {own}


@given(WORLDS, st.booleans())
def test_columns_equal_a_search_by_hand(worlds, mask_history):
    """A duplicate or padded column that counts, a known item left in, the own target left out."""
    histories = from_histories(worlds, 9).interactions
    split = leave_one_out(histories)
    for batch in stream(histories=histories).epoch(0):
        columns = in_batch_columns(histories, split.train_end, batch, mask_history=mask_history)
        distinct = sorted(set(batch.targets[batch.real].tolist()))
        assert columns.candidates.tolist() == distinct + [0] * (BATCH_SIZE - len(distinct))
        assert columns.candidates.dtype == columns.target_columns.dtype == np.int32
        assert columns.valid.shape == (BATCH_SIZE, BATCH_SIZE)
        assert not columns.valid[:, len(distinct) :].any()
        for row in range(BATCH_SIZE):
            counted = columns.candidates[columns.valid[row]].tolist()
            expected = columns_by_hand(histories, split, batch, row, mask_history)
            assert counted == sorted(expected)
            if batch.real[row]:
                assert columns.candidates[columns.target_columns[row]] == batch.targets[row]
                assert columns.valid[row, columns.target_columns[row]]


def test_held_out_items_mask_nothing():
    """A validation or test item taken out of the columns tells the student what not to rank."""
    held_out = np.concatenate([SPLIT.validation, SPLIT.test])
    items = HISTORIES.items.copy()
    items[held_out] = (items[held_out] + 1 + np.arange(len(held_out)) % 39) % 40
    assert (items[held_out] != HISTORIES.items[held_out]).all()
    changed = Interactions(HISTORIES.indptr, items)
    for batch in stream().epoch(0):
        before = in_batch_columns(HISTORIES, SPLIT.train_end, batch, mask_history=True)
        after = in_batch_columns(changed, SPLIT.train_end, batch, mask_history=True)
        assert all(map(np.array_equal, before, after))


def test_columns_of_a_small_batch_by_hand():
    """Target, duplicate, later training item and held-out item each treated by its own rule."""
    histories = from_histories([[0, 1, 2, 1, 7, 8], [3, 2, 7, 5, 6]], 9).interactions
    split = leave_one_out(histories)
    segments = history_segments(histories, split.train_end, 5)
    (packed,) = pack(histories, segments, 1, 6)
    batch = as_batch(histories, packed)
    assert batch.targets.tolist() == [1, 2, 1, 2, 7, 0]
    assert batch.real.tolist() == [True] * 5 + [False]
    columns = in_batch_columns(histories, split.train_end, batch, mask_history=True)
    assert columns.candidates.tolist() == [1, 2, 7, 0, 0, 0]
    assert columns.target_columns.tolist() == [0, 1, 0, 1, 2, 0]
    # User 0 trains on 0 1 2 1 and is tested on 8 after 7, so 7 stays; user 1 on 3 2 7.
    marks = ["".join(".#"[int(value)] for value in row) for row in columns.valid]
    assert marks == ["#.#...", ".##...", "#.#...", "##....", "#.#...", "......"]
    every = in_batch_columns(histories, split.train_end, batch, mask_history=False)
    assert every.valid[:5, :3].all()
    assert every.valid.sum() == 15


@given(WORLDS, st.booleans())
def test_catalogue_columns_equal_a_search_by_hand(worlds, mask_history):
    """A column that isn't its item, other masks than in the batch, an own target left out."""
    world = from_histories(worlds, 9)
    histories, split = world.interactions, leave_one_out(world.interactions)
    for batch in stream(histories=histories).epoch(0):
        columns = catalogue_columns(
            histories, split.train_end, batch, world.num_items, mask_history=mask_history
        )
        assert columns.candidates.tolist() == list(range(9))
        assert columns.candidates.dtype == columns.target_columns.dtype == np.int32
        for row in np.flatnonzero(batch.real):
            own = int(batch.targets[row])
            assert columns.target_columns[row] == own
            counted = set(range(9))
            if mask_history:
                user = int(histories.users[batch.instance_ids[row]])
                known = histories.items[histories.indptr[user] : split.train_end[user]]
                counted -= set(known.tolist())
            assert set(np.flatnonzero(columns.valid[row])) == counted | {own}
        assert not columns.valid[~batch.real].any()


@given(WORLDS, st.booleans())
def test_without_deduplication_every_rows_target_is_a_column(worlds, mask_history):
    """A duplicate dropped, a padded row's target that counts, another mask for a duplicate."""
    histories = from_histories(worlds, 9).interactions
    split = leave_one_out(histories)
    for batch in stream(histories=histories).epoch(0):
        columns = in_batch_columns(
            histories, split.train_end, batch, mask_history=mask_history, deduplicate=False
        )
        assert columns.candidates.tolist() == batch.targets.tolist()
        assert columns.target_columns.tolist() == list(range(BATCH_SIZE))
        assert columns.target_columns.dtype == np.int32
        for row in range(BATCH_SIZE):
            counted = columns_by_hand(histories, split, batch, row, mask_history)
            expected = [
                bool(batch.real[other]) and int(batch.targets[other]) in counted
                for other in range(BATCH_SIZE)
            ]
            assert columns.valid[row].tolist() == expected


def test_popularity_groups_by_hand():
    """Held-out items that count, groups of equal size instead of equal popularity."""
    # Training counts: item 0 six, 1 three, 2 two, 3 one, 4 none; 4 and 5 are held out.
    world = from_histories([[0, 0, 0, 1, 2, 4, 5], [0, 0, 0, 1, 1, 2, 3, 5, 4]], 6)
    split = leave_one_out(world.interactions)
    assert popularity_groups(world, split, 1).tolist() == [0] * 6
    assert popularity_groups(world, split, 2).tolist() == [1, 0, 0, 0, 0, 0]
    assert popularity_groups(world, split, 3).tolist() == [2, 1, 0, 0, 0, 0]
    assert popularity_groups(world, split, 3).dtype == np.int32
