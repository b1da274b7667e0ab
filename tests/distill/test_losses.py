import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads

from prmkd_jax.distill.config import KL_DIRECTIONS
from prmkd_jax.distill.losses import DIVERGENCES, entropy, log_student, target_distribution
from tests.distill import reference

examples = hypothesis.settings(derandomize=True, deadline=None, max_examples=40)


def loss(logits, q, valid, temperature, kl):
    return DIVERGENCES[kl](log_student(logits, valid, temperature), q, valid)


values_and_gradients = jax.jit(
    jax.vmap(jax.value_and_grad(loss), (0, 0, 0, None, None)), static_argnums=4
)


def random_users(seed: int, users: int = 16, columns: int = 11):
    """Logits (garbage where masked), targets q above 0 over the valid columns, and masks."""
    rng = np.random.default_rng(seed)
    valid = rng.random((users, columns)) < rng.random((users, 1))
    valid[0], valid[1] = True, np.arange(columns) == 3
    valid[:, 0] |= ~valid.any(axis=1)
    garbage = rng.choice([-1e9, 1e9, 0.0, 30.0], size=valid.shape)
    logits = np.where(valid, rng.normal(scale=2.0, size=valid.shape), garbage)
    q = np.where(valid, rng.random(valid.shape) ** 3 + 1e-3, 0)
    return logits, q / q.sum(axis=1, keepdims=True), valid


def expected(logits, q, valid, temperature, kl):
    values, gradients = np.zeros(len(logits)), np.zeros(logits.shape)
    for row, mask in enumerate(valid):
        p = reference.softmax((logits[row][mask] / temperature).tolist())
        values[row] = reference.divergence(p, q[row][mask].tolist(), kl)
        slopes = reference.divergence_gradient(p, q[row][mask].tolist(), kl)
        gradients[row][mask] = np.array(slopes) / temperature
    return values, gradients


