import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from prmkd_jax.ops.cross_entropy import cross_entropy, mean_cross_entropy
from prmkd_jax.ops.row_blocks import CACHED, LEAST_ROWS, blocks_gain, blocks_of_rows
from tests.distill import reference

ITEMS, WIDTH = 23, 6
# One block, several that fill up, several whose last one is mostly padding, single items.
BLOCKS = [1, 5, 8, 22, 23, 100]


def dot(queries, items):
    return queries @ items.T


def cosine(queries, items):
    """A score whose derivative does not exist at a vector of zeros."""
    return 20 * dot(
        queries / jnp.linalg.norm(queries, axis=-1, keepdims=True),
        items / jnp.linalg.norm(items, axis=-1, keepdims=True),
    )


@functools.partial(jax.jit, static_argnums=(0, 4))
def losses_and_gradients(score, queries, items, targets, block):
    """Each row's loss and the gradients of their weighted sum."""

    def total(queries, items):
        losses = cross_entropy(score, queries, items, targets, block)
        return jnp.arange(1.0, len(targets) + 1) @ losses, losses

    gradients, losses = jax.grad(total, (0, 1), has_aux=True)(queries, items)
    return losses, gradients


def random_batch(seed: int, scale: float = 1.0, rows: int = 7):
    rng = np.random.default_rng(seed)
    queries, items = rng.normal(size=(rows, WIDTH)), rng.normal(size=(ITEMS, WIDTH))
    targets = rng.integers(0, ITEMS, size=rows)
    targets[:2] = 0, ITEMS - 1
    return scale * queries, items, targets


def expected(queries, items, targets):
    """Values by eq. 4; gradients by hand: (softmax − one-hot) times the other factor."""
    logits = queries @ items.T
    values = [
        reference.cross_entropy(row.tolist(), target)
        for row, target in zip(logits, targets, strict=True)
    ]
    slopes = np.array([reference.softmax(row.tolist()) for row in logits])
    slopes[np.arange(len(targets)), targets] -= 1
    slopes *= np.arange(1, len(targets) + 1)[:, None]
    return values, (slopes @ items, slopes.T @ queries)


@pytest.mark.parametrize("block", BLOCKS)
def test_values_and_gradients_equal_float64(block):
    """Blocks, with or without padding, have the losses and gradients of the whole catalogue."""
    for scale in (1e-3, 1.0, 30.0):
        queries, items, targets = random_batch(0, scale)
        queries, items = queries.astype(np.float32), items.astype(np.float32)
        losses, gradients = losses_and_gradients(dot, queries, items, targets, block)
        chex.assert_type(losses, jnp.float32)
        values, slopes = expected(queries.astype(float), items.astype(float), targets)
        # A logit of 200 has digits down to 1e-5.
        np.testing.assert_allclose(losses, values, rtol=1e-6, atol=1e-6 * max(1, scale))
        chex.assert_trees_all_close(gradients, slopes, rtol=1e-5, atol=1e-5 * max(1, scale))


