"""Closed columns: the batch's targets with the best items of the teachers and of the student.

A divergence over a subset of the items says something of the whole ranking only if the subset
holds what the student itself ranks highest (RCE-KD, arXiv 2509.20989).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Int, Int32

from prmkd_jax.data.batches import Batch
from prmkd_jax.data.columns import Columns, closed_columns
from prmkd_jax.distill.config import DistillConfig
from prmkd_jax.distill.consistency import joint_scores, redistribute_weights
from prmkd_jax.distill.per_user import UserInput, normalized_scores, over_users
from prmkd_jax.ops.arrays import Array
from prmkd_jax.ops.shards import in_turn, on_each_device
from prmkd_jax.ops.top_k import top_k_of_all
from prmkd_jax.students.student import HashedStructure, Params
from prmkd_jax.students.tables import ONE_DEVICE, Divided, trim_tables
from prmkd_jax.train.inputs import Constants, DistillBatch, read_by_teachers, run_constants
from prmkd_jax.train.run import Run
from prmkd_jax.train.teaching import user_inputs


def teachers_best(run: Run) -> Int32[np.ndarray, "N k"]:
    """The best items of each training instance by the teachers' joint scores, of all items.

    No teacher is excluded: the threshold is not known yet. An instance that no teacher knows has
    −1, which is no item; those outside of the training part have zeros.

    Args:
        run: a distilled run; its `threshold` is not read.

    Raises:
        ValueError: the run is a plain one.
        UserError: a teacher's score is not finite.
    """
    config, teachers, task = run.distill, run.teachers, run.task
    if config is None or teachers is None:
        raise ValueError("a plain run has no teachers")
    constants = run_constants(run)
    num_items = task.dataset.num_items
    items = np.arange(num_items, dtype=np.int32)
    best = np.zeros(
        (len(task.dataset.interactions.items), min(config.closed_top, num_items)), np.int32
    )
    size = run.train.batch_size
    for at in range(0, len(task.split.train), size):
        ids = task.split.train[at : at + size]
        padded = np.pad(ids, (0, size - len(ids))).astype(np.int32)
        read = read_by_teachers(task, config, padded, np.arange(size) < len(ids))
        columns = Columns(items, task.targets(padded), np.ones((size, num_items), bool))
        given = None
        if teachers.tables is None or not teachers.tables.complete:
            given = teachers.for_batch(read, items)
        found = _joint_best(config, best.shape[1], DistillBatch(columns, read, given), constants)
        best[ids] = np.asarray(found)[: len(ids)]
    return best


class ClosedColumns:
    """Makes the columns of each batch, and counts.

    Attributes:
        params: the student's parameters of the moment; None for columns without its items.
        batches: batches seen since the last `report`.
        used: columns that their rows used.
        left_out: distinct items that found no room.
    """

    def __init__(
        self, run: Run, graphdef: nnx.GraphDef | None = None, divided: Divided = ONE_DEVICE
    ):
        """Columns of a run.

        Args:
            run: the run, with its `best_items`.
            graphdef: the student's structure; None for columns without its items.
            divided: the tables that devices share.

        Raises:
            ValueError: the run has no such items.
        """
        if run.distill is None or run.best_items is None:
            raise ValueError("closed columns need the teachers' best items")
        self.params: Params | None = None
        self._run = run
        self._config = run.distill
        self._best = run.best_items
        self._structure = None if graphdef is None else HashedStructure(graphdef)
        self._divided = divided
        num_items = run.task.dataset.num_items
        self._size = min(max(run.train.batch_size, run.distill.closed_columns), num_items)
        self._clear()

    def _clear(self) -> None:
        self.batches = 0
        self.used = 0
        self.left_out = 0

    def __call__(self, batch: Batch) -> Columns:
        """The columns of a batch.

        Raises:
            FloatingPointError: a score of the student's is not finite.
        """
        wanted = self._best[batch.instance_ids]
        if self._structure is not None and self.params is not None:
            params = self._divided.place(self.params)
            own = _student_best(self._structure, params, batch, wanted.shape[1], self._divided)
            own = np.asarray(in_turn(own))
            # A score that is no number has no place in an order.
            failed = int((own[batch.is_instance] < 0).any(axis=1).sum())
            if failed:
                raise FloatingPointError(
                    f"{failed} of {batch.is_instance.sum()} instances have a score that is not "
                    "finite"
                )
            wanted = np.concatenate([wanted, own], axis=1)
        columns, left_out = closed_columns(
            self._run.task, batch, wanted, self._size, seen=self._config.seen_items
        )
        self.batches += 1
        self.used += int(columns.valid.any(axis=0).sum())
        self.left_out += left_out
        return columns

    def report(self) -> dict[str, float]:
        """Means a batch since the last report: `used` columns, and items `left_out`."""
        batches = max(self.batches, 1)
        found = {"used": self.used / batches, "left_out": self.left_out / batches}
        self._clear()
        return found


def closed_of(
    run: Run, graphdef: nnx.GraphDef | None = None, divided: Divided = ONE_DEVICE
) -> ClosedColumns | None:
    """What makes the run's columns, if they are closed."""
    if run.distill is None or run.distill.negatives != "closed":
        return None
    return ClosedColumns(run, graphdef, divided)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _joint_best(
    config: DistillConfig, count: int, distill: DistillBatch, constants: Constants
) -> Int[Array, "B k"]:
    weights = constants.default_weights
    assert weights is not None

    def one(user: UserInput) -> Array:
        scores, _ = normalized_scores(user, config)
        nobody = jnp.zeros_like(user.available)
        kept = redistribute_weights(weights, user.available, nobody, config.redistribute)
        best = jax.lax.top_k(joint_scores(scores, kept), count)[1]
        return jnp.where(user.available.any(), best, -1)

    return over_users(one, user_inputs(distill, constants))


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _student_best(
    structure: HashedStructure, params: Params, batch: Batch, count: int, divided: Divided
) -> Int[Array, "B k"]:
    """The student's best items of each row, without dropout."""
    with divided.tracing():
        student = structure.student(trim_tables(params, divided.tables))
        queries = batch.at_targets(student.queries(batch.rows))
        return on_each_device(top_k_of_all(student.score, queries, student.items(), count).items)
