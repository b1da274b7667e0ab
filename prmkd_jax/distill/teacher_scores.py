"""The teachers as the training step sees them: scores of the batch's columns."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from prmkd_jax.ops.arrays import Array


class TeacherTables(NamedTuple):
    """Vectors of K teachers, computed once; they stay on the device during the run.

    Attributes:
        instances: per teacher one vector an instance (row = CSR offset of its target).
        items: per teacher one vector an item.
        scales: per teacher the factor from a dot product to its training logit.
        available: teachers that know the instance.
    """

    instances: tuple[Float[Array, "N d"], ...]
    items: tuple[Float[Array, "V d"], ...]
    scales: Float[Array, " K"]
    available: Bool[Array, "N K"]


class TeacherScores(NamedTuple):
    """The teachers' training logits for one batch.

    Attributes:
        scores: logits of the columns.
        available: teachers that know the instance.
    """

    scores: Float[Array, "B K C"]
    available: Bool[Array, "B K"]


def score_columns(
    tables: TeacherTables, instance_ids: Int[Array, " B"], candidates: Int[Array, " C"]
) -> TeacherScores:
    """The teachers' logits of a batch's columns, float32, gathered and multiplied in the step.

    Args:
        tables: the teachers' vectors.
        instance_ids: the instances whose prefixes the teachers have read.
        candidates: item ids.
    """
    # Scaled after the product: float16 vectors are exact in TF32, scaled ones would not be.
    products = [
        scale
        * jnp.matmul(
            instances[instance_ids].astype(jnp.float32),
            items[candidates].astype(jnp.float32).T,
        )
        for instances, items, scale in zip(
            tables.instances, tables.items, tables.scales, strict=True
        )
    ]
    return TeacherScores(jnp.stack(products, axis=1), tables.available[instance_ids])
