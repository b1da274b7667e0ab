import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from experiments.benchmarks.portability.arithmetic import (
    EXACT,
    UNITS,
    in_float64,
    rounded,
    rounded_products,
)

RNG = np.random.default_rng(0)
LEFT, RIGHT = (RNG.standard_normal((6, 40)).astype(np.float32) for _ in range(2))


def wide(function, *arguments):
    with jax.enable_x64(True):
        return jax.device_get(jax.jit(in_float64(function))(*arguments))


def test_float64_goes_through_loops_branches_and_derivatives():
    """No operation inside a loop, a branch or a custom derivative stays in float32."""

    def function(a, b):
        def body(carry, row):
            return carry + jnp.tanh(row @ a.T), row.sum()

        carry, sums = jax.lax.scan(body, jnp.zeros(6), b)
        carry = jax.lax.cond(sums[0] > 1e9, jnp.sin, jnp.cos, carry)
        fixed = jax.lax.stop_gradient(carry)
        far = jax.lax.while_loop(lambda c: c.max() < 1e3, lambda c: 3 * c + 1, fixed)
        return (
            jax.nn.logsumexp(carry * far / 1e3)
            + jnp.zeros(3).at[jnp.array([1, 1])].add(carry[:2]).sum()
        )

    found = wide(jax.value_and_grad(function), LEFT, RIGHT)
    with jax.enable_x64(True):
        expected = jax.jit(jax.value_and_grad(function))(
            LEFT.astype(np.float64), RIGHT.astype(np.float64)
        )
    assert found[1].dtype == np.float64
    assert np.allclose(found[0], expected[0], rtol=1e-13)
    assert np.allclose(found[1], expected[1], rtol=1e-10)


def test_float64_keeps_the_random_draws_and_asked_for_float32():
    """Other draws would count as rounding, and products that ask for float32 get float64."""

    def function(a, b):
        noise = jax.random.normal(jax.random.key(0), (6,))
        return jnp.matmul(a, b.T, preferred_element_type=jnp.float32), noise

    product, noise = wide(function, LEFT, RIGHT)
    exact = LEFT.astype(np.float64) @ RIGHT.T.astype(np.float64)
    assert np.abs(product - exact).max() < 1e-12
    draws = np.asarray(jax.random.normal(jax.random.key(0), (6,)))
    assert np.abs(noise - draws).max() < 1e-6


def test_products_are_rounded_as_other_machines_do():
    """Sums and single elements aren't rounded, and remainders are kept where asked."""
    exact = LEFT.astype(np.float64) @ RIGHT.T.astype(np.float64)
    halves = [x.astype(ml_dtypes.bfloat16).astype(np.float64) for x in (LEFT, RIGHT)]
    traces = []

    def function(a, b):
        traces.append(a)
        return a @ b.T, a + b

    product = jax.jit(rounded_products(function, rests=True))
    found, added = product(UNITS["bf16"], LEFT, RIGHT)
    assert np.allclose(found, halves[0] @ halves[1].T, atol=1e-5)
    assert (np.asarray(added) == LEFT + RIGHT).all()
    errors = {}
    for unit in ("bf16", "tf32", "bf16_3x"):
        found, _ = product(UNITS[unit], LEFT, RIGHT)
        errors[unit] = np.abs(np.asarray(found) - exact).max()
    kept, _ = product(EXACT, LEFT, RIGHT)
    assert np.abs(np.asarray(kept) - exact).max() < 1e-5
    # Seven bits, ten, and twice seven with the sign.
    assert errors["bf16"] > 4 * errors["tf32"] > 40 * errors["bf16_3x"]
    # One program serves all units.
    assert len(traces) == 1


@pytest.mark.parametrize("mantissa", [23, 10, 7, 1])
def test_rounding_is_that_of_the_compiler(mantissa):
    """Ties go to the even number, carries are kept, and what isn't finite stays so."""
    bits = np.random.default_rng(1).integers(0, 2**32, 5000, dtype=np.uint32)
    ties = np.arange(2**9, dtype=np.uint32) << 12 | 0x3F800000
    odd = np.array([0, -0.0, np.inf, -np.inf, np.nan, 3.4e38], np.float32)
    values = np.concatenate([bits.view(np.float32), ties.view(np.float32), odd])
    values = values[(np.abs(values) > 1e-37) | ~np.isfinite(values) | (values == 0)]
    expected = np.asarray(jax.lax.reduce_precision(values, 8, mantissa))
    np.testing.assert_array_equal(np.asarray(jax.jit(rounded)(values, mantissa)), expected)


def test_gradients_are_rounded_too():
    """The products of the backward pass don't stay exact."""
    gradient = jax.grad(lambda a, b: (a @ b.T).sum())
    found = jax.jit(rounded_products(gradient, rests=False))(UNITS["bf16"], LEFT, RIGHT)
    near = RIGHT.astype(ml_dtypes.bfloat16).astype(np.float32)
    assert np.allclose(found, np.broadcast_to(near.sum(0), found.shape), atol=1e-5)