@pytest.mark.parametrize("kl", KL_DIRECTIONS)
def test_values_and_gradients_equal_the_closed_forms(kl):
    """They have the temperature's 1/τ and their own direction, and no mask leaks."""
    with jax.enable_x64(True):
        logits, q, valid = random_users(0)
        for temperature in (0.1, 1.0, 3.0):
            values, gradients = expected(logits, q, valid, temperature, kl)
            arguments = jnp.asarray(logits), jnp.asarray(q), jnp.asarray(valid), temperature, kl
            result, slopes = values_and_gradients(*arguments)
            np.testing.assert_allclose(result, values, rtol=1e-9, atol=1e-13)
            np.testing.assert_allclose(slopes, gradients, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("kl", KL_DIRECTIONS)
def test_float32_keeps_its_digits(kl):
    """Values and gradients stay within 1e-6 of float64."""
    logits, q, valid = (np.asarray(a, np.float32) for a in random_users(1))
    valid = valid.astype(bool)
    for temperature in (0.5, 1.0, 3.0):
        values, gradients = expected(logits.astype(float), q.astype(float), valid, temperature, kl)
        arguments = jnp.asarray(logits), jnp.asarray(q), jnp.asarray(valid), temperature, kl
        result, slopes = values_and_gradients(*arguments)
        np.testing.assert_allclose(result, values, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(slopes, gradients, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kl", KL_DIRECTIONS)
def test_gradients_pass_finite_differences(kl):
    """No stop_gradient or `where` cuts the student's path, in either mode."""
    with jax.enable_x64(True):
        logits, q, valid = (jnp.asarray(a[0]) for a in random_users(2))

        @jax.jit
        def user_loss(z):
            return loss(z, q, valid, 0.7, kl)

        check_grads(user_loss, (logits,), order=1, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("smoothing", [0.0, 1e-3, 0.5])
def test_the_target_equals_section_3_4(smoothing):
    """The joint scores are divided by their sum, and smoothing leaves masked columns at 0."""
    rng = np.random.default_rng(0)
    for columns in (1, 2, 9):
        valid = np.zeros(9, bool)
        valid[rng.permutation(9)[:columns]] = True
        joint = np.where(valid, 3 * rng.random(9), 0).astype(np.float32)
        want = np.zeros(9)
        want[valid] = reference.target_distribution(joint[valid].astype(float).tolist(), smoothing)
        q = target_distribution(jnp.asarray(joint), jnp.asarray(valid), smoothing)
        np.testing.assert_allclose(q, want, atol=1e-7)


def test_targets_without_mass_or_columns():
    """Without mass the target is uniform, and without a column it is 0, never nan."""
    valid = jnp.array([True, False, True, True])
    np.testing.assert_allclose(
        target_distribution(jnp.zeros(4), valid, 0.0), [1 / 3, 0, 1 / 3, 1 / 3], atol=1e-7
    )
    nothing = target_distribution(jnp.zeros(4), jnp.zeros(4, bool), 1e-3)
    np.testing.assert_array_equal(nothing, np.zeros(4))


@examples
@given(seed=st.integers(0, 2**32 - 1), kl=st.sampled_from(KL_DIRECTIONS))
def test_divergences_are_divergences(seed, kl):
    """Each is at least 0, is 0 for equal distributions, and ignores a common constant."""
    logits, q, valid = random_users(seed)
    with jax.enable_x64(True):
        values, gradients = map(np.asarray, values_and_gradients(logits, q, valid, 1.0, kl))
        assert (values >= -1e-15).all()
        assert (values[valid.sum(axis=1) > 1] > 0).all()
        if kl == "js":
            assert (values <= np.log(2)).all()
        own = np.where(valid, np.log(np.where(valid, q, 1.0)), 0.0)
        zeros = values_and_gradients(own, q, valid, 1.0, kl)
        chex.assert_trees_all_close(zeros, jax.tree.map(np.zeros_like, zeros), atol=1e-14)
        np.testing.assert_allclose(gradients.sum(axis=1), 0.0, atol=1e-12)
        assert not gradients[~valid].any()


def test_the_directions_by_hand():
    """The formulas are written out, so reverse and forward can't be exchanged."""
    logits, q, valid = jnp.zeros(2), jnp.array([0.25, 0.75]), jnp.ones(2, bool)
    by_hand = {
        "reverse": 0.5 * np.log(2) + 0.5 * np.log(2 / 3),
        "forward": 0.25 * np.log(1 / 2) + 0.75 * np.log(3 / 2),
        "js": 0.25 * np.log(4 / 3) + 0.25 * np.log(4 / 5)
        + 0.125 * np.log(2 / 3) + 0.375 * np.log(6 / 5),
    }  # fmt: skip
    for kl, want in by_hand.items():
        np.testing.assert_allclose(loss(logits, q, valid, 1.0, kl), want, atol=1e-7)


@pytest.mark.parametrize("kl", KL_DIRECTIONS)
def test_extreme_logits_stay_finite_with_their_gradients(kl):
    """Neither log 0, 0 · ∞ nor a row without columns gives a nan."""
    logits = jnp.array(
        [
            [1e9, -1e9, 0.0, 1.0],
            [-1e9, -1e9, -1e9, 1e9],
            [5.0, 1e9, 1e9, 1e9],
            [1e9, -1e9, 1e9, 0.0],
            [0.0, 0.0, 0.0, 0.0],
        ]
    )
    valid = jnp.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1] * 4], bool)
    for q in (jnp.full((5, 4), 0.25), jnp.tile(jnp.array([0.0, 0.0, 1.0, 0.0]), (5, 1))):
        q = jnp.where(valid, q, 0.0)
        values, gradients = values_and_gradients(logits, q, valid, 0.02, kl)
        chex.assert_tree_all_finite((values, gradients))
        assert not gradients[~valid].any()
        assert values[3] == 0


def test_a_student_pays_for_mass_where_the_teachers_give_none():
    """log 0 isn't read as 0, so KL(p‖q) is large here and its gradient reduces that mass."""
    logits, q, valid = jnp.zeros(3), jnp.array([0.5, 0.5, 0.0]), jnp.ones(3, bool)
    value, gradient = jax.value_and_grad(loss)(logits, q, valid, 1.0, "reverse")
    want = reference.reverse_kl([1 / 3] * 3, [0.5, 0.5, 0.0])
    assert want > 25
    np.testing.assert_allclose(value, want, rtol=1e-6)
    assert gradient[2] > 10 > 0 > gradient[0]


@pytest.mark.parametrize("kl", KL_DIRECTIONS)
def test_what_is_masked_has_no_influence(kl):
    """A masked column's logit and target change no bit of the loss or gradient."""
    logits, q, valid = random_users(3)
    results = []
    for garbage in (0.0, 1e9, -1e9):
        arguments = (
            jnp.asarray(np.where(valid, logits, garbage), jnp.float32),
            jnp.asarray(np.where(valid, q, 0.3), jnp.float32),
            jnp.asarray(valid),
        )
        results.append(values_and_gradients(*arguments, 0.5, kl))
    chex.assert_trees_all_equal(*results)


def test_entropy_by_hand():
    """0 log 0 is 0, and the unit is nats."""
    np.testing.assert_allclose(entropy(jnp.full(8, 1 / 8)), np.log(8), rtol=1e-6)
    assert entropy(jnp.array([0.0, 1.0, 0.0])) == 0
    q = [0.5, 0.3, 0.2, 0.0]
    np.testing.assert_allclose(entropy(jnp.array(q)), reference.entropy(q), rtol=1e-6)
