"""What a training step is given: constants of the run, and the batches with their columns."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Int32

from prmkd_jax.data.batches import Batch, TrainingBatches
from prmkd_jax.data.columns import Columns, catalogue_columns, in_batch_columns
from prmkd_jax.data.curriculum import Curriculum
from prmkd_jax.data.popularity import popularity_groups
from prmkd_jax.data.task import Task
from prmkd_jax.distill.config import METHODS, DistillConfig
from prmkd_jax.distill.teacher_scores import TeacherScores, TeacherTables
from prmkd_jax.ops.arrays import Array
from prmkd_jax.train.objective import Prepared, loss_of
from prmkd_jax.train.run import Run

BATCHES_A_MEASURE = 32
"""Batches of which one measures the teachers, where the others' joint scores are stored."""


class Constants(NamedTuple):
    """What stays the same for a run and is placed on the devices once.

    Attributes:
        prepared: the numbers of the training part that the student's own loss reads.
        tables: the teachers' vectors; None for the plain student, and where the teachers' scores
            come with each batch.
        default_weights: w, summing to 1; None for the plain student, as all that follows.
        threshold: epsilon of the consistency rule.
        item_groups: every item's group of popularity, for UnKD alone.
    """

    prepared: Prepared = None
    tables: TeacherTables | None = None
    default_weights: Float[Array, " K"] | None = None
    threshold: Float[Array, ""] | None = None
    item_groups: Int[Array, " V"] | None = None


class DistillBatch(NamedTuple):
    """What a distilled step needs of a batch besides the batch.

    Attributes:
        columns: the items that are scored, and which of them count.
        teacher_instance_ids: the instances whose prefixes the teachers have read.
        scores: the columns' scores by the teachers that `Constants.tables` lacks; None where it
            lacks none.
        joint: the joint scores (eq. 3) of the columns, made before (`train.stored`), float32 or
            bfloat16; negative where a column doesn't count. None where the step makes them.
    """

    columns: Columns
    teacher_instance_ids: Int32[np.ndarray, " B"]
    scores: TeacherScores | None = None
    joint: Float[np.ndarray, "B C"] | None = None


class Inputs(NamedTuple):
    """What one call of the step is given.

    Attributes:
        batch: the instances.
        distill: further inputs of a distilled step; None for the plain student.
        steps: 1; or so many steps are taken by the call, and every array has a first axis of them.
    """

    batch: Batch
    distill: DistillBatch | None
    steps: int = 1


def run_constants(run: Run) -> Constants:
    """The constants of a run, not yet on all of its devices."""
    prepared = loss_of(run.student).prepare(run.task, run.facts)
    config = run.distill
    teachers = run.teachers
    if config is None or teachers is None:
        return Constants(prepared)
    groups = None
    if METHODS[config.method].loss == "unkd":
        groups = jnp.asarray(popularity_groups(run.task.training_counts, config.unkd_groups))
    return Constants(
        prepared=prepared,
        tables=teachers.tables,
        default_weights=jnp.asarray(teachers.default_weights, jnp.float32),
        threshold=jnp.asarray(run.threshold, jnp.float32),
        item_groups=groups,
    )


def training_batches(run: Run) -> TrainingBatches:
    """The batches of all of a run's training instances."""
    return TrainingBatches(
        task=run.task,
        window=run.window,
        batch_size=run.train.batch_size,
        seed=run.seed,
        own_slot=run.own_slot,
    )


def scheduled(run: Run, batches: TrainingBatches) -> TrainingBatches | Curriculum:
    """Whose epochs a run trains on: all its instances, or those that its curriculum lets in.

    What is measured or made before the first step is of all: threshold, joint scores, best items.
    """
    epochs = run.train.curriculum_epochs
    return Curriculum(batches, epochs) if epochs else batches


def distill_inputs(
    run: Run,
    batches: Iterable[Batch],
    closed: Callable[[Batch], Columns] | None = None,
    stored: Callable[[Batch], DistillBatch] | None = None,
) -> Iterator[tuple[Batch, DistillBatch | None]]:
    """Adds to each batch what a distilled step needs; None for the plain student.

    Args:
        run: the training whose distillation it is.
        batches: batches of the run's training instances.
        closed: makes the columns where they are closed (`train.closed`).
        stored: gives what was made before (`train.stored`). The first of every
            `BATCHES_A_MEASURE` batches is made all the same: its step measures each teacher.

    Raises:
        ValueError: closed columns are asked for without `closed`.
        UserError: a teacher's score is not finite.
    """
    config = run.distill
    teachers = run.teachers
    for number, batch in enumerate(batches):
        if config is None or teachers is None:
            yield batch, None
            continue
        if stored is not None and number % BATCHES_A_MEASURE:
            yield batch, stored(batch)
            continue
        columns = _columns(run.task, config, batch, closed)
        read = read_by_teachers(run.task, config, batch.instance_ids, batch.is_instance)
        scores = None
        if teachers.tables is None or not teachers.tables.complete:
            scores = teachers.for_batch(read, columns.candidates)
        yield batch, DistillBatch(columns, read, scores)


def _columns(
    task: Task,
    config: DistillConfig,
    batch: Batch,
    closed: Callable[[Batch], Columns] | None,
) -> Columns:
    if config.negatives == "closed":
        if closed is None:
            raise ValueError("closed columns need to know what the rows want")
        return closed(batch)
    if config.negatives == "catalogue":
        return catalogue_columns(task, batch, seen=config.seen_items)
    return in_batch_columns(
        task, batch, seen=config.seen_items, deduplicate=config.deduplicate_columns
    )


def read_by_teachers(
    task: Task,
    config: DistillConfig,
    instance_ids: Int[np.ndarray, " B"],
    is_instance: Bool[np.ndarray, " B"],
) -> Int32[np.ndarray, " B"]:
    """The instances whose prefixes the teachers have read.

    Under `teacher_history="whole"` the instance after a user's training part, whose prefix that
    part is. A user without one keeps the batch's instance.
    """
    if config.teacher_history == "prefix":
        return instance_ids.astype(np.int32)
    interactions = task.dataset.interactions
    users = interactions.users[instance_ids]
    end = task.split.train_end[users]
    follows = is_instance & (end < interactions.indptr[users + 1])
    return np.where(follows, end, instance_ids).astype(np.int32)
