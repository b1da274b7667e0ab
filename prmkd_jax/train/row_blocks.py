"""The losses over a large catalogue, block by block of a batch's rows (`ops.row_blocks`)."""

from typing import NamedTuple

import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int, Key

from prmkd_jax.distill.config import DistillConfig
from prmkd_jax.distill.per_user import learn_batch
from prmkd_jax.ops.arrays import Array
from prmkd_jax.ops.row_blocks import rows_in_block, sum_in_blocks
from prmkd_jax.ops.rows import ItemRows, Items, MadeRows
from prmkd_jax.students.config import StudentConfig
from prmkd_jax.students.student import Student
from prmkd_jax.train.inputs import Constants, DistillBatch
from prmkd_jax.train.objective import Instances, loss_of, own_losses
from prmkd_jax.train.teaching import taught_before


class Summed(NamedTuple):
    """Means over a batch's instances.

    Attributes:
        total: the value that is minimised.
        own: the student's own loss.
        taught: the distillation's, not weighted; None where it isn't part of the total.
    """

    total: Float[Array, ""]
    own: Float[Array, ""]
    taught: Float[Array, ""] | None


class _Taught(NamedTuple):
    """What the rows of a batch are taught over all items.

    Attributes:
        joint: joint scores.
        valid: columns that count.
        target_column: column of the target.
    """

    joint: Float[Array, "B V"]
    valid: Bool[Array, "B V"]
    target_column: Int[Array, " B"]


class _Rows(NamedTuple):
    """The rows of a batch.

    Attributes:
        targets: item ids.
        users: user ids.
        is_instance: False at padding.
        taught: None where the total has no distillation over all items.
    """

    targets: Int[Array, " B"]
    users: Int[Array, " B"]
    is_instance: Bool[Array, " B"]
    taught: _Taught | None = None


def on_a_processor(mesh: Mesh) -> bool:
    """Whether blocks can gain anything: on one CPU. A GPU wants all rows at once."""
    return mesh.size == 1 and mesh.devices.flat[0].platform == "cpu"


def block_size(
    student: StudentConfig,
    config: DistillConfig | None,
    items: Items,
    num_rows: int,
    distill: DistillBatch | None,
) -> int | None:
    """Rows of a block; None where the losses are not over all items, or not worth dividing."""
    if isinstance(items, ItemRows | MadeRows) or items.ndim != 2:
        return None
    if loss_of(student).draw is not None:
        return None
    over_all = config is not None and config.negatives == "catalogue"
    if over_all and (distill is None or distill.joint is None):
        return None  # Teachers that are still to be asked are asked for all rows at once.
    return rows_in_block(num_rows, len(items))


def losses_in_blocks(
    student_config: StudentConfig,
    config: DistillConfig | None,
    student: Student,
    batch: Instances,
    is_instance: Bool[Array, " B"],
    distill: DistillBatch | None,
    constants: Constants,
    key: Key[Array, ""],
    block: int,
) -> Summed:
    """The student's own loss over all items, with the distillation over all items if it is one.

    Args:
        student_config: the student's settings; its loss is over all items.
        config: the distillation; None for the plain student.
        student: scores.
        batch: the instances, without logits.
        is_instance: False at padding.
        distill: the teachers' part, with joint scores where the distillation is over all items.
        constants: the constants of the run.
        key: the key of the step.
        block: number of rows of a block, from `block_size`.
    """
    items = batch.items
    assert not isinstance(items, ItemRows | MadeRows)
    rows = _Rows(batch.targets, batch.users, is_instance)
    if config is not None and config.negatives == "catalogue" and distill is not None:
        columns = distill.columns
        taught = _Taught(*map(jnp.asarray, (distill.joint, columns.valid, columns.target_column)))
        rows = rows._replace(taught=taught)
    num_instances = jnp.maximum(is_instance.sum(), 1).astype(jnp.float32)

    def summed(values: Float[Array, " b"], rows: _Rows) -> Float[Array, ""]:
        return jnp.where(rows.is_instance, values, 0.0).sum() / num_instances

    def total(queries: Array, items: Array, rows: _Rows) -> tuple[Array, tuple[Array, Array]]:
        logits = student.score(queries, items)
        instances = Instances(queries, items, rows.targets, rows.users, logits)
        own = summed(own_losses(student_config, student, instances, constants.prepared, key), rows)
        if rows.taught is None or config is None or distill is None:
            return own, (own, jnp.float32(0.0))
        joint, valid, target_column = rows.taught
        columns = distill.columns._replace(target_column=target_column, valid=valid)
        losses = learn_batch(logits, taught_before(joint, columns, constants), config)
        kd = summed(losses, rows)
        return own + config.distill_weight * kd if config.distill_weight else own, (own, kd)

    loss, (own, kd) = sum_in_blocks(total, batch.queries, items, rows, block)
    return Summed(loss, own, None if rows.taught is None else kd)
