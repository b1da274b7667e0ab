"""Teachers that encode each batch again: scores without a cache of vectors."""

from collections.abc import Sequence

import jax
import numpy as np
import torch
from jaxtyping import Int

from bridge.dlpack import to_jax
from bridge.score_sources import checked_scores
from prmkd_jax.distill.teacher_scores import TeacherScores
from teachers_torch.optional import frozen
from teachers_torch.scale import check_scale
from teachers_torch.teacher import Encoder, ScoreSource


class LiveTeachers:
    """K teachers as the training loop's source of scores, encoded batch by batch.

    The teachers are taken as they are when this is made: the items' vectors, and whatever else
    their encoding needs of items and histories, are made once and kept. A batch costs what
    encoding its instances costs.

    Attributes:
        names: the teachers' names.
        default_weights: equal shares, summing to 1.
        tables: None: the scores come with each batch.
        items: vectors of all items, one array a teacher; None for one that gives scores.
    """

    def __init__(self, teachers: Sequence[Encoder | ScoreSource]):
        """Encodes the items.

        Raises:
            UserError: a teacher's `score_scale` isn't above 0.
        """
        for teacher in teachers:
            if not isinstance(teacher, ScoreSource):
                check_scale(teacher.score_scale, f"teacher {teacher.name}: score_scale")
        self.names = tuple(teacher.name for teacher in teachers)
        self.default_weights = np.full(len(teachers), 1 / len(teachers))
        self.tables = None
        self._encoders = [
            None if isinstance(teacher, ScoreSource) else frozen(teacher) for teacher in teachers
        ]
        self.items = [
            None if encoder is None else encoder.encode_items() for encoder in self._encoders
        ]
        self._teachers = teachers

    def for_batch(
        self, instance_ids: Int[np.ndarray, " B"], candidates: Int[np.ndarray, " C"]
    ) -> TeacherScores:
        """A batch's scores.

        Args:
            instance_ids: the instances to encode; 0, a user's first item, is padding, and
                available to no teacher.
            candidates: item ids.
        """
        chosen = np.flatnonzero(instance_ids)
        scores = torch.zeros(len(instance_ids), len(self._teachers), len(candidates))
        available = torch.zeros(len(instance_ids), len(self._teachers), dtype=torch.bool)
        each = zip(self._teachers, self._encoders, self.items, strict=True)
        for k, (teacher, encoder, items) in enumerate(each):
            if isinstance(teacher, ScoreSource):
                logits, known = checked_scores(teacher, instance_ids[chosen], candidates)
            elif encoder is not None and items is not None:
                users = encoder.encode_instances(instance_ids[chosen])
                logits = teacher.score_scale * users @ items[candidates].T
                known = users.any(axis=1)
            scores[chosen, k] = torch.from_numpy(logits)
            available[chosen, k] = torch.from_numpy(known)
        crossed = TeacherScores(to_jax(scores).array, to_jax(available).array)
        return jax.device_put(crossed, jax.local_devices()[0])  # as the bank does
