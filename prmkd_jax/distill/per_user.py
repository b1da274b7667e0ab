"""PRM-KD for one user, from the teachers' scores to the loss, and vmapped over a batch.

teacher scores [K, C] → normalised (eq. 1) → disagreement (eq. 2) → weights
→ joint scores (eq. 3) → target q → divergence from the student's p (eq. 5)

Its rivals and controls go the same way; `config.METHODS` says where they differ.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from prmkd_jax.distill.config import METHODS, DistillConfig, MethodLoss
from prmkd_jax.distill.consistency import (
    disagreement,
    excluded_teacher,
    joint_scores,
    redistribute_weights,
)
from prmkd_jax.distill.controls import label_target
from prmkd_jax.distill.losses import DIVERGENCES, entropy, log_student, target_distribution
from prmkd_jax.distill.rivals import ranking_distillation, relaxed_ranking, unbiased_pairs
from prmkd_jax.distill.scores import NORMALIZE, rank_scores
from prmkd_jax.ops.arrays import Array

# Teacher scores held at once in every intermediate array: 128 MiB in float32. Three teachers'
# scores of 21,000 items for 512 users just fit; larger catalogues go in blocks of users.
MOST_SCORES = 2**25

Result = TypeVar("Result")


class UserInput(NamedTuple):
    """One user's columns as the teachers score them; of a batch each has a leading axis B.

    Attributes:
        teacher_scores: the teachers' training logits.
        available: teachers that know this instance.
        valid: columns that count; padding, duplicates and the user's history don't.
        target_column: column of the own target.
        group: each column's group of popularity; None for all losses but UnKD's.
        scored: columns in which the teachers' scores count; None for all valid ones.
    """

    teacher_scores: Float[Array, "K C"]
    available: Bool[Array, " K"]
    valid: Bool[Array, " C"]
    target_column: Int[Array, ""]
    group: Int[Array, " C"] | None = None
    scored: Bool[Array, " C"] | None = None


class Taught(NamedTuple):
    """What the teachers together teach one user; of a batch each has a leading axis B.

    Attributes:
        joint: the teachers' joint scores (eq. 3), without a gradient; 0 outside the valid columns.
        valid: columns that this method reads.
        known: whether a teacher knows this instance.
        target_column: column of the own target.
        group: each column's group, as in `UserInput`.
    """

    joint: Float[Array, " C"]
    valid: Bool[Array, " C"]
    known: Bool[Array, ""]
    target_column: Int[Array, ""]
    group: Int[Array, " C"] | None = None


class TeacherMeasures(NamedTuple):
    """What the log reports of each teacher, for one user or as means over a batch.

    Attributes:
        excluded: 1 where the consistency rule excludes the teacher.
        weight: the teacher's weight ŵ.
        entropy: entropy of its normalised scores, smoothed as the target is, in nats.
        agreement: 1 where no column scores above the target.
        kl: KL(student || teacher) in nats, the teacher smoothed in the same way.
    """

    excluded: Float[Array, " K"]
    weight: Float[Array, " K"]
    entropy: Float[Array, " K"]
    agreement: Float[Array, " K"]
    kl: Float[Array, " K"]


class Voices(NamedTuple):
    """What went into the joint scores.

    Attributes:
        scores: the teachers' normalised scores.
        excluded: teachers that the consistency rule excludes.
        weights: the weights ŵ.
    """

    scores: Float[Array, "K C"]
    excluded: Bool[Array, " K"]
    weights: Float[Array, " K"]


class _Row(NamedTuple):
    """One user's student next to what it is taught.

    Attributes:
        logits: the student's logits, float32.
        log_p: log of the student's distribution over the valid columns.
        taught: the teachers' side.
    """

    logits: Float[Array, " C"]
    log_p: Float[Array, " C"]
    taught: Taught


def normalized_scores(
    user: UserInput, config: DistillConfig
) -> tuple[Float[Array, "K C"], Bool[Array, " C"]]:
    """Eq. 1 (or the rivals' ranks) for all teachers of one user, and the student's columns.

    A teacher that does not know the instance gets 0, whatever its scores hold, nan included.
    """
    method = METHODS[config.method]
    valid = user.valid
    if method.lists or not config.kd_include_positive:
        valid = valid & (jnp.arange(len(valid)) != user.target_column)
    if method.scores == "ranks":
        normalize = functools.partial(rank_scores, temperature=config.rank_temperature)
    else:
        normalize = functools.partial(
            NORMALIZE[config.score_normalization], temperature=config.temperature
        )
    counted = valid & user.available[:, None]
    if user.scored is not None:
        counted = counted & user.scored
    return jax.vmap(normalize)(user.teacher_scores.astype(jnp.float32), counted), valid


def largest_disagreement(user: UserInput, config: DistillConfig) -> Float[Array, ""]:
    """The highest disagreement, which is compared with the threshold and calibrates it."""
    scores, _ = normalized_scores(user, config)
    return jnp.max(disagreement(scores, user.available))


def teach_user(
    user: UserInput,
    default_weights: Float[Array, " K"],
    threshold: Float[Array, ""],
    config: DistillConfig,
) -> tuple[Taught, Voices]:
    """Eq. 1–3 for one user; nothing of it depends on the student."""
    scores, valid = normalized_scores(user, config)
    if METHODS[config.method].exclusion:
        disagreements = disagreement(scores, user.available)
        excluded = excluded_teacher(disagreements, default_weights, user.available, threshold)
    else:
        excluded = jnp.zeros_like(user.available)
    weights = redistribute_weights(default_weights, user.available, excluded, config.redistribute)
    joint = jax.lax.stop_gradient(joint_scores(scores, weights))
    taught = Taught(joint, valid, user.available.any(), user.target_column, user.group)
    return taught, Voices(scores, excluded, weights)


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
    taught, voices = teach_user(user, default_weights, threshold, config)
    row = _compared(student_logits, taught, config)
    entropies, agreements, kls = _measure(row, voices.scores, config)
    excluded = voices.excluded.astype(jnp.float32)
    measures = TeacherMeasures(excluded, voices.weights, entropies, agreements, kls)
    return _loss(row, config), jax.tree.map(jax.lax.stop_gradient, measures)


def distill_batch(
    student_logits: Float[Array, "B C"],
    users: UserInput,
    default_weights: Float[Array, " K"],
    threshold: Float[Array, ""],
    config: DistillConfig,
    every: int = 1,
) -> tuple[Float[Array, " B"], TeacherMeasures]:
    """The losses of a batch's users, and the measures of one in `every` of them [B / every, K]."""

    def one(logits: Array, user: UserInput) -> tuple[Array, TeacherMeasures]:
        return distill_user(logits, user, default_weights, threshold, config)

    if every == 1:
        return over_users(one, student_logits, users)
    losses = over_users(lambda *user: one(*user)[0], student_logits, users)
    few = jax.tree.map(lambda values: values[::every], (student_logits, users))
    return losses, over_users(lambda *user: one(*user)[1], *few)


def learn_batch(
    student_logits: Float[Array, "B C"], taught: Taught, config: DistillConfig
) -> Float[Array, " B"]:
    """The losses of `distill_batch`, from what the teachers have taught before."""

    def one(logits: Array, user: Taught):
        return _loss(_compared(logits, user, config), config)

    return over_users(one, student_logits, taught)


def over_users(function: Callable[..., Result], *arguments: Any) -> Result:
    """vmap, in blocks of users where all at once would need too much memory.

    Args:
        function: a function of one user.
        arguments: pytrees with a leading axis B.
    """
    leaves = jax.tree.leaves(arguments)
    users = len(leaves[0])
    block = max(1, MOST_SCORES // max(leaf.size // users for leaf in leaves))
    if users <= block:
        return jax.vmap(function)(*arguments)
    # Without the checkpoint the backward pass would keep the intermediates of all blocks.
    one = jax.checkpoint(lambda user: function(*user))
    return jax.lax.map(one, arguments, batch_size=block)


def _compared(student_logits: Float[Array, " C"], taught: Taught, config: DistillConfig) -> _Row:
    logits = student_logits.astype(jnp.float32)
    return _Row(logits, log_student(logits, taught.valid, config.student_temperature), taught)


def _loss(row: _Row, config: DistillConfig) -> Float[Array, ""]:
    loss = LOSSES[METHODS[config.method].loss](row, config)
    return jnp.where(row.taught.known, loss, 0.0)


def _divergence(row: _Row, config: DistillConfig) -> Float[Array, ""]:
    q = target_distribution(row.taught.joint, row.taught.valid, config.smoothing)
    return DIVERGENCES[config.kl](row.log_p, q, row.taught.valid)


def _label(row: _Row, config: DistillConfig) -> Float[Array, ""]:
    q = target_distribution(row.taught.joint, row.taught.valid, config.smoothing)
    label = label_target(q, row.taught.valid, row.taught.target_column)
    return DIVERGENCES[config.kl](row.log_p, label, row.taught.valid)


def _rd(row: _Row, config: DistillConfig) -> Float[Array, ""]:
    return ranking_distillation(
        row.logits,
        row.taught.joint,
        row.taught.valid,
        config.rd_top,
        config.rd_position,
        config.rd_discrepancy,
    )


def _rrd(row: _Row, config: DistillConfig) -> Float[Array, ""]:
    return relaxed_ranking(row.logits, row.taught.joint, row.taught.valid, config.rrd_top)


def _unkd(row: _Row, config: DistillConfig) -> Float[Array, ""]:
    if row.taught.group is None:
        raise ValueError("UnKD needs the columns' groups of popularity")
    return unbiased_pairs(
        row.logits,
        row.taught.joint,
        row.taught.valid,
        row.taught.group,
        config.unkd_groups,
        config.unkd_temperature,
    )


LOSSES: dict[MethodLoss, Callable[[_Row, DistillConfig], Array]] = {
    "divergence": _divergence,
    "label": _label,
    "rd": _rd,
    "rrd": _rrd,
    "unkd": _unkd,
}
"""`Method.loss` → how far one user's student is from the teachers' joint scores."""


def _measure(
    row: _Row, scores: Float[Array, "K C"], config: DistillConfig
) -> tuple[Float[Array, " K"], Float[Array, " K"], Float[Array, " K"]]:
    """Each teacher's entropy, agreement and KL, as in `TeacherMeasures`."""
    valid, target = row.taught.valid, row.taught.target_column

    def one(scores: Array) -> tuple[Array, Array, Array]:
        q = target_distribution(scores, valid, config.smoothing)
        # No argmax: on a CPU it costs the step more than eq. 5 itself.
        best = jnp.max(scores, where=valid, initial=0.0)
        hit = (scores[target] == best) & (best > 0) & valid[target]
        kl = DIVERGENCES["reverse"](row.log_p, q, valid)
        return entropy(q), hit.astype(jnp.float32), kl

    return jax.vmap(one)(scores)
