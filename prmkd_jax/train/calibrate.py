"""The threshold epsilon of the consistency rule, from a quantile of real disagreements."""

import jax
import numpy as np

from prmkd_jax.distill.distill import UserInput, largest_disagreement
from prmkd_jax.distill.teachers import score_columns
from prmkd_jax.train.loop import Run, distill_inputs, training_batches


def calibrate_threshold(run: Run) -> float:
    """The threshold that a run uses throughout, fixed before its first step.

    Eq. 2 is a sum over columns, so a useful threshold depends on the batch size and on the
    normalisation; a quantile does not (models.md 6.3). It is taken over the rows' largest
    disagreement in the run's first epoch of batches. Quantile 0 gives 0, so that every row
    whose teachers differ at all drops one; quantile 1 gives infinity.

    Args:
        run: a distilled run; its `threshold` is not read.
    """
    config = run.distill
    if config is None:
        raise ValueError("a plain run has no threshold")
    if config.consistency_threshold is not None:
        return config.consistency_threshold
    if config.consistency_quantile in (0.0, 1.0):
        return float("inf") if config.consistency_quantile else 0.0

    @jax.jit
    def measure(batch, distill):
        scored = score_columns(distill.teachers, batch.instance_ids, distill.columns.candidates)
        users = UserInput(
            scored.scores.swapaxes(0, 1),
            scored.available,
            distill.columns.valid,
            distill.columns.target_columns,
        )
        return jax.vmap(lambda user: largest_disagreement(user, config))(users)

    values = [
        np.asarray(measure(batch, distill))[batch.real]
        for batch, distill in distill_inputs(run, training_batches(run).epoch(0))
    ]
    return float(np.quantile(np.concatenate(values), config.consistency_quantile))
