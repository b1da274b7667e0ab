import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prmkd_jax.common.errors import UserError
from prmkd_jax.distill.config import NORMALIZATIONS, DistillConfig
from prmkd_jax.distill.scores import NORMALIZE, masked_softmax, standardize
from tests.distill import reference

examples = hypothesis.settings(derandomize=True, deadline=None, max_examples=60)


def normalize_scores(logits, valid, temperature, method):
    return NORMALIZE[method](logits, valid, temperature)


normalize_users = jax.jit(jax.vmap(normalize_scores, (0, 0, None, None)), static_argnums=3)
jacobian = jax.jit(jax.jacobian(normalize_scores), static_argnums=3)


def random_users(seed: int, users: int = 20, columns: int = 11):
    """Scores as of a cosine over a temperature, and masks; garbage where masked."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(scale=2.0, size=(users, columns))
    valid = rng.random((users, columns)) < rng.random((users, 1))
    valid[0], valid[1] = True, False
    garbage = rng.choice([-1e9, 1e9, 0.0, 30.0], size=scores.shape)
    return np.where(valid, scores, garbage), valid


def expected(scores, valid, temperature, method):
    out = np.zeros(scores.shape)
    for row, mask, result in zip(scores, valid, out, strict=True):
        result[mask] = reference.normalized_scores(row[mask].tolist(), temperature, method)
    return out


@pytest.mark.parametrize("temperature", [0.02, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("method", NORMALIZATIONS)
def test_equals_eq_1_in_float64(method, temperature):
    """The formulas, the temperature and the mask agree to ten digits."""
    scores, valid = random_users(0)
    with jax.enable_x64(True):
        result = normalize_users(jnp.asarray(scores), jnp.asarray(valid), temperature, method)
        np.testing.assert_allclose(
            result, expected(scores, valid, temperature, method), rtol=1e-10, atol=1e-14
        )


@pytest.mark.parametrize("temperature", [0.25, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("method", NORMALIZATIONS)
def test_equals_eq_1_in_float32(method, temperature):
    """The error is at most 1e-6, even with scores far apart and garbage behind masks."""
    scores, valid = random_users(1)
    scores = scores.astype(np.float32)
    result = normalize_users(jnp.asarray(scores), jnp.asarray(valid), temperature, method)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected(scores, valid, temperature, method), atol=1e-6)


@examples
@given(
    seed=st.integers(0, 2**32 - 1),
    factor=st.floats(1e-3, 1e3),
    shift=st.floats(-1e3, 1e3),
    temperature=st.sampled_from([0.1, 0.5, 2.0]),
)
def test_a_teachers_scale_and_offset_do_not_matter_to_zscores(seed, factor, shift, temperature):
    """Neither larger logits nor a common bonus gives a teacher a sharper vote."""
    scores, valid = random_users(seed, users=4)
    with jax.enable_x64(True):
        one, other = (
            normalize_users(jnp.asarray(values), jnp.asarray(valid), temperature, "zscore_softmax")
            for values in (scores, factor * scores + shift)
        )
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("exponent", [-20, -3, 5, 90])
def test_zscores_of_scores_scaled_by_a_power_of_two_are_the_same_bits(exponent):
    """No absolute epsilon enters the division, and no square overflows float32."""
    scores, valid = random_users(2)
    scores = np.where(valid, scores, 0).astype(np.float32)
    one, other = (
        normalize_users(jnp.asarray(values), jnp.asarray(valid), 0.5, "zscore_softmax")
        for values in (scores, np.ldexp(scores, exponent))
    )
    np.testing.assert_array_equal(one, other)


def test_by_hand():
    """The deviation is the population's, and minmax and l2 follow the softmax of eq. 1."""
    logits, valid = jnp.array([4.0, 1.0, 99.0]), jnp.array([True, True, False])
    # Two columns have z-scores 1 and -1 whatever they are.
    sharp = 1 / (1 + np.exp(-2 / 0.5))
    soft = 1 / (1 + np.exp(-3 / 0.5))
    norm = np.hypot(soft, 1 - soft)
    for method, want in {
        "zscore_softmax": [sharp, 1 - sharp, 0],
        "sum": [soft, 1 - soft, 0],
        "minmax": [1, 0, 0],
        "l2": [soft / norm, (1 - soft) / norm, 0],
    }.items():
        np.testing.assert_allclose(
            normalize_scores(logits, valid, 0.5, method), want, atol=1e-7, err_msg=method
        )
    np.testing.assert_allclose(standardize(logits, valid), [1, -1, 0], atol=1e-7)


@pytest.mark.parametrize("method", NORMALIZATIONS)
def test_what_is_masked_has_no_influence(method):
    """A masked column is 0, and its value changes no bit of the others."""
    scores, valid = random_users(3)
    results = []
    for garbage in (0.0, -1e9, 1e9, 3e38):
        values = np.where(valid, scores, garbage).astype(np.float32)
        results.append(normalize_users(jnp.asarray(values), jnp.asarray(valid), 0.5, method))
    for other in results:
        np.testing.assert_array_equal(results[0], other)
        assert not np.asarray(other)[~valid].any()


@pytest.mark.parametrize(
    ("method", "value"), [("zscore_softmax", 0.25), ("sum", 0.25), ("l2", 0.5), ("minmax", 0.0)]
)
@pytest.mark.parametrize("constant", [0.0, 0.3, -7.7, 1e9, -1e9, 1e-9])
def test_constant_scores_prefer_nothing(method, value, constant):
    """Rounding noise isn't stretched to an opinion of a teacher that has none."""
    valid = jnp.array([True, True, False, True, True])
    scores = jnp.where(valid, constant, 5.0)
    result = normalize_scores(scores, valid, 0.02, method)
    np.testing.assert_allclose(result, jnp.where(valid, value, 0.0), atol=1e-7)


@pytest.mark.parametrize("method", NORMALIZATIONS)
@pytest.mark.parametrize(
    ("scores", "valid"),
    [
        ([1e9, -1e9, 0.0, 1.0], [True, True, True, True]),
        ([1e9, 1e9, 1e9, -1e9], [True, True, False, False]),
        ([-1e9, -1e9, -1e9, 2.0], [True, True, True, False]),
        ([2.0, 1e9, 1e9, 1e9], [True, False, False, False]),
        ([1e9, -1e9, 1.0, 1.0], [False, False, False, False]),
        ([0.0, 0.0, 0.0, 0.0], [True, True, True, True]),
    ],
)
def test_extreme_scores_stay_finite_with_their_derivatives(method, scores, valid):
    """Overflow, 0/0 and the square root at 0 give no nan, also behind a `where`."""
    scores, valid = jnp.array(scores), jnp.array(valid)
    result = normalize_users(scores[None], valid[None], 0.02, method)[0]
    chex.assert_tree_all_finite((result, jacobian(scores, valid, 0.02, method)))
    assert (result >= 0).all()
    assert not result[~valid].any()
    if method in ("zscore_softmax", "sum"):
        np.testing.assert_allclose(result.sum(), float(valid.any()), rtol=1e-6)


def test_softmax_without_a_column_is_zero():
    """A row without a valid column doesn't spread its mass over masked ones."""
    assert not masked_softmax(jnp.array([1.0, 2.0]), jnp.array([False, False])).any()


def test_every_choice_of_the_flag_is_a_normalisation():
    """Every name has its formula, and an unknown name is refused."""
    assert tuple(NORMALIZE) == NORMALIZATIONS
    with pytest.raises(UserError, match="--score_normalization: found 'zscores'"):
        DistillConfig(score_normalization="zscores")
