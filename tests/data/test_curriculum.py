import dataclasses
import math

import numpy as np
import pytest

from prmkd_jax.data.batches import TrainingBatches
from prmkd_jax.data.curriculum import START, Curriculum, competence, difficulty
from prmkd_jax.data.dataset import Interactions
from tests.data.test_batches import KINDS, equal, flat, stream
from tests.worlds import MAX_SEQ_LEN, from_histories, random_world, task_of

WORLD = random_world(longest=25)
TASK = task_of(WORLD)
EPOCHS = 3


def by_hand(task):
    """The formula in float64, instance by instance."""
    histories, trained = task.dataset.interactions, []
    for user, end in enumerate(task.split.train_end):
        trained += histories.items[histories.indptr[user] : end].tolist()
    lengths, popularities = [], []
    for instance in task.split.train:
        begin = histories.indptr[histories.users[instance]]
        logs = [math.log(trained.count(item)) for item in histories.items[begin : instance + 1]]
        lengths.append(len(logs) - 1)
        popularities.append(round(math.fsum(logs) / len(logs), 9))
    d = mean_ranks(lengths) + mean_ranks([-mean for mean in popularities])
    return np.array([(d < one).mean() for one in d])


def mean_ranks(values):
    """From 1; equal values share the mean of theirs."""
    values = np.array(values)
    return np.array([(values < one).sum() + ((values == one).sum() + 1) / 2 for one in values])


@pytest.mark.parametrize("task", [TASK, TASK.with_validation()], ids=["train", "refit"])
def test_difficulty_is_the_formula(task):
    """The target counts, ties share their mean rank, and no window cuts the lengths."""
    found = difficulty(task)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, by_hand(task), rtol=0, atol=1e-12)
    assert found.min() == 0
    assert found.max() < 1


def test_short_and_popular_is_easy():
    """The order starts with the easiest, and popularity counts as well as length."""
    # Trained on three times each: 0 and 1; twice each: 2 and 3.
    world = from_histories([[0, 1, 0, 1, 9, 9], [2, 3, 2, 3, 9, 9], [0, 1, 9, 9]], 10)
    # Equally long and equally popular are the first instances of users 0 and 2.
    np.testing.assert_allclose(difficulty(task_of(world)) * 7, [0, 2, 4, 3, 5, 6, 0])


def test_what_is_held_out_makes_nothing_easier():
    """Popularity doesn't count validation and test items."""
    items = WORLD.interactions.items.copy()
    items[np.concatenate([TASK.split.validation, TASK.split.test])] = 7
    changed = dataclasses.replace(
        WORLD, interactions=Interactions(WORLD.interactions.indptr, items)
    )
    np.testing.assert_array_equal(difficulty(task_of(changed)), difficulty(TASK))


@pytest.mark.parametrize("progress", [0.0, 0.01, 0.3, 0.5, 0.99, 1.0, 1.5])
def test_competence_is_the_formula(progress):
    """The share starts above 0, grows by a square root and never exceeds 1."""
    expected = min(1.0, (progress * (1 - START**2) + START**2) ** 0.5)
    assert competence(progress) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("epoch", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_keeps_what_is_easy_enough_at_its_step(kind, epoch):
    """No instance comes too early or gets lost, and each keeps its target and its slot."""
    task, plain = TASK, stream(kind=kind)
    known = dict(zip(task.split.train.tolist(), by_hand(task), strict=True))
    batches = list(Curriculum(plain, EPOCHS).epoch(epoch))
    before = list(plain.epoch(epoch))
    assert len(batches) == len(before)
    for step, (batch, whole) in enumerate(zip(batches, before, strict=True)):
        progress = (epoch + min(step / plain.steps_about, 1)) / EPOCHS
        most = math.sqrt(progress * (1 - 0.25**2) + 0.25**2)
        ids = batch.instance_ids[batch.is_instance]
        easy = [one for one in whole.instance_ids[whole.is_instance].tolist() if known[one] <= most]
        assert ids.tolist() == easy
        targets = np.where(batch.is_instance, WORLD.interactions.items[batch.instance_ids], 0)
        np.testing.assert_array_equal(batch.targets, targets)
        assert (batch.instance_ids[~batch.is_instance] == 0).all()
        read = batch.at_targets(batch.rows.instance_ids.reshape(-1))
        np.testing.assert_array_equal(read[batch.is_instance], ids)
        assert sorted(batch.rows.instance_ids[batch.rows.instance_ids >= 0]) == sorted(easy)
        assert [getattr(leaf, "shape", None) for leaf in flat([batch])] == [
            getattr(leaf, "shape", None) for leaf in flat([whole])
        ]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_left_is_read_as_without_a_curriculum(kind):
    """An asked segment keeps all its items, and one that nobody asks for is empty."""
    for batch, whole in zip(
        Curriculum(stream(kind=kind), EPOCHS).epoch(0), stream(kind=kind).epoch(0), strict=True
    ):
        for segment in np.unique(whole.rows.segment_ids[whole.rows.segment_ids > 0]):
            slots = whole.rows.segment_ids == segment
            asked = (batch.rows.instance_ids[slots] >= 0).any()
            for name in ("item_seq", "segment_ids", "positions", "users"):
                found = getattr(batch.rows, name)[slots]
                expected = getattr(whole.rows, name)[slots] if asked else 0 * found
                np.testing.assert_array_equal(found, expected)


def test_batches_depend_on_seed_and_epoch_alone():
    """No difficulty or step is carried over from one epoch to the next."""
    first = list(Curriculum(stream(seed=1), EPOCHS).epoch(1))
    again = Curriculum(stream(seed=1), EPOCHS)
    for epoch in range(2):
        found = list(again.epoch(epoch))
    assert equal(found, first)
    assert not equal(first, list(Curriculum(stream(seed=2), EPOCHS).epoch(1)))


@pytest.mark.parametrize("kind", KINDS)
def test_at_its_end_all_are_in(kind):
    """The number of instances never falls, and at the end the batches are the plain ones."""
    plain = stream(kind=kind)
    seen = [
        sum(batch.is_instance.sum() for batch in Curriculum(plain, EPOCHS).epoch(epoch))
        for epoch in range(EPOCHS + 1)
    ]
    assert seen == sorted(seen)
    assert seen[0] < 0.6 * seen[-1]
    for epoch in (EPOCHS, EPOCHS + 4):
        assert equal(list(Curriculum(plain, EPOCHS).epoch(epoch)), list(plain.epoch(epoch)))


def test_a_batch_that_would_hold_nothing_is_left_out():
    """Every batch has an instance, so no step is taken on nothing."""
    plain = TrainingBatches(TASK, MAX_SEQ_LEN, 2, seed=0, own_slot=True)
    batches = list(Curriculum(plain, 20).epoch(0))
    assert 0 < len(batches) < len(list(plain.epoch(0)))
    assert all(batch.is_instance.any() for batch in batches)
