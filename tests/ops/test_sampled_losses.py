import math
import os

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beartype.roar import BeartypeCallHintParamViolation
from jax.test_util import check_grads

from prmkd_jax.ops.cross_entropy import cross_entropy
from prmkd_jax.ops.sampled_losses import bpr, generalized_bce, sampled_cross_entropy

RNG = np.random.default_rng(0)
ROWS, DRAWS, ITEMS = 5, 8, 30
POSITIVE = RNG.normal(size=ROWS, scale=2).astype(np.float32)
NEGATIVES = RNG.normal(size=(ROWS, DRAWS), scale=2).astype(np.float32)
EXPECTED = RNG.uniform(0.01, 2, DRAWS)
HITS = RNG.random((ROWS, DRAWS)) < 0.3


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_sampled_cross_entropy_equals_float64():
    """Draws are corrected by their expected number; the target isn't, and hits don't count."""
    found = jax.jit(sampled_cross_entropy)(POSITIVE, NEGATIVES, np.log(EXPECTED).astype("f"), HITS)
    for row in range(ROWS):
        others = [
            math.exp(NEGATIVES[row, n]) / EXPECTED[n] for n in range(DRAWS) if not HITS[row, n]
        ]
        own = math.exp(POSITIVE[row])
        expected = -math.log(own / (own + math.fsum(others)))
        assert found[row] == pytest.approx(expected, rel=1e-5)
    assert HITS.any()
    chex.assert_type(found, jnp.float32)


def test_all_items_drawn_as_expected_give_the_full_softmax():
    """The sum over the draws equals that over all items, with the target in it once."""
    scores = RNG.normal(size=(ROWS, ITEMS)).astype(np.float32)
    targets = np.arange(ROWS) * 3
    # Uniform draws: each of N = V draws has the chance 1 / V, so every item is expected once.
    hits = np.arange(ITEMS) == targets[:, None]
    own = scores[np.arange(ROWS), targets]
    sampled = sampled_cross_entropy(own, scores, np.zeros(ITEMS, np.float32), hits)
    full = cross_entropy(lambda q, i: q @ i.T, scores, np.eye(ITEMS, dtype="f"), targets)
    np.testing.assert_allclose(sampled, full, rtol=1e-5)


def test_the_denominators_estimate_is_unbiased():
    """The mean over all possible draws is the sum over the items other than the target."""
    scores = RNG.normal(size=6)
    q = np.array([0.4, 0.25, 0.2, 0.1, 0.04, 0.01])
    others = np.exp(scores[1:]).sum()
    # All possible pairs of draws; item 0 is the target.
    mean = 0.0
    for first in range(6):
        for second in range(6):
            drawn = np.array([first, second])
            loss = sampled_cross_entropy(
                jnp.array([scores[0]]),
                jnp.array([scores[drawn]]),
                jnp.log(2 * q[drawn]),
                jnp.array([drawn == 0]),
            )
            mean += q[first] * q[second] * math.exp(scores[0]) * math.expm1(float(loss[0]))
    assert mean == pytest.approx(others, rel=1e-5)


@pytest.mark.parametrize("calibration", [0.0, 0.75, 1.0])
def test_generalized_bce_equals_float64(calibration):
    """The power β applies to the positive alone, and the loss is a mean over what counts."""
    alpha = DRAWS / (ITEMS - 1)
    beta = alpha * ((1 - 1 / alpha) * calibration + 1 / alpha)
    found = generalized_bce(POSITIVE, NEGATIVES, HITS, ITEMS, calibration)
    for row in range(ROWS):
        kept = [score for score, hit in zip(NEGATIVES[row], HITS[row], strict=True) if not hit]
        total = math.log(sigmoid(POSITIVE[row]) ** beta)
        total += math.fsum(math.log(1 - sigmoid(score)) for score in kept)
        assert found[row] == pytest.approx(-total / (1 + len(kept)), rel=1e-5)
    chex.assert_type(found, jnp.float32)


def test_generalized_bce_is_gsasrecs_transformed_logit():
    """The shorter formula equals gSASRec's transformation of the positive's logit."""
    beta = 1 - 0.75 * (1 - DRAWS / (ITEMS - 1))
    for score in (-8.0, -1.0, 0.0, 3.0, 12.0):
        transformed = math.log(1 / (sigmoid(score) ** -beta - 1))
        expected = -math.log(sigmoid(transformed)) + DRAWS * math.log(2)
        found = generalized_bce(
            jnp.array([score]), jnp.zeros((1, DRAWS)), jnp.zeros((1, DRAWS), bool), ITEMS, 0.75
        )
        assert found[0] == pytest.approx(expected / (1 + DRAWS), rel=1e-6)


def test_more_draws_than_negatives_are_the_ordinary_bce():
    """The power never exceeds 1, so that positives don't count for more."""
    found = generalized_bce(POSITIVE, NEGATIVES, HITS, DRAWS - 2, 0.75)
    np.testing.assert_allclose(found, generalized_bce(POSITIVE, NEGATIVES, HITS, 2, 0.0))


def test_bpr_equals_float64():
    """The loss falls as the positive's score rises above the negative's."""
    found = bpr(POSITIVE, NEGATIVES[:, 0])
    for row in range(ROWS):
        expected = -math.log(sigmoid(POSITIVE[row] - NEGATIVES[row, 0]))
        assert found[row] == pytest.approx(expected, rel=1e-5)


FEW = HITS[:2, :2]
LOSSES = {
    "sampled_softmax": lambda p, n: sampled_cross_entropy(p, n, jnp.log(EXPECTED[:2]), FEW),
    "gbce": lambda p, n: generalized_bce(p, n, FEW, ITEMS, 0.75),
    "bpr": lambda p, n: bpr(p, n[:, 0]),
}


@pytest.mark.parametrize("name", LOSSES)
def test_extreme_scores_stay_finite(name):
    """Scores of ±1e9 give finite losses and gradients, which are computed in log space."""
    slopes = jax.grad(lambda p, n: LOSSES[name](p, n).sum(), (0, 1))
    for own in (-1e9, -100.0, 0.0, 100.0, 1e9):
        for other in (-1e9, 0.0, 1e9):
            arguments = jnp.full(2, own), jnp.full((2, 2), other)
            chex.assert_tree_all_finite(LOSSES[name](*arguments))
            chex.assert_tree_all_finite(slopes(*arguments))
    # Where float32 probabilities are exactly 1 the loss still knows by how much: log space.
    assert 0 < LOSSES[name](jnp.full(2, 40.0), jnp.full((2, 2), -40.0)).max() < 1e-16


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_pass_finite_differences(name):
    arguments = jnp.asarray(POSITIVE[:2]), jnp.asarray(NEGATIVES[:2, :2])
    check_grads(LOSSES[name], arguments, order=1, eps=1e-2, atol=1e-2, rtol=1e-2)


def test_hits_get_no_gradient():
    """A target that is drawn as its own negative isn't pushed down."""
    for name in ("sampled_softmax", "gbce"):
        slopes = jax.grad(lambda n, name=name: LOSSES[name](POSITIVE[:2], n).sum())(
            NEGATIVES[:2, :2]
        )
        np.testing.assert_array_equal(slopes == 0, FEW)
    assert FEW.any()


@pytest.mark.skipif(bool(os.environ.get("PRMKD_TESTS_UNCHECKED")), reason="checks are turned off")
def test_shapes_of_signatures_are_checked_while_the_tests_run():
    """One score for all rows is refused; broadcasting would hide it."""
    with pytest.raises(BeartypeCallHintParamViolation):
        bpr(POSITIVE, POSITIVE[:1])
