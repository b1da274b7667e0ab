"""Eq. 1: a teacher's scores of one user's columns, made comparable between teachers."""

from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from prmkd_jax.ops.arrays import Array, Scalar

TINY = 1e-12


def masked_softmax(logits: Float[Array, " C"], valid: Bool[Array, " C"]) -> Float[Array, " C"]:
    """Softmax over the valid columns, 0 elsewhere; all 0 where no column is valid."""
    shifted = jnp.where(valid, logits, jnp.finfo(logits.dtype).min)
    # jax.nn.softmax subtracts the maximum; with no valid column it would be uniform.
    return jnp.where(valid, jax.nn.softmax(shifted), 0.0)


def standardize(logits: Float[Array, " C"], valid: Bool[Array, " C"]) -> Float[Array, " C"]:
    """Zero mean and unit (population) deviation over the valid columns, 0 elsewhere.

    Constant scores say nothing and become 0.

    >>> valid = jnp.array([True, True, False])
    >>> standardize(jnp.array([3.0, 1.0, 9.0]), valid).round(3).tolist()
    [1.0, -1.0, 0.0]
    """
    count = jnp.maximum(valid.sum(), 1)
    # Scaled to at most 1 first, so that squares of 1e30 stay finite.
    scale = jnp.maximum(jnp.max(jnp.abs(jnp.where(valid, logits, 0.0))), TINY)
    scaled = jnp.where(valid, logits / scale, 0.0)
    centred = jnp.where(valid, scaled - scaled.sum() / count, 0.0)
    variance = jnp.square(centred).sum() / count
    # Below float32's resolution of the scaled values a deviation is rounding noise.
    constant = variance < jnp.square(jnp.finfo(jnp.float32).eps)
    return jnp.where(constant, 0.0, centred / jnp.sqrt(jnp.where(constant, 1.0, variance)))


def zscore_softmax(
    logits: Float[Array, " C"], valid: Bool[Array, " C"], temperature: Scalar
) -> Float[Array, " C"]:
    """The standardised logits' softmax; sums to 1. Temperature in standard deviations."""
    return masked_softmax(standardize(logits, valid) / temperature, valid)


def softmax(
    logits: Float[Array, " C"], valid: Bool[Array, " C"], temperature: Scalar
) -> Float[Array, " C"]:
    """softmax(logits / temperature), which sums to 1."""
    return masked_softmax(logits / temperature, valid)


def minmax(
    logits: Float[Array, " C"], valid: Bool[Array, " C"], temperature: Scalar
) -> Float[Array, " C"]:
    """The softmax stretched to [0, 1]; all 0 where it is constant."""
    softened = softmax(logits, valid, temperature)
    low = jnp.min(softened, where=valid, initial=1.0)
    spread = jnp.max(softened) - low
    return jnp.where(valid, (softened - low) / jnp.maximum(spread, TINY), 0.0)


def unit_length(
    logits: Float[Array, " C"], valid: Bool[Array, " C"], temperature: Scalar
) -> Float[Array, " C"]:
    """The softmax divided by its Euclidean norm."""
    softened = softmax(logits, valid, temperature)
    return softened / jnp.maximum(jnp.linalg.norm(softened), TINY)


@runtime_checkable
class Normalization(Protocol):
    """A function from a teacher's logits to comparable scores."""

    def __call__(
        self, logits: Float[Array, " C"], valid: Bool[Array, " C"], temperature: Scalar
    ) -> Float[Array, " C"]:
        """Normalised scores, 0 outside the valid columns."""
        ...


NORMALIZE: dict[str, Normalization] = {
    "zscore_softmax": zscore_softmax,
    "sum": softmax,
    "minmax": minmax,
    "l2": unit_length,
}
"""Choices of `--score_normalization`, the normalisation that eq. 1 of arXiv 2401.00797 leaves open.

Each takes one teacher's training logits [C] (float32), the columns that count [C] (the row's own
target included) and a temperature, and gives the normalised scores s̃, 0 outside those columns.
"""


# e^-88 is nothing in float32: from here on scores fall more slowly, so that the order stays.
_STEEP, _LEFT = 80.0, 7.0


def rank_scores(
    logits: Float[Array, " C"], valid: Bool[Array, " C"], temperature: Scalar
) -> Float[Array, " C"]:
    """exp(−rank / temperature) of one teacher's ranking of one user's columns, 0 elsewhere.

    HetComp (Kang et al., 2023) adds these up over its teachers. A rank is the number of higher
    valid logits: equal ones share it. Ranks above 80 · temperature have scores below e^-80 that
    still fall, but down to e^-87 at the last of C.

    >>> valid = jnp.array([True, True, True, False])
    >>> scores = rank_scores(jnp.array([5.0, 7.0, 5.0, 9.0]), valid, temperature=1.0)
    >>> [round(float(score), 3) for score in scores]  # ranks 1, 0 and 1 again
    [0.368, 1.0, 0.368, 0.0]
    """
    # On a CPU, XLA sorts integers several times as fast as floats or pairs of key and column.
    keys = _integers_in_order(jnp.where(valid, -logits, jnp.inf))
    rank = jnp.searchsorted(jnp.sort(keys, stable=False), keys)
    beyond = jnp.maximum(rank - _STEEP * temperature, 0.0) * (_LEFT / len(logits))
    return jnp.where(valid, jnp.exp(-jnp.minimum(rank / temperature, _STEEP) - beyond), 0.0)


def _integers_in_order(values: Float[Array, " C"]) -> Int[Array, " C"]:
    """Integers that compare as the float32 values do."""
    # 0 instead of -0; bits of negative floats rise where the floats fall.
    bits = jax.lax.bitcast_convert_type(jnp.where(values == 0, 0.0, values), jnp.int32)
    return jnp.where(bits < 0, bits ^ jnp.iinfo(jnp.int32).max, bits)
