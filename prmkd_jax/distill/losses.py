"""Eq. 4–6: the divergence between the student and the teachers' joint target, for one user."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from prmkd_jax.ops.arrays import Array, Scalar


def target_distribution(
    joint: Float[Array, " C"], valid: Bool[Array, " C"], smoothing: Scalar
) -> Float[Array, " C"]:
    """q of eq. 5: the joint scores divided by their sum, mixed with a uniform share.

    The share keeps every valid column above 0, which KL(p || q) needs.
    Joint scores that are all 0 (no teacher knows the instance) give the uniform q.

    >>> joint, valid = jnp.array([3.0, 1.0, 0.0]), jnp.array([True, True, False])
    >>> target_distribution(joint, valid, smoothing=0.0).tolist()
    [0.75, 0.25, 0.0]
    """
    uniform = valid / jnp.maximum(valid.sum(), 1)
    total = joint.sum()
    # Asked in this way nan stays nan: a broken teacher must not pass for an absent one.
    q = jnp.where(total == 0, uniform, joint / jnp.where(total == 0, 1.0, total))
    return (1.0 - smoothing) * q + smoothing * uniform


def log_student(
    logits: Float[Array, " C"], valid: Bool[Array, " C"], temperature: Scalar
) -> Float[Array, " C"]:
    """log p of eq. 5 over the valid columns; 0 elsewhere, so that it drops out of sums."""
    shifted = jnp.where(valid, logits / temperature, jnp.finfo(logits.dtype).min)
    return jnp.where(valid, jax.nn.log_softmax(shifted), 0.0)


def reverse_kl(
    log_p: Float[Array, " C"], q: Float[Array, " C"], valid: Bool[Array, " C"]
) -> Float[Array, ""]:
    """KL(p || q), student first, as eq. 5 is printed.

    Where q is 0 (a tiny temperature or `minmax`, unsmoothed) log q is that of the smallest
    normal float: a high, finite price for the student's mass there.

    >>> p, valid = jnp.array([0.5, 0.5]), jnp.array([True, True])
    >>> float(reverse_kl(jnp.log(p), p, valid))
    0.0
    """
    p = jnp.where(valid, jnp.exp(log_p), 0.0)
    return jnp.sum(p * (log_p - _log(q)))


def forward_kl(
    log_p: Float[Array, " C"], q: Float[Array, " C"], valid: Bool[Array, " C"]
) -> Float[Array, ""]:
    """KL(q || p), teachers first: the usual distillation loss."""
    return jnp.sum(jnp.where(valid, q, 0.0) * (_log(q) - log_p))


def jensen_shannon(
    log_p: Float[Array, " C"], q: Float[Array, " C"], valid: Bool[Array, " C"]
) -> Float[Array, ""]:
    """½ KL(p || m) + ½ KL(q || m) with m = ½(p + q); symmetric and at most log 2."""
    p = jnp.where(valid, jnp.exp(log_p), 0.0)
    q = jnp.where(valid, q, 0.0)
    log_m = _log(0.5 * (p + q))
    return 0.5 * jnp.sum(p * (log_p - log_m)) + 0.5 * jnp.sum(q * (_log(q) - log_m))


DIVERGENCES = {"reverse": reverse_kl, "forward": forward_kl, "js": jensen_shannon}


def entropy(q: Float[Array, " C"]) -> Float[Array, ""]:
    """−Σ q log q in nats."""
    return -jnp.sum(q * _log(q))


def _log(q):
    """log q, finite at 0 too; one form everywhere, so that XLA computes it once."""
    return jnp.log(jnp.maximum(q, jnp.finfo(q.dtype).tiny))
