"""A batch as its teachers see it, ready to be mapped over the users."""

import jax.numpy as jnp
from jaxtyping import Float, Int

from prmkd_jax.data.columns import Columns
from prmkd_jax.distill.per_user import Taught, UserInput
from prmkd_jax.distill.teacher_scores import score_columns
from prmkd_jax.ops.arrays import Array
from prmkd_jax.train.inputs import Constants, DistillBatch


def user_inputs(distill: DistillBatch, constants: Constants) -> UserInput:
    """The columns of a batch as the teachers score them, ready to be mapped over the users.

    Raises:
        ValueError: there are neither scores nor tables.
    """
    columns = distill.columns
    scored = distill.scores
    if constants.tables is not None:
        read = jnp.asarray(distill.teacher_instance_ids)
        scored = score_columns(constants.tables, read, jnp.asarray(columns.candidates), scored)
    if scored is None:
        raise ValueError("a distilled step needs the teachers' tables or their scores")
    return UserInput(
        teacher_scores=scored.scores,
        available=scored.available,
        valid=jnp.asarray(columns.valid),
        target_column=jnp.asarray(columns.target_column),
        group=_groups(columns, constants),
        scored=None if columns.scored is None else jnp.asarray(columns.scored),
    )


def taught_before(joint: Float[Array, "B C"], columns: Columns, constants: Constants) -> Taught:
    """The columns of a batch with joint scores that were made before."""
    valid = jnp.asarray(columns.valid)
    return Taught(
        joint=jnp.where(valid, joint.astype(jnp.float32), 0.0),
        valid=valid,
        known=valid.any(axis=1),
        target_column=jnp.asarray(columns.target_column),
        group=_groups(columns, constants),
    )


def _groups(columns: Columns, constants: Constants) -> Int[Array, "B C"] | None:
    if constants.item_groups is None:
        return None
    return jnp.broadcast_to(constants.item_groups[columns.candidates], columns.valid.shape)
