"""The teachers as the training step sees them: scores of the batch's columns."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int


class TeacherTables(NamedTuple):
    """Vectors of K teachers that were computed once; they stay on the device.

    Attributes:
        instances: per teacher one vector an instance (row = CSR offset of its target).
        items: per teacher one vector an item.
        scales: per teacher what turns a dot product into its training logit.
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
        available: teachers that know the row's instance.
    """

    scores: Float[Array, "K B C"]
    available: Bool[Array, "B K"]


def score_columns(
    teachers: TeacherTables | TeacherScores,
    instance_ids: Int[ArrayLike, " B"],
    candidates: Int[ArrayLike, " C"],
) -> TeacherScores:
    """The teachers' logits of the batch's columns, float32.

    Scores that were computed elsewhere (`--teacher_scores=torch`, a live teacher) pass
    through; tables are gathered and multiplied here, inside the jitted step.
    """
    if isinstance(teachers, TeacherScores):
        return teachers
    # Scaled after the product: float16 vectors are exact in TF32, scaled ones would not be.
    products = [
        scale
        * jnp.matmul(
            instances[instance_ids].astype(jnp.float32),
            items[candidates].astype(jnp.float32).T,
        )
        for instances, items, scale in zip(
            teachers.instances, teachers.items, teachers.scales, strict=True
        )
    ]
    return TeacherScores(jnp.stack(products), teachers.available[instance_ids])
