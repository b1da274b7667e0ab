"""A curriculum: a training that begins with the easiest instances and lets in all in time.

The second version of the paper (arXiv 2401.00797v2) schedules users' sequences by their length and
their items' popularity. Its formulas aren't public, so these are a reading of ours; the competence
is that of Platanios et al. (2019, arXiv 1903.09848).
"""

import dataclasses
import math
from collections.abc import Iterator
from functools import cached_property

import numpy as np
from jaxtyping import Float
from scipy import stats

from prmkd_jax.data.batches import Batch, TrainingBatches, as_batch
from prmkd_jax.data.packing import PackedRows
from prmkd_jax.data.task import Task

START = 0.25
"""c₀, about the share of the instances that a training begins with."""


def difficulty(task: Task) -> Float[np.ndarray, " train"]:
    """How difficult each training instance is: the share of the training instances easier than it.

    Instances are ordered by rank(length) + rank(−mean log popularity), of which equal values share
    their mean rank. The length is the number of items before the target, also where a model reads
    fewer; the mean is over these items and the target; popularity is `Task.training_counts`.

    Args:
        task: data and split; its training instances are rated, in the order of `Split.train`.

    Returns:
        Shares from 0, the easiest, to below 1. Equally difficult instances have equal ones.
    """
    interactions, ids = task.dataset.interactions, task.split.train
    begin = interactions.indptr[interactions.users[ids]]
    # Items that are never trained on count 0; no training instance has one.
    logs = np.log(np.maximum(task.training_counts, 1))[interactions.items]
    before = np.concatenate([[0.0], np.cumsum(logs)])
    popularity = (before[ids + 1] - before[begin]) / (ids + 1 - begin)
    # Rounded, so that the order in which logs are added breaks no tie.
    ranks = stats.rankdata(ids - begin) + stats.rankdata(-popularity.round(9))
    return (stats.rankdata(ranks, "min") - 1) / max(len(ids), 1)


def competence(progress: float) -> float:
    """The most difficulty that a training is up to: c(t) = min(1, √(t/T · (1 − c₀²) + c₀²)).

    Args:
        progress: t/T, from 0, the first step, to 1, from which on all instances are in.

    >>> competence(0.0), round(competence(0.5), 4), competence(1.0), competence(2.0)
    (0.25, 0.7289, 1.0, 1.0)
    """
    return min(1.0, math.sqrt(progress * (1 - START**2) + START**2))


@dataclasses.dataclass(frozen=True)
class Curriculum:
    """A training's batches without the instances that are too difficult at their step.

    An epoch has the steps that it has without a curriculum, whose batches hold fewer instances;
    batches that would hold none are left out. Like those, the batches of epoch e depend on the
    seed and e alone.

    Attributes:
        batches: batches of all training instances.
        epochs: the number of epochs after which no instance is left out.
    """

    batches: TrainingBatches
    epochs: int

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch."""
        if epoch >= self.epochs:
            yield from self.batches.epoch(epoch)
            return
        for step, batch in enumerate(self.batches.epoch(epoch)):
            # An epoch may have a few steps more than told.
            done = epoch + min(step / self.batches.steps_about, 1.0)
            easy = self._without(batch, competence(done / self.epochs))
            if easy.is_instance.any():
                yield easy

    def _without(self, batch: Batch, most: float) -> Batch:
        """The batch without instances beyond a difficulty.

        Segments that have no other instance become padding, so that no auxiliary loss reads them.
        """
        rows = batch.rows
        kept = (rows.instance_ids >= 0) & (self._difficulty[rows.instance_ids] <= most)
        read = np.isin(rows.segment_ids, rows.segment_ids[kept])
        rows = PackedRows(*(np.where(read, field, 0) for field in rows))
        rows = rows._replace(instance_ids=np.where(kept, batch.rows.instance_ids, np.int32(-1)))
        size = None if batch.slots is None else len(batch.targets)
        return as_batch(self.batches.task.dataset.interactions, rows, size)

    @cached_property
    def _difficulty(self) -> Float[np.ndarray, " interactions"]:
        """By instance id; 0 where there is no training instance."""
        task = self.batches.task
        found = np.zeros(len(task.dataset.interactions.items))
        found[task.split.train] = difficulty(task)
        return found
