"""The untrained neighbourhood: its formula, what of it an instance may not see, its constants."""

import dataclasses
import math
from unittest import mock

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from prmkd_jax.common.cache import Cache
from prmkd_jax.data.splits import global_temporal
from prmkd_jax.data.task import Task
from teachers_torch.given import neighbours
from teachers_torch.given.neighbours import (
    GRID,
    KIND,
    NeighbourConstants,
    NeighboursTeacher,
    choose,
)
from teachers_torch.registry import identity
from teachers_torch.settings import TeacherSettings
from teachers_torch.store import load, save
from teachers_torch.tuning import tune
from tests.worlds import from_histories, shelf_world, task_of

# Few items, so that users repeat items and pairs; also an item right after itself.
WORLDS = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=9), min_size=1, max_size=6)
NUM_ITEMS = 7  # the last one occurs nowhere


def by_hand(task: Task, texts, constants: NeighbourConstants, instance: int) -> list[float] | None:
    """The scores of all items before an instance, its own pairs left out; None without a prefix."""
    histories = task.dataset.interactions
    pairs = []  # (place of the second item, first item, second item)
    for user in range(histories.num_users):
        for at in range(int(histories.indptr[user]) + 1, int(task.split.train_end[user])):
            pairs.append((at, int(histories.items[at - 1]), int(histories.items[at])))
    degree = [1] * NUM_ITEMS
    for _, one, other in pairs:
        degree[one] += 1
        degree[other] += 1
    trained = instance < task.split.train_end[histories.users[instance]]
    own = (instance, instance + 1) if trained else ()
    times = np.zeros((NUM_ITEMS, NUM_ITEMS))
    target = int(histories.items[instance])
    for at, one, other in pairs:
        times[one, other] += 1
        times[other, one] += 1
        # Only the count of the target itself; that of other items stays.
        if at in own and histories.users[at] == histories.users[instance]:
            near = one if at == instance else other
            times[near, target] -= 2 if near == target else 1
    first = int(histories.indptr[histories.users[instance]])
    last = histories.items[first:instance][::-1][: constants.last].tolist()
    if not last:
        return None
    unit = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    scores = []
    for item in range(NUM_ITEMS):
        score = 0.0
        for step, near in enumerate(last):
            graph = times[near, item] / math.sqrt(degree[near] * degree[item])
            alike = max(float(unit[near] @ unit[item]), 0.0) ** constants.power
            score += constants.decay**step * (graph + constants.share * alike)
        scores.append(score)
    return scores


@given(
    WORLDS,
    st.sampled_from([0.0, 0.5, 1.0]),
    st.sampled_from([0.0, 0.5]),
    st.integers(1, 4),
    st.sampled_from([1, 3, 5]),
    st.sampled_from([0, 2**25]),
)
@settings(max_examples=60, deadline=None)
def test_scores_equal_the_formula_without_the_instances_own_pairs(
    worlds, decay, share, power, last, most_pairs
):
    """What the instance's own pairs add to the label's counts is left out.

    So the label isn't handed back: not by the pair itself, not from an older place of the same
    item, not by the pair with the next item, and not twice where an item follows itself.
    """
    task = task_of(from_histories(worlds, NUM_ITEMS))
    texts = np.random.default_rng(0).normal(size=(NUM_ITEMS, 5))
    teacher = NeighboursTeacher(task, texts.astype(np.float32))
    teacher.constants = NeighbourConstants(decay, share, power, last)
    ids = np.arange(len(task.dataset.interactions.items))
    columns = np.array([3, 0, 3, 6])
    # Blocks of three, of which the last is not full.
    with mock.patch.multiple(neighbours, MOST_PAIRS=most_pairs, BLOCK_ROWS=3):
        found = teacher.score(ids, np.arange(NUM_ITEMS))
        some = teacher.score(ids, columns)
    np.testing.assert_allclose(some, found[:, columns], atol=1e-6)
    for instance in ids:
        expected = by_hand(task, texts, teacher.constants, instance)
        if expected is None:
            assert np.isnan(found[instance]).all()
        else:
            np.testing.assert_allclose(found[instance], expected, atol=2e-6)


def test_a_pair_that_only_the_instance_has_is_not_taught():
    """Only u0 goes from 0 to 1: its own instance scores 1 as zero, another user's doesn't."""
    task = task_of(from_histories([[0, 1, 2, 3, 4], [2, 3, 5, 3, 4], [0, 4, 5, 3, 4]], NUM_ITEMS))
    scores = NeighboursTeacher(task, None).score(np.array([1]), np.arange(NUM_ITEMS))[0]
    assert scores[1] == 0
    # Another user at the same item is led there.
    held_out = NeighboursTeacher(task, None).score(np.array([11]), np.arange(NUM_ITEMS))[0]
    assert held_out[1] > 0


