"""PRM-KD for one user, from the teachers' scores to the loss, and vmapped over a batch.

teacher scores [K, C] → normalised (eq. 1) → disagreement (eq. 2) → weights
→ joint scores (eq. 3) → target q → divergence from the student's p (eq. 5)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from prmkd_jax.distill.config import DistillConfig
from prmkd_jax.distill.consistency import (
    disagreement,
    excluded_teacher,
    joint_scores,
    redistribute_weights,
)
from prmkd_jax.distill.losses import DIVERGENCES, entropy, log_student, target_distribution
from prmkd_jax.distill.scores import normalize_scores


class UserInput(NamedTuple):
    """One user's columns (a batch has a leading axis B on every field).

    Attributes:
        teacher_scores: the teachers' training logits.
        available: teachers that know this instance.
        valid: columns that count (padding, duplicates and history are out).
        target_column: the row's own target.
    """

    teacher_scores: Float[Array, "K C"]
    available: Bool[Array, "K"]
    valid: Bool[Array, "C"]
    target_column: Int[Array, ""]


class TeacherMeasures(NamedTuple):
    """What the log says of each teacher, for one user or averaged over a batch.

    Attributes:
        excluded: 1 where the consistency rule leaves the teacher out.
        weight: its weight ŵ.
        entropy: of its normalised scores, smoothed as the target is, in nats.
        agreement: 1 where no column scores above the target.
        kl: KL(student || teacher) in nats, the teacher smoothed in the same way.
    """

    excluded: Float[Array, "K"]
    weight: Float[Array, "K"]
    entropy: Float[Array, "K"]
    agreement: Float[Array, "K"]
    kl: Float[Array, "K"]


def normalized_scores(
    user: UserInput, config: DistillConfig
) -> tuple[Float[Array, "K C"], Bool[Array, "C"]]:
    """Eq. 1 for all teachers of one user, and the columns it runs over.

    A teacher that does not know the instance gets 0, whatever its scores hold, nan included.
    """
    valid = user.valid
    if not config.kd_include_positive:
        valid = valid & (jnp.arange(len(valid)) != user.target_column)
    scores = jax.vmap(normalize_scores, in_axes=(0, 0, None, None))(
        user.teacher_scores.astype(jnp.float32),
        valid & user.available[:, None],
        config.temperature,
        config.score_normalization,
    )
    return scores, valid


def largest_disagreement(user: UserInput, config: DistillConfig) -> Float[Array, ""]:
    """What the threshold is compared with; calibration takes its quantiles."""
    scores, _ = normalized_scores(user, config)
    return jnp.max(disagreement(scores, user.available))


def distill_user(
    student_logits: Float[Array, "C"],
    user: UserInput,
    default_weights: Float[Array, "K"],
    threshold: Float[Array, ""],
    config: DistillConfig,
) -> tuple[Float[Array, ""], TeacherMeasures]:
    """The distillation loss of one user (eq. 5) and its measurements.

    No gradient reaches the teachers. A row without a valid column, or without a teacher
    that knows it, costs nothing.
    """
    scores, valid = normalized_scores(user, config)
    disagreements = disagreement(scores, user.available)
    excluded = excluded_teacher(disagreements, default_weights, user.available, threshold)
    weights = redistribute_weights(default_weights, user.available, excluded, config.redistribute)
    joint = joint_scores(scores, weights)
    target = jax.lax.stop_gradient(target_distribution(joint, valid, config.smoothing))
    log_p = log_student(student_logits.astype(jnp.float32), valid, config.student_temperature)
    loss = DIVERGENCES[config.kl](log_p, target, valid)
    loss = jnp.where(user.available.any(), loss, 0.0)
    measures = _measure(log_p, scores, user, valid, weights, excluded, config)
    return loss, jax.tree.map(jax.lax.stop_gradient, measures)


def distill_batch(
    student_logits: Float[Array, "B C"],
    users: UserInput,
    default_weights: Float[Array, "K"],
    threshold: Float[Array, ""],
    config: DistillConfig,
) -> tuple[Float[Array, "B"], TeacherMeasures]:
    """`distill_user` over the users of a batch."""

    def one(logits: Array, user: UserInput):
        return distill_user(logits, user, default_weights, threshold, config)

    return jax.vmap(one)(student_logits, users)


def _measure(log_p, scores, user, valid, weights, excluded, config) -> TeacherMeasures:
    def one(row: Array) -> tuple[Array, Array, Array]:
        q = target_distribution(row, valid, config.smoothing)
        # No argmax: on a CPU it costs the step more than eq. 5 itself.
        best = jnp.max(row, where=valid, initial=0.0)
        agreement = (row[user.target_column] == best) & (best > 0) & valid[user.target_column]
        return entropy(q), agreement.astype(jnp.float32), DIVERGENCES["reverse"](log_p, q, valid)

    entropies, agreements, kls = jax.vmap(one)(scores)
    return TeacherMeasures(excluded.astype(jnp.float32), weights, entropies, agreements, kls)
