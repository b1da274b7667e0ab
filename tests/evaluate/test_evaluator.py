import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from prmkd_jax.data.dataset import Interactions
from prmkd_jax.data.packing import PackedRows
from prmkd_jax.data.splits import leave_one_out
from prmkd_jax.evaluate import evaluator
from prmkd_jax.evaluate.evaluator import (
    Evaluator,
    SeenItems,
    prefix_queries,
    seen_items,
)
from prmkd_jax.students.config import BUILT_IN
from prmkd_jax.students.registry import about, prefixes_alone, window
from prmkd_jax.students.student import create_student
from tests.students import reference
from tests.worlds import (
    BATCH_SIZE,
    MAX_SEQ_LEN,
    facts,
    from_histories,
    random_world,
    student_config,
)

WORLD = random_world(longest=18)
HISTORIES, SPLIT = WORLD.interactions, leave_one_out(WORLD.interactions)
GRAPHDEF, STATE = create_student(student_config(), facts(WORLD), 0)


def with_twins(params):
    """Two pairs of items that no score can tell apart: ranks with halves."""
    table = params["item_embedding"]["table"].copy()
    table[[7, 9]] = table[[8, 10]]
    return {**params, "item_embedding": {"table": table}}


PARAMS = with_twins(reference.random_params(nnx.to_pure_dict(STATE), 2))


def make(ids, world=WORLD, batch_size=BATCH_SIZE, eval_batch_size=16):
    return Evaluator(GRAPHDEF, world, ids, MAX_SEQ_LEN, batch_size, eval_batch_size)


def prefix_of(instance: int) -> np.ndarray:
    return HISTORIES.items[HISTORIES.indptr[HISTORIES.users[instance]] : instance]


@pytest.fixture(scope="module")
def ranks_by_hand():
    """Instance → (rank among all items, among unseen ones), one user after the other."""

    @jax.jit
    def scores_of(params, rows, last):
        student = nnx.merge(GRAPHDEF, nnx.State(params))
        return student.score(student.queries(rows)[last][None], student.items())[0]

    found = {}
    for instance in np.concatenate([SPLIT.validation, SPLIT.test]).tolist():
        history = prefix_of(instance)
        seen = history[-MAX_SEQ_LEN:]
        row = np.zeros((1, MAX_SEQ_LEN), np.int32)
        items, segments, positions = row.copy(), row.copy(), row.copy()
        items[0, : len(seen)], segments[0, : len(seen)] = seen, 1
        positions[0, : len(seen)] = np.arange(len(seen))
        packed = PackedRows(items, segments, positions, users=row, instance_ids=row)
        scores = np.asarray(scores_of(PARAMS, packed, len(seen) - 1))
        target = int(HISTORIES.items[instance])
        every = [item for item in range(WORLD.num_items) if item != target]
        unseen = [item for item in every if item not in history]

        def rank(rivals, scores=scores, target=target):
            own = scores[target]
            return sum(1.0 if scores[i] > own else 0.5 * (scores[i] == own) for i in rivals)

        found[instance] = rank(every), np.inf if target in history else rank(unseen)
    return found


@pytest.mark.parametrize("part", ["validation", "test"])
def test_ranks_equal_a_count_one_user_at_a_time(ranks_by_hand, part):
    """Prefix, target, tie rule and mask follow the protocol, and no users are mixed up."""
    ids = getattr(SPLIT, part)
    ranks = make(ids)(PARAMS)
    expected = np.array([ranks_by_hand[instance] for instance in ids.tolist()])
    np.testing.assert_array_equal(ranks.all_items, expected[:, 0])
    np.testing.assert_array_equal(ranks.unseen_items, expected[:, 1])
    assert ranks.all_items.dtype == ranks.unseen_items.dtype == np.float64
    # The world has what the rules are for: ties, repeats, and prefixes beyond the window.
    assert (expected[:, 0] % 1 == 0.5).any()
    assert 0 < np.isinf(expected[:, 1]).sum() < len(ids)
    assert (np.isfinite(expected[:, 1]) & (expected[:, 1] < expected[:, 0])).any()
    assert max(len(prefix_of(instance)) for instance in ids) > MAX_SEQ_LEN


