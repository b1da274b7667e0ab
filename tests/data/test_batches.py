import dataclasses
import itertools

import numpy as np
import pytest

from prmkd_jax.data.batches import TrainingBatches
from prmkd_jax.data.dataset import Interactions
from tests.worlds import BATCH_SIZE, MAX_SEQ_LEN, random_world, task_of

WORLD = random_world(longest=25)
HISTORIES = WORLD.interactions
SPLIT = task_of(WORLD).split
# Longest prefix and `own_slot`: histories in a segment each, mostly in windows, prefix by prefix.
KINDS = {"dense": (24, False), "windows": (MAX_SEQ_LEN, False), "own_slot": (MAX_SEQ_LEN, True)}


def stream(seed=0, world=WORLD, kind="dense"):
    window, own_slot = KINDS[kind]
    return TrainingBatches(task_of(world), window, BATCH_SIZE, seed, own_slot)


def flat(batches):
    return [leaf for batch in batches for leaf in (*batch.rows, *batch[1:])]


def equal(one, other):
    one, other = flat(one), flat(other)
    return len(one) == len(other) and all(map(np.array_equal, one, other))


@pytest.mark.parametrize(
    ("epoch", "kind"),
    [(0, "dense"), (1, "dense"), (17, "dense"), (0, "windows"), (1, "windows"), (1, "own_slot")],
)
def test_an_epoch_has_every_training_instance_once(epoch, kind):
    """The shuffle loses none, not even at the end, and no held-out instance is trained on."""
    batches = list(stream(kind=kind).epoch(epoch))
    asked = np.concatenate([batch.instance_ids[batch.is_instance] for batch in batches])
    np.testing.assert_array_equal(np.sort(asked), SPLIT.train)
    for batch in batches:
        targets = HISTORIES.items[batch.instance_ids]
        np.testing.assert_array_equal(batch.targets, np.where(batch.is_instance, targets, 0))
        assert (batch.instance_ids[~batch.is_instance] == 0).all()
        assert batch.instance_ids.shape == (BATCH_SIZE,)
        found = batch.at_targets(batch.rows.instance_ids.reshape(-1))
        np.testing.assert_array_equal(
            found[batch.is_instance], batch.instance_ids[batch.is_instance]
        )
        assert batch.rows.item_seq.shape == batches[0].rows.item_seq.shape
        assert (batch.slots is None) == (kind == "dense")
        if batch.slots is None:
            np.testing.assert_array_equal(batch.is_instance, found >= 0)


def test_with_an_own_slot_each_instance_has_a_segment_that_ends_before_its_target():
    """The model that sees a segment whole never sees the target or a later item."""
    for batch in stream(kind="own_slot").epoch(0):
        rows = batch.rows
        for row, column in np.argwhere(rows.segment_ids > 0):
            segment = rows.segment_ids[row] == rows.segment_ids[row, column]
            asked = rows.instance_ids[row, segment]
            assert (asked[:-1] == -1).all()
            first = max(HISTORIES.indptr[HISTORIES.users[asked[-1]]], asked[-1] - MAX_SEQ_LEN)
            prefix = HISTORIES.items[first : asked[-1]]
            np.testing.assert_array_equal(rows.item_seq[row, segment], [*prefix, 0])


@pytest.mark.parametrize(("longest", "most", "own_slot"), [(14, 30, True), (80, 8, False)])
def test_nearly_all_of_a_batchs_instances_are_there(longest, most, own_slot):
    """Batches are over 90 % full on average, in short and in long histories."""
    world = random_world(users=400 * 14 // longest, longest=longest)
    batches = TrainingBatches(task_of(world), most, 64, 0, own_slot)
    counts = [batch.is_instance.sum() for batch in batches.epoch(0)]
    assert np.mean(counts[:-1]) > 0.9 * 64


@pytest.mark.parametrize("kind", KINDS)
def test_no_held_out_item_is_read(kind):
    """Other validation and test items give the same batches, bit by bit."""
    items = HISTORIES.items.copy()
    held_out = np.concatenate([SPLIT.validation, SPLIT.test])
    items[held_out] = 999
    changed = dataclasses.replace(WORLD, interactions=Interactions(HISTORIES.indptr, items))
    batches = list(stream(world=changed, kind=kind).epoch(0))
    assert equal(batches, list(stream(kind=kind).epoch(0)))


def test_the_order_depends_on_seed_and_epoch_alone():
    """Each epoch has an order of its own, and a resumed run repeats it."""
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
    """An epoch has 1 to 1.5 times as many steps as the progress bar expects."""
    batches = stream(kind=kind)
    epoch = list(batches.epoch(0))
    assert batches.rows % 8 == 0 or kind == "dense"
    filled = sum((batch.rows.segment_ids > 0).sum() for batch in epoch)
    assert batches.steps_about == -(-filled // epoch[0].rows.item_seq.size)
    assert batches.steps_about <= len(list(batches.epoch(0))) <= 1.5 * batches.steps_about


def test_in_a_large_catalogue_no_slot_is_scored_that_predicts_nothing():
    """Half of the slots predict: a small catalogue scores all of them, a large one only those."""
    small, large = (
        TrainingBatches(task_of(random_world(items=items)), MAX_SEQ_LEN, BATCH_SIZE, seed=0)
        for items in (40, 9_000)
    )
    assert small.dense
    assert not large.dense
    for batch in itertools.islice(large.epoch(0), 3):
        assert batch.slots is not None
        read = batch.rows.instance_ids.reshape(-1)[batch.slots[batch.is_instance]]
        assert read.tolist() == batch.instance_ids[batch.is_instance].tolist()
