"""Is one student better than another, over users?"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64
from scipy import stats

from prmkd_jax.evaluate.bootstrap import change_interval, resampled_means
from prmkd_jax.evaluate.metrics import METRICS, per_user

# Means over seeds in another order differ in the last bits: such a difference is none, and
# must be neither a signed rank nor break a tie.
DECIMALS = 12


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One metric of two models over the same users.

    Attributes:
        improvement: (other − base) / base, a fraction; None where the base is 0.
        interval: the 95 % interval of the improvement over resampled users, seeds as they are;
            None where a resampled base is 0.
        t_p: two-sided p-value of the paired t-test over users.
        wilcoxon_p: two-sided p-value of Wilcoxon's signed-rank test over users.
        base_mean: mean over seeds and users.
        other_mean: mean over seeds and users.
        base_std: sample standard deviation of the seeds' means, 0 for one seed.
        other_std: sample standard deviation of the seeds' means, 0 for one seed.
    """

    improvement: float | None
    interval: tuple[float, float] | None
    t_p: float
    wilcoxon_p: float
    base_mean: float
    other_mean: float
    base_std: float
    other_std: float


def paired_t_test(differences: Float64[np.ndarray, " users"]) -> float:
    """Two-sided p-value of the hypothesis that the differences have mean 0.

    1 where nothing can be said (no difference at all, or fewer than two users); 0 where all
    users differ by the same amount.
    """
    users = len(differences)
    if users < 2 or not differences.any():
        return 1.0
    standard_error = differences.std(ddof=1) / np.sqrt(users)
    if standard_error == 0:
        return 0.0
    return float(2 * stats.t.sf(abs(differences.mean()) / standard_error, users - 1))


def signed_rank_test(differences: Float64[np.ndarray, " users"]) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test; users without a difference drop out.

    1 where no user has a difference.

    >>> round(signed_rank_test(np.array([0.0, 1.0, 2.0, 3.0, -0.5])), 4)
    0.25
    """
    if not differences.any():
        return 1.0
    _, p_value = np.asarray(stats.wilcoxon(differences, zero_method="wilcox"))
    return float(p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p-values that bound the chance of any false finding.

    The smallest of n is multiplied by n, the next by n − 1, and so on; none falls below the one
    before it, none exceeds 1 (Holm, 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def compare(
    base_ranks: Float[np.ndarray, "base_seeds users"],
    other_ranks: Float[np.ndarray, "other_seeds users"],
) -> dict[str, Comparison]:
    """Compares two models on every metric, users paired.

    Each user's metric is averaged over the seeds first, then one test runs over the users:
    seeds are no further independent users.

    Args:
        base_ranks: 0-based ranks, infinity where the target can't be reached; column = user.
        other_ranks: the same users in the same order; the number of seeds may differ.

    Returns:
        A comparison for every metric of `METRICS`.

    Raises:
        ValueError: the users differ in number, or a rank is NaN or negative.

    >>> base, other = np.array([[0.0, 30.0, 4.0, 9.0]]), np.array([[0.0, 3.0, 4.0, 2.0]])
    >>> found = compare(base, other)["Recall@5"]  # one seed, four users
    >>> found.base_mean, found.other_mean, found.improvement
    (0.5, 1.0, 1.0)
    """
    if base_ranks.ndim != 2 or other_ranks.ndim != 2:
        raise ValueError("expected ranks of shape [seeds, users]")
    if base_ranks.shape[1] != other_ranks.shape[1]:
        raise ValueError(
            f"{base_ranks.shape[1]} and {other_ranks.shape[1]} users can't be compared in pairs"
        )
    before = {metric: per_user(base_ranks, metric) for metric in METRICS}
    after = {metric: per_user(other_ranks, metric) for metric in METRICS}
    users = [values.mean(axis=0) for values in (*before.values(), *after.values())]
    resampled = resampled_means(np.stack(users, axis=1))
    comparisons = {}
    for column, metric in enumerate(METRICS):
        base, other = before[metric], after[metric]
        differences = np.round(other.mean(axis=0) - base.mean(axis=0), DECIMALS)
        base_mean, other_mean = float(base.mean()), float(other.mean())
        comparisons[metric] = Comparison(
            improvement=other_mean / base_mean - 1 if base_mean else None,
            interval=change_interval(resampled[:, column], resampled[:, column + len(METRICS)]),
            t_p=paired_t_test(differences),
            wilcoxon_p=signed_rank_test(differences),
            base_mean=base_mean,
            other_mean=other_mean,
            base_std=_std_over_seeds(base),
            other_std=_std_over_seeds(other),
        )
    return comparisons


def _std_over_seeds(values: Float64[np.ndarray, "seeds users"]) -> float:
    return float(values.mean(axis=1).std(ddof=1)) if len(values) > 1 else 0.0
