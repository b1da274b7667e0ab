"""Ranks in, metrics out: numpy alone, for students and teachers alike."""

import numpy as np
from jaxtyping import Float, Float64, Int

CUTOFFS = (5, 10, 20)
SELECTION_METRIC = "NDCG@10"
"""Decides, on validation, which epoch is kept and when training stops."""
METRICS = (*(f"Recall@{k}" for k in CUTOFFS), *(f"NDCG@{k}" for k in CUTOFFS), "MRR")
KEY_METRIC = SELECTION_METRIC
"""Shown where there is room for one."""
KEY_METRICS = ("Recall@10", KEY_METRIC)
"""Shown where there is room for two."""


def expected_ranks(
    scores: Float[np.ndarray, "users items"], targets: Int[np.ndarray, " users"]
) -> Float64[np.ndarray, " users"]:
    """Every target's 0-based rank among all items, in expectation over the order of ties.

    rank = #greater + ½ · #equal, the target's own column left out by its index; the target's
    score is read from the same matrix as its rivals'. A model that gives every item the same
    score so ranks the target in the middle, never first.

    Args:
        scores: scores of all items for each user, all finite.
        targets: the column of each user's target.

    Returns:
        Ranks in 0 … items − 1, in steps of one half.

    Raises:
        ValueError: a target is no column, or a score is not finite: comparisons with NaN are
            all false and would make a broken model perfect.

    >>> expected_ranks(np.array([[3.0, 2.0, 2.0], [0.0, 0.0, 0.0]]), np.array([1, 0])).tolist()
    [1.5, 1.0]
    """
    if targets.shape != scores.shape[:1]:
        raise ValueError(f"targets have shape {targets.shape}, scores {scores.shape}")
    # A negative index would quietly read a column from the end.
    outside = (targets < 0) | (targets >= scores.shape[1])
    if outside.any():
        row = int(np.argmax(outside))
        raise ValueError(
            f"row {row}: target {targets[row]} is none of the {scores.shape[1]} columns"
        )
    not_finite = ~np.isfinite(scores).all(axis=1)
    if not_finite.any():
        row = int(np.argmax(not_finite))
        value = scores[row][~np.isfinite(scores[row])][0]
        raise ValueError(
            f"row {row}: {value} among the scores, expected finite numbers "
            f"({int(not_finite.sum())} of {len(scores)} rows have such scores)"
        )
    own = np.take_along_axis(scores, targets[:, None], axis=1)
    greater = np.count_nonzero(scores > own, axis=1)
    equal = np.count_nonzero(scores == own, axis=1) - 1
    return greater + 0.5 * equal


def per_user(ranks: Float[np.ndarray, "*users"], metric: str) -> Float64[np.ndarray, "*users"]:
    """One metric of every user, each having one target (so Recall@K is the hit rate).

    A tie's metric is that of its expected rank, not the mean over the tie's orders. A rank r counts
    at cutoff K iff r < K, r = 9.5 thus at 10. Then Recall@K = 1 and
    NDCG@K = 1 / log2(r + 2); both are 0 otherwise. MRR = 1 / (r + 1). The rank infinity
    stands for a target that can't be reached (masked because it lies in the history): all
    metrics are 0.

    Args:
        ranks: 0-based ranks, fractional where scores tie; any shape.
        metric: the name of a metric, from `METRICS`.

    Raises:
        ValueError: a rank is NaN or negative, or the metric is unknown.

    >>> per_user(np.array([0.0, 2.0, 9.5, np.inf]), "Recall@10").tolist()
    [1.0, 1.0, 1.0, 0.0]
    >>> per_user(np.array([0.0, 2.0]), "NDCG@10").tolist()
    [1.0, 0.5]
    """
    ranks = np.asarray(ranks, dtype=np.float64)
    if not (ranks >= 0).all():
        raise ValueError(f"rank {ranks[~(ranks >= 0)][0]}, expected 0 or more")
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r}, expected one of {', '.join(METRICS)}")
    name, _, cutoff = metric.partition("@")
    if name == "MRR":
        return 1 / (ranks + 1)
    hit = ranks < int(cutoff)
    return np.where(hit, 1 / np.log2(ranks + 2), 0.0) if name == "NDCG" else hit.astype(np.float64)


def ranking_metrics(ranks: Float[np.ndarray, " users"]) -> dict[str, float]:
    """The mean over users of every metric in `METRICS`, in their order.

    Raises:
        ValueError: there are no users, or `per_user` refuses a rank.
    """
    if len(ranks) == 0:
        raise ValueError("no ranks: there is no user to evaluate")
    return {metric: float(per_user(ranks, metric).mean()) for metric in METRICS}
