import numpy as np
import pytest
from scipy import stats

from prmkd_jax.evaluate import significance
from prmkd_jax.evaluate.metrics import METRICS
from prmkd_jax.evaluate.significance import compare, holm, paired_t_test, signed_rank_test
from tests.checking import uncheck


def some_ranks(seed: int, seeds: int, users: int, high: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high, (seeds, users)).astype(np.float64)


def hits(ranks: np.ndarray, cutoff: int) -> np.ndarray:
    return (ranks < cutoff).astype(np.float64)


def test_agrees_with_scipy_over_users_after_the_mean_over_seeds():
    """Seeds aren't taken for further users, and users are paired."""
    base, other = some_ranks(1, 3, 400, 60), some_ranks(2, 3, 400, 45)
    comparison = compare(base, other)
    assert tuple(comparison) == METRICS
    gain = {"Recall@10": [hits(ranks, 10).mean(axis=0) for ranks in (base, other)]}
    gain["NDCG@20"] = [
        (hits(ranks, 20) / np.log2(ranks + 2)).mean(axis=0) for ranks in (base, other)
    ]
    gain["MRR"] = [(1 / (1 + ranks)).mean(axis=0) for ranks in (base, other)]
    for metric, (base_user, other_user) in gain.items():
        found = comparison[metric]
        assert found.t_p == pytest.approx(stats.ttest_rel(other_user, base_user).pvalue, rel=1e-9)
        rounded = np.round(other_user - base_user, 12)
        assert found.wilcoxon_p == pytest.approx(stats.wilcoxon(rounded).pvalue, rel=1e-9)
        assert found.base_mean == pytest.approx(base_user.mean(), rel=1e-12)
        assert found.other_mean == pytest.approx(other_user.mean(), rel=1e-12)
        assert found.improvement == pytest.approx(
            (other_user.mean() - base_user.mean()) / base_user.mean(), rel=1e-12
        )


def test_each_metric_has_the_interval_of_its_own_resampled_change():
    """Users are drawn, the same ones for both models, and never seeds."""
    base, other = some_ranks(5, 2, 90, 40), some_ranks(6, 3, 90, 25)
    drawn = np.random.default_rng(0).integers(0, 90, (1000, 90))
    for metric, found in compare(base, other).items():
        name, _, cutoff = metric.partition("@")
        users = []
        for ranks in (base, other):
            hit = ranks < float(cutoff or "inf")
            gain = {"Recall": 1.0, "NDCG": 1 / np.log2(ranks + 2), "MRR": 1 / (ranks + 1)}[name]
            users.append((hit * gain).mean(axis=0))
        changes = [users[1][some].mean() / users[0][some].mean() - 1 for some in drawn]
        expected = np.quantile(changes, [0.025, 0.975])
        np.testing.assert_allclose(found.interval, expected, rtol=1e-9, err_msg=metric)


def test_t_test_by_hand():
    """The test is paired and two-sided, with n − 1 degrees of freedom."""
    # mean 2, sample variance 2.5, five users: t = 2 / sqrt(2.5 / 5) = 2.8284..., 4 degrees.
    differences = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    t = 2 / np.sqrt(0.5)
    assert paired_t_test(differences) == pytest.approx(2 * stats.t.cdf(-t, 4), rel=1e-12)
    assert paired_t_test(-differences) == paired_t_test(differences)


def test_signed_rank_by_hand():
    """The test is two-sided: 4 gains, 2^4 signs, p = 2 / 16."""
    assert signed_rank_test(np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx(2 / 16)


def test_equal_models_have_p_one_without_a_warning():
    """0/0 gives no NaN; warnings are errors here."""
    ranks = some_ranks(3, 2, 50, 30)
    for found in compare(ranks, ranks).values():
        assert (found.improvement, found.t_p, found.wilcoxon_p) == (0.0, 1.0, 1.0)


def test_order_of_the_seeds_does_not_matter():
    """Rounding errors of the mean over seeds aren't counted as differences."""
    ranks = some_ranks(4, 3, 300, 20)
    for found in compare(ranks, ranks[[2, 0, 1]]).values():
        assert (found.t_p, found.wilcoxon_p) == (1.0, 1.0)
        assert found.improvement == pytest.approx(0, abs=1e-14)


def test_a_constant_difference_is_certain_and_one_user_says_nothing():
    """A variance of zero isn't divided by."""
    assert paired_t_test(np.full(9, 0.1)) < 1e-12
    assert paired_t_test(np.full(8, 0.5)) == 0.0
    assert paired_t_test(np.array([0.5])) == 1.0


def test_a_base_of_zero_has_no_improvement():
    """No infinity, which isn't JSON, gets into results.json."""
    found = compare(np.full((1, 20), 99.0), np.zeros((1, 20)))["Recall@10"]
    assert found.improvement is None
    assert (found.base_mean, found.other_mean) == (0.0, 1.0)


def test_p_values_are_uniform_under_no_difference():
    """Of 50 tests at most 7 are below 0.05, and their mean is near one half."""
    p = np.array(
        [
            compare(some_ranks(2 * i, 3, 200, 40), some_ranks(2 * i + 1, 3, 200, 40))["NDCG@20"].t_p
            for i in range(50)
        ]
    )
    assert p.min() > 0.0
    assert (p < 0.05).sum() <= 7
    assert 0.4 < p.mean() < 0.6


def test_users_must_be_the_same(monkeypatch):
    """Ranks of other users aren't broadcast into a comparison."""
    uncheck(significance, monkeypatch)
    compare = significance.compare
    with pytest.raises(ValueError, match="5 and 4 users"):
        compare(np.zeros((2, 5)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"\[seeds, users\]"):
        compare(np.zeros(5), np.zeros(5))


def test_holm_rejects_what_the_step_down_procedure_rejects():
    """This holds at the levels 0.01, 0.05 and 0.2, and an empty list stays empty."""
    rng = np.random.default_rng(0)
    for tests in (1, 2, 7):
        for _ in range(20):
            p = rng.random(tests) ** 3
            corrected = holm(p.tolist())
            for level in (0.01, 0.05, 0.2):
                rejected = np.zeros(tests, bool)
                for step, place in enumerate(np.argsort(p)):
                    if p[place] > level / (tests - step):
                        break
                    rejected[place] = True
                np.testing.assert_array_equal(np.array(corrected) <= level, rejected)
    assert holm([]) == []
    assert holm([0.5, 0.9, 0.5]) == [1.0, 1.0, 1.0]
