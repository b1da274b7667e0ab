"""Losses of the teachers' order instead of their distribution; for one user.

They read the joint scores of several teachers only as an order, that of the rank ensemble;
each paper has one teacher. The official code of each draws some items at random; here nothing
is drawn: RD's ranks are exact over the columns, RRD takes the top items themselves and all
others, UnKD's loss is its expectation over the pairs.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from prmkd_jax.ops.arrays import Array, Scalar

# Below e^-5 a rank has under 1 % of the draws, and the pairs grow with its square.
_DEPTH = 5.0
_DECIMALS = 4


def top_columns(
    joint: Float[Array, " C"], valid: Bool[Array, " C"], number: int
) -> tuple[Int[Array, " N"], Bool[Array, " N"]]:
    """The highest columns in descending order, and which of them are valid.

    Teachers who swap two ranks make an exact tie, which rounding errors would break at random:
    scores that differ by less than one in 10,000 are a tie, and the earlier column comes first.

    >>> joint, valid = jnp.array([0.1, 0.6, 0.3]), jnp.array([True, True, False])
    >>> columns, real = top_columns(joint, valid, 2)
    >>> columns.tolist(), real.tolist()
    ([1, 0], [True, True])
    """
    logarithm = jnp.log(jnp.maximum(joint, jnp.finfo(joint.dtype).tiny))
    _, columns = jax.lax.top_k(
        jnp.where(valid, jnp.round(logarithm, _DECIMALS), -jnp.inf), min(number, len(joint))
    )
    return columns, valid[columns]


def ranking_distillation(
    logits: Float[Array, " C"],
    joint: Float[Array, " C"],
    valid: Bool[Array, " C"],
    top: int,
    position: Scalar,
    discrepancy: Scalar,
) -> Float[Array, ""]:
    """RD (Tang & Wang, 2018): Σ_r w_r · −log σ(s_r) over the teachers' top items, r from 1.

    w_r is the position weight exp(−r / position), divided by its sum, times the discrepancy
    weight tanh(max(discrepancy · (student's rank − teachers' rank), 0)), both from the start;
    no gradient goes through it.

    Args:
        logits: the student's.
        joint: the teachers' joint scores; only their order is read.
        valid: columns that count.
        top: items of the teachers' ranking.
        position: lambda of the paper's position weight.
        discrepancy: mu of its ranking discrepancy.
    """
    columns, real = top_columns(joint, valid, top)
    student = logits[columns]
    above = jnp.sum(valid & (logits > student[:, None]), axis=1)
    rank = jnp.arange(len(columns))
    importance = jnp.exp(-jnp.arange(1, top + 1) / position)
    importance = importance[: len(columns)] / importance.sum()
    missed = jnp.tanh(jnp.maximum(discrepancy * (above - rank), 0.0))
    weights = jax.lax.stop_gradient(jnp.where(real, importance * missed, 0.0))
    return jnp.sum(weights * jax.nn.softplus(jnp.where(real, -student, 0.0)))


def relaxed_ranking(
    logits: Float[Array, " C"], joint: Float[Array, " C"], valid: Bool[Array, " C"], top: int
) -> Float[Array, ""]:
    """RRD (Kang et al., 2020): the teachers' top items in their order, above all the others.

    −Σ_k [s_k − log(Σ_{l ≥ k} exp s_l + Σ_others exp s)], k over the top items.

    Args:
        logits: the student's.
        joint: the teachers' joint scores; only their order is read.
        valid: columns that count.
        top: number of interesting items.
    """
    columns, real = top_columns(joint, valid, top)
    nothing = jnp.finfo(logits.dtype).min
    student = jnp.where(real, logits[columns], nothing)
    others = valid.at[columns].set(False)
    rest = jax.nn.logsumexp(jnp.where(others, logits, nothing))
    below = jnp.logaddexp(jax.lax.cumlogsumexp(student, reverse=True), rest)
    return jnp.sum(jnp.where(real, below - student, 0.0))


def unbiased_pairs(
    logits: Float[Array, " C"],
    joint: Float[Array, " C"],
    valid: Bool[Array, " C"],
    group: Int[Array, " C"],
    groups: int,
    temperature: Scalar,
) -> Float[Array, ""]:
    """UnKD (Chen et al., 2023): pairs ordered by the teachers within groups of popularity.

    The mean over the groups of E[−log σ(s_higher − s_lower)], where both items of a pair are
    drawn with chances ∝ exp(−rank in the group / temperature); a group with fewer than two
    columns counts as 0. A pair of one item with itself is no pair.

    Args:
        logits: the student's.
        joint: the teachers' joint scores; only their order is read.
        valid: columns that count.
        group: each column's group.
        groups: the number of groups.
        temperature: T of the chances.
    """
    depth = math.ceil(_DEPTH * temperature)

    def one(number: Array) -> Array:
        columns, real = top_columns(joint, valid & (group == number), depth)
        chance = jnp.where(real, jnp.exp(-jnp.arange(len(columns)) / temperature), 0.0)
        pairs = jnp.triu(chance[:, None] * chance, k=1)
        student = jnp.where(real, logits[columns], 0.0)
        lost = jax.nn.softplus(student - student[:, None])
        total = pairs.sum()
        return jnp.sum(pairs * lost) / jnp.where(total > 0, total, 1.0)

    return jax.vmap(one)(jnp.arange(groups)).mean()
