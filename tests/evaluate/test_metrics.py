import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prmkd_jax.evaluate.metrics import CUTOFFS, METRICS, expected_ranks, per_user, ranking_metrics
from tests.checking import unchecked


def test_names_are_the_ones_in_results_json():
    """results.json, tables and early stopping look these names up."""
    assert CUTOFFS == (5, 10, 20)
    assert METRICS == (
        "Recall@5", "Recall@10", "Recall@20", "NDCG@5", "NDCG@10", "NDCG@20", "MRR",
    )  # fmt: skip
    assert tuple(ranking_metrics(np.array([0.0]))) == METRICS


def test_ranks_by_hand():
    """Ranks start at 0, the target isn't its own rival, and a tie counts half."""
    scores = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [1.0, 1.0, 0.0], [5.0, 5.0, 5.0]])
    ranks = expected_ranks(scores, np.array([0, 2, 1, 0]))
    np.testing.assert_array_equal(ranks, [0.0, 2.0, 0.5, 1.0])
    assert ranks.dtype == np.float64


def test_equal_scores_rank_in_the_middle():
    """A collapsed model, all scores equal, looks neither better nor worse than chance."""
    ranks = expected_ranks(np.zeros((2, 101), dtype=np.float32), np.array([0, 100]))
    np.testing.assert_array_equal(ranks, [50.0, 50.0])


@given(st.lists(st.lists(st.integers(0, 4), min_size=6, max_size=6), min_size=1, max_size=5))
def test_expected_rank_is_the_mean_over_all_orders_of_ties(rows):
    """It is halfway between the best and the worst place that the ties allow."""
    scores = np.array(rows, dtype=np.float32)
    targets = np.arange(len(rows)) % 6
    for row, target, rank in zip(scores, targets, expected_ranks(scores, targets), strict=True):
        rivals = [score for item, score in enumerate(row) if item != target]
        best = sum(score > row[target] for score in rivals)
        worst = sum(score >= row[target] for score in rivals)
        assert rank == (best + worst) / 2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", [0, 1])
def test_a_score_that_is_not_finite_is_never_a_rank(bad, column):
    """NaN, for which no score is greater, isn't taken for a perfect model."""
    scores = np.ones((4, 3))
    scores[2, column] = bad
    with pytest.raises(ValueError, match=r"row 2: .*1 of 4 rows"):
        expected_ranks(scores, np.array([0, 0, 0, 0]))


@pytest.mark.parametrize("target", [-1, 3])
def test_a_target_that_is_no_item_is_refused(target):
    """A negative id doesn't read a column from the end."""
    with pytest.raises(ValueError, match=rf"row 1: target {target} is none of the 3 columns"):
        expected_ranks(np.ones((2, 3)), np.array([0, target]))


def test_one_target_for_each_row():
    """Targets of another length raise an error and aren't broadcast."""
    with pytest.raises(ValueError, match="shape"):
        unchecked(expected_ranks)(np.ones((2, 3)), np.array([0]))


def test_fractional_ranks_at_the_cutoffs():
    """9.5 counts at a cutoff of 10, and rank 10 doesn't."""
    ranks = np.array([0.0, 4.5, 5.0, 9.5, 10.0, 19.5, 20.0])
    np.testing.assert_array_equal(per_user(ranks, "Recall@5"), [1, 1, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(per_user(ranks, "Recall@10"), [1, 1, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(per_user(ranks, "Recall@20"), [1, 1, 1, 1, 1, 1, 0])
    np.testing.assert_allclose(
        per_user(ranks, "NDCG@10"),
        [1.0, *(math.log(2) / math.log(place) for place in (6.5, 7.0, 11.5)), 0, 0, 0],
        rtol=1e-14,
    )
    np.testing.assert_allclose(
        per_user(ranks, "MRR"), [1, 2 / 11, 1 / 6, 2 / 21, 1 / 11, 2 / 41, 1 / 21], rtol=1e-14
    )


def test_means_by_hand():
    """Each metric is the plain mean over users."""
    metrics = ranking_metrics(np.array([0.0, 2.0, 6.0, np.inf]))
    assert metrics == pytest.approx(
        {
            "Recall@5": 2 / 4,
            "Recall@10": 3 / 4,
            "Recall@20": 3 / 4,
            "NDCG@5": (1 + 1 / 2) / 4,
            "NDCG@10": (1 + 1 / 2 + 1 / 3) / 4,
            "NDCG@20": (1 + 1 / 2 + 1 / 3) / 4,
            "MRR": (1 + 1 / 3 + 1 / 7) / 4,
        },
        rel=1e-14,
    )


def test_an_unreachable_target_gives_nothing():
    """The rank infinity counts as 0 everywhere and raises no warning."""
    assert ranking_metrics(np.array([np.inf])) == dict.fromkeys(METRICS, 0.0)


@given(st.lists(st.integers(0, 80).map(lambda r: r / 2), min_size=1, max_size=30))
def test_ndcg_grows_as_recall_allows(values):
    """NDCG and Recall describe the same ranking."""
    metrics = ranking_metrics(np.array(values))
    for low, high in ((5, 10), (10, 20)):
        recall = metrics[f"Recall@{high}"] - metrics[f"Recall@{low}"]
        ndcg = metrics[f"NDCG@{high}"] - metrics[f"NDCG@{low}"]
        assert recall / np.log2(high + 2) - 1e-12 <= ndcg <= recall / np.log2(low + 2) + 1e-12


@pytest.mark.parametrize("bad", [np.nan, -0.5])
def test_a_rank_that_is_none_is_refused(bad):
    """NaN doesn't pass for a miss, nor −½ for a hit."""
    with pytest.raises(ValueError, match=r"expected 0 or more"):
        ranking_metrics(np.array([1.0, bad]))


def test_unknown_metric_and_no_users_are_refused():
    """A misspelt metric or an empty split gives no number."""
    with pytest.raises(ValueError, match="'HR@10'"):
        per_user(np.array([1.0]), "HR@10")
    with pytest.raises(ValueError, match="no user"):
        ranking_metrics(np.array([]))


def test_loads_neither_jax_nor_torch():
    """The PyTorch side can import the metrics without loading jax."""
    code = (
        "import sys, prmkd_jax.evaluate.metrics\n"
        "print([m for m in ('jax', 'flax', 'torch', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
