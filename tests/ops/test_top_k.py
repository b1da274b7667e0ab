"""The k best items against numpy's stable argsort of all scores in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prmkd_jax.ops.top_k import top_k

ROWS, ITEMS, WIDTH = 5, 37, 4
RNG = np.random.default_rng(0)
# Whole numbers: products are exact in float32, and many scores are equal.
QUERIES = RNG.integers(-2, 3, (ROWS, WIDTH)).astype(np.float32)
TABLE = RNG.integers(-2, 3, (ITEMS, WIDTH)).astype(np.float32)
EXCLUDED = np.array([[0, 36, -1], [-1, -1, -1], [5, 5, 17], [36, 35, 34], [1, -1, 2]])
INCLUDED = np.array([[0, 1, 2, 36], [3, -1, -1, -1], [-1, -1, -1, -1], [34, 1, 9, 9], [8, 7, 6, 5]])
VALID = RNG.random(ITEMS) > 0.3


def dot(queries, items):
    return queries @ items.T


def by_hand(k, excluded=None, included=None, valid=None):
    """Ids and scores row by row: −1 and −inf where no item is left."""
    scores = QUERIES.astype(float) @ TABLE.astype(float).T
    allowed = np.ones(scores.shape, dtype=bool) if valid is None else np.tile(valid, (ROWS, 1))
    for row in range(ROWS):
        if excluded is not None:
            allowed[row, [item for item in excluded[row] if item >= 0]] = False
        if included is not None:
            wanted = [item for item in included[row] if item >= 0]
            allowed[row] &= np.isin(np.arange(ITEMS), wanted)
    scores = np.where(allowed, scores, -np.inf)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, order, axis=1)
    missing = ((0, 0), (0, max(0, k - ITEMS)))
    ids = np.pad(np.where(best > -np.inf, order, -1), missing, constant_values=-1)
    return ids, np.pad(best, missing, constant_values=-np.inf)


@pytest.mark.parametrize("most_scores", [1, ROWS * 8, ROWS * ITEMS, 2**20])
@pytest.mark.parametrize("k", [1, 6, ITEMS, ITEMS + 5])
def test_blocks_of_any_size_give_the_order_of_a_stable_sort(k, most_scores):
    """Equal scores, of which there are many, come in the order of the item ids."""
    expected_ids, expected_scores = by_hand(k)
    assert any(len(np.unique(row)) < len(row) for row in by_hand(6)[1])
    found = jax.jit(lambda q, v: top_k(dot, q, v, k, most_scores=most_scores))(QUERIES, TABLE)
    np.testing.assert_array_equal(found.items, expected_ids)
    np.testing.assert_array_equal(found.scores, expected_scores)


@pytest.mark.parametrize("most_scores", [ROWS * 8, 2**20])
@pytest.mark.parametrize(
    "masks",
    [
        {"excluded": EXCLUDED},
        {"included": INCLUDED},
        {"valid": VALID},
        {"excluded": EXCLUDED, "included": INCLUDED, "valid": VALID},
        {"valid": np.zeros(ITEMS, dtype=bool)},
    ],
    ids=lambda masks: "+".join(masks),
)
def test_masked_items_are_never_returned(masks, most_scores):
    """The items left are ranked as without the others; where none is left, ids are −1."""
    ids, scores = by_hand(10, **masks)
    arrays = {name: jnp.asarray(mask) for name, mask in masks.items()}
    found = top_k(
        dot, jnp.asarray(QUERIES), jnp.asarray(TABLE), 10, most_scores=most_scores, **arrays
    )
    np.testing.assert_array_equal(found.items, ids)
    np.testing.assert_array_equal(found.scores, scores)


def test_scores_that_are_not_finite_are_never_returned():
    """nan and −inf stand behind every number and have no id."""
    scores = jnp.array([[1.0, jnp.nan, -jnp.inf, 3.0, jnp.nan]])
    found = top_k(lambda q, v: q @ v + scores, jnp.zeros((1, 5)), jnp.zeros((5, 5)), 4)
    assert found.items.tolist() == [[3, 0, -1, -1]]


def test_one_program_serves_all_lists_of_equal_shape():
    """Shapes depend on those of the arguments alone."""
    program = jax.jit(lambda q, v, out: top_k(dot, q, v, 3, excluded=out, most_scores=40))
    for shift in range(3):
        program(QUERIES, TABLE, np.maximum(EXCLUDED - shift, -1))
    assert program._cache_size() == 1


def test_memory_does_not_grow_with_users_times_items():
    """The largest array of the program is a block or a table, not all scores."""
    rows, items = 64, 20_000
    shapes = jax.make_jaxpr(lambda q, v: top_k(dot, q, v, 5, most_scores=2**12))(
        jnp.zeros((rows, 2)), jnp.zeros((items, 2))
    )
    (scan,) = (eqn for eqn in shapes.eqns if eqn.primitive.name == "scan")
    sizes = [v.aval.size for eqn in scan.params["jaxpr"].eqns for v in eqn.outvars]
    assert max(sizes) <= 2 * 2**12
