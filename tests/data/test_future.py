"""No later interaction is read: inputs are the same whatever the future holds, in every split."""

import dataclasses

import numpy as np
import pytest

from prmkd_jax.data.batches import TrainingBatches, as_batch
from prmkd_jax.data.columns import catalogue_columns, in_batch_columns
from prmkd_jax.data.config import SPLITS
from prmkd_jax.data.packing import instance_segments, pack
from prmkd_jax.evaluate.evaluator import seen_items
from prmkd_jax.students.facts import make_facts
from tests.futures import after_test_begins, after_training, tiny_task, with_other_items
from tests.worlds import same_bits

WINDOW = 6


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("own_slot", [False, True])
def test_training_batches_and_columns_read_the_training_part_alone(split, own_slot):
    task = tiny_task(split)
    moved = with_other_items(task, split, after_training(task))
    pairs = zip(
        TrainingBatches(task, WINDOW, 65, 0, own_slot).epoch(0),
        TrainingBatches(moved, WINDOW, 65, 0, own_slot).epoch(0),
        strict=True,
    )
    seen = []
    for one, other in pairs:
        assert same_bits(one, other)
        for columns in (in_batch_columns, catalogue_columns):
            assert same_bits(columns(task, one, seen="out"), columns(moved, other, seen="out"))
        seen += one.instance_ids[one.is_instance].tolist()
    assert sorted(seen) == task.split.train.tolist()


@pytest.mark.parametrize("split", SPLITS)
def test_facts_and_counts_are_of_the_training_part_alone(split):
    task = tiny_task(split)
    moved = with_other_items(task, split, after_training(task))
    assert make_facts(task, WINDOW) == make_facts(moved, WINDOW)
    assert (task.training_counts == moved.training_counts).all()
    # The test can fail: what belongs to the training part changes both.
    trained = with_other_items(task, split, task.in_train)
    assert make_facts(task, WINDOW) != make_facts(trained, WINDOW)


def read_by_the_evaluator(task, instances):
    """Packed prefixes and masked histories of some instances."""
    interactions = task.dataset.interactions
    segments = instance_segments(interactions, instances, WINDOW)
    rows = [as_batch(interactions, each).rows for each in pack(interactions, segments, 4, WINDOW)]
    return rows, seen_items(interactions, instances)


@pytest.mark.parametrize("split", SPLITS)
def test_prefixes_that_are_ranked_end_before_their_own_part(split):
    """A validation prefix has no later item, and a test prefix none of the test period."""
    task = tiny_task(split)
    moved = with_other_items(task, split, after_training(task))
    one, other = (read_by_the_evaluator(each, task.split.validation) for each in (task, moved))
    assert same_bits(one, other)
    moved = with_other_items(task, split, after_test_begins(task, split))
    one, other = (read_by_the_evaluator(each, task.split.test) for each in (task, moved))
    assert same_bits(one, other)
    assert (moved.targets(task.split.test) != task.targets(task.split.test)).any()


def test_under_one_clock_no_training_interaction_is_later_than_what_is_ranked():
    task = tiny_task("temporal")
    times = task.dataset.interactions.timestamps
    assert times is not None
    assert times[task.in_train].max() < times[task.split.validation].min()
    assert times[task.split.validation].max() < times[task.split.test].min()
    # What leave-one-out doesn't promise, and so this test can fail.
    other = tiny_task("leave_one_out")
    assert times[other.in_train].max() > times[other.split.test].min()


@pytest.mark.parametrize("split", SPLITS)
def test_all_parts_are_apart(split):
    parts = dataclasses.astuple(tiny_task(split).split)[:3]
    together = np.concatenate(parts)
    assert len(np.unique(together)) == len(together)
