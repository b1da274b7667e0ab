"""PRM-KD for one user, from the teachers' scores to the loss, and vmapped over a batch.

teacher scores [K, C] → normalised (eq. 1) → disagreement (eq. 2) → weights
→ joint scores (eq. 3) → target q → divergence from the student's p (eq. 5)

Its rivals and controls go the same way; `config.METHODS` says where they differ.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from prmkd_jax.distill.config import METHODS, DistillConfig
from prmkd_jax.distill.consistency import (
    disagreement,
    excluded_teacher,
    joint_scores,
    redistribute_weights,
)
from prmkd_jax.distill.controls import label_target
from prmkd_jax.distill.losses import DIVERGENCES, entropy, log_student, target_distribution
from prmkd_jax.distill.rivals import ranking_distillation, relaxed_ranking, unbiased_pairs
from prmkd_jax.distill.scores import normalize_scores, rank_scores

# Teacher scores held at once in every intermediate array: 128 MiB in float32. Three teachers'
# scores of 21,000 items for 512 users just fit; larger catalogues go in blocks of users.
MOST_SCORES = 2**25


class UserInput(NamedTuple):
    """One user's columns (a batch has a leading axis B on every field).

    Attributes:
        teacher_scores: the teachers' training logits.
        available: teachers that know this instance.
        valid: columns that count (padding, duplicates and history are out).
        target_column: the row's own target.
        group: each column's group of popularity, for UnKD alone.
    """

    teacher_scores: Float[Array, "K C"]
    available: Bool[Array, " K"]
    valid: Bool[Array, " C"]
    target_column: Int[Array, ""]
    group: Int[Array, " C"] | None = None


class TeacherMeasures(NamedTuple):
    """What the log says of each teacher, for one user or averaged over a batch.

    Attributes:
        excluded: 1 where the consistency rule leaves the teacher out.
        weight: its weight ŵ.
        entropy: of its normalised scores, smoothed as the target is, in nats.
        agreement: 1 where no column scores above the target.
        kl: KL(student || teacher) in nats, the teacher smoothed in the same way.
    """

    excluded: Float[Array, " K"]
    weight: Float[Array, " K"]
    entropy: Float[Array, " K"]
    agreement: Float[Array, " K"]
    kl: Float[Array, " K"]


def normalized_scores(
    user: UserInput, config: DistillConfig
) -> tuple[Float[Array, "K C"], Bool[Array, " C"]]:
    """Eq. 1 (or the rivals' ranks) for all teachers of one user, and the columns it runs over.

    A teacher that does not know the instance gets 0, whatever its scores hold, nan included.
    """
    method, valid = METHODS[config.method], user.valid
    if method.lists or not config.kd_include_positive:
        valid = valid & (jnp.arange(len(valid)) != user.target_column)
    if method.scores == "ranks":
        normalize = functools.partial(rank_scores, temperature=config.rank_temperature)
    else:
        normalize = functools.partial(
            normalize_scores, temperature=config.temperature, method=config.score_normalization
        )
    known = valid & user.available[:, None]
    return jax.vmap(normalize)(user.teacher_scores.astype(jnp.float32), known), valid


def largest_disagreement(user: UserInput, config: DistillConfig) -> Float[Array, ""]:
    """What the threshold is compared with; calibration takes its quantiles."""
    scores, _ = normalized_scores(user, config)
    return jnp.max(disagreement(scores, user.available))


def distill_user(
    student_logits: Float[Array, " C"],
    user: UserInput,
    default_weights: Float[Array, " K"],
    threshold: Float[Array, ""],
    config: DistillConfig,
) -> tuple[Float[Array, ""], TeacherMeasures]:
    """The distillation loss of one user (eq. 5) and its measurements.

    No gradient reaches the teachers. A row without a valid column, or without a teacher
    that knows it, costs nothing.
    """
    scores, valid = normalized_scores(user, config)
    if METHODS[config.method].exclusion:
        disagreements = disagreement(scores, user.available)
        excluded = excluded_teacher(disagreements, default_weights, user.available, threshold)
    else:
        excluded = jnp.zeros_like(user.available)
    weights = redistribute_weights(default_weights, user.available, excluded, config.redistribute)
    joint = jax.lax.stop_gradient(joint_scores(scores, weights))
    logits = student_logits.astype(jnp.float32)
    log_p = log_student(logits, valid, config.student_temperature)
    loss = _loss(logits, log_p, joint, valid, user, config)
    loss = jnp.where(user.available.any(), loss, 0.0)
    measures = _measure(log_p, scores, user, valid, weights, excluded, config)
    return loss, jax.tree.map(jax.lax.stop_gradient, measures)


def distill_batch(
    student_logits: Float[Array, "B C"],
    users: UserInput,
    default_weights: Float[Array, " K"],
    threshold: Float[Array, ""],
    config: DistillConfig,
) -> tuple[Float[Array, " B"], TeacherMeasures]:
    """`distill_user` over the users of a batch."""

    def one(logits: Array, user: UserInput):
        return distill_user(logits, user, default_weights, threshold, config)

    return over_users(one, student_logits, users)


def over_users(function: Callable[..., Any], *arguments: Any) -> Any:
    """vmap; in blocks of users where all at once would need too much memory.

    Args:
        function: of one user.
        arguments: pytrees with a leading axis B; the last one is a `UserInput`.
    """
    users, teachers, columns = arguments[-1].teacher_scores.shape
    block = max(1, MOST_SCORES // (teachers * columns))
    if users <= block:
        return jax.vmap(function)(*arguments)
    # Without the checkpoint the backward pass would keep the intermediates of all blocks.
    one = jax.checkpoint(lambda user: function(*user))
    return jax.lax.map(one, arguments, batch_size=block)


def _loss(logits, log_p, joint, valid, user, config) -> Float[Array, ""]:
    """How far the student is from the joint scores, in the method's own way."""
    loss = METHODS[config.method].loss
    if loss in ("divergence", "label"):
        q = target_distribution(joint, valid, config.smoothing)
        if loss == "label":
            q = label_target(q, valid, user.target_column)
        return DIVERGENCES[config.kl](log_p, q, valid)
    if loss == "rd":
        return ranking_distillation(
            logits, joint, valid, config.rd_top, config.rd_position, config.rd_discrepancy
        )
    if loss == "rrd":
        return relaxed_ranking(logits, joint, valid, config.rrd_top)
    if loss == "unkd":
        if user.group is None:
            raise ValueError("UnKD needs the columns' groups of popularity")
        groups, temperature = config.unkd_groups, config.unkd_temperature
        return unbiased_pairs(logits, joint, valid, user.group, groups, temperature)
    raise ValueError(f"unknown loss {loss!r}")


def _measure(log_p, scores, user, valid, weights, excluded, config) -> TeacherMeasures:
    def one(row: Array) -> tuple[Array, Array, Array]:
        q = target_distribution(row, valid, config.smoothing)
        # No argmax: on a CPU it costs the step more than eq. 5 itself.
        best = jnp.max(row, where=valid, initial=0.0)
        agreement = (row[user.target_column] == best) & (best > 0) & valid[user.target_column]
        return entropy(q), agreement.astype(jnp.float32), DIVERGENCES["reverse"](log_p, q, valid)

    entropies, agreements, kls = jax.vmap(one)(scores)
    return TeacherMeasures(excluded.astype(jnp.float32), weights, entropies, agreements, kls)
