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
    """

    improvement: float | None
    interval: tuple[float, float] | None
    t_p: float
    wilcoxon_p: float
    base_mean: float
    other_mean: float


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


@dataclasses.dataclass(frozen=True)
class ModelMetrics:
    """One model's metrics, those of `METRICS` in their order.

    Attributes:
        users: each user's, averaged over the seeds.
        resampled: means of the metrics over resampled users.
        means: over seeds and users.
    """

    users: Float64[np.ndarray, "users metrics"]
    resampled: Float64[np.ndarray, "resamples metrics"]
    means: Sequence[float]


def measure(several: Sequence[Float[np.ndarray, "seeds users"]]) -> list[ModelMetrics]:
    """The metrics of models that are to be compared; all see the same resampled users.

    Args:
        several: 0-based ranks of each model, infinity where the target can't be reached; column =
            user. The number of seeds may differ.

    Raises:
        ValueError: the users differ in number, or a rank is NaN or negative.
    """
    if any(ranks.ndim != 2 for ranks in several):
        raise ValueError("expected ranks of shape [seeds, users]")
    numbers = list(dict.fromkeys(ranks.shape[1] for ranks in several))
    if len(numbers) > 1:
        raise ValueError(f"{numbers[0]} and {numbers[1]} users can't be compared in pairs")
    values = [[per_user(ranks, metric) for metric in METRICS] for ranks in several]
    users = [np.stack([one.mean(axis=0) for one in model], axis=1) for model in values]
    resampled = np.split(resampled_means(np.concatenate(users, axis=1)), len(users), axis=1)
    return [
        ModelMetrics(
            users=mean,
            resampled=again,
            means=[float(one.mean()) for one in model],
        )
        for model, mean, again in zip(values, users, resampled, strict=True)
    ]


def difference(base: ModelMetrics, other: ModelMetrics) -> dict[str, Comparison]:
    """What two models' difference is worth, users paired.

    Each user's metric is averaged over the seeds first, then one test runs over the users:
    seeds are no further independent users.

    Args:
        base: the model that is compared with, as `measure` gives it.
        other: the other model, from the same call of `measure`.

    Returns:
        A comparison for every metric of `METRICS`.
    """
    comparisons = {}
    for column, metric in enumerate(METRICS):
        apart = np.round(other.users[:, column] - base.users[:, column], DECIMALS)
        before, after = base.means[column], other.means[column]
        comparisons[metric] = Comparison(
            improvement=after / before - 1 if before else None,
            interval=change_interval(base.resampled[:, column], other.resampled[:, column]),
            t_p=paired_t_test(apart),
            wilcoxon_p=signed_rank_test(apart),
            base_mean=before,
            other_mean=after,
        )
    return comparisons


def compare(
    base_ranks: Float[np.ndarray, "base_seeds users"],
    other_ranks: Float[np.ndarray, "other_seeds users"],
) -> dict[str, Comparison]:
    """`difference` of two models by their ranks, which are those of `measure`.

    >>> base, other = np.array([[0.0, 30.0, 4.0, 9.0]]), np.array([[0.0, 3.0, 4.0, 2.0]])
    >>> found = compare(base, other)["Recall@5"]  # one seed, four users
    >>> found.base_mean, found.other_mean, found.improvement
    (0.5, 1.0, 1.0)
    """
    return difference(*measure([base_ranks, other_ranks]))
