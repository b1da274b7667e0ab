"""The threshold epsilon of the consistency rule, from a quantile of real disagreements."""

import functools
import itertools

import jax
import numpy as np
from jaxtyping import Bool, Float

from prmkd_jax.distill.config import METHODS, DistillConfig
from prmkd_jax.distill.per_user import largest_disagreement, over_users
from prmkd_jax.ops.arrays import Array
from prmkd_jax.train.closed import closed_of
from prmkd_jax.train.inputs import (
    Constants,
    DistillBatch,
    distill_inputs,
    run_constants,
    training_batches,
)
from prmkd_jax.train.run import Run
from prmkd_jax.train.teaching import user_inputs

# Half a million instances at the default batch size: a quantile needs no more.
MOST_BATCHES = 1000


def calibrate_threshold(run: Run) -> float:
    """The threshold that a run uses throughout, fixed before its first step.

    Eq. 2 is a sum over columns, so a useful threshold depends on the batch size and on the
    normalisation; a quantile does not. It is taken over the instances' largest disagreement in
    the run's first epoch of batches, or the first thousand of them. Instances that two teachers
    or fewer know don't count: the rule is inactive there. Quantile 0 gives 0, so that every
    instance whose teachers differ at all drops one. Quantile 1 gives infinity, and so do methods
    and teachers for which the rule never acts.

    Args:
        run: a distilled run; its `threshold` is not read.

    Raises:
        ValueError: the run is a plain one.
    """
    config = run.distill
    teachers = run.teachers
    if config is None or teachers is None:
        raise ValueError("a plain run has no threshold")
    if not METHODS[config.method].exclusion or len(teachers.names) < 3:
        return float("inf")
    if config.consistency_threshold is not None:
        return config.consistency_threshold
    if config.consistency_quantile in (0.0, 1.0):
        return float("inf") if config.consistency_quantile else 0.0

    constants = run_constants(run)
    values = []
    batches = itertools.islice(training_batches(run).epoch(0), MOST_BATCHES)
    # Of a student that has learned nothing yet the best items say nothing.
    for batch, distill in distill_inputs(run, batches, closed_of(run)):
        assert distill is not None
        largest, contested = jax.device_get(_measure(config, distill, constants))
        values.append(largest[batch.is_instance & contested])
    values = np.concatenate(values)
    return float(np.quantile(values, config.consistency_quantile)) if len(values) else float("inf")


@functools.partial(jax.jit, static_argnums=0)
def _measure(
    config: DistillConfig, distill: DistillBatch, constants: Constants
) -> tuple[Float[Array, " B"], Bool[Array, " B"]]:
    """Every instance's largest disagreement, and whether the rule is active there."""
    users = user_inputs(distill, constants)
    largest = over_users(lambda user: largest_disagreement(user, config), users)
    return largest, users.available.sum(-1) > 2
