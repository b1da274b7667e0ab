"""The teachers as the training step sees them: scores of the batch's columns."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from prmkd_jax.ops.arrays import Array


class TeacherTables(NamedTuple):
    """Vectors of K teachers, computed once; they stay on the device during the run.

    Attributes:
        instances: each teacher's vectors of the instances (row = CSR offset of the target); None
            for a teacher that gives scores, which come with each batch.
        items: each teacher's vectors of the items, or None as above.
        scales: each teacher's factor from a dot product to its training logit.
        available: teachers that know the instance; False where scores come with each batch.
    """

    instances: tuple[Float[Array, "N d"] | None, ...]
    items: tuple[Float[Array, "V d"] | None, ...]
    scales: Float[Array, " K"]
    available: Bool[Array, "N K"]

    @property
    def complete(self) -> bool:
        """Whether all teachers have vectors."""
        return all(instances is not None for instances in self.instances)


class TeacherScores(NamedTuple):
    """Training logits for one batch, of all K teachers or of those without tables.

    Attributes:
        scores: logits of the columns.
        available: teachers that know the instance.
    """

    scores: Float[Array, "B K C"]
    available: Bool[Array, "B K"]


def score_columns(
    tables: TeacherTables,
    instance_ids: Int[Array, " B"],
    candidates: Int[Array, " C"],
    given: TeacherScores | None = None,
) -> TeacherScores:
    """The teachers' logits of a batch's columns, float32, gathered and multiplied in the step.

    Args:
        tables: the teachers' vectors.
        instance_ids: the instances whose prefixes the teachers have read.
        candidates: item ids.
        given: the scores of the teachers that have no vectors, in the teachers' order.

    Raises:
        ValueError: a teacher has neither.
    """
    scores = []
    known = []
    place = 0
    for k, (instances, items) in enumerate(zip(tables.instances, tables.items, strict=True)):
        if instances is not None and items is not None:
            users = instances[instance_ids].astype(jnp.float32)
            # Scaled after the product: float16 vectors are exact in TF32, scaled ones would not be.
            product = jnp.matmul(users, items[candidates].astype(jnp.float32).T)
            scores.append(tables.scales[k] * product)
            known.append(tables.available[instance_ids, k])
        elif given is None:
            raise ValueError("a teacher has neither vectors nor scores")
        else:
            scores.append(given.scores[:, place])
            known.append(given.available[:, place])
            place += 1
    return TeacherScores(jnp.stack(scores, axis=1), jnp.stack(known, axis=1))
