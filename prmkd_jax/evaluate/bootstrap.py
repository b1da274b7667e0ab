"""Confidence intervals by resampling users, all resamples and metrics in one product."""

import numpy as np
from jaxtyping import Float64

RESAMPLES = 1000
LEVEL = 0.95
# Drawn at once, as a number of users: 64 MiB of counts.
_MOST_DRAWN = 2**23


def resampled_means(
    values: Float64[np.ndarray, "users columns"], resamples: int = RESAMPLES, seed: int = 0
) -> Float64[np.ndarray, "resamples columns"]:
    """The columns' means over users who are drawn with replacement, as many as there are.

    All columns see the same users, so what is compared stays paired. A resample is a count of each
    user, and so the means are one matrix product.

    Args:
        values: values to average, a row for each user.
        resamples: how many.
        seed: seed of the draws; equal seeds give equal draws.

    Raises:
        ValueError: there are no users.
    """
    users = len(values)
    if not users:
        raise ValueError("no users to draw from")
    rng = np.random.default_rng(seed)
    at_once = max(1, _MOST_DRAWN // users)
    parts = []
    for first in range(0, resamples, at_once):
        rows = min(at_once, resamples - first)
        drawn = rng.integers(0, users, (rows, users)) + users * np.arange(rows)[:, None]
        counts = np.bincount(drawn.reshape(-1), minlength=rows * users).reshape(rows, users)
        parts.append(counts @ values / users)
    return np.concatenate(parts)


def interval(
    resampled: Float64[np.ndarray, " resamples"], level: float = LEVEL
) -> tuple[float, float] | None:
    """The percentile interval of a resampled figure (Efron, 1979).

    Returns:
        Its ends; None where the figure doesn't exist in some resample.

    >>> interval(np.arange(1001.0), level=0.5)
    (250.0, 750.0)
    """
    if not np.isfinite(resampled).all():
        return None
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def change_interval(
    base: Float64[np.ndarray, " resamples"], other: Float64[np.ndarray, " resamples"]
) -> tuple[float, float] | None:
    """The interval of (other − base) / base; None where a resampled base is 0."""
    if not base.all():
        return None
    return interval(other / base - 1)
