import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prmkd_jax.ops.row_blocks import sum_in_blocks

RNG = np.random.default_rng(7)
B, V, D = 12, 9, 4
QUERIES, ITEMS, BIAS = (
    jnp.asarray(RNG.normal(size=size), jnp.float32) for size in ((B, D), (V, D), (V,))
)
TARGETS = jnp.asarray(RNG.integers(0, V, B))
WEIGHTS = jnp.asarray(RNG.uniform(size=B), jnp.float32)


def losses_by_hand(queries, items, bias):
    """Σ w · cross-entropy, in float64, and its gradients by the three."""
    queries, items, bias = (np.asarray(each, np.float64) for each in (queries, items, bias))
    weights = np.asarray(WEIGHTS, np.float64)
    logits = queries @ items.T + bias
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    own = shares[np.arange(B), TARGETS]
    wrong = (shares - np.eye(V)[TARGETS]) * weights[:, None]
    return -(weights * np.log(own)).sum(), (wrong @ items, wrong.T @ queries, wrong.sum(0))


@pytest.mark.parametrize("block", [1, 3, 6, 12])
def test_sum_and_gradients_equal_a_float64_computation(block):
    """Gradients reach the queries, the items and a bias from outside the function."""

    def whole(queries, items, bias):
        def total(queries, items, rows):
            targets, weights = rows
            log_shares = jax.nn.log_softmax(queries @ items.T + bias)
            losses = -log_shares[jnp.arange(len(targets)), targets]
            return (weights * losses).sum(), {"count": weights.sum()}

        return sum_in_blocks(total, queries, items, (TARGETS, WEIGHTS), block)

    differentiate = jax.jit(jax.value_and_grad(lambda *a: 3.0 * whole(*a)[0], argnums=(0, 1, 2)))
    value, gradients = differentiate(QUERIES, ITEMS, BIAS)
    expected, by_hand = losses_by_hand(QUERIES, ITEMS, BIAS)
    assert float(value) == pytest.approx(3 * expected, rel=1e-6)
    for found, wanted in zip(gradients, by_hand, strict=True):
        np.testing.assert_allclose(found, 3 * wanted, atol=2e-6)
    alone, more = jax.jit(whole)(QUERIES, ITEMS, BIAS)
    assert float(alone) == pytest.approx(expected, rel=1e-6)
    assert float(more["count"]) == pytest.approx(float(WEIGHTS.sum()), rel=1e-6)
