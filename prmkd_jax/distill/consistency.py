"""Eq. 2–3: who disagrees, who is left out, and the teachers' joint scores; for one user.

The paper calls eq. 2 a "confidence" although a high value marks the teacher that is *not*
convincing; here it is the `disagreement`.
"""

import jax.numpy as jnp
from jaxtyping import Bool, Float

from prmkd_jax.distill.config import Redistribution
from prmkd_jax.ops.arrays import Array, Scalar


def disagreement(scores: Float[Array, "K C"], available: Bool[Array, " K"]) -> Float[Array, " K"]:
    """Sum over the other teachers of the squared distance between score rows (eq. 2).

    The differences are squared directly: ‖a‖² + ‖b‖² − 2ab loses near-identical teachers
    to rounding in float32.

    Args:
        scores: normalised scores s̃, 0 outside the valid columns.
        available: teachers that know this instance; the others count as 0 and get 0.

    >>> scores = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> disagreement(scores, jnp.array([True, True, True])).tolist()
    [2.0, 2.0, 4.0]
    """
    teachers = len(scores)
    total = [jnp.float32(0.0)] * teachers
    for one in range(teachers):
        for other in range(one + 1, teachers):
            distance = jnp.square(scores[one] - scores[other]).sum()
            distance = jnp.where(available[one] & available[other], distance, 0.0)
            total[one] += distance
            total[other] += distance
    return jnp.stack(total)


def excluded_teacher(
    disagreements: Float[Array, " K"],
    default_weights: Float[Array, " K"],
    available: Bool[Array, " K"],
    threshold: Scalar,
) -> Bool[Array, " K"]:
    """The one teacher that the rule leaves out, or none.

    The highest disagreement is dropped iff it is above the threshold. Two teachers or
    fewer are always tied, and the rule is inactive. Ties drop the smaller default weight,
    then the larger index.

    >>> equal, everyone = jnp.full(3, 1 / 3), jnp.array([True, True, True])
    >>> excluded_teacher(jnp.array([2.0, 2.0, 4.0]), equal, everyone, 3.0).tolist()
    [False, False, True]
    """
    contested = jnp.where(available, disagreements, -jnp.inf)
    worst = jnp.max(contested)
    tied = contested == worst
    lightest = jnp.min(jnp.where(tied, default_weights, jnp.inf))
    chosen = tied & (default_weights == lightest)
    index = len(chosen) - 1 - jnp.argmax(chosen[::-1])
    active = (worst > threshold) & (available.sum() > 2)
    return active & (jnp.arange(len(chosen)) == index)


def redistribute_weights(
    default_weights: Float[Array, " K"],
    available: Bool[Array, " K"],
    excluded: Bool[Array, " K"],
    rule: Redistribution,
) -> Float[Array, " K"]:
    """The weights ŵ: a missing teacher's share is renormalised away, an excluded one's given on.

    Args:
        default_weights: w, summing to 1 over all teachers.
        available: teachers that know this instance.
        excluded: teacher left out by the consistency rule.
        rule: `equal` shares (the paper) or `proportional` to the remaining weights.

    Returns:
        Weights that sum to 1; all 0 where no teacher is available.

    Raises:
        ValueError: there is no such rule.

    >>> weights, everyone = jnp.array([0.5, 0.25, 0.25]), jnp.array([True, True, True])
    >>> redistribute_weights(weights, everyone, jnp.array([False, False, True]), "equal").tolist()
    [0.625, 0.375, 0.0]
    """
    weights = jnp.where(available, default_weights, 0.0)
    total = weights.sum()
    # Available teachers whose default weights are all 0 share equally.
    uniform = available / jnp.maximum(available.sum(), 1)
    weights = jnp.where(total > 0, weights / jnp.where(total > 0, total, 1.0), uniform)
    kept = jnp.where(excluded, 0.0, weights)
    freed = weights.sum() - kept.sum()
    remaining = available & ~excluded
    equal = freed * remaining / jnp.maximum(remaining.sum(), 1)
    if rule == "equal":
        return kept + equal
    if rule == "proportional":
        mass = kept.sum()
        return jnp.where(mass > 0, kept / jnp.where(mass > 0, mass, 1.0), equal)
    raise ValueError(f"unknown redistribution {rule!r}")


def joint_scores(scores: Float[Array, "K C"], weights: Float[Array, " K"]) -> Float[Array, " C"]:
    """ŝ = Σ_k ŵ_k s̃_k (eq. 3)."""
    # A matrix product would be rounded to TF32 on recent GPUs.
    return jnp.sum(weights[:, None] * scores, axis=0)
