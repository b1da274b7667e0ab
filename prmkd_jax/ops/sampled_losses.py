"""Losses of a row's target against items that were drawn, instead of against all items.

Each is a pure function of scores, one value a row, in log space, so that no score is too
large for float32.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from prmkd_jax.ops.arrays import Array


def sampled_cross_entropy(
    positive: Float[Array, " B"],
    negatives: Float[Array, "B N"],
    log_expected: Float[Array, " N"],
    hits: Bool[Array, "B N"],
) -> Float[Array, " B"]:
    """−log softmax of the target, with the other items' part of the denominator estimated.

    An item expected E times among N draws counts exp(score) / E each time it is drawn (the
    logQ correction of Bengio & Senécal, 2008), so the sum over the draws is an unbiased
    estimate of the sum over all items but the target. The target itself is in the
    denominator with certainty and is therefore not corrected. The more draws, the closer to
    `cross_entropy`.

    Args:
        positive: each row's score of its target.
        negatives: scores of the drawn items.
        log_expected: log of how often each of them is expected among the draws.
        hits: draws that are the row's target; they don't count.

    >>> negatives, hits = jnp.zeros((1, 2)), jnp.array([[False, True]])
    >>> float(sampled_cross_entropy(jnp.zeros(1), negatives, jnp.zeros(2), hits)[0])  # log 2
    0.693147...
    """
    corrected = jnp.where(hits, jnp.finfo(negatives.dtype).min, negatives - log_expected)
    return jax.nn.softplus(jax.nn.logsumexp(corrected, axis=-1) - positive)


def generalized_bce(
    positive: Float[Array, " B"],
    negatives: Float[Array, "B N"],
    hits: Bool[Array, "B N"],
    num_items: int,
    calibration: float,
) -> Float[Array, " B"]:
    """gBCE (Petrov & Macdonald, 2023): the target's probability is σ(score) to the power β.

    With α = N / (items − 1) the share of the negatives that is drawn and t the calibration,
    β = α((1 − 1/α) t + 1/α) = 1 − t(1 − α), and the loss is the binary cross-entropy's mean over
    the target and the draws. As −log σ(s)^β = β softplus(−s), no probability is ever computed.

    Args:
        positive: each row's score of its target.
        negatives: scores of items drawn uniformly.
        hits: draws that are the row's target; they don't count.
        num_items: size of the catalogue.
        calibration: t; 0 is the ordinary binary cross-entropy, 1 the least overconfident.

    >>> negatives, hits = jnp.zeros((1, 2)), jnp.zeros((1, 2), bool)
    >>> float(generalized_bce(jnp.zeros(1), negatives, hits, num_items=5, calibration=0.0)[0])
    0.693147...
    """
    # More draws than negatives, as on a tiny catalogue, are no more than all of them.
    alpha = min(1.0, negatives.shape[-1] / max(num_items - 1, 1))
    beta = 1.0 - calibration * (1.0 - alpha)
    drawn = jnp.where(hits, 0.0, jax.nn.softplus(negatives)).sum(-1)
    return (beta * jax.nn.softplus(-positive) + drawn) / (1 + (~hits).sum(-1))


def bpr(positive: Float[Array, " B"], negative: Float[Array, " B"]) -> Float[Array, " B"]:
    """−log σ(positive − negative), Bayesian personalised ranking (Rendle et al., 2009).

    Args:
        positive: each row's score of its target.
        negative: each row's score of an item that its user has not interacted with.
    """
    return jax.nn.softplus(negative - positive)
