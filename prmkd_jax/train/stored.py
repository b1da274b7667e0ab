"""Joint scores of the complete catalogue, made once a training (`--negatives=catalogue`).

With all items as columns nothing of eq. 1-3 changes between epochs: not the columns, nor the masks,
the teachers' scores, their weights and the threshold. So the joint scores of every instance are
made before the first step that needs them and kept on the host, as long as they find room; what is
left for the step is the divergence.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from prmkd_jax.data.batches import Batch
from prmkd_jax.data.columns import Columns
from prmkd_jax.data.task import Task
from prmkd_jax.distill.config import METHODS, DistillConfig
from prmkd_jax.distill.per_user import UserInput, over_users, teach_user
from prmkd_jax.ops.arrays import Array
from prmkd_jax.train.inputs import (
    Constants,
    DistillBatch,
    distill_inputs,
    read_by_teachers,
    run_constants,
    training_batches,
)
from prmkd_jax.train.run import Run
from prmkd_jax.train.teaching import user_inputs

# By size alone, so that equal runs give equal numbers on any machine.
MOST_FLOAT32 = 2**28
"""Scores up to which they are kept in float32, 1 GiB."""
MOST_BFLOAT16 = 2**31
"""Scores up to which they are kept in bfloat16, 4 GiB; more are made in each step."""

_NO_COLUMN = -1.0


def stored_dtype(config: DistillConfig | None, task: Task) -> np.dtype | None:
    """How the joint scores of a run are kept; None where they are not.

    bfloat16 has the exponents of float32, so that no small share is lost, and eight bits. They
    make ties of shares that an order has to tell apart.
    """
    if config is None or config.negatives != "catalogue":
        return None
    scores = len(task.split.train) * task.dataset.num_items
    if scores <= MOST_FLOAT32:
        return np.dtype(jnp.float32)
    if scores > MOST_BFLOAT16 or METHODS[config.method].lists:
        return None
    return np.dtype(jnp.bfloat16)


class StoredScores:
    """Gives what a step needs of each batch.

    Attributes:
        dtype: how the scores are kept.
    """

    def __init__(self, run: Run, dtype: np.dtype):
        """Scores of a run; the first call makes them.

        Args:
            run: distilled, over the catalogue, with its threshold.
            dtype: the scores' dtype.
        """
        self.dtype = dtype
        self._run = run
        self._instances = np.sort(run.task.split.train)
        self._items = np.arange(run.task.dataset.num_items, dtype=np.int32)
        self._joint: Float[np.ndarray, "instances V"] | None = None

    def __call__(self, batch: Batch) -> DistillBatch:
        """The columns of a batch and their joint scores.

        Raises:
            UserError: a teacher's score is not finite.
        """
        if self._joint is None:
            self._joint = self._make()
        config = self._run.distill
        assert config is not None
        joint = self._joint[self._rows(batch)]
        # Asked in this way nan stays: a broken teacher must not pass for a masked column.
        valid = ~(joint < 0) & batch.is_instance[:, None]
        columns = Columns(self._items, batch.targets, valid)
        read = read_by_teachers(self._run.task, config, batch.instance_ids, batch.is_instance)
        return DistillBatch(columns, read, joint=joint)

    def _rows(self, batch: Batch) -> Int[np.ndarray, " B"]:
        return np.searchsorted(self._instances, batch.instance_ids)

    def _make(self) -> Float[np.ndarray, "instances V"]:
        """The joint scores, batch by batch as the first epoch has them, also after a restart."""
        run = self._run
        constants = run_constants(run)
        joint = np.empty((len(self._instances), len(self._items)), self.dtype)
        for batch, distill in distill_inputs(run, training_batches(run).epoch(0)):
            assert distill is not None
            found = np.asarray(_joint(run.distill, self.dtype, distill, constants))
            here = batch.is_instance
            joint[self._rows(batch)[here]] = found[here]
        return joint


def stored_of(run: Run) -> StoredScores | None:
    """What stores the run's joint scores, if they are to be stored."""
    dtype = stored_dtype(run.distill, run.task)
    return None if dtype is None else StoredScores(run, dtype)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _joint(
    config: DistillConfig, dtype: np.dtype, distill: DistillBatch, constants: Constants
) -> Float[Array, "B C"]:
    weights, threshold = constants.default_weights, constants.threshold
    assert weights is not None
    assert threshold is not None

    def one(user: UserInput) -> Array:
        taught, _ = teach_user(user, weights, threshold, config)
        return jnp.where(taught.valid & taught.known, taught.joint, _NO_COLUMN).astype(dtype)

    return over_users(one, user_inputs(distill, constants))