@pytest.mark.parametrize(("batch_size", "eval_batch_size"), [(64, 1), (64, 7), (24, 1000)])
def test_block_sizes_change_no_rank(ranks_by_hand, batch_size, eval_batch_size):
    """No user is lost at the end of a block, and padding users don't count."""
    ids = SPLIT.test[np.random.default_rng(0).permutation(len(SPLIT.test))]
    ranks = make(ids, batch_size=batch_size, eval_batch_size=eval_batch_size)(PARAMS)
    expected = [ranks_by_hand[instance] for instance in ids.tolist()]
    np.testing.assert_array_equal(np.stack(ranks, axis=1), expected)


def test_a_large_catalogue_shrinks_the_block(ranks_by_hand, monkeypatch):
    """A block's scores of all items fit the memory, and the ranks stay the same."""
    seen = []

    def watched(scores, targets, pairs):
        seen.append(scores.shape)
        return rank_targets(scores, targets, pairs)

    rank_targets = evaluator.rank_targets
    monkeypatch.setattr(evaluator, "rank_targets", watched)
    monkeypatch.setattr(evaluator, "MOST_SCORES", 5 * WORLD.num_items + 3)
    ranks = make(SPLIT.test)(PARAMS)
    expected = [ranks_by_hand[instance] for instance in SPLIT.test.tolist()]
    np.testing.assert_array_equal(np.stack(ranks, axis=1), expected)
    assert set(seen) == {(5, WORLD.num_items)}
    monkeypatch.setattr(evaluator, "MOST_SCORES", 1)
    assert make(SPLIT.test[:2]).queries(PARAMS).shape[0] == 2


def queries_after(change, ids) -> tuple[np.ndarray, np.ndarray]:
    """User vectors before and after the items at the offsets `change` were replaced."""
    items = HISTORIES.items.copy()
    items[change] = (items[change] + 3) % WORLD.num_items
    changed = dataclasses.replace(WORLD, interactions=Interactions(HISTORIES.indptr, items))
    count = len(ids)
    return tuple(np.asarray(make(ids, world).queries(PARAMS))[:count] for world in (WORLD, changed))


def test_no_target_is_part_of_its_prefix():
    """The model sees neither the item it is asked for nor anything after it."""
    held_out = np.concatenate([SPLIT.validation, SPLIT.test])
    np.testing.assert_array_equal(*queries_after(held_out, SPLIT.validation))
    np.testing.assert_array_equal(*queries_after(SPLIT.test, SPLIT.test))


def test_every_prefix_ends_with_the_item_before_the_target():
    """A test prefix includes the validation item."""
    for ids in (SPLIT.validation, SPLIT.test):
        before, after = queries_after(ids - 1, ids)
        assert (before != after).any(axis=1).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_an_error(value):
    """Every comparison with nan is false, so a broken model would look perfect."""
    table = PARAMS["item_embedding"]["table"].copy()
    table[5, 0] = value
    with pytest.raises(FloatingPointError, match="users have a score that is not finite"):
        make(SPLIT.test)({**PARAMS, "item_embedding": {"table": table}})


def test_the_number_of_broken_users_is_told():
    """Padding users and blocks aren't counted."""
    table = PARAMS["position_embedding"]["table"].copy()
    table[1] = np.nan
    lengths = np.array([min(len(prefix_of(instance)), MAX_SEQ_LEN) for instance in SPLIT.test])
    assert (lengths >= 2).sum() > 0
    with pytest.raises(FloatingPointError, match=f"^{(lengths >= 2).sum()} of {len(lengths)} "):
        make(SPLIT.test)({**PARAMS, "position_embedding": {"table": table}})


def test_seen_items_by_hand():
    """A repeat counts once; another user's items and the target don't count."""
    histories = from_histories([[3, 1, 3, 2], [0, 4], [5, 5, 5]], 6).interactions
    found = seen_items(histories, np.array([3, 8, 5, 1]))
    assert found.items.tolist() == [1, 3, 5, 0, 3]
    assert found.offsets.tolist() == [0, 2, 3, 4, 5]
    assert found.items.dtype == np.int32


def test_pairs_of_histories_by_hand():
    """Rows start at the block's first user, padding is nobody's, and every pair is there."""
    found = SeenItems(np.array([0, 2, 2, 5]), np.array([1, 3, 0, 4, 9], np.int32))
    assert found.pairs(0, 2, 3).tolist() == [[0, 0, -1], [1, 3, -1]]
    assert found.pairs(1, 3, 2).tolist() == [[1, 1, 1, -1], [0, 4, 9, -1]]


