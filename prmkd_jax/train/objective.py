"""The student's own loss: eq. 4 of arXiv 2401.00797, or one that draws its negatives."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.batches import Batch
from prmkd_jax.data.task import Task
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
from prmkd_jax.students.registry import loss_name
from prmkd_jax.students.student import Regularized, Student

# Dropout folds 0, 1, … into a step's key: no mask shares its random bits with the negatives.
_NEGATIVES = 2**32 - 1


def known_items(config: StudentConfig, facts: Facts, task: Task) -> Popularity | Seen | None:
    """What the loss knows of the training part when it draws; None where it needs nothing.

    Raises:
        UserError: if BPR finds a user who leaves no item to be drawn.
    """
    loss = loss_name(config)
    if loss == "sampled_softmax":
        return popularity(task.training_counts)
    if loss == "bpr":
        seen = seen_items(facts.num_users, facts.edges)
        most = int(seen.count.argmax())
        if seen.count[most] >= facts.num_items:
            raise UserError(
                f"--loss=bpr: user {task.dataset.user_ids[most]!r}: found all {facts.num_items} "
                "items in the training history, expected one to draw as the negative"
            )
        return seen
    return None


def row_losses(
    config: StudentConfig,
    student: Student,
    queries: Float[Array, "B D"],
    items: Float[Array, "V D"],
    batch: Batch,
    known: Popularity | Seen | None,
    key: Array,
) -> Float[Array, " B"]:
    """The loss of every row; those of rows where nothing is asked mean nothing.

    Sampled softmax and gBCE share their draws among the rows, so that scoring them is one
    product; BPR draws one item a row.

    Args:
        config: which loss.
        student: only its `score` is used, and `embedding_norms` where it has them.
        queries: user vectors.
        items: item vectors.
        batch: what is asked.
        known: what `known_items` says of this loss.
        key: the step's.
    """
    targets, size = jnp.asarray(batch.targets), config.num_negatives
    loss = loss_name(config)
    if loss == "softmax":
        return cross_entropy(student.score, queries, items, targets)
    key = jax.random.fold_in(key, _NEGATIVES)
    positive = _paired(student, queries, items[targets])

    def shared(drawn: Array) -> tuple[Array, Array]:
        return student.score(queries, items[drawn]), drawn == targets[:, None]

    if loss == "gbce":
        scores, hits = shared(jax.random.randint(key, (size,), 0, len(items)))
        return generalized_bce(positive, scores, hits, len(items), config.gbce_t)
    if isinstance(known, Popularity):
        drawn = popular_items(key, known, size)
        scores, hits = shared(drawn)
        log_expected = jnp.asarray(known.log_q)[drawn] + math.log(size)
        return sampled_cross_entropy(positive, scores, log_expected, hits)
    if known is None:
        raise ValueError(f"{loss} needs what `known_items` gives")
    users = batch.asked(jnp.asarray(batch.rows.users).reshape(-1))
    drawn = unseen_items(key, known, users, len(items))
    losses = bpr(positive, _paired(student, queries, items[drawn]))
    if isinstance(student, Regularized):
        losses += config.embedding_l2 * student.embedding_norms(users, targets, drawn)
    return losses


def _paired(
    student: Student, queries: Float[Array, "B D"], items: Float[Array, "B D"]
) -> Float[Array, " B"]:
    """The score of each query with the item in its own row."""
    return jax.vmap(lambda query, item: student.score(query[None], item[None])[0, 0])(
        queries, items
    )