@pytest.mark.parametrize("score", [dot, cosine])
def test_blocks_change_nothing(score):
    """Padded items have no effect on losses or gradients, a cosine's at zero included."""
    queries, items, targets = (jnp.asarray(one) for one in random_batch(2))
    whole = losses_and_gradients(score, queries, items, targets, 100)
    chex.assert_tree_all_finite(whole)
    for block in (5, 22):
        blocked = losses_and_gradients(score, queries, items, targets, block)
        chex.assert_trees_all_close(blocked, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("block", [5, 100])
def test_extreme_logits_stay_finite(block):
    """Logits of ±1e9 give finite losses and gradients, in one block or in several."""
    logits = np.zeros((6, ITEMS), np.float32)
    logits[5, ITEMS - 1] = -1e9
    logits[0] = 1e9
    logits[1] = -1e9
    logits[2, :10], logits[2, 10:] = -1e9, 1e9
    logits[3, 4] = 1e9
    targets = np.array([3, 3, 12, 4, 4, ITEMS - 1], np.int32)
    # Items are unit vectors, so the queries are the logits.
    losses, gradients = losses_and_gradients(dot, logits, np.eye(ITEMS, dtype="f"), targets, block)
    chex.assert_tree_all_finite((losses, gradients))
    # Beside 1e9 float32 rounds the log of a number of items away.
    assert (np.abs(losses[:3]) <= 64).all()
    np.testing.assert_allclose(losses[3:5], [0, np.log(23)], rtol=1e-6, atol=1e-6)
    assert losses[5] == 1e9


@pytest.mark.parametrize("block", [5, 100])
def test_gradients_pass_finite_differences(block):
    """Blocks that are computed again have correct gradients."""
    queries, items, targets = (jnp.asarray(one) for one in random_batch(3, rows=2))

    @jax.jit
    def losses(queries, items):
        return cross_entropy(dot, queries, items, targets, block)

    check_grads(losses, (queries, items), order=1, eps=1e-2, atol=1e-2, rtol=1e-2)


def test_a_catalogue_of_one_item_costs_nothing():
    """The target is part of the denominator, so that the loss is 0."""
    losses = cross_entropy(dot, jnp.ones((3, 2)), jnp.ones((1, 2)), jnp.zeros(3, jnp.int32))
    np.testing.assert_allclose(losses, np.zeros(3), atol=1e-7)


def test_long_catalogues_keep_no_logits_for_the_backward_pass():
    """Blocks are scored again, so that memory doesn't grow with the catalogue."""
    rows, items, block = 64, 4096, 64

    def total(queries, table, targets):
        return cross_entropy(dot, queries, table, targets, block).sum()

    arguments = (
        jax.ShapeDtypeStruct((rows, 2), jnp.float32),
        jax.ShapeDtypeStruct((items, 2), jnp.float32),
        jax.ShapeDtypeStruct((rows,), jnp.int32),
    )
    compiled = jax.jit(jax.grad(total, (0, 1))).lower(*arguments).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < rows * items * 4 / 4


@pytest.mark.parametrize("blocks", [1, 2, 3, 7])
def test_mean_over_counted_rows_equals_float64(blocks, monkeypatch):
    """Whole or in blocks of rows, also where these don't divide the rows; others add nothing."""
    monkeypatch.setattr("prmkd_jax.ops.cross_entropy.blocks_of_rows", lambda rows, items: blocks)
    queries, items, targets = random_batch(3)
    counted = np.array([True, False, True, True, False, True, True])

    @jax.jit
    def value_and_gradients(queries, items):
        def mean(queries, items):
            return 3 * mean_cross_entropy(dot, queries, items, targets, counted)

        return jax.value_and_grad(mean, (0, 1))(queries, items)

    value, gradients = value_and_gradients(queries.astype(np.float32), items.astype(np.float32))
    logits = queries @ items.T
    shares = np.array([reference.softmax(row.tolist()) for row in logits])
    losses = -np.log(shares[np.arange(7), targets])
    slopes = 3 / 5 * (shares - np.eye(ITEMS)[targets]) * counted[:, None]
    assert float(value) == pytest.approx(3 * losses[counted].sum() / 5, rel=1e-6)
    chex.assert_trees_all_close(
        gradients, (slopes @ items, slopes.T @ queries), rtol=1e-5, atol=1e-6
    )


def test_mean_over_no_row_is_nought():
    queries, items, targets = random_batch(3)
    mean = jax.jit(lambda counted: mean_cross_entropy(dot, queries, items, targets, counted))
    assert float(mean(np.zeros(7, bool))) == 0.0


def test_rows_are_divided_where_their_logits_are_large():
    """Blocks' logits fit the cache, and none has fewer rows than gain anything."""
    rows, items = 4_704, 11_924
    assert blocks_of_rows(rows, items) == 1
    with blocks_gain(True):
        assert blocks_of_rows(512, 4_386) == 1
        blocks = blocks_of_rows(rows, items)
        assert 4 * items * math.ceil(rows / blocks) <= CACHED
        assert blocks_of_rows(1_000, 10**7) == math.ceil(1_000 / LEAST_ROWS)
    assert blocks_of_rows(rows, items) == 1
