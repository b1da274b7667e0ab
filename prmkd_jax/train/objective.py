"""The student's own loss: eq. 4 of arXiv 2401.00797, or one that draws its negatives."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Key

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.task import Task
from prmkd_jax.ops.arrays import Array
from prmkd_jax.ops.cross_entropy import cross_entropy, softmax_loss
from prmkd_jax.ops.negatives import (
    Popularity,
    Seen,
    popular_items,
    popularity,
    seen_items,
    unseen_items,
)
from prmkd_jax.ops.rows import ItemRows, Items, MadeRows, count, rows_of
from prmkd_jax.ops.sampled_losses import bpr, generalized_bce, sampled_cross_entropy
from prmkd_jax.students.config import StudentConfig
from prmkd_jax.students.facts import Facts
from prmkd_jax.students.registry import loss_name
from prmkd_jax.students.student import Regularized, Student

# Dropout folds 0, 1, … into a step's key: no mask shares its random bits with the negatives.
_NEGATIVES = 2**32 - 1

Prepared = Popularity | Seen | None
"""What a loss knows of the training part, constant for a run."""


class Instances(NamedTuple):
    """A batch's instances as a loss sees them; those at padding may hold anything.

    Attributes:
        queries: user vectors.
        items: vectors of all items, or of those that a step needs, found by item id all the same.
        targets: item ids.
        users: user ids.
        logits: scores of all items, where the step has them anyway; None elsewhere.
    """

    queries: Float[Array, "B D"]
    items: Items
    targets: Int[Array, " B"]
    users: Int[Array, " B"]
    logits: Float[Array, "B V"] | None = None


class Loss(NamedTuple):
    """One of the losses that a student can learn by.

    Attributes:
        prepare: (task, facts) → what `losses` needs to know of the training part.
        losses: (config, student, batch, prepared, drawn) → the loss of each instance [B]. Of the
            student it uses `score`, and `embedding_norms` where there is one.
        draw: (config, prepared, users [B], number of items, key) → the items that `losses` is
            given as drawn; None for a loss over all items.
    """

    prepare: Callable[[Task, Facts], Prepared]
    losses: Callable[[StudentConfig, Student, Instances, Prepared, Array], Array]
    draw: Callable[[StudentConfig, Prepared, Array, int, Array], Array] | None = None


def _nothing(task: Task, facts: Facts) -> None:
    return None


def _softmax(
    config: StudentConfig,
    student: Student,
    batch: Instances,
    prepared: Prepared,
    drawn: Int[Array, " none"],
) -> Float[Array, " B"]:
    if batch.logits is not None:
        return softmax_loss(batch.logits, batch.targets)
    if isinstance(batch.items, ItemRows | MadeRows):
        raise ValueError("a softmax over all items needs all rows")
    return cross_entropy(student.score, batch.queries, batch.items, batch.targets)


def _popularity(task: Task, facts: Facts) -> Popularity:
    return popularity(task.training_counts)


def _draw_popular(
    config: StudentConfig,
    prepared: Prepared,
    users: Int[Array, " B"],
    num_items: int,
    key: Key[Array, ""],
) -> Int[Array, " S"]:
    if not isinstance(prepared, Popularity):
        raise ValueError("sampled_softmax needs the items' popularity")
    return popular_items(key, prepared, config.num_negatives)


def _sampled_softmax(
    config: StudentConfig,
    student: Student,
    batch: Instances,
    prepared: Prepared,
    drawn: Int[Array, " S"],
) -> Float[Array, " B"]:
    """The draws are shared among the instances, so that scoring them is one product."""
    assert isinstance(prepared, Popularity)
    positive, scores, hits = _against(student, batch, drawn)
    log_expected = jnp.asarray(prepared.log_q)[drawn] + math.log(config.num_negatives)
    return sampled_cross_entropy(positive, scores, log_expected, hits)


def _draw_uniform(
    config: StudentConfig,
    prepared: Prepared,
    users: Int[Array, " B"],
    num_items: int,
    key: Key[Array, ""],
) -> Int[Array, " S"]:
    return jax.random.randint(key, (config.num_negatives,), 0, num_items)


def _uniform_softmax(
    config: StudentConfig,
    student: Student,
    batch: Instances,
    prepared: Prepared,
    drawn: Int[Array, " S"],
) -> Float[Array, " B"]:
    """The draws, uniform over the items, are shared among the instances, and not corrected.

    A draw stands for itself alone, so the negatives weigh S / V of what they do in the softmax
    over all items: the loss of RecTools' eSASRec (arXiv 2508.06450), which draws for each row.
    """
    positive, scores, hits = _against(student, batch, drawn)
    return sampled_cross_entropy(positive, scores, jnp.zeros(len(drawn)), hits)


def _gbce(
    config: StudentConfig,
    student: Student,
    batch: Instances,
    prepared: Prepared,
    drawn: Int[Array, " S"],
) -> Float[Array, " B"]:
    """The draws, uniform over the items, are shared among the instances."""
    positive, scores, hits = _against(student, batch, drawn)
    return generalized_bce(positive, scores, hits, count(batch.items), config.gbce_t)


def _seen(task: Task, facts: Facts) -> Seen:
    """Raises a UserError for a user who leaves no item to be drawn."""
    seen = seen_items(facts.num_users, facts.edges)
    most = int(seen.count.argmax())
    if seen.count[most] >= facts.num_items:
        raise UserError(
            f"--loss=bpr: user {task.dataset.user_ids[most]!r}: found all {facts.num_items} "
            "items in the training history, expected one to draw as the negative"
        )
    return seen


def _draw_unseen(
    config: StudentConfig,
    prepared: Prepared,
    users: Int[Array, " B"],
    num_items: int,
    key: Key[Array, ""],
) -> Int[Array, " B"]:
    if not isinstance(prepared, Seen):
        raise ValueError("bpr needs the items that every user has seen")
    return unseen_items(key, prepared, users, num_items)


def _bpr(
    config: StudentConfig,
    student: Student,
    batch: Instances,
    prepared: Prepared,
    drawn: Int[Array, " B"],
) -> Float[Array, " B"]:
    """One draw an instance, among the items that its user has not trained on."""
    # One reading for both, so one table of gradients.
    positives, negatives = jnp.split(batch.items[jnp.concatenate([batch.targets, drawn])], 2)
    scores = (_paired(student, batch.queries, items) for items in (positives, negatives))
    losses = bpr(*scores)
    if isinstance(student, Regularized):
        # The student's tables have the rows that `items` has.
        targets, drawn = (rows_of(batch.items, ids) for ids in (batch.targets, drawn))
        norms = student.embedding_norms(batch.users, targets, drawn)
        losses += config.embedding_l2 * norms
    return losses


LOSSES: dict[str, Loss] = {
    "softmax": Loss(_nothing, _softmax),
    "sampled_softmax": Loss(_popularity, _sampled_softmax, _draw_popular),
    "uniform_softmax": Loss(_nothing, _uniform_softmax, _draw_uniform),
    "gbce": Loss(_nothing, _gbce, _draw_uniform),
    "bpr": Loss(_seen, _bpr, _draw_unseen),
}
"""Choices of `--loss`."""


def loss_of(config: StudentConfig) -> Loss:
    """The loss that a student learns by."""
    return LOSSES[loss_name(config)]


def draw_items(
    config: StudentConfig,
    prepared: Prepared,
    users: Int[Array, " B"],
    num_items: int,
    key: Key[Array, ""],
) -> Int[Array, " N"]:
    """The items that a step's loss draws; none for a loss over all items.

    Args:
        config: says which loss.
        prepared: the arrays that this loss needs.
        users: the instances' users.
        num_items: number of all items.
        key: the step's; equal keys draw equal items.

    Raises:
        ValueError: the loss was not prepared.
    """
    draw = loss_of(config).draw
    if draw is None:
        return jnp.zeros(0, jnp.int32)
    return draw(config, prepared, users, num_items, jax.random.fold_in(key, _NEGATIVES))


def own_losses(
    config: StudentConfig,
    student: Student,
    batch: Instances,
    prepared: Prepared,
    key: Key[Array, ""],
) -> Float[Array, " B"]:
    """The student's own loss of each instance, against the items of `draw_items`.

    Raises:
        ValueError: the loss was not prepared, or needs rows of more items than it is given.
    """
    drawn = draw_items(config, prepared, batch.users, count(batch.items), key)
    return loss_of(config).losses(config, student, batch, prepared, drawn)


def _against(
    student: Student, batch: Instances, drawn: Int[Array, " S"]
) -> tuple[Float[Array, " B"], Float[Array, "B S"], Bool[Array, "B S"]]:
    """Scores of the targets and of shared draws, and where a draw is the target."""
    positive = _paired(student, batch.queries, batch.items[batch.targets])
    scores = student.score(batch.queries, batch.items[drawn])
    return positive, scores, drawn == batch.targets[:, None]


def _paired(
    student: Student, queries: Float[Array, "B D"], items: Float[Array, "B E"]
) -> Float[Array, " B"]:
    """The score of each query with the item in its own row."""
    return jax.vmap(lambda query, item: student.score(query[None], item[None])[0, 0])(
        queries, items
    )