def test_a_target_without_other_pairs_is_never_below_what_is_unrelated():
    """Rounding leaves it 0 as all others, or a loss that knows ranks alone would have it last."""
    rng = np.random.default_rng(0)
    histories = [rng.permutation(400)[: rng.integers(5, 30)].tolist() for _ in range(60)]
    task = task_of(from_histories(histories, 400))
    instances = task.split.train
    scores = NeighboursTeacher(task, None).score(instances, np.arange(400))
    own = scores[np.arange(len(instances)), task.targets(instances)]
    assert (own == 0).mean() > 0.5
    assert not ((own != 0) & (np.abs(own) < 1e-5)).any()


def test_held_out_pairs_are_not_counted():
    """The held-out steps of each user add nothing, after a split by user or by time."""
    histories = [[0, 1, 2, 3, 4]] * 4
    task = task_of(from_histories(histories, NUM_ITEMS))
    scores = NeighboursTeacher(task, None).score(task.split.test, np.arange(NUM_ITEMS))
    # After (…, 2, 3) the item 2 is known from training; 4, that always follows 3, is not.
    assert (scores[:, 4] == 0).all()
    timed = dataclasses.replace(
        task.dataset,
        interactions=dataclasses.replace(
            task.dataset.interactions, timestamps=np.tile(np.arange(5), 4) * 10**6
        ),
    )
    by_time = Task(timed, global_temporal(timed.interactions, ("0.5", "0.7"), "timed"))
    teacher = NeighboursTeacher(by_time, None)
    known = teacher.score(np.arange(20), np.arange(NUM_ITEMS))
    assert np.nanmax(known[:, 4]) == 0


def test_a_teacher_of_other_constants_scores_like_a_fresh_one():
    """No similarity of the earlier constants is kept, so each setting scores differently."""
    task = task_of(from_histories([[0, 1, 2, 3, 4], [2, 3, 5, 3, 4]], NUM_ITEMS))
    texts = np.random.default_rng(0).normal(size=(NUM_ITEMS, 5)).astype(np.float32)
    teacher, asked = NeighboursTeacher(task, texts), (np.arange(10), np.arange(NUM_ITEMS))
    seen = [teacher.score(*asked)]
    for constants in (
        NeighbourConstants(share=2.0),
        NeighbourConstants(power=1),
        NeighbourConstants(decay=0.25, last=5),
    ):
        fresh = NeighboursTeacher(task, texts)
        teacher.constants = fresh.constants = constants
        seen.append(teacher.score(*asked))
        np.testing.assert_array_equal(seen[-1], fresh.score(*asked))
        assert not np.array_equal(seen[-1], seen[-2], equal_nan=True)


def test_the_constants_are_chosen_on_validation_and_kept(tmp_path):
    """The choice has the best NDCG@10, the card names it, and a saved teacher keeps it."""
    task = task_of(shelf_world(users=40))
    cache = Cache(tmp_path)
    what = identity("neighbours", task, TeacherSettings(), 0)
    assert identity("neighbours", task, TeacherSettings(), 1).key == what.key
    events = []
    # Texts that the bundled encoder would take seconds for.
    bare = Task(from_histories_of(task), task.split)
    what = identity("neighbours", bare, TeacherSettings(), 0)
    teacher, card = tune(what, bare, TeacherSettings(), cache, events.append)
    tried = {tuple(event["setting"].values()): event["NDCG@10"] for event in events}
    assert tuple(card.chosen.values()) == tuple(teacher.constants)
    assert card.validation["NDCG@10"] == max(tried.values())
    assert card.chosen["share"] == 0  # it has no texts
    assert {values[1:3] for values in tried} == {(0, 3)}
    assert {values[0] for values in tried} == set(GRID["decay"])
    assert {values[3] for values in tried} == set(GRID["last"])
    assert (card.epochs, card.num_parameters) == (0, 0)
    save(teacher, card, tmp_path / "saved")
    again, its_card = load(
        "neighbours", tmp_path / "saved", bare, TeacherSettings(), cache=cache, log=print
    )
    assert its_card == card
    assert again.constants == teacher.constants
    assert KIND.settings(bare, TeacherSettings())["text_encoder"] is None


def from_histories_of(task: Task):
    """The same histories without texts."""
    histories = task.dataset.interactions
    parts = np.split(histories.items, histories.indptr[1:-1])
    return from_histories([part.tolist() for part in parts], task.dataset.num_items)


def test_each_constant_is_chosen_in_turn_until_none_changes():
    """The best decay is found after the share it depends on; constants not named stay fixed."""
    goal = NeighbourConstants(0.75, 2.0, 1, 10)

    def measure(constants: NeighbourConstants) -> float:
        # The best decay shows itself only with the right share.
        far = abs(constants.share - goal.share) + abs(constants.power - goal.power)
        far += abs(constants.last - goal.last)
        return -far - abs(constants.decay - (goal.decay if far == 0 else 0.25))

    assert choose(NeighbourConstants(), list(GRID), measure) == goal
    assert choose(NeighbourConstants(), ["decay"], measure) == NeighbourConstants(decay=0.25)