def test_one_long_history_costs_nobody_else():
    """Only the block with the user of 5,000 items is padded to that length."""
    rng = np.random.default_rng(0)
    short = [rng.integers(0, 6000, 4).tolist() for _ in range(300)]
    world = from_histories([*short, rng.permutation(6000)[:5000].tolist()], 6000)
    ids = leave_one_out(world.interactions).test
    found = seen_items(world.interactions, ids)
    assert len(found.items) <= 300 * 3 + 5000
    shapes = [found.pairs(at, min(at + 32, 301), 128).shape[1] for at in range(0, 301, 32)]
    assert shapes[:-1] == [128] * 9
    assert shapes[-1] == 8192


def test_the_best_items_and_their_share_of_the_softmax_are_those_of_the_scores():
    """The share is of the whole softmax, and each list is its user's own, without padding."""
    made = make(SPLIT.test)
    _, found = made.with_best(PARAMS, 5)
    count = len(SPLIT.test)
    assert found.items.shape == (count, 5)
    queries = np.asarray(made.queries(PARAMS), np.float64)[:count]
    table = np.asarray(PARAMS["item_embedding"]["table"], np.float64)
    for row, scores in enumerate(queries @ table.T):
        chances = np.exp(scores - scores.max())
        chances /= chances.sum()
        np.testing.assert_allclose(
            scores[found.items[row]], np.sort(scores)[::-1][:5], rtol=1e-5, atol=1e-5
        )
        assert len(set(found.items[row])) == 5
        assert found.confidence[row] == pytest.approx(chances[found.items[row]].sum(), rel=1e-4)
    hits = (found.items == WORLD.interactions.items[SPLIT.test][:, None]).any(axis=1)
    ranks = made(PARAMS).all_items
    assert hits[ranks < 4].all()
    assert not hits[ranks > 5].any()
    # A list can't be longer than the catalogue.
    _, every = made.with_best(PARAMS, 100)
    assert every.items.shape == (count, WORLD.num_items)
    np.testing.assert_allclose(every.confidence, 1, rtol=1e-5)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4, 1e6])
def test_the_share_of_large_scores_is_exact_too(size):
    """Finite scores of any size give a share of at most 1, as float64 does."""
    table = PARAMS["item_embedding"]["table"]
    grown = {**PARAMS, "item_embedding": {"table": table * (size / np.abs(table).max())}}
    made = make(SPLIT.test)
    _, found = made.with_best(grown, 5)
    queries = np.asarray(made.queries(grown))[: len(SPLIT.test)]
    scores = jnp.matmul(queries, grown["item_embedding"]["table"].T)
    exact = np.sort(np.asarray(scores, np.float64))[:, ::-1]
    chances = np.exp(exact - exact[:, :1])
    expected = chances[:, :5].sum(1) / chances.sum(1)
    assert (found.confidence <= 1 + 1e-6).all()
    np.testing.assert_allclose(found.confidence, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        *(student_config(student=name) for name in BUILT_IN if name != "lightgcn"),
        student_config(student="sasrec", positions="newest"),
    ],
    ids=lambda config: f"{config.student}-{config.positions}",
)
def test_all_prefixes_have_the_vectors_that_they_are_ranked_with(config):
    """Prefixes longer than the window, too, and none for users' first items."""
    known = facts(WORLD, window(config, 4))
    graphdef, state = create_student(config, known, 0)
    params = reference.random_params(nnx.to_pure_dict(state), 3)
    own_slot, alone = about(config.student).own_slot, prefixes_alone(config)
    sizes = known.window, 40
    found = prefix_queries(graphdef, params, HISTORIES, *sizes, own_slot=own_slot, alone=alone)
    begins = HISTORIES.indptr[:-1]
    ids = np.setdiff1d(np.arange(len(HISTORIES.items)), begins)
    ranking = Evaluator(graphdef, WORLD, ids, known.window, 40, 16, own_slot=own_slot)
    expected = np.asarray(ranking.queries(params))[: len(ids)]
    np.testing.assert_allclose(found[ids], expected, rtol=1e-5, atol=1e-6)
    assert not found[begins].any()
