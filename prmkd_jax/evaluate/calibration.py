"""Do a model's scores say how sure it may be? numpy alone."""

import numpy as np
from jaxtyping import Bool, Float64

BINS = 10


def calibration(
    confidence: Float64[np.ndarray, " users"],
    hits: Bool[np.ndarray, " users"],
    bins: int = BINS,
) -> dict[str, float]:
    """How a promised share of hits compares with what came true.

    Users are sorted by confidence and divided into groups of equal size, since most confidences
    are small. The error is the groups' mean absolute difference between confidence and hits: the
    expected calibration error with bins of equal mass.

    Args:
        confidence: each user's promised chance of a hit, here the softmax of the scores summed
            over the list.
        hits: whether the target was in the list.
        bins: number of groups; fewer where there are fewer users.

    Returns:
        `confidence`, its mean, to be compared with the metric Recall@k, and `calibration_error`.

    Raises:
        ValueError: there are no users, or a confidence is none.

    >>> found = calibration(np.array([0.25, 0.25, 1.0]), np.array([True, False, True]), bins=2)
    >>> found["confidence"], round(found["calibration_error"], 3)  # groups (½ − ¼) · ⅔ and 0 · ⅓
    (0.5, 0.167)
    """
    if not len(confidence) or len(confidence) != len(hits):
        raise ValueError(f"{len(confidence)} confidences and {len(hits)} hits, expected as many")
    # A sum of ten float32 probabilities may end a little above 1.
    if not ((confidence >= 0) & (confidence <= 1 + 1e-4)).all():
        raise ValueError(f"a confidence of {confidence.max()}, expected 0 … 1")
    order = np.argsort(confidence, kind="stable")
    groups = np.array_split(order, min(bins, len(order)))
    error = sum(len(group) * abs(confidence[group].mean() - hits[group].mean()) for group in groups)
    return {
        "confidence": float(confidence.mean()),
        "calibration_error": float(error) / len(order),
    }
