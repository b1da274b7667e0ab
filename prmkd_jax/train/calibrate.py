"""The threshold epsilon of the consistency rule, from a quantile of real disagreements."""

import functools

import jax
import numpy as np
from jaxtyping import Array

from prmkd_jax.distill.config import METHODS, DistillConfig
from prmkd_jax.distill.per_user import largest_disagreement, over_users
from prmkd_jax.train.loop import Run, distill_inputs, training_batches
from prmkd_jax.train.step import DistillInput, user_inputs


def calibrate_threshold(run: Run) -> float:
    """The threshold that a run uses throughout, fixed before its first step.

    Eq. 2 is a sum over columns, so a useful threshold depends on the batch size and on the
    normalisation; a quantile does not. It is taken over the rows' largest disagreement in the
    run's first epoch of batches; rows that two teachers or fewer know don't count, for the rule
    is inactive there. Quantile 0 gives 0, so that every row whose teachers differ at all drops
    one; quantile 1 gives infinity, and so do methods and teachers for which the rule never acts.

    Args:
        run: a distilled run; its `threshold` is not read.
    """
    config, teachers = run.distill, run.teachers
    if config is None or teachers is None:
        raise ValueError("a plain run has no threshold")
    if not METHODS[config.method].exclusion or len(teachers.names) < 3:
        return float("inf")
    if config.consistency_threshold is not None:
        return config.consistency_threshold
    if config.consistency_quantile in (0.0, 1.0):
        return float("inf") if config.consistency_quantile else 0.0

    values = []
    for batch, distill in distill_inputs(run, training_batches(run).epoch(0)):
        largest, contested = (np.asarray(each) for each in _measure(config, distill))
        values.append(largest[batch.real & contested])
    values = np.concatenate(values)
    return float(np.quantile(values, config.consistency_quantile)) if len(values) else float("inf")


@functools.partial(jax.jit, static_argnums=0)
def _measure(config: DistillConfig, distill: DistillInput) -> tuple[Array, Array]:
    """Every row's largest disagreement, and whether the rule is active there."""
    users = user_inputs(distill)
    largest = over_users(lambda user: largest_disagreement(user, config), users)
    return largest, users.available.sum(-1) > 2
