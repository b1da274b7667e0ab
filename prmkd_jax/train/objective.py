"""The student's own loss: eq. 4 of arXiv 2401.00797, or one that draws its negatives."""

from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from prmkd_jax.data.batches import Batch, training_counts
from prmkd_jax.ops.cross_entropy import cross_entropy
from prmkd_jax.ops.negatives import (
    Popularity,
    Seen,
    popular_items,
    popularity,
    seen_items,
    unseen_items,
)
from prmkd_jax.ops.sampled_losses import bpr, generalized_bce, sampled_cross_entropy
from prmkd_jax.students.config import StudentConfig
from prmkd_jax.students.facts import Facts
from prmkd_jax.students.registry import Student

# Dropout folds 0, 1, … into a step's key: no mask shares its random bits with the negatives.
_NEGATIVES = 2**32 - 1


@runtime_checkable
class Regularized(Protocol):
    """A student with an L2 of its own under BPR."""

    def embedding_norms(
        self, users: Int[Array, "B"], positives: Int[Array, "B"], negatives: Int[Array, "B"]
    ) -> Float[Array, "B"]:
        """Half the squared norm of a row's embeddings."""
        ...


def known_items(config: StudentConfig, facts: Facts) -> Popularity | Seen | None:
    """What the loss knows of the training part when it draws; None where it needs nothing.

    Raises:
        UserError: if a user leaves no item to be drawn.
    """
    if config.objective == "sampled_softmax":
        return popularity(training_counts(facts.dataset, facts.split))
    if config.objective == "bpr":
        return seen_items(facts.num_users, facts.num_items, facts.edges)
    return None


def row_losses(
    config: StudentConfig,
    student: Student,
    queries: Float[Array, "B D"],
    items: Float[Array, "V D"],
    batch: Batch,
    known: Popularity | Seen | None,
    key: Array,
) -> Float[Array, "B"]:
    """The loss of every row; those of rows where nothing is asked mean nothing.

    Sampled softmax and gBCE share their draws among the rows, so that scoring them is one
    product; BPR draws one item a row.

    Args:
        config: which loss.
        student: only its `score` is used, and `embedding_norms` where it has them.
        queries: user vectors.
        items: item vectors.
        batch: what is asked.
        known: of `known_items`.
        key: the step's.
    """
    targets = jnp.asarray(batch.targets)
    if config.objective == "softmax":
        return cross_entropy(student.score, queries, items, targets)
    key = jax.random.fold_in(key, _NEGATIVES)
    positive = _paired(student, queries, items[targets])
    if isinstance(known, Seen):
        users = jnp.asarray(batch.rows.users).reshape(-1)
        drawn = unseen_items(key, known, users, len(items))
        losses = bpr(positive, _paired(student, queries, items[drawn]))
        if isinstance(student, Regularized):
            norms = student.embedding_norms(users, targets, drawn)
            losses = losses + config.embedding_l2 * norms
        return losses
    size = config.num_negatives
    if isinstance(known, Popularity):
        drawn = popular_items(key, known, size)
        log_expected = jnp.asarray(known.log_q)[drawn] + jnp.log(size)
        scores, hits = student.score(queries, items[drawn]), drawn == targets[:, None]
        return sampled_cross_entropy(positive, scores, log_expected, hits)
    drawn = jax.random.randint(key, (size,), 0, len(items))
    scores, hits = student.score(queries, items[drawn]), drawn == targets[:, None]
    return generalized_bce(positive, scores, hits, len(items), config.gbce_t)


def _paired(
    student: Student, queries: Float[Array, "B D"], items: Float[Array, "B D"]
) -> Float[Array, "B"]:
    """The score of each query with the item in its own row."""
    return jax.vmap(lambda query, item: student.score(query[None], item[None])[0, 0])(
        queries, items
    )
