import itertools

import numpy as np
import pytest
from scipy import stats

from prmkd_jax.evaluate import bootstrap
from prmkd_jax.evaluate.bootstrap import change_interval, interval, resampled_means


def test_resamples_are_those_of_all_possible_draws():
    """Users are drawn with replacement and equal chances: 3 users have 27 draws."""
    values = np.array([[0.0, 1.0], [1.0, 0.0], [4.0, 2.0]])
    found = resampled_means(values, 20_000)
    possible = np.array(
        [values[list(d)].mean(axis=0) for d in itertools.product(range(3), repeat=3)]
    )
    for column in range(2):
        means, counts = np.unique(possible[:, column].round(9), return_counts=True)
        for mean, count in zip(means, counts, strict=True):
            share = np.isclose(found[:, column], mean).mean()
            assert share == pytest.approx(count / 27, abs=0.012)


def test_columns_see_the_same_users_whatever_is_drawn_at_once():
    """Values of one user stay paired, and each seed gives its own draws again."""
    values = np.random.default_rng(0).normal(size=(500, 1))
    both = resampled_means(np.concatenate([values, values + 3], axis=1), 300)
    np.testing.assert_allclose(both[:, 1] - both[:, 0], 3, rtol=1e-12)
    np.testing.assert_array_equal(
        both, resampled_means(np.concatenate([values, values + 3], 1), 300)
    )
    assert (both != resampled_means(np.concatenate([values, values + 3], 1), 300, seed=1)).any()


def test_draws_in_several_blocks_are_those_of_one(monkeypatch):
    """The draws go on from block to block, and the last block may be shorter."""
    values = np.random.default_rng(0).normal(size=(51, 2))
    drawn = np.random.default_rng(0).integers(0, 51, (25, 51))
    expected = [[values[row, column].mean() for column in range(2)] for row in drawn]
    # Seven resamples at once, so that four are left for the last block.
    for most in (7 * 51, 1, 25 * 51):
        monkeypatch.setattr(bootstrap, "_MOST_DRAWN", most)
        np.testing.assert_allclose(resampled_means(values, 25), expected, rtol=1e-12)


def test_the_interval_agrees_with_scipys():
    """Both ends agree with scipy's 95 % interval to within 1 %."""
    values = np.random.default_rng(1).exponential(size=400)
    found = interval(resampled_means(values[:, None], 4000)[:, 0])
    assert found is not None
    expected = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=4000, random_state=2
    ).confidence_interval
    np.testing.assert_allclose(found, expected, rtol=0.01)


def test_the_interval_of_a_change_covers_the_truth_as_often_as_it_says():
    """Of 200 intervals of the relative change, 180 to 199 contain the true one."""
    covered = 0
    for trial in range(200):
        rng = np.random.default_rng(trial)
        base = rng.binomial(1, 0.3, 300).astype(float)
        other = np.where(rng.random(300) < 0.5, base, rng.binomial(1, 0.45, 300)).astype(float)
        means = resampled_means(np.stack([base, other], axis=1), 400)
        found = change_interval(means[:, 0], means[:, 1])
        assert found is not None
        covered += found[0] <= (0.5 * 0.3 + 0.5 * 0.45) / 0.3 - 1 <= found[1]
    assert 180 <= covered <= 199


def test_no_interval_where_a_base_may_be_zero():
    """The interval is None, so no infinity gets into a record."""
    assert change_interval(np.array([0.0, 1.0]), np.array([1.0, 1.0])) is None
    assert interval(np.array([np.nan, 1.0])) is None
    with pytest.raises(ValueError, match="no users"):
        resampled_means(np.zeros((0, 2)))
