import itertools

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prmkd_jax.evaluate.metrics import expected_ranks
from prmkd_jax.ops.ranking import item_ranks, rank_targets

examples = hypothesis.settings(derandomize=True, deadline=None, max_examples=100)
ITEMS, HISTORY = 5, 4
ranked = jax.jit(rank_targets)


def rank(scores, targets, history):
    """Ranks with histories given as rows [B, H], padded with −1 in any place."""
    history = np.asarray(history)
    rows = np.broadcast_to(np.arange(len(history))[:, None], history.shape)
    pairs = np.stack([np.where(history >= 0, rows, -1), history]).reshape(2, -1)
    return ranked(scores, targets, pairs)


def rank_over_all_orders(scores, target, masked=()):
    """The target's mean place over every order of the items that their scores allow."""
    items = [item for item in range(len(scores)) if item not in masked]
    places = [
        order.index(target)
        for order in itertools.permutations(items)
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]
    return sum(places) / len(places)


@st.composite
def users(draw):
    """Three users with few distinct scores, and histories with padding in between."""
    row = st.lists(st.integers(-1, 2), min_size=ITEMS, max_size=ITEMS)
    history = st.lists(st.integers(0, ITEMS - 1), max_size=HISTORY, unique=True)
    scores = np.array([draw(row) for _ in range(3)], np.float32)
    targets = np.array([draw(st.integers(0, ITEMS - 1)) for _ in range(3)], np.int32)
    histories = np.full((3, HISTORY), -1, np.int32)
    for padded in histories:
        seen = draw(history)
        padded[sorted(draw(st.permutations(range(HISTORY)))[: len(seen)])] = seen
    return scores, targets, histories


@examples
@given(users())
def test_ranks_are_the_mean_over_all_orders_of_ties(case):
    """A tie counts half, and the history's order and padding don't matter."""
    scores, targets, histories = case
    ranks = rank(*case)
    for row in range(3):
        seen = set(histories[row].tolist()) - {-1}
        assert ranks.all_items[row] == rank_over_all_orders(scores[row], targets[row])
        if targets[row] in seen:
            assert ranks.unseen_items[row] == np.inf
        else:
            want = rank_over_all_orders(scores[row], targets[row], seen)
            assert ranks.unseen_items[row] == want
    assert ranks.finite.all()


def test_agrees_with_the_metrics_of_numpy():
    """Students and teachers are ranked by the same rules, with seen items masked or not."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(20, 301)).astype(np.float32)
    scores[::3] = np.round(scores[::3])
    targets = rng.integers(0, 301, size=20).astype(np.int32)
    history = np.stack([rng.permutation(301)[:30] for _ in range(20)]).astype(np.int32)
    history[rng.random(history.shape) < 0.3] = -1
    history[0, 7] = targets[0]
    ranks = rank(scores, targets, history)
    np.testing.assert_array_equal(ranks.all_items, expected_ranks(scores, targets))

    masked = scores.copy()
    for row, seen in zip(masked, history, strict=True):
        # Less than all others, and equal to nothing.
        row[seen[seen >= 0]] = -1e9
    reachable = ~(history == targets[:, None]).any(axis=1)
    assert not reachable[0]
    np.testing.assert_array_equal(ranks.unseen_items[~reachable], np.inf)
    want = expected_ranks(masked[reachable], targets[reachable])
    np.testing.assert_array_equal(ranks.unseen_items[reachable], want)


@pytest.mark.parametrize("constant", [0.0, 1e9, -1e9, 0.1])
def test_a_constant_model_is_ranked_in_the_middle(constant):
    """If all scores are equal, the rank is the mean of all places."""
    history = jnp.array([[0, 1, 2, -1], [50, 99, -1, -1]])
    ranks = rank(jnp.full((2, 101), constant), jnp.array([7, 100]), history)
    np.testing.assert_array_equal(ranks.all_items, [50.0, 50.0])
    np.testing.assert_array_equal(ranks.unseen_items, [48.5, 49.0])


def test_ranks_by_hand():
    """Ranks start at 0, and a seen item is taken out once."""
    scores = jnp.array([[3.0, 2.0, 1.0, 0.0]] * 5)
    targets = jnp.array([0, 3, 2, 2, 2])
    history = jnp.array([[-1, -1], [0, 1], [0, 3], [2, 0], [3, -1]])
    ranks = rank(scores, targets, history)
    np.testing.assert_array_equal(ranks.all_items, [0, 3, 2, 2, 2])
    np.testing.assert_array_equal(ranks.unseen_items, [0, 1, 1, np.inf, 2])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", [0, 3])
def test_rows_with_scores_that_are_not_finite_are_told(bad, column):
    """A row with nan or infinity is marked, so that it can't pass for a perfect one."""
    scores = np.ones((3, 4), np.float32)
    scores[1, column] = bad
    ranks = rank(scores, np.array([0, 0, 0]), np.full((3, 1), -1))
    np.testing.assert_array_equal(ranks.finite, [True, False, True])


def test_an_empty_history_masks_nothing():
    """Padding alone, or no column at all, leaves every item in the ranking."""
    scores, targets = jax.random.normal(jax.random.key(0), (4, 9)), jnp.arange(4)
    padded = rank(scores, targets, jnp.full((4, 3), -1))
    np.testing.assert_array_equal(padded.unseen_items, padded.all_items)
    chex.assert_trees_all_equal(padded, rank(scores, targets, jnp.zeros((4, 0), jnp.int32)))


@pytest.mark.parametrize("most", [1, 7, 60, 10_000])
def test_places_of_several_items_are_those_of_counting(most):
    """An item is counted once in any block size; ties count half, excluded items not at all."""
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (3, 11)).astype(np.float32)
    wanted = np.array([[0, 10, 4], [3, 3, -1], [9, 2, 5]])
    excluded = np.array([[4, 10, -1], [-1, -1, -1], [0, 1, 7]])
    found = item_ranks(
        lambda queries, items: queries @ items.T, jnp.asarray(scores), jnp.eye(11),
        jnp.asarray(wanted), jnp.asarray(excluded), most_compared=most,
    )  # fmt: skip
    for row in range(3):
        rivals = [item for item in range(11) if item not in excluded[row]]
        for place, item in enumerate(wanted[row]):
            if item < 0:
                continue
            own = scores[row, item]
            greater = sum(scores[row, other] > own for other in rivals)
            equal = sum(scores[row, other] == own for other in rivals if other != item)
            assert found[row, place] == greater + 0.5 * equal
